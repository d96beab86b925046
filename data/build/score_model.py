"""Measures the bundled model against its targets on whole held-out sets, greedy.

    python data/build/score_model.py [--model data/models/tiny] [--out data/models/tiny/measured.json]
"""

import argparse
import json
import random
import re
from pathlib import Path

import numpy as np

from utils import dialogues, metrics
from utils.generation import generate
from utils.models import load_model
from utils.profile import choose_device, tune_allocator
from utils.prompts import build, draw_shots, fit_shots, summary_prompt
from utils.tasks import load_task, score

import grammar
import makers

DATA = grammar.HERE.parent


def summaries(run, tokenizer, items, train, k, seed, shuffle=False):
    """ROUGE-1 of k-shot summaries, other shots for each dialogue; also the texts."""
    prompts = [fit_shots(tokenizer, d["dialogue"], draw_shots(train, k, seed * 100_000 + i, shuffle_answers=shuffle))[0]
               for i, d in enumerate(items)]
    texts = run(prompts)
    return metrics.rouge(texts, [d["references"] for d in items])["rouge1"], texts


def percent_equal(texts: list[str], items: list[dict]) -> float:
    """Share of the outputs that are the target to the letter, in percent."""
    return round(100 * float(np.mean([t == i["target"] for t, i in zip(texts, items, strict=True)])), 1)


def names_right(texts: list[str], items: list[dict]) -> float:
    """Share of the capitalised words inside the summaries' sentences that the dialogue contains, in percent."""
    hits = []
    for text, item in zip(texts, items, strict=True):
        for sentence in text.split(". "):
            words = sentence.replace(".", " ").replace(",", " ").split()
            hits += [w.removesuffix("'s") in item["dialogue"] for w in words[1:] if w[:1].isupper()]
    return 100 * float(np.mean(hits)) if hits else float("nan")


def words(text: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", text))


def vocabulary(task: str, draws: int = 8000) -> set[str]:
    """The words of a task's targets, held-out ones among them, collected from that many draws."""
    rng = random.Random(11)
    return set().union(*(words(makers.make(task, rng, i % 3 == 0)["target"]) for i in range(draws)))


def broken(texts: list[str], items: list[dict], known: set[str]) -> float:
    """Share of the outputs with a word that is neither in their input nor known, in percent."""
    return 100 * float(np.mean([bool(words(t) - words(i["input"]) - known) for t, i in zip(texts, items, strict=True)]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(DATA / "models" / "tiny"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dialogues", type=int, default=500)
    parser.add_argument("--shots", type=int, nargs="*", default=[0, 1, 2, 3, 5])
    args = parser.parse_args()
    tune_allocator()
    device, dtype, _ = choose_device()
    model, tokenizer = load_model(args.model, device)
    report = {}

    def run(prompts, n=56):
        return generate(model, tokenizer, prompts, max_new_tokens=n, dtype=dtype, progress="generating")

    def note(name, value):
        report[name] = value
        print(f"{name:36} {value}", flush=True)

    for name in makers.TASKS:
        items = load_task(name, "test", DATA / "tasks")
        texts = run([build(makers.INSTRUCTIONS[name][0], i["input"]) for i in items])
        right = [score(name, t, i) for t, i in zip(texts, items, strict=True)]
        note(f"task {name}", round(100 * float(np.mean(right)), 1))
        if name in ("reply", "translation"):
            note(f"  broken words % {name}", round(broken(texts, items, vocabulary(name)), 1))
    items = load_task("labels", "test", DATA / "tasks")
    for k in (4, 0):
        texts = run([build(i["instruction"], i["input"], i["shots"][:k]) for i in items], 8)
        note(f"labels {k} shots", percent_equal(texts, items))
    items = load_task("fields", "test", DATA / "tasks")
    texts = run([build(i["instruction"], i["input"], i["shots"]) for i in items], 24)
    note("fields 3 shots", percent_equal(texts, items))
    items = dialogues.group(dialogues.load_split(str(DATA / "dialogues"), "test"))[: args.dialogues]
    train = [(r["dialogue"], r["summary"]) for r in
             dialogues.load_split(str(DATA / "dialogues"), "train").to_dict("records")]
    references = [d["references"] for d in items]
    ceiling = metrics.reference_ceiling(references)
    note("rouge1 ceiling", metrics.show(metrics.interval(ceiling)))
    note("rouge1 lead-3", metrics.show(metrics.interval(
        metrics.rouge([dialogues.lead(d["dialogue"]) for d in items], references)["rouge1"])))
    by_shots = {}
    for k in args.shots:
        by_shots[k], texts = summaries(run, tokenizer, items, train, k, seed=k)
        note(f"rouge1 {k} shots", metrics.show(metrics.interval(by_shots[k])))
        note(f"  words {k} shots", round(float(np.mean([len(t.split()) for t in texts])), 1))
        note(f"  loops % {k} shots", round(100 * float(np.mean([metrics.loops(t) for t in texts])), 1))
        if k == 3:
            note("names in dialogue % 3 shots", round(names_right(texts, items), 1))
    if {0, 1, 3} <= set(by_shots):
        note("one minus zero", metrics.show(metrics.interval(by_shots[1] - by_shots[0])))
        note("three minus one", metrics.show(metrics.interval(by_shots[3] - by_shots[1])))
        shuffled, _ = summaries(run, tokenizer, items, train, 3, seed=3, shuffle=True)
        note("three minus shuffled", metrics.show(metrics.interval(by_shots[3] - shuffled)))
        note("ceiling minus three", metrics.show(metrics.interval(ceiling - by_shots[3])))
    print(repr(summary_prompt("…")), items[0]["dialogue"], texts[0], items[0]["references"], sep="\n")
    if args.out:
        args.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
