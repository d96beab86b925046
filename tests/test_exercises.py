"""Every exercise's check passes what is right, however it is written, and tells each usual mistake by its name."""

import copy
import math
import random
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax

from utils import exercises, prompts
from utils.exercises import Unsolved, Wrong
from utils.exercises.feedback import call
from utils.models import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = load_tokenizer(str(ROOT / "data" / "models" / "tiny"))
exp, zeros = torch.exp, torch.zeros_like


def window(n, span, seen):
    return torch.zeros(n, n).masked_fill(~seen(torch.arange(n)[:, None], torch.arange(n)[None, :]), -math.inf)


def cached(q, k, v, cache, weights=lambda z: z.softmax(-1)):
    keys, values = torch.cat([cache[0], k], 1), torch.cat([cache[1], v], 1)
    return weights(q @ keys.mT) @ values, (keys, values)


def nearest(d, target, *but):
    return max(set(range(len(d))) - set(but), key=lambda i: (d[i] @ target).item())


def nucleus(p, limit, more=lambda before, limit: before < limit, divide=True, sort=False):
    values, index = p.sort(descending=True)
    stay = more(values.cumsum(0) - values, limit)
    kept = values * stay if sort else zeros(p).scatter(0, index, values * stay)
    return kept / kept.sum() if divide else kept


def shares(texts, n, split=str.split, join=False, less=0, percent=1.0, by_text=False, over=None):
    units = [split(" ".join(texts) if join else t) for t in ([None] if join else texts)]
    grams = [[tuple(u[i:i + n]) for i in range(len(u) - n + 1 - less)] for u in units]
    if by_text:
        return np.mean([len(set(g)) / max(1, len(g)) for g in grams])
    flat = [g for part in grams for g in part]
    return percent * len(set(flat)) / (over or max(1, len(flat)))


def fill(dialogue, shots, window, fits=lambda n, window: n <= window, head=lambda shots, k: shots[:k], query=True):
    for k in range(len(shots), -1, -1):
        text = prompts.summary_prompt(dialogue if query else "", head(shots, k))
        if fits(prompts.count_tokens(TOKENIZER, text), window):
            return text, k


def drawn(table, topic, k, seed, **options):
    rows = table[table["topic"] == topic].sample(k, random_state=seed, **options)
    return [(r.dialogue, r.summary) for r in rows.itertuples()]


def by_token(table, topic, k, seed):
    rng = random.Random(seed)
    return rng.sample([(d, s) for d, s, t in zip(table["dialogue"], table["summary"], table["topic"], strict=True)
                       if t == topic], k)


def padded(rows, width, fill=-100, left=False, keep=None):
    rows = [r[:keep] for r in rows]
    return torch.tensor([[fill] * (width - len(r)) + r if left else r + [fill] * (width - len(r)) for r in rows])


def loss(logits, labels, total=lambda x, m: (x * m).sum() / m.sum(), dim=-1):
    terms = -logits.log_softmax(dim).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    return total(terms, labels != -100)


def lora(forward):
    class LoraLinear(nn.Module):
        def __init__(self, layer, r, alpha):
            super().__init__()
            self.layer, self.r, self.alpha, self.scale = layer.requires_grad_(False), r, alpha, alpha / r
            self.A = nn.Parameter(torch.randn(r, layer.in_features) / r)
            self.B = nn.Parameter(torch.zeros(layer.out_features, r))
    LoraLinear.forward = forward
    return LoraLinear


def merged(m, update=lambda m: m.scale * m.B @ m.A, bias=True, in_place=False, base=1.0):
    layer = m.layer if in_place else copy.deepcopy(m.layer)
    layer.weight.data = base * layer.weight.data + update(m).data
    return layer if bias else nn.Linear(layer.in_features, layer.out_features, bias=False).requires_grad_(False)


def merged_without_bias(m):
    layer = nn.Linear(m.layer.in_features, m.layer.out_features, bias=False)
    layer.weight.data = m.layer.weight.data + (m.scale * m.B @ m.A).data
    return layer


