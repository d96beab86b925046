"""Reads the shards of the corpus back and makes batches of one length bucket of them."""

from pathlib import Path

import numpy as np
import torch

BUCKETS = {32: 64, 64: 64, 96: 64, 128: 48, 192: 32, 256: 24, 320: 16, 384: 16, 512: 16, 640: 12, 768: 12}


def read_corpus(folder: Path) -> dict:
    """All shards as one set of flat arrays."""
    shards = [np.load(f) for f in sorted(folder.glob("[0-9]*.npz")) if ".part" not in f.name]
    if not shards:
        raise FileNotFoundError(f"{folder} holds no shard: run data/build/corpus.py first")
    corpus = {"kinds": np.concatenate([s["kinds"] for s in shards])}
    for side in ("prompt", "answer"):
        corpus[side + "s"] = np.concatenate([s[side + "s"] for s in shards])
        base = np.cumsum([0] + [len(s[side + "s"]) for s in shards[:-1]])
        corpus[side + "_ends"] = np.concatenate([s[side + "_ends"] + b for s, b in zip(shards, base, strict=True)])
        corpus[side + "_lengths"] = np.diff(corpus[side + "_ends"], prepend=0)
    return corpus


def plan(lengths: np.ndarray, seed: int, buckets: dict) -> list:
    """One epoch: [(bucket length, example indices)], in a shuffled order that the seed fixes."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(lengths))
    edges = np.array(sorted(buckets))
    bucket = edges[np.searchsorted(edges, lengths[order])]
    batches = []
    for edge in edges:
        inside = order[bucket == edge]
        size = buckets[int(edge)]
        batches += [(int(edge), inside[i:i + size]) for i in range(0, len(inside) - size + 1, size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def collate(corpus: dict, rows: np.ndarray, length: int, device) -> dict:
    """Padded tensors: input_ids, attention_mask [batch, length], labels [batch, answer] with -100."""
    ids = np.zeros((len(rows), length), np.int64)
    longest = int(corpus["answer_lengths"][rows].max())
    labels = np.full((len(rows), -(-longest // 32) * 32), -100, np.int64)
    for i, row in enumerate(rows):
        for out, side in ((ids, "prompt"), (labels, "answer")):
            n, end = corpus[side + "_lengths"][row], corpus[side + "_ends"][row]
            out[i, :n] = corpus[side + "s"][end - n:end]
    ids, labels = torch.from_numpy(ids).to(device), torch.from_numpy(labels).to(device)
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}
