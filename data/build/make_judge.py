"""Trains the toxicity judge and writes it to data/models/judge/, its texts to data/toxicity/.

    python data/build/make_judge.py

A HashingVectorizer over character n-grams and a logistic regression, trained on the texts of
toxicity.py. Prints the accuracy on fresh test texts (a quarter of their sentences from patterns that
training never uses), on texts from such patterns alone, and on data/toxicity/handwritten.csv, where
there is one: sentences by another hand. The same seeds and scenarios give the same judge.
"""

import csv
import json
import random
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from utils.reward import Judge, load_judge, make_vectorizer
from utils.reward import toxicity as judged

import toxicity

DATA = Path(__file__).resolve().parent.parent
LABELS = ("civil", "toxic")
VECTORIZER = {
    "analyzer": "char", "ngram_range": [2, 6], "lowercase": True, "n_features": 2**18,
    "alternate_sign": True, "norm": "l2", "binary": True,
}
TRAIN, TEST, HARD = 50_000, 3_000, 2_000  # texts
ROWS = {"train": 2000, "test": 1000}  # of them, those written to data/toxicity/
C, THRESHOLD = 30.0, 0.5


def train(texts: list[str], labels: list[int]) -> Judge:
    """Fits the judge to n texts and their labels (0 civil, 1 toxic)."""
    vectorizer = make_vectorizer(VECTORIZER)
    model = LogisticRegression(C=C, max_iter=1000, solver="liblinear")
    model.fit(vectorizer.transform(texts), labels)
    return Judge(vectorizer, model.coef_[0], float(model.intercept_[0]), THRESHOLD)


def save(judge: Judge, folder: Path) -> None:
    """Writes judge.safetensors (coef [features] and intercept [1], float32) and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"coef": judge.coef.astype(np.float32), "intercept": np.float32([judge.intercept])}
    save_file(weights, folder / "judge.safetensors")
    config = {"vectorizer": VECTORIZER, "labels": LABELS, "threshold": judge.threshold}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def accuracy(judge: Judge, name: str, texts: list[str], labels: list[int]) -> float:
    """Prints the share of right verdicts, in all and by label, and returns it."""
    labels = np.array(labels)
    right = (judged(judge, texts) > judge.threshold) == labels
    parts = ", ".join(f"{LABELS[k]} {right[labels == k].mean():.3f}" for k in (0, 1) if (labels == k).any())
    print(f"{name}: accuracy {right.mean():.3f} on {len(texts)} texts ({parts})")
    return float(right.mean())


def write_csv(path: Path, rows: list[tuple[str, int]]) -> None:
    """Writes texts and labels as a table with the columns text and label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("text", "label"))
        writer.writerows((text, LABELS[label]) for text, label in rows)


def read_csv(path: Path) -> list[tuple[str, int]]:
    """Reads a table with the columns text and label."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], LABELS.index(row["label"].strip())) for row in csv.DictReader(file)]


def main() -> None:
    rows = toxicity.texts(random.Random("judge train"), TRAIN)
    known = {text for text, _ in rows}
    fresh = toxicity.texts(random.Random("judge test"), TEST, test=True)
    fresh = [row for row in fresh if row[0] not in known]
    with threadpool_limits(1):
        save(train(*zip(*rows, strict=True)), DATA / "models" / "judge")
    judge = load_judge(DATA / "models" / "judge")
    write_csv(DATA / "toxicity" / "train.csv", rows[:ROWS["train"]])
    write_csv(DATA / "toxicity" / "test.csv", fresh[:ROWS["test"]])
    accuracy(judge, "training texts", *zip(*rows, strict=True))
    accuracy(judge, "test texts", *zip(*fresh, strict=True))
    hard = toxicity.texts(random.Random("judge hard"), HARD, test=True, held_out=1.0)
    accuracy(judge, "test texts, new patterns alone", *zip(*hard, strict=True))
    handwritten = DATA / "toxicity" / "handwritten.csv"
    if handwritten.is_file():
        accuracy(judge, "handwritten", *zip(*read_csv(handwritten), strict=True))


if __name__ == "__main__":
    main()
