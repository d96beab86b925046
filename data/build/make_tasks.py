"""Writes the task files data/tasks/<name>/{train,test}.jsonl, distinct items drawn from a seed, and the
two tasks that only the examples in the prompt define (labels, fields; test items alone).

    python data/build/make_tasks.py [--train 500] [--test 250] [--out data/tasks]
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path

import episodes
import grammar
import makers


def rows(name: str, count: int, test: bool) -> list[dict]:
    """`count` items with different inputs; both sentiments are equally frequent."""
    rng = random.Random(f"{name} {'test' if test else 'train'}")
    found, labels = {}, Counter()
    while len(found) < count:
        item = makers.make(name, rng, test)
        if item["input"] in found or (name == "sentiment" and labels[item["target"]] >= count / 2):
            continue
        found[item["input"]] = item
        labels[item["target"]] += 1
    return list(found.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--test", type=int, default=250)
    parser.add_argument("--out", type=Path, default=grammar.HERE.parent / "tasks")
    args = parser.parse_args()
    for name in makers.TASKS:
        for split, count in (("train", args.train), ("test", args.test)):
            path = args.out / name / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = [json.dumps(item, ensure_ascii=False) for item in rows(name, count, split == "test")]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
            print(f"{len(lines)} items -> {path}")
    for name, make, shots in (("labels", episodes.label_item, 4), ("fields", episodes.field_item, 3)):
        rng, world = random.Random(name), grammar.load()
        items = []
        while len(items) < 2 * args.test:
            item = make(world, rng, shots, test=True)
            if item["input"] not in [x for x, _ in item["shots"]]:  # a query among its own shots could be copied
                items.append(item)
        path = args.out / name / "test.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(i, ensure_ascii=False) + "\n" for i in items)
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{len(items)} items -> {path}")


if __name__ == "__main__":
    main()
