"""Checks scenario files and prints what they produce.

    python data/build/check_scenarios.py [scenarios/food.toml ...] [--show 10]
"""

import argparse
import collections
import itertools
import random
import re
import statistics
import tomllib
from pathlib import Path

from rouge_score import rouge_scorer

import grammar

NEED = {"goal": 5, "openings": 4, "middles": 3, "detail": 3, "branch": 4, "topic": 2}


def problems(scenario: dict, pools: dict) -> list[str]:
    """What is wrong with one scenario, as sentences."""
    bad = [f"needs at least {n} {key}, has {len(scenario.get(key, []))}"
           for key, n in NEED.items() if len(scenario.get(key, [])) < n]
    blocks = [("openings", b) for b in scenario.get("openings", [])]
    blocks += [("middles", b) for b in scenario.get("middles", [])]
    for d in scenario.get("detail", []):
        blocks += [(f"detail {d.get('kind')}", b) for b in d["turns"]]
        if d["kind"] not in grammar.KINDS:
            bad.append(f"unknown detail kind {d['kind']}")
        if len(d["say"]) < 3 or len(d["turns"]) < 2:
            bad.append(f"detail {d['kind']}: at least 2 turns and 3 say")
    for b in scenario.get("branch", []):
        blocks += [(f"branch {b['outcome']}", t) for t in b["turns"]]
        if b["outcome"] not in grammar.OUTCOMES:
            bad.append(f"unknown outcome {b['outcome']}")
        if len(b["result"]) < 5 or len(b["gist"]) < 2 or len(b["turns"]) < 2:
            bad.append(f"branch {b['outcome']}: at least 2 turns, 5 result and 2 gist")
    for where, block in blocks:
        who = [line.strip().partition(":")[0] for line in block.strip().split("\n")]
        if who != ["AB"[i % 2] for i in range(len(who))]:
            bad.append(f"{where}: speakers must alternate from A, found {who}")
        if len(who) % 2 and not where.startswith("branch"):
            bad.append(f"{where}: must end with B")
    for kind in {"reason"} - {d["kind"] for d in scenario.get("detail", [])}:
        bad.append(f"no detail of kind {kind}")
    for source in scenario.get("slots", {}).values():
        if isinstance(source, str) and source[1:] not in pools:
            bad.append(f"unknown pool {source}")
    return bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--show", type=int, default=4, help="performances to print, each scenario")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    world = grammar.load()
    if args.files:
        ids = [s["id"] for f in args.files for s in tomllib.loads(f.read_text("utf-8"))["scenario"]]
        world["scenarios"] = [s for s in world["scenarios"] if s["id"] in ids]
    score = rouge_scorer.RougeScorer(["rouge1"], use_stemmer=True)
    words = collections.Counter()
    for scenario in world["scenarios"]:
        print(f"== {scenario['domain']}/{scenario['id']}")
        for line in problems(scenario, world["pools"]):
            print("   PROBLEM:", line)
        rng, lengths, refs, same = random.Random(args.seed), [], [], []
        one = {**world, "scenarios": [scenario]}
        for i in range(200):
            frame = grammar.sample(one, rng, test=True, heated=False)
            text = re.sub(r"#Person\d#:", "", frame["dialogue"])
            lengths.append(len(text.split()))
            words.update(re.findall(r"[a-z']+", text.lower()))
            three = [grammar.summarise(frame, grammar.REFERENCE, rng) for _ in range(3)]
            refs += [len(t.split()) for t in three]
            same += [score.score(a, b)["rouge1"].fmeasure for a, b in itertools.combinations(three, 2)]
            if i < args.show:
                print(frame["dialogue"])
                for t in three + [grammar.summarise(frame, grammar.HEADLINE, rng)]:
                    print("   >", t)
        q = statistics.quantiles(lengths, n=20)
        print(f"   words/dialogue {statistics.mean(lengths):.0f} (5–95 %: {q[0]:.0f}–{q[-1]:.0f}), "
              f"words/reference {statistics.mean(refs):.1f}, reference ROUGE-1 {statistics.mean(same):.2f}")
    print(f"{len(world['scenarios'])} scenarios, {len(words)} word types")


if __name__ == "__main__":
    main()
