"""Checks of Lab 0's exercises: masks, what attention depends on, the cache, analogies."""

import math
import random

import torch

from utils.exercises.feedback import call, close, compare, exercise, kind, need, prediction, tensor


@exercise(1)
def check_window_mask(window_mask) -> None:
    n, span = random.randint(6, 8), random.randint(2, 4)
    answer = tensor(call(window_mask, n, span), n, n, usual="one row for each query, one column for each key")
    need(not answer.isnan().any(), "0 times infinity is no number: choose between 0 and -inf with torch.where.")
    i, j = torch.arange(n)[:, None], torch.arange(n)[None, :]

    def scores(seen):
        return torch.zeros(n, n).masked_fill(~seen, -math.inf)

    right = (j <= i) & (i - j < span)
    compare(answer.clamp(min=-99), scores(right).clamp(min=-99), {
        "rows and columns are swapped: query i must not see key j > i, which lies ahead.":
            scores(right.T).clamp(min=-99),
        "a span of 2 is the position itself and one before it: yours sees one too many.":
            scores((j <= i) & (i - j <= span)).clamp(min=-99),
        "a position sees itself, or the first row has nothing to divide by.": [
            scores((j < i) & (i - j < span)).clamp(min=-99), scores((j < i) & (i - j <= span)).clamp(min=-99)],
        "the span is ignored: what lies too far behind is not seen either.": scores(j <= i).clamp(min=-99),
        "keys that lie ahead are seen: the window reaches backwards only.": scores((i - j).abs() < span).clamp(min=-99),
        "the mask is inside out: 0 where a key is seen, -inf where it is not.": scores(~right).clamp(min=-99),
        "these are ones and zeros: the mask is added to the scores, so 0 where a key is seen and -inf elsewhere.":
            [right.double(), (~right).double()],
    }, "this is not the mask: 0 where j <= i and i - j < span, -inf elsewhere.")


ATTENTION = {
    "a later token is replaced, causal mask": "a masked score is -inf, and its weight 0",
    "a later token is replaced, no mask": "without a mask every key has a weight above 0",
    "3 added to all scores of the query": "the softmax sees differences alone",
    "two earlier keys swap places, and their values with them": "a sum does not know the order of its terms",
    "two earlier keys swap places, their values do not": "each weight meets another value now"}


@exercise(2)
def check_attention(guess) -> None:
    q, k, v = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    at, mask = 3, torch.full((6, 6), -math.inf).triu(1)

    def taken(k=k, v=v, mask=mask, more=0.0):
        return ((q @ k.T + mask + more).softmax(-1) @ v)[at]

    later, swap = [x.index_fill(0, torch.tensor([5]), 2.0) for x in (k, v)], [1, 0, 2, 3, 4, 5]
    after = dict(zip(ATTENTION, (
        (taken(), taken(*later)), (taken(mask=0), taken(*later, mask=0)), (taken(), taken(more=3.0)),
        (taken(), taken(k[swap], v[swap])), (taken(), taken(k[swap]))), strict=True))
    prediction(guess, {key: "stays" if close(a, b) else "changes" for key, (a, b) in after.items()}, ATTENTION)


@exercise(3)
def check_cached_step(cached_step) -> None:
    q, k, v = torch.randn(3, 2, 5, 4)
    causal = torch.full((5, 5), -math.inf).triu(1)
    scores, cache = q @ k.transpose(-1, -2) + causal, (k[:, :0], v[:, :0])
    right, usual = scores.softmax(-1) @ v, "append before you attend: at the first step the old cache is empty"
    for t in range(5):
        one, old = slice(t, t + 1), cache
        answer = call(cached_step, q[:, one], k[:, one], v[:, one], cache, usual=usual)
        need(isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], tuple) and len(answer[1]) == 2,
             f"what is taken in and the cache are wanted, (tensor, (keys, values)), not {kind(answer)}.")
        new, cache = tensor(answer[0], 2, 1, 4), answer[1]
        need(cache[0].shape != old[0].shape, "the new key belongs into the cache: the next step needs it.")
        for side, name in ((0, "keys"), (1, "values")):
            tensor(cache[side], 2, t + 1, 4, usual=f"the {name} of the cache grow by one position, dim=1")
        need(not close(cache[0], torch.cat([k[:, one], old[0]], 1)) or t == 0, "the newest key goes last, not first.")
        need(close(cache[0], k[:, :t + 1]) and close(cache[1], v[:, :t + 1]),
             "the cache should hold all keys and all values so far, each as it came, in their order.")
        need(not new.isnan().any(), usual + ".")
        if t == 0:
            continue
        z = scores[:, one, :t + 1]
        compare(new, right[:, one], {
            "the weights are not normalised: softmax over the keys.": z @ v[:, :t + 1],
            "the softmax runs over the wrong dimension: over the keys, the last one.": z.softmax(0) @ v[:, :t + 1],
            "every weight is 1: the softmax should run over the keys, the last dimension.": z.softmax(1) @ v[:, :t + 1],
            "the new position does not see itself: append before you attend.": z[..., :-1].softmax(-1) @ v[:, :t],
            "the values are weighed, not the keys.": z.softmax(-1) @ k[:, :t + 1],
            "T5 does not divide the scores by the root of the width.": (z / 2).softmax(-1) @ v[:, :t + 1],
        }, "this is not what attention takes in: softmax of q times the keys, then weigh the values.")


@exercise(4)
def check_analogy(analogy) -> None:
    other = "another one lies nearer by angle to directions[a] - directions[b] + directions[c]."
    wrong, explained = False, []  # explained: what would explain the answer, in each round
    for _ in range(40):
        directions = torch.nn.functional.normalize(torch.randn(60, 6), dim=-1)
        three = random.sample(range(60), 3)
        answer = call(analogy, directions, *three)
        need(isinstance(answer, int) and not isinstance(answer, bool), f"one id is wanted, an int, not {kind(answer)}.")
        need(answer not in three, "leave the three themselves out: they are nearly always the nearest.")
        x, y, z = directions[three]

        def nearest(target, directions=directions, three=three) -> int:
            return int((directions @ target).index_fill(0, torch.tensor(three), -math.inf).argmax())

        usual = {"b is to be subtracted and c added, not the other way round.": x + y - z,
                 "a is added, not subtracted.": y - x + z, "nothing is subtracted: it is b that goes.": x + y + z,
                 "this is the farthest: take the largest cosine.": y - x - z}
        explained.append({message for message, target in usual.items() if answer == nearest(target)})
        wrong |= answer != nearest(x - y + z)
    need(not wrong, next(iter(set.intersection(*explained)), other))
