"""Checks of Lab 1's exercises: sampling by hand, diversity, prompts that fit."""

import random

import numpy as np
import pandas as pd
import torch

from utils.exercises.feedback import call, close, compare, exercise, kind, need, prediction, tensor
from utils.prompts import count_tokens, summary_prompt


@exercise(1)
def check_softmax(softmax) -> None:
    x, t = 3 * torch.randn(6, 6), float(torch.empty(1).uniform_(1.5, 3.0))
    answer = tensor(call(softmax, x, t), 6, 6, usual="keep the summed dimension (keepdim=True)")
    weights = torch.exp(x / t)
    compare(answer, torch.softmax(x / t, -1), {
        "your columns sum to 1, the rows should: normalise over the last dimension, dim=-1.": torch.softmax(x / t, 0),
        "all entries together sum to 1: keep the rows apart, dim=-1.": weights / weights.sum(),
        "the rows do not sum to 1: divide by the row's sum.": weights,
        "the temperature changes nothing: divide the logits by T.": torch.softmax(x, -1),
        "a high temperature sharpens yours: divide the logits by T, do not multiply.": torch.softmax(x * t, -1),
        "divide the logits by T before the exponential, not the probabilities after it.": torch.softmax(x, -1) / t,
    }, "these are not the probabilities: is it the exponential of logits over T, and does each row sum to 1?")
    usual = "one row of logits, shape [V], must do as well: use dim=-1, not dim=1"
    row = tensor(call(softmax, x[0], t, usual=usual), 6, usual=usual)
    need(close(row, torch.softmax(x[0] / t, -1)), usual + ".")
    need(close(call(softmax, 1000 * x, 1.0), torch.softmax(1000 * x, -1)),
         "large logits overflow in the exponential: subtract each row's maximum first.")


@exercise(2)
def check_top_p(top_p) -> None:
    size = 9
    for count in (1, random.randint(2, 6)):  # how many tokens the set should hold
        p = torch.softmax(1.5 * torch.randn(size), 0)
        order = sorted(range(size), key=lambda i: -p[i].item())
        limit = float(p[order[:count]].sum() - p[order[count - 1]] / 2)

        def only(indices, source=p):
            return torch.zeros(size).index_copy(0, torch.tensor(indices, dtype=torch.long), source[indices])

        kept, short, long = only(order[:count]), only(order[: count - 1]), only(order[: count + 1])
        crossing = "the token that carries the sum past p belongs to the set: keep those with less than p before them."
        answer = tensor(call(top_p, p, limit), size)
        compare(answer.nan_to_num(), kept / kept.sum(), {
            "what is left does not sum to 1: divide by its sum.": kept,
            crossing: [(short / short.sum()).nan_to_num(), short],
            "one token too many: a token stays only while the mass before it is below p.": long / long.sum(),
            "the probabilities came back sorted: each must stay at its own token.":
                torch.cat([p[order[:count]], torch.zeros(size - count)]) / kept.sum(),
            "nothing was dropped: only the most probable tokens stay.": p,
        }, "this is not the smallest set that reaches p: sort downwards, and add up.")


ENTROPY = {
    "T = 2": "a larger T divides the differences between logits",
    "T = 0.5": "a smaller T multiplies the differences between logits",
    "top-k 3": "count the tokens that are left to choose from",
    "top-p 0.8": "count the tokens that are left to choose from",
    "5 added to every logit": "numerator and denominator of the softmax get the same factor"}


@exercise(3)
def check_entropy(guess) -> None:
    x = 2 * torch.randn(64, 40)
    p = torch.softmax(x, -1)
    ordered = p.sort(-1, descending=True)
    nucleus = torch.zeros_like(p).scatter(1, ordered.indices, ordered.values * (
        ordered.values.cumsum(-1) - ordered.values < 0.8))
    after = {"T = 2": torch.softmax(x / 2, -1), "T = 0.5": torch.softmax(x / 0.5, -1),
             "top-k 3": p * (p >= ordered.values[:, 2:3]), "top-p 0.8": nucleus,
             "5 added to every logit": torch.softmax(x + 5, -1)}

    def entropy(q):
        q = q / q.sum(-1, keepdim=True)
        return -(q * q.clamp(min=1e-30).log()).sum(-1).mean()

    change = {key: float(entropy(q) - entropy(p)) for key, q in after.items()}
    right = {key: "stays" if abs(c) < 1e-3 else "rises" if c > 0 else "falls" for key, c in change.items()}
    prediction(guess, right, ENTROPY)


