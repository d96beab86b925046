"""What ships in data/ is what its card says: schema, disjoint splits, statistics in range."""

import itertools
import json
import random
import re
import shutil

import measure
import numpy as np
import pytest

from utils import dialogues, prompts, tasks
from utils.reward import load_judge, toxicity

import grammar
import makers
from check_scenarios import problems


@pytest.fixture(scope="module")
def splits(root):
    return {s: dialogues.load_split(str(root / "data" / "dialogues"), s) for s in ("train", "validation", "test")}


def words(text: str) -> list[str]:
    return re.sub(r"#Person\d#:", "", text).split()


def test_schema_and_sizes(splits):
    assert {s: len(t) for s, t in splits.items()} == {"train": 3000, "validation": 500, "test": 1500}
    grouped = dialogues.group(splits["test"])
    assert len(grouped) == 500 and all(len(set(d["references"])) == 3 for d in grouped)
    for table in splits.values():
        assert list(table.columns[:4]) == ["id", "dialogue", "summary", "topic"] and table["id"].is_unique
        turns = [line for d in table["dialogue"] for line in d.split("\n")]
        assert all(re.match(r"#Person[12]#: \S", t) for t in turns)


def test_no_dialogue_in_two_splits(splits, root):
    pairs = {f"preferences {s}": set(dialogues.pd.read_csv(root / "data" / "preferences" / f"{s}.csv")["dialogue"])
             for s in ("train", "validation", "test")}
    sets = {**{s: set(t["dialogue"]) for s, t in splits.items()}, **pairs}
    for a, b in itertools.combinations(sets, 2):
        assert not sets[a] & sets[b], f"{a} and {b} share a dialogue"


