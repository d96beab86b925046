"""Measures what data/README.md quotes and writes data/statistics.json.

    python data/build/measure.py
"""

import json
import re

import numpy as np

from utils import dialogues, metrics

import grammar

DATA = grammar.HERE.parent


def main():
    world = grammar.load()
    tables = {s: dialogues.load_split(str(DATA / "dialogues"), s) for s in ("train", "validation", "test")}
    test = dialogues.group(tables["test"])
    texts = [d for t in tables.values() for d in t["dialogue"].drop_duplicates()]
    lengths = [len(re.sub(r"#Person\d#:", "", d).split()) for d in texts]
    references = [d["references"] for d in test]
    heated = np.mean([bool(d["summary_civil"]) for d in test])
    lead3 = metrics.rouge([dialogues.lead(d["dialogue"]) for d in test], references)["rouge1"]
    low, high = np.percentile(lengths, [2.5, 97.5])
    figures = {
        "scenarios": len(world["scenarios"]),
        "domains": len({s["domain"] for s in world["scenarios"]}),
        "branches": sum(len(s["branch"]) for s in world["scenarios"]),
        "branches for test only": sum(bool(b.get("test_only")) for s in world["scenarios"] for b in s["branch"]),
        "rows (train / validation / test)": " / ".join(str(len(t)) for t in tables.values()),
        "word types": len({w for d in texts for w in re.findall(r"[a-z]+", d.lower())}),
        "words in a dialogue, mean (95 % range)": f"{np.mean(lengths):.1f} ({low:.0f}–{high:.0f})",
        "words in a test reference, mean": f"{np.mean([len(r.split()) for d in references for r in d]):.1f}",
        "reference against reference, ROUGE-1": f"{metrics.reference_ceiling(references).mean():.1f}",
        "lead-3 turns, ROUGE-1": f"{lead3.mean():.1f}",
        "heated dialogues in test, %": f"{100 * heated:.1f}",
    }
    text = json.dumps(figures, indent=1, ensure_ascii=False) + "\n"
    (DATA / "statistics.json").write_text(text, encoding="utf-8", newline="\n")
    print("\n".join(f"| {name} | {value} |" for name, value in figures.items()))


if __name__ == "__main__":
    main()
