"""Writes data/dialogues/{train,validation,test}.csv and data/preferences/{train,validation,test}.csv.

    python data/build/make_dialogues.py

Seeds are disjoint between all files, and so are the dialogues; scenario branches and slot values
marked for test occur in the test split alone.
"""

import csv
import random
from pathlib import Path

import grammar

OUT = grammar.HERE.parent
SIZES = {"train": 3000, "validation": 500, "test": 500}
PREFERENCES = {"train": 2000, "validation": 300, "test": 300}
REFERENCES = 3  # of each dialogue of the test split
COLUMNS = ("id", "dialogue", "summary", "topic", "summary_quoting", "summary_civil")


def distinct_summaries(frame: dict, rng: random.Random, n: int, civil: bool | None) -> list[str]:
    """n different ways to say it, as n annotators would."""
    made: list[str] = []
    while len(made) < n:
        text = grammar.summarise(frame, grammar.REFERENCE, rng, civil=civil)
        if text not in made:
            made.append(text)
    return made


def dialogue_rows(world: dict, split: str, seen: set) -> list[dict]:
    """The rows of one split. A heated dialogue has each summary in both kinds, and the summary
    column takes the quoting one in two thirds of the rows."""
    rng, rows, n = random.Random(f"dialogues:{split}"), [], 0
    copies = REFERENCES if split == "test" else 1
    while n < SIZES[split]:
        frame = grammar.sample(world, rng, test=split == "test")
        if frame["dialogue"] in seen:
            continue
        seen.add(frame["dialogue"])
        if frame["rude"]:
            kinds = [distinct_summaries(frame, rng, copies, civil) for civil in (False, True)]
            chosen = [kinds[rng.random() < 1 / 3][i] for i in range(copies)]
        else:
            kinds = [[""] * copies, [""] * copies]
            chosen = distinct_summaries(frame, rng, copies, None)
        for i in range(copies):
            name = f"{split}_{n}_{i + 1}" if copies > 1 else f"{split}_{n}"
            rows.append(dict(zip(COLUMNS, (name, frame["dialogue"], chosen[i], frame["topic"], kinds[0][i],
                                           kinds[1][i]), strict=True)))
        n += 1
    return rows


def preference_rows(world: dict, split: str, seen: set) -> list[dict]:
    """Pairs of summaries of a heated dialogue, both true to it: the civil one is chosen."""
    rng, rows = random.Random(f"preferences:{split}"), []
    while len(rows) < PREFERENCES[split]:
        frame = grammar.sample(world, rng, test=split == "test", heated=True)
        if frame["dialogue"] in seen:
            continue
        seen.add(frame["dialogue"])
        civil, quoting = (grammar.summarise(frame, grammar.REFERENCE, rng, civil=c) for c in (True, False))
        rows.append({"id": f"{split}_{len(rows)}", "dialogue": frame["dialogue"], "chosen": civil,
                     "rejected": quoting})
    return rows


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.DictWriter(f, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows):5d} rows -> {path.relative_to(OUT.parent)}")


def main():
    world, seen = grammar.load(), set()
    for split in ("test", "validation", "train"):
        write(OUT / "dialogues" / f"{split}.csv", dialogue_rows(world, split, seen))
    for split in PREFERENCES:
        write(OUT / "preferences" / f"{split}.csv", preference_rows(world, split, seen))


if __name__ == "__main__":
    main()
