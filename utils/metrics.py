"""Scores with their uncertainty: ROUGE by example, bootstrap intervals, diversity and repetition."""

import functools
import tempfile
from collections import Counter

import numpy as np
import pandas as pd
from scipy import stats


@functools.cache
def _rouge():
    """The metric itself: evaluate.load would copy it below HF_HOME, under a lock, where a user may not write. Imported
    when it is needed, so that a lab's first call can still say which library is at fault."""
    from utils.rouge_by_example.rouge_by_example import RougeByExample

    with tempfile.TemporaryDirectory() as folder:  # evaluate wants a place for its cache, and keeps all in memory
        return RougeByExample(keep_in_memory=True, cache_dir=folder)


def rouge(predictions: list[str], references: list[list[str]], kinds=("rouge1", "rouge2", "rougeL")) -> dict:
    """ROUGE F-measures in points (0–100) of each prediction, averaged over its references.

    Returns an array of shape [n] for each kind. Stemmed, as in Lin (2004) and the
    DialogSum paper; averaging over references rather than taking the best keeps the score
    comparable between data with one and with several references.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions but {len(references)} lists of references")
    if not all(isinstance(r, list) and r for r in references):
        raise ValueError("every prediction needs a non-empty list of references")
    scores = _rouge().compute(predictions=list(predictions), references=references, kinds=kinds)
    return {kind: 100 * np.asarray(values) for kind, values in scores.items()}


def rouge1(predictions: list[str], references: list[list[str]]) -> np.ndarray:
    """ROUGE-1 alone, shape [n]: a third of the time."""
    return rouge(predictions, references, ("rouge1",))["rouge1"]


def reference_ceiling(references: list[list[str]]) -> np.ndarray:
    """ROUGE-1 points of each example's references against one another, shape [n]: what one reference
    scores when the others are the yardstick. Not a number where an example has a single one."""
    rows, targets, owner = [], [], []
    for i, refs in enumerate(references):
        for j, text in enumerate(refs if len(refs) > 1 else ()):
            rows.append(text)
            targets.append(refs[:j] + refs[j + 1:])
            owner.append(i)
    ceiling = np.full(len(references), np.nan)
    for i, scores in pd.Series(rouge1(rows, targets)).groupby(owner):
        ceiling[i] = scores.mean()
    return ceiling


def interval(scores, seed: int = 0, resamples: int = 2000) -> tuple[float, float, float]:
    """(mean, low, high): 95 % bootstrap percentile interval.

    scores has shape [n], or [runs, n] where several runs (seeds, draws of shots) scored the same n
    examples: then runs and examples are both drawn anew. For a paired comparison pass the
    difference of two arrays. Efron & Tibshirani (1993), percentile method.
    """
    scores = np.atleast_2d(np.asarray(scores, dtype=float))
    runs, n = scores.shape
    mean = float(scores.mean())
    if n < 2 or np.ptp(scores) == 0:
        return mean, mean, mean
    if runs == 1:
        sample, statistic, vectorized = (scores[0],), np.mean, True
    else:
        sample = (np.arange(runs), np.arange(n))
        statistic, vectorized = lambda r, e: scores[np.ix_(r, e)].mean(), False
    drawn = stats.bootstrap(sample, statistic, n_resamples=resamples, method="percentile", vectorized=vectorized,
                           rng=np.random.default_rng(seed), confidence_level=0.95)
    return mean, float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def share(right) -> tuple[float, float, float]:
    """(percent, low, high) of the true entries of `right`, [n], with the exact 95 % interval (Clopper & Pearson
    1934): unlike the bootstrap's it has a width where all entries agree."""
    right = np.asarray(right, dtype=bool)
    exact = stats.binomtest(int(right.sum()), right.size).proportion_ci(0.95, "exact")
    return 100 * float(right.mean()), 100 * float(exact.low), 100 * float(exact.high)


def relative_fall(before, after, seed: int = 0, resamples: int = 2000) -> tuple[float, float, float]:
    """(value, low, high): by how many percent the mean of `after`, [n] or [runs, n], lies below that of
    `before` (of the same shape, or [n]), with its 95 % bootstrap interval; runs and examples are drawn
    anew, the same ones on both sides."""
    after = np.atleast_2d(np.asarray(after, dtype=float))
    before, rng = np.broadcast_to(np.asarray(before, dtype=float), after.shape), np.random.default_rng(seed)

    def fall(runs, examples):
        return 100 * (1 - after[np.ix_(runs, examples)].mean() / before[np.ix_(runs, examples)].mean())

    draws = [fall(*(rng.integers(0, size, size) for size in after.shape)) for _ in range(resamples)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(fall(*map(np.arange, after.shape))), float(low), float(high)


def cut_to_mean_length(texts: list[str], words: float) -> list[str]:
    """The texts, each cut after as many words as bring their mean length down to `words` or just
    below; as they are where they are short enough. For comparing systems at one length."""
    split = [text.split() for text in texts]
    limit = max(map(len, split), default=0)
    while limit > 0 and np.mean([min(len(s), limit) for s in split]) > words:
        limit -= 1
    return [" ".join(s[:limit]) for s in split]


def show(value: tuple[float, float, float], digits: int = 1) -> str:
    """An interval as text: "41.2 [40.1, 42.3]"."""
    return "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*value, d=digits)


def distinct(texts: list[str], n: int = 2) -> float:
    """Distinct n-grams over all n-grams of the texts together, 0–1 (Li et al. 2016)."""
    grams = [g for t in texts for g in _ngrams(t.split(), n)]
    return len(set(grams)) / max(1, len(grams))


def repetition(text: str, n: int = 3) -> float:
    """Share of a text's n-grams that it has said before, 0–1 (Welleck et al. 2020)."""
    grams = _ngrams(text.split(), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def loops(text: str, n: int = 3, times: int = 3) -> bool:
    """True where some n-gram occurs at least `times` times: the mark of greedy decoding gone round."""
    return max(Counter(_ngrams(text.split(), n)).values(), default=0) >= times


def _ngrams(words: list[str], n: int) -> list[tuple]:
    return [tuple(words[i:i + n]) for i in range(len(words) - n + 1)]