@pytest.fixture(scope="module")
def figures(root, tmp_path_factory):
    """What measure.py finds in the data as they are: {figure: value}."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(root / "data" / "dialogues", folder / "dialogues")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "DATA", folder)
        measure.main()
    return json.loads((folder / "statistics.json").read_text(encoding="utf-8"))


def test_the_card_quotes_what_the_data_hold(root, figures):
    assert json.loads((root / "data" / "statistics.json").read_text(encoding="utf-8")) == figures
    card = (root / "data" / "README.md").read_text(encoding="utf-8")
    for name, value in figures.items():
        assert f"| {name} | {value} |" in card, f"data/README.md does not quote {name} = {value}"


def test_statistics_in_range(splits, figures):
    lengths = [len(words(d)) for t in splits.values() for d in t["dialogue"].drop_duplicates()]
    assert 45 <= np.mean(lengths) <= 60 and np.mean([30 <= n <= 80 for n in lengths]) > 0.97
    assert int(figures["word types"]) >= 2500
    assert 17 <= float(figures["words in a test reference, mean"]) <= 22
    assert 50 <= float(figures["reference against reference, ROUGE-1"]) <= 70


def test_five_examples_fit_the_window_and_eight_do_not(splits, tiny):
    tokenizer = tiny[1]
    train = list(zip(splits["train"]["dialogue"], splits["train"]["summary"], strict=True))
    asked = [d["dialogue"] for d in dialogues.group(splits["test"])][::4]
    fit = {k: np.mean([prompts.count_tokens(tokenizer, prompts.summary_prompt(d, prompts.draw_shots(train, k, i)))
                       <= tokenizer.model_max_length for i, d in enumerate(asked)]) for k in (5, 8)}
    assert fit[5] >= 0.9 and fit[8] <= 0.1, fit


def test_heated_rows_carry_both_summaries(splits):
    table = splits["train"]
    heated = table[table["summary_civil"] != ""]
    assert 1 / 8 <= len(heated) / len(table) <= 1 / 4
    quoting = heated["summary"] == heated["summary_quoting"]
    assert (quoting | (heated["summary"] == heated["summary_civil"])).all()
    assert 0.6 <= quoting.mean() <= 0.73


def test_scenarios_are_well_formed():
    world = grammar.load()
    assert len(world["scenarios"]) >= 60 and len({s["domain"] for s in world["scenarios"]}) >= 12
    for scenario in world["scenarios"]:
        assert not problems(scenario, world["pools"]), scenario["id"]


def test_held_out_values_and_branches_stay_out_of_training(splits):
    cities = [c for c in grammar.load()["pools"]["city"] if grammar.held_out(c)]
    counts = {s: sum(c in d for d in t["dialogue"] for c in cities) for s, t in splits.items()}
    assert counts["train"] == counts["validation"] == 0 and counts["test"] > 0
    world, rng = grammar.load(), random.Random(0)
    only = [b["result"] for s in world["scenarios"] for b in s["branch"] if b.get("test_only")]
    assert only and not any(grammar.sample(world, rng)["result"] in only for _ in range(2000))


def test_the_files_are_what_the_generator_makes(splits):
    import make_dialogues

    rows = make_dialogues.dialogue_rows(grammar.load(), "test", set())
    assert [r["dialogue"] for r in rows] == list(splits["test"]["dialogue"])
    assert [r["summary"] for r in rows] == list(splits["test"]["summary"])


@pytest.mark.parametrize("task", tasks.TASKS)
def test_task_files(task):
    train, test = tasks.load_task(task, "train"), tasks.load_task(task, "test")
    assert len(test) >= 200 and not {i["input"] for i in train} & {i["input"] for i in test}
    assert all(tasks.score(task, i["target"], i) == 1 for i in train + test)
    wrong = [tasks.score(task, a["target"], b) for a, b in zip(test, test[1:], strict=False)]
    assert np.mean(wrong) < 0.75, "another item's answer should seldom be right"
    assert tasks.INSTRUCTION[task] == makers.INSTRUCTIONS[task][0]


@pytest.mark.parametrize("task", ["labels", "fields"])
def test_tasks_told_by_examples_alone(task):
    items = tasks.load_task(task, "test")
    assert len(items) >= 200
    assert not [i for i in items if i["input"] in [x for x, _ in i["shots"]]], "a query stands among its shots"
    if task == "labels":
        assert all({y for _, y in i["shots"]} == set(i["labels"]) for i in items)


@pytest.mark.parametrize("code", ["__import__('os').system('true')", "().__class__", "9**9**9", "'a' * 10**9",
                                  "open('x')", "[x for x in range(10**9)]", "lambda: 1", "1; 2", ""])
def test_the_code_scorer_runs_nothing_dangerous(code):
    assert tasks.score("code", code, {"input": "", "target": "", "expected": "0"}) == 0


def test_a_line_separator_inside_of_a_text_is_no_end_of_line(tmp_path):
    (tmp_path / "qa").mkdir()
    (tmp_path / "qa" / "test.jsonl").write_text('{"input": "a\u2028b", "target": "c\x85"}\n', encoding="utf-8")
    assert tasks.load_task("qa", "test", tmp_path) == [{"input": "a\u2028b", "target": "c\x85"}]


def test_judge_accuracy(root):
    judge = load_judge(root / "data" / "models" / "judge")
    for file, least in (("test.csv", 0.95), ("handwritten.csv", 0.90)):
        table = dialogues.pd.read_csv(root / "data" / "toxicity" / file)
        right = (toxicity(judge, list(table["text"])) >= judge.threshold) == (table["label"] == "toxic")
        assert len(table) >= 100 and right.mean() >= least, f"{file}: {right.mean():.3f}"


def test_judge_tells_civil_from_quoting_summaries(splits, root):
    heated = splits["test"][splits["test"]["summary_civil"] != ""]
    judge = load_judge(root / "data" / "models" / "judge")
    assert toxicity(judge, list(heated["summary_quoting"])).mean() > 0.8
    assert toxicity(judge, list(heated["summary_civil"])).mean() < 0.2