def ledger(w=4, g=4, o=8, unit=2**20, g_all=False, o_all=False, w_trained=False):
    return lambda n, t: {"weights": w * (t if w_trained else n) / unit, "gradients": g * (n if g_all else t) / unit,
                         "optimizer": o * (n if o_all else t) / unit}


def odds(logits, names, label, index=None, of=None):
    i = {v: k for k, v in names.items()}[label] if index is None else index
    p = torch.softmax(logits.double(), 1)[:, i]
    return of(logits, i) if of else torch.log(p / (1 - p))


def rewards(scores, logp, ref, mask, beta, kl=None, place=None, put=torch.Tensor.add):
    paid = -beta * (logp - ref) * mask if kl is None else kl(logp, ref, mask, beta)
    at = (mask.sum(1).long() - 1 if place is None else place(mask))[:, None]
    return paid.scatter(1, at, put(paid.gather(1, at), scores[:, None]))


def gae(rewards, values, mask, gamma, lam, masked=True, after=1.0, here=1.0, carry=None, order=reversed):
    values, out, a = values * mask if masked else values, zeros(rewards), 0.0
    for t in order(range(rewards.shape[1])):
        following = values[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        a = (rewards[:, t] + gamma * after * following - here * values[:, t]
             + (gamma * lam if carry is None else carry(gamma, lam)) * a) * mask[:, t]
        out[:, t] = a
    return out


def gae_by_sums(rewards, values, mask, gamma, lam):
    values, out = values * mask, zeros(rewards)
    last = rewards.shape[1] - 1
    delta = [rewards[:, t] + (gamma * values[:, t + 1] if t < last else 0) - values[:, t] for t in range(last + 1)]
    for t in range(last + 1):
        out[:, t] = sum((gamma * lam) ** (u - t) * delta[u] * mask[:, u] for u in range(t, last + 1))
    return out * mask


def clipped(logp, old, gained, mask, clip, least=torch.minimum, sign=-1, ratio=lambda a, b: exp(a - b)):
    r = ratio(logp, old)
    return sign * least(r * gained, r.clamp(1 - clip, 1 + clip) * gained) * mask


ENTROPY = {"T = 2": "rises", "T = 0.5": "falls", "top-k 3": "falls", "top-p 0.8": "falls",
           "5 added to every logit": "stays"}
MOVES = {"ratio 1.5, advantage +1": "stays", "ratio 1.5, advantage -1": "moves", "ratio 0.5, advantage +1": "moves",
         "ratio 0.5, advantage -1": "stays", "ratio 1.1, advantage +1": "moves"}

STAYS = {"a later token is replaced, causal mask": "stays", "a later token is replaced, no mask": "changes",
         "3 added to all scores of the query": "stays", "two earlier keys swap places, their values do not": "changes",
         "two earlier keys swap places, and their values with them": "stays"}

# exercise: (the right answer written otherwise, [(a wrong answer, what must be said of it), ...])
CASES = {
    "lab0-window-mask": (lambda n, span: torch.tensor([[0.0 if 0 <= i - j < span else -math.inf for j in range(n)]
                                                       for i in range(n)]), [
        (lambda n, span: window(n, span, lambda i, j: (i <= j) & (j - i < span)), "rows and columns are swapped"),
        (lambda n, span: window(n, span, lambda i, j: (j <= i) & (i - j <= span)), "yours sees one too many"),
        (lambda n, span: window(n, span, lambda i, j: (j < i) & (i - j < span)), "a position sees itself"),
        (lambda n, span: window(n, span, lambda i, j: j <= i), "the span is ignored"),
        (lambda n, span: window(n, span, lambda i, j: (i - j).abs() < span), "the window reaches backwards only"),
        (lambda n, span: window(n, span, lambda i, j: (j > i) | (i - j >= span)), "inside out"),
        (lambda n, span: (window(n, span, lambda i, j: (j <= i) & (i - j < span)) == 0).float(), "ones and zeros"),
        (lambda n, span: torch.ones(n, n).triu(1) * -math.inf, "0 times infinity")]),
    "lab0-attention": (dict(reversed(STAYS.items())), [
        (STAYS | {"a later token is replaced, causal mask": "changes"}, "its weight 0"),
        (STAYS | {"3 added to all scores of the query": "changes"}, "differences alone"),
        (STAYS | {"two earlier keys swap places, their values do not": "stays"}, "meets another value"),
        (STAYS | {"a later token is replaced, no mask": "no"}, "write one of changes, stays")]),
    "lab0-cached-step": (lambda q, k, v, c: cached(q, k, v, c, lambda z: exp(z - z.logsumexp(-1, keepdim=True))), [
        (lambda q, k, v, c: (cached(q, k, v, c)[0], c), "the new key belongs into the cache"),
        (lambda q, k, v, c: (cached(q, k, v, c)[0], (torch.cat([k, c[0]], 1), torch.cat([v, c[1]], 1))), "goes last"),
        (lambda q, k, v, c: cached(q, k, v, c, lambda z: z.softmax(1)), "every weight is 1"),
        (lambda q, k, v, c: cached(q, k, v, c, lambda z: z), "not normalised"),
        (lambda q, k, v, c: cached(q, k, v, c, lambda z: (z / 2).softmax(-1)), "T5 does not divide"),
        (lambda q, k, v, c: ((q @ c[0].mT).softmax(-1) @ c[1], cached(q, k, v, c)[1]), "does not see itself"),
        (lambda q, k, v, c: cached(q, k, v, c)[0], "what is taken in and the cache are wanted")]),
    "lab0-analogy": (lambda d, a, b, c: next(i for i in (-d @ (d[a] - d[b] + d[c])).argsort().tolist()
                                            if i not in (a, b, c)), [
        (lambda d, a, b, c: int((d @ (d[a] - d[b] + d[c])).argmax()), "leave the three themselves out"),
        (lambda d, a, b, c: nearest(d, d[a] + d[b] - d[c], a, b, c), "not the other way round"),
        (lambda d, a, b, c: nearest(d, d[a] + d[b] + d[c], a, b, c), "nothing is subtracted"),
        (lambda d, a, b, c: nearest(d, d[b] - d[a] - d[c], a, b, c), "the farthest"),
        (lambda d, a, b, c: torch.tensor(nearest(d, d[a] - d[b] + d[c], a, b, c)), "one id is wanted")]),
    "lab1-softmax": (lambda x, T=1.0: exp(log_softmax(x / T, dim=-1)), [
        (lambda x, T=1.0: torch.softmax(x / T, 0), "your columns sum to 1"),
        (lambda x, T=1.0: torch.softmax(x, -1), "the temperature changes nothing"),
        (lambda x, T=1.0: torch.softmax(x * T, -1), "do not multiply"),
        (lambda x, T=1.0: torch.softmax(x, -1) / T, "not the probabilities after it"),
        (lambda x, T=1.0: exp(x / T) / exp(x / T).sum(), "keep the rows apart"),
        (lambda x, T=1.0: exp(x / T), "the rows do not sum to 1"),
        (lambda x, T=1.0: exp(x / T) / exp(x / T).sum(-1, keepdim=True), "large logits overflow"),
        (lambda x, T=1.0: torch.softmax(x / T, 1), "one row of logits, shape [V]"),
        (lambda x, T=1.0: exp(x / T).sum(-1), "keepdim=True"),
        (lambda x, T=1.0: torch.softmax(x / T, -1).tolist(), "not a value of type list"),
        (lambda x, T=1.0: x.div_(T).softmax(-1), "not in place"),
        (lambda x, T=1.0: torch.argmax(x / T, -1, keepdim=True) + zeros(x), "these are not the probabilities")]),
    "lab1-top-p": (lambda p, limit: nucleus(p, limit, lambda b, limit: ~(b >= limit)), [
        (lambda p, limit: nucleus(p, limit, divide=False), "divide by its sum"),
        (lambda p, limit: nucleus(p, limit, lambda b, limit: torch.cat([b[1:], b.new_ones(1)]) <= limit),
         "the token that carries the sum past p"),
        (lambda p, limit: nucleus(p, limit, lambda b, limit: torch.cat([b.new_zeros(1), b[:-1]]) < limit),
         "one token too many"),
        (lambda p, limit: nucleus(p, limit, sort=True), "came back sorted"),
        (lambda p, limit: p, "nothing was dropped")]),
    "lab1-entropy": (dict(reversed(ENTROPY.items())), [
        (ENTROPY | {"T = 2": "falls"}, "'T = 2' will come out otherwise"),
        (ENTROPY | {"top-p 0.8": "stays"}, "'top-p 0.8' will come out otherwise"),
        (ENTROPY | {"5 added to every logit": "rises"}, "get the same factor"),
        (ENTROPY | {"T = 2": "up"}, "write one of falls, rises, stays"),
        ({"T = 2": "rises"}, "these entries and no others")]),
    "lab1-distinct": (lambda texts, n: len(grams := [g for t in texts for g in zip(*(t.split()[i:] for i in range(n)),
                                                                                   strict=False)])
                      and len(set(grams)) / len(grams), [
        (lambda texts, n: shares(texts, n, by_text=True), "a mean over texts"),
        (lambda texts, n: shares(texts, n, split=list), "n-grams of characters"),
        (lambda texts, n: shares(texts, n, join=True), "do not join the texts"),
        (lambda texts, n: shares(texts, n, less=1), "each text's last n-gram is missing"),
        (lambda texts, n: shares(texts, n, percent=100.0), "not percent"),
        (lambda texts, n: shares(texts, n, over=1), "not the number of distinct"),
        (lambda texts, n: shares(texts, n, over=sum(len(t.split()) for t in texts)), "not of words"),
        (lambda texts, n: shares(texts, 1), "n changes nothing"),
        (lambda texts, n: shares(texts, n, over=sum(max(0, len(t.split()) - n + 1) for t in texts) + 0.0)
         if len(texts) > 1 else 1 / 0, "a text shorter than n")]),
    "lab1-fill-window": (fill, [
        (lambda d, s, w: fill(d, s, w, lambda n, w: n < w), "one more shot would fit"),
        (lambda d, s, w: fill(d, s, w, lambda n, w: n - 1 <= w), "the end token among them"),
        (lambda d, s, w: (prompts.summary_prompt(d, s), len(s)), "the prompt is too long"),
        (lambda d, s, w: fill(d, s, w, query=False), "the query itself is gone"),
        (lambda d, s, w: fill(d, s, w, head=lambda s, k: s[len(s) - k:]), "these are the last shots"),
        (lambda d, s, w: fill(d, s, w)[0], "a tuple of two"),
        (lambda d, s, w: (fill(d, s, w)[0], len(s)), "do not agree")]),
    "lab1-same-topic": (by_token, [
        (lambda t, topic, k, s: drawn(t.assign(topic=topic), topic, k, s), "another topic"),
        (lambda t, topic, k, s: drawn(t, topic, k, 0), "another seed should give another draw"),
        (lambda t, topic, k, s: drawn(t, topic, k, None), "one seed should give one draw"),
        (lambda t, topic, k, s: drawn(pd.concat([t[t["topic"] == topic][: k - 1]] * 3), topic, k, s), "is there twice"),
        (lambda t, topic, k, s: [(d, e) for (d, _), (_, e) in zip(*[drawn(t, topic, k, i) for i in (s, s + 9)],
                                                                    strict=True)], "another one's summary"),
        (lambda t, topic, k, s: [(y, x) for x, y in drawn(t, topic, k, s)], "the dialogue first"),
        (lambda t, topic, k, s: drawn(t, topic, k, s)[1:], "8 shots were asked for"),
        (lambda t, topic, k, s: t.insert(0, "place", 0) or drawn(t, topic, k, s), "not in place")]),
    "lab2-pad-labels": (lambda rows, width: torch.stack([
        nn.functional.pad(torch.tensor(r), (0, width - len(r)), value=-100) for r in rows]), [
        (lambda rows, width: padded(rows, width, 0), "0 is the pad token"),
        (lambda rows, width: padded(rows, width, 1), "1 is the end token"),
        (lambda rows, width: padded(rows, width, left=True), "the filling after them"),
        (lambda rows, width: padded(rows, width, keep=-1), "the end token is gone"),
        (lambda rows, width: padded(rows, max(map(len, rows))), "not to the longest row"),
        (lambda rows, width: padded(rows, width).float(), "integers, not floats"),
        (lambda rows, width: torch.tensor(rows), "stops in line")]),
    "lab2-mean-loss": (lambda x, y: cross_entropy(x.transpose(1, 2), y, ignore_index=-100), [
        (lambda x, y: loss(x, y.clamp(min=0), lambda t, m: t.mean()), "labels of -100 are counted in"),
        (lambda x, y: loss(x, y, lambda t, m: (t * m).mean()), "not by all positions"),
        (lambda x, y: loss(x, y, lambda t, m: (t * m).sum()), "this is the sum"),
        (lambda x, y: -loss(x, y), "the sign is wrong"),
        (lambda x, y: loss(x, y, lambda t, m: t.sum() / m.sum()), "do not only divide by its sum"),
        (lambda x, y: loss(x, y, lambda t, m: ((t * m).sum(1) / m.sum(1)).mean()), "a mean of the rows' means"),
        (lambda x, y: loss(x, y, dim=1), "the wrong dimension"),
        (lambda x, y: -x.log_softmax(-1).gather(2, y[..., None]).mean(), "-100 is no index"),
        (lambda x, y: loss(x, y, lambda t, m: t * m), "one mean over all counted labels")]),
    "lab2-lora-count": (lambda shapes, r: r * sum(map(sum, shapes)), [
        (lambda shapes, r: sum(a * b for a, b in shapes), "the numbers in W, which is frozen"),
        (lambda shapes, r: sum(r * a * b for a, b in shapes), "A and B do not multiply"),
        (lambda shapes, r: sum(r * b for a, b in shapes), "only A is counted"),
        (lambda shapes, r: sum(a + b for a, b in shapes), "the rank is missing"),
        (lambda shapes, r: r * sum(shapes[0]), "only the first layer"),
        (lambda shapes, r: [r * (a + b) for a, b in shapes], "one number is wanted")]),
    "lab2-lora": (lora(lambda self, x: self.layer(x) + nn.functional.linear(x, self.scale * self.B @ self.A)), [
        (lora(lambda self, x: self.scale * (x @ self.A.T) @ self.B.T), "the frozen layer's own output is missing"),
        (lora(lambda self, x: self.layer(x) + (x @ self.A.T) @ self.B.T), "the update is not scaled"),
        (lora(lambda self, x: self.layer(x) + self.alpha * (x @ self.A.T) @ self.B.T), "scaled by alpha alone"),
        (lora(lambda self, x: self.scale * (self.layer(x) + (x @ self.A.T) @ self.B.T)), "only the update is scaled"),
        (lora(lambda self, x: self.layer(x) + self.scale * (x @ self.A) @ self.B), "mind the transposes"),
        (lora(lambda self, x: self.layer(x) + self.scale * x @ (self.B @ self.A).T.detach()), "no gradient reaches"),
        (lora(lambda self, x: self.layer(x)), "nothing is added")]),
    "lab2-merge": (lambda m: merged(m, lambda m: torch.einsum("or,ri->oi", m.B, m.A) * m.scale), [
        (lambda m: merged(m, lambda m: m.B @ m.A), "the update is not scaled"),
        (lambda m: merged(m, in_place=True), "not in place"),
        (lambda m: merged(m, base=0.0), "the update alone"),
        (lambda m: merged(m, lambda m: m.A @ m.B), "B A has the shape of W"),
        (lambda m: copy.deepcopy(m.layer), "this is W as it was"),
        (merged_without_bias, "the bias is lost"),
        (lambda m: m.layer.weight + m.scale * m.B @ m.A, "a plain nn.Linear is wanted")]),
    "lab2-ledger": (lambda n, t: {k: v * 4 / 1024 / 1024 for k, v in
                                  {"optimizer": 2 * t, "gradients": t, "weights": n}.items()}, [
        (ledger(g_all=True), "only trained weights have gradients"), (ledger(o=4), "not one"),
        (ledger(o_all=True), "moments of trained weights only"), (ledger(w_trained=True), "all weights are held"),
        (ledger(unit=10**6), "2**20 here"), (ledger(unit=1), "these are bytes"),
        (ledger(1, 1, 2), "in fp32 takes four"),
        (lambda n, t: 4 * n + 12 * t, "a dictionary with")]),
    "lab3-bradley-terry": (lambda a, b: torch.nn.functional.softplus(b - a).mean(), [
        (lambda a, b: torch.nn.functional.softplus(a - b).mean(), "have changed places"),
        (lambda a, b: torch.nn.functional.logsigmoid(a - b).mean(), "the sign is wrong"),
        (lambda a, b: torch.nn.functional.softplus(b - a).sum(), "this is the sum"),
        (lambda a, b: -torch.sigmoid(a - b).mean(), "the logarithm is missing"),
        (lambda a, b: torch.nn.functional.softplus((b - a).mean()), "not the loss of the mean difference"),
        (lambda a, b: -torch.log(torch.sigmoid(a - b)).mean(), "use logsigmoid"),
        (lambda a, b: torch.nn.functional.softplus(b - a), "the mean over the pairs")]),
    "lab3-reward-by-name": (odds, [
        (lambda x, names, label: odds(x, names, label, 0), "at a fixed position"),
        (lambda x, names, label: x[:, 0], "at a fixed position"),
        (lambda x, names, label: x.max(1).values, "whatever is most probable"),
        (lambda x, names, label: torch.softmax(x, 1).max(1).values, "whatever is most probable"),
        (lambda x, names, label: odds(x, names, label, list(names.values()).index(label)), "place in the dictionary"),
        (lambda x, names, label: odds(x, names, label, of=lambda x, i: x[:, i]), "this is the logit alone"),
        (lambda x, names, label: odds(x, names, label, of=lambda x, i: x.softmax(1)[:, i]), "this is the probability"),
        (lambda x, names, label: odds(x, names, label, of=lambda x, i: x.log_softmax(1)[:, i]), "this is log p"),
        (lambda x, names, label: odds(x, names, label)[:, None], "one reward for each text")]),
    "lab3-token-rewards": (rewards, [
        (lambda s, a, b, m, beta: rewards(s, b, a, m, beta), "the sign of the KL is wrong"),
        (lambda s, a, b, m, beta: rewards(s, a, b, m, beta, lambda a, b, m, beta: -beta * (a - b)),
         "multiply by the mask"),
        (lambda s, a, b, m, beta: rewards(s, a, b, m, beta, place=lambda m: m.sum(1).long() * 0 + m.shape[1] - 1),
         "not to the last column"),
        (lambda s, a, b, m, beta: rewards(s, a, b, m, beta, place=lambda m: m.sum(1).long() - 2),
         "one token too early"),
        (lambda s, a, b, m, beta: rewards(s, a, b, m, beta, place=lambda m: m.sum(1).long()), "counting begins with 0"),
        (lambda s, a, b, m, beta: rewards(s, a, b, m, beta, put=lambda old, new: new), "do not overwrite"),
        (lambda s, a, b, m, beta: (s[:, None] - beta * (a - b)) * m, "every token earns the score"),
        (lambda s, a, b, m, beta: rewards(s, a, b, m, 1.0), "the coefficient beta is missing"),
        (lambda s, a, b, m, beta: -beta * (a - b) * m, "the score is missing")]),
    "lab3-advantages": (gae_by_sums, [
        (lambda *a: gae(*a, masked=False), "the value of a pad counts for nothing"),
        (lambda *a: gae(*a, order=iter), "added up forwards"),
        (lambda *a: gae(*a, carry=lambda gamma, lam: gamma), "lambda changes nothing"),
        (lambda *a: gae(*a, carry=lambda gamma, lam: lam), "gamma is missing where A is carried"),
        (lambda *a: gae(*a, after=0.0), "the next value V at t + 1"),
        (lambda *a: gae(*a, here=0.0), "the baseline V at t"),
        (lambda *a: gae(*a, carry=lambda gamma, lam: 0.0), "this is delta alone"),
        (lambda *a: gae(*a) + a[1] * a[2], "the returns A + V"),
        (lambda r, v, *a: torch.stack([r[:, t] + v[:, t + 1] for t in range(6)], 1), "no token after the last")]),
    "lab3-clipped-loss": (
        lambda new, old, a, m, c: torch.maximum(-a * exp(new - old), -a * exp(new - old).clip(1 - c, 1 + c)) * m, [
        (lambda *a: clipped(*a, sign=1), "mind the sign"),
        (lambda *a: clipped(*a, least=torch.maximum), "mistakes are never clipped away"),
        (lambda *a: clipped(*a, least=lambda x, y: x), "nothing is clipped"),
        (lambda *a: clipped(*a, least=lambda x, y: y), "always clipped"),
        (lambda logp, old, a, m, c: clipped(logp, old, a, torch.ones_like(m), c), "multiply by the mask"),
        (lambda *a: clipped(*a, ratio=torch.sub), "the exponential of a difference"),
        (lambda *a: clipped(*a, ratio=torch.div), "the quotient of two logarithms"),
        (lambda logp, old, *a: clipped(old, logp, *a), "upside down"),
        (lambda logp, old, a, m, c: clipped(logp, old, a, m, 0.2), "clip changes nothing"),
        (lambda *a: clipped(*a).sum(), "one loss for each token")]),
    "lab3-clipping": (dict(reversed(MOVES.items())), [
        (MOVES | {"ratio 1.5, advantage -1": "stays"}, "a bad token has become more probable"),
        (MOVES | {"ratio 0.5, advantage -1": "moves"}, "away from what was bad"),
        (MOVES | {"ratio 1.1, advantage +1": "stays"}, "clipping begins at 1.2"),
        (MOVES | {"ratio 1.1, advantage +1": "yes"}, "write one of moves, stays")]),
}


def notebook_cells() -> dict[str, tuple]:
    """{exercise: (solution cell, check cell)} of all labs."""
    cells = {}
    for path in sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            if "nbgrader" in cell.metadata:
                cells[cell.metadata.nbgrader.grade_id] = cell
    return {name: (cell, cells[name + "-check"]) for name, cell in cells.items() if name + "-check" in cells}


CELLS = notebook_cells()
NAMES = {"torch": torch, "nn": nn, "pd": pd, "np": np, "copy": copy, "prompts": prompts, "exercises": exercises,
         "tokenizer": TOKENIZER, "math": math}


def solved(name: str) -> dict:
    """The names that the exercise's solution cell of the notebook leaves."""
    names = dict(NAMES)
    exec(CELLS[name][0].source, names)
    return names


def answer_name(name: str) -> str:
    return re.search(r"exercises\.check_\w+\((\w+)", CELLS[name][1].source)[1]


def check(name: str, answer) -> None:
    """Runs the notebook's check cell on an answer."""
    exec(CELLS[name][1].source, {**NAMES, answer_name(name): answer})


def test_every_exercise_has_cells_and_cases():
    assert set(CELLS) == set(CASES)
    for name, (_, wrong) in CASES.items():
        assert len(wrong) >= 3, name
    for number in {name[:4] for name in CELLS}:
        assert 4 <= sum(name.startswith(number) for name in CELLS) <= 6


@pytest.mark.parametrize("name", CASES)
def test_right_answers_pass_every_time(name, capsys):
    state, dice = torch.get_rng_state(), random.getstate()
    for _ in range(20):
        check(name, solved(name)[answer_name(name)])
        check(name, CASES[name][0])
    assert re.fullmatch(r"(Exercise \d: right\.\n){40}", capsys.readouterr().out)
    assert torch.equal(state, torch.get_rng_state()) or name == "lab2-lora", "a check must not move the lab's dice"
    assert dice == random.getstate()


@pytest.mark.parametrize("name, number", [(name, i) for name in CASES for i in range(len(CASES[name][1]))])
def test_each_mistake_is_told_by_its_name(name, number):
    (wrong, said), texts = CASES[name][1][number], []
    for _ in range(5):
        with pytest.raises(Wrong) as caught:
            check(name, wrong)
        texts.append(str(caught.value))
    assert all(re.match(r"Exercise \d: [^\n]+$", text) for text in texts)
    assert sum(said in text for text in texts) >= 4, texts  # on random input two mistakes may once give the same number


def test_what_torch_has_not_implemented_is_no_stub():
    with pytest.raises(Wrong, match="NotImplementedError: \"softmax_.*not implemented for 'Long'"):
        check("lab1-softmax", lambda x, T=1.0: torch.softmax(x.long(), -1))


@pytest.mark.parametrize("name", CASES)
def test_an_unsolved_exercise_is_told_so_kindly(name):
    def nothing(*_):
        return None

    def not_implemented(*_):
        raise NotImplementedError

    predicts = isinstance(CASES[name][0], dict)
    for empty in ([dict.fromkeys(CASES[name][0], "?")] if predicts else [nothing, not_implemented]):
        with pytest.raises(Unsolved, match=r"Exercise \d: .* waits for you: fill it in"):
            check(name, lora(empty) if name == "lab2-lora" else empty)


@pytest.mark.parametrize("name", [n for n in CASES if n != "lab2-lora"])
@pytest.mark.parametrize("strange", [3, "text", [1], float("nan"), lambda: 3, lambda *_: "text", lambda *_: math.nan,
                                     lambda *_: [[]], lambda *_: ("a", "b"), lambda *_: torch.tensor([math.nan]),
                                     lambda *a: a[0], lambda *_: {"weights": "a", "gradients": [], "optimizer": 0}])
def test_strange_answers_get_a_sentence_too(name, strange):
    with pytest.raises(Wrong, match=r"^Exercise \d: [^\n]+$"):
        check(name, strange)


def test_the_line_of_an_error_is_named():
    cell = "def softmax(logits, temperature=1.0):\n    scaled = logits / temperature\n    return scaled.nothing()"
    names = {}
    exec(cell, names)
    with pytest.raises(Wrong, match=r"softmax stops in line 3 of its cell \(AttributeError: "):
        exercises.check_softmax(names["softmax"])
    exec("class Lora(torch.nn.Module):\n    def forward(self, x):\n        return x @ x @ x", names := {"torch": torch})
    with pytest.raises(Wrong, match="Lora stops in line 3 of its cell"):
        call(names["Lora"](), torch.ones(2, 3))
    assert exercises.Wrong("x")._render_traceback_() == ["Wrong: x"], "Jupyter shows the sentence alone"


def test_statements_have_minutes_difficulty_and_a_folded_hint():
    for path in sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb")):
        cells = nbformat.read(path, 4).cells
        numbers, at = [], [i for i, c in enumerate(cells) if "exercise-check" in c.metadata.get("tags", [])]
        for i in at:
            before, after = cells[i - 2].source, cells[i + 1].source
            stated = re.search(r"\*\*Exercise (\d)\*\* \((5|10|15) minutes, (easy|medium|hard)\)", before)
            assert stated, f"{path.name}: no statement before {cells[i].source!r}: {before[-100:]!r}"
            numbers.append(int(stated[1]))
            assert "<details><summary>Hint</summary>" in after, f"{path.name}: no hint after {cells[i].source!r}"
            assert cells[i - 1].metadata.tags == ["exercise"] and cells[i].metadata.nbgrader.points in (1, 2, 3)
        assert numbers == list(range(1, len(at) + 1)), path.name