@exercise(4)
def check_distinct(distinct) -> None:
    rng = random.Random()
    for n in (2, 3, 1):
        texts = [" ".join(rng.choices(["ab", "ba", "aab", "c"], k=rng.randint(6, 12))) for _ in range(4)]
        words = [t.split() for t in texts]

        def grams(units, n=n, less=0):
            return [tuple(units[i:i + n]) for i in range(len(units) - n + 1 - less)]

        def share(grams):
            return len(set(grams)) / max(1, len(grams))

        all_, joined = [g for w in words for g in grams(w)], [x for w in words for x in w]
        answer = call(distinct, texts, n)
        need(isinstance(answer, int | float | np.number), f"one number is wanted, not {kind(answer)}.")
        compare(answer, share(all_), {
            "a share between 0 and 1 is wanted, not the number of distinct n-grams.": len(set(all_)),
            "a share between 0 and 1 is wanted, not percent.": 100 * share(all_),
            "count the texts' n-grams together: a mean over texts misses what one repeats from another.":
                np.mean([share(grams(w)) for w in words]),
            "these are n-grams of characters: split the texts into words first.":
                share([g for t in texts for g in grams(t)]),
            "no n-gram reaches from one text into the next: do not join the texts.": share(grams(joined)),
            "divide by the number of n-grams, not of words.": len(set(all_)) / len(joined),
            "divide by the number of n-grams, not of texts.": len(set(all_)) / len(texts),
            "each text's last n-gram is missing: there are len(words) - n + 1.":
                share([g for w in words for g in grams(w, less=1)]),
            "n changes nothing: take n words at a time.": share([(x,) for x in joined]),
        }, "this is not the share: distinct n-grams of all texts, over all their n-grams.")
    usual = "a text shorter than n has no n-gram, and nothing is divided by 0"
    need(call(distinct, ["one"], 2, usual=usual) == 0, usual + ".")


@exercise(5)
def check_fill_window(fill_window, tokenizer) -> None:
    rng = random.Random()

    def talk(words: int) -> str:
        return "#Person1#: " + " ".join(rng.choices("we shall meet at half past nine in the garden".split(), k=words))

    for off in (0, -1, rng.randint(2, 5)):  # tokens more than `fit` shots need
        shots = [(talk(rng.randint(9, 15)), talk(rng.randint(9, 15))) for _ in range(6)]
        query, fit = talk(12), rng.randint(2, 4)
        window = count_tokens(tokenizer, summary_prompt(query, shots[:fit])) + off
        fit -= off < 0
        answer = call(fill_window, query, shots, window)
        need(isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[0], str),
             f"prompt and number of shots are wanted, a tuple of two, not {kind(answer)}.")
        text, kept = answer
        need(query in text, "the query itself is gone: only shots may be dropped.")
        need(count_tokens(tokenizer, text) <= window,
             "the prompt is too long: count all its tokens, the query's and the end token among them.")
        need(not (0 < kept < len(shots) and text == summary_prompt(query, shots[-kept:])),
             "these are the last shots: the best come first, so keep the leading ones.")
        need(kept >= fit, "one more shot would fit: a prompt of exactly as many tokens as the window holds is good.")
        need(kept == fit and text == summary_prompt(query, shots[:fit]),
             "prompt and number do not agree: build the prompt from the leading shots, as many as you say.")


@exercise(6)
def check_same_topic(same_topic_shots) -> None:
    rng = np.random.default_rng()
    table = pd.DataFrame({"id": [f"d{i}" for i in range(120)], "dialogue": [f"dialogue {i}" for i in range(120)],
                          "summary": [f"summary {i}" for i in range(120)],
                          "topic": rng.choice(["rent", "a trip", "lunch"], 120)})
    drawn = [call(same_topic_shots, table, "a trip", 8, seed) for seed in (3, 3, 4)]
    first = drawn[0]
    need(isinstance(first, list) and all(isinstance(s, tuple) and len(s) == 2 for s in first),
         f"a list of pairs (dialogue, summary) is wanted, not {kind(first)}.")
    rows = dict(zip(table["dialogue"], table["summary"], strict=True))
    need(len(first) == 8, f"8 shots were asked for, {len(first)} came.")
    need(all(d in rows for d, _ in first), "shots come from the table that is given, the dialogue first.")
    need(all(rows[d] == s for d, s in first), "a dialogue has another one's summary: draw rows, not columns apart.")
    topics = dict(zip(table["dialogue"], table["topic"], strict=True))
    need({topics[d] for d, _ in first} == {"a trip"}, "a shot has another topic: choose the rows before you draw.")
    need(len({d for d, _ in first}) == 8, "a dialogue is there twice: draw without replacement.")
    need(drawn[0] == drawn[1], "one seed should give one draw: make the generator inside, from the seed.")
    need(drawn[0] != drawn[2], "another seed should give another draw: the first rows are nobody's choice.")
