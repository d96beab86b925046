"""Writes the pretraining episodes as token ids, in shards, so that training reads and never waits.

    python data/build/corpus.py --examples 300000      # of each stage
"""

import argparse
import hashlib
import json
import os
import random
import sys
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm
from transformers import AutoTokenizer

import episodes
import grammar

SHARD = 10_000
MODEL = grammar.HERE.parent / "models" / "tiny"
OUT = grammar.HERE.parent.parent / "out" / "build"


def published() -> frozenset:
    """Every dialogue of data/dialogues: none of them may be seen in pretraining."""
    files = sorted((grammar.HERE.parent / "dialogues").glob("*.csv"))
    if not files:
        raise FileNotFoundError("data/dialogues holds no csv: run data/build/make_dialogues.py first")
    return frozenset(d for f in files for d in pd.read_csv(f, usecols=["dialogue"])["dialogue"])


def write_shard(job: tuple) -> tuple:
    """Episodes index*SHARD .. of a stage -> <out>/<stage>/<index>.npz (ids uint16, ends int64, kinds uint8)."""
    stage, index, seed, count, tokenizer_dir, out = job
    path = Path(out) / stage / f"{index:04d}.npz"
    if path.exists():
        return index, 0
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    window = tokenizer.model_max_length
    world, seen, rng = grammar.load(), published(), random.Random(f"{stage}:{seed}:{index}")
    kinds, prompts, answers, dropped = [], [], [], 0
    while len(kinds) < count:
        batch = [episodes.episode(world, rng, seen, stage) for _ in range(500)]
        sides = [tokenizer([e[side] for e in batch])["input_ids"] for side in (1, 2)]
        for (kind, _, _), prompt, answer in zip(batch, *sides, strict=True):
            if len(prompt) > window or len(answer) > 96:
                dropped += 1
            elif len(kinds) < count:
                kinds.append(episodes.KINDS.index(kind))
                prompts.append(prompt)
                answers.append(answer)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    flat = {name: np.concatenate([np.asarray(x, np.uint16) for x in lists])
            for name, lists in (("prompts", prompts), ("answers", answers))}
    np.savez(part, kinds=np.asarray(kinds, np.uint8), prompt_ends=np.cumsum([len(x) for x in prompts]),
             answer_ends=np.cumsum([len(x) for x in answers]), **flat)
    part.replace(path)
    return index, dropped


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=300_000, help="of each stage")
    parser.add_argument("--stages", nargs="*", default=list(episodes.STAGES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", default=str(MODEL))
    parser.add_argument("--out", type=Path, default=OUT / "corpus")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sources = sorted(p for p in grammar.HERE.rglob("*") if p.suffix in {".toml", ".py"})
    digest = hashlib.sha256("".join(p.read_text("utf-8") for p in sources).encode()).hexdigest()[:16]
    manifest, made_from = args.out / "corpus.json", {"seed": args.seed, "sources": digest}
    if manifest.exists() and json.loads(manifest.read_text("utf-8")) != made_from:
        sys.exit(f"{args.out} was made from another grammar or seed: empty it first")
    manifest.write_text(json.dumps(made_from), "utf-8")
    jobs = [(stage, i, args.seed, SHARD, args.tokenizer, str(args.out))
            for stage in args.stages for i in range(args.examples // SHARD)]
    with Pool(args.workers) as pool:
        dropped = sum(d for _, d in tqdm(pool.imap_unordered(write_shard, jobs), total=len(jobs), unit="shard"))
    print(f"{len(jobs) * SHARD} episodes in {args.out}; {dropped} dropped as longer than the window")


if __name__ == "__main__":
    main()
