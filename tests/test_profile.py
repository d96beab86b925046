"""Profiles: what a table inherits, and one clear line that names file, table and key for each fault."""

import re
import subprocess
import sys

import pandas as pd
import pytest

from utils import dialogues, profile
from utils.profile import ProfileError, load_profile, profile_table, read_profiles

TABLES = """
[common]
test_dialogues = 500
shots = [0, 1, 2]
kl_sweep = [0.02, 0.3]
speaker = '#Person\\d#'
word_kinds = { days = ["Monday", "Tuesday"] }

[tiny]
network = false
model = "data/models/tiny"
full = { epochs = 1, learning_rate = 2e-4, batch = 16 }
ppo = { steps = 10, batch = 64, learning_rate = 1e-4, kl = 0.07 }
pushed = { learning_rate = 7e-4 }
other_rates = { full = 6e-4, lora = 1e-3 }
"""
FIRST = TABLES.count("\n") + 1  # the line on which a text behind TABLES begins


@pytest.fixture
def load(tmp_path, monkeypatch):
    """load(text, name="mine"): the profile of a file that holds TABLES and the text, where the repository's own has
    only [quick]."""
    (tmp_path / "repository.toml").write_text("[quick]\n", encoding="utf-8")
    monkeypatch.setattr(profile, "PROFILES", tmp_path / "repository.toml")

    def load(text: str, name: str = "mine"):
        (tmp_path / "own.toml").write_text(TABLES + text, encoding="utf-8", newline="")
        return load_profile(name, tmp_path / "own.toml")
    return load


# What a profile inherits


def test_a_profile_completes_its_parent_tiny_and_common(load):
    child = load('[mine]\nlike = "parent"\nshots = [0]\n[parent]\ntest_dialogues = 20\nshots = [0, 1]\n')
    assert (child.shots, child.test_dialogues, child.kl_sweep) == ([0], 20, [0.02, 0.3])
    assert child.network is False and child.model == str(profile.ROOT / "data/models/tiny")
    assert child.name == "mine" and not hasattr(child, "like")


def test_a_profile_without_like_builds_on_tiny(load):
    assert load("[mine]\nnetwork = true\n").full == {"epochs": 1, "learning_rate": 2e-4, "batch": 16}


def test_settings_are_completed_and_other_tables_are_replaced(load):
    child = load('[mine]\nfull = { batch = 8, accumulate = 2 }\nother_rates = { lora = 1 }\npushed = {}\n'
                 'word_kinds = { colours = ["red"] }\n')
    assert child.full == {"epochs": 1, "learning_rate": 2e-4, "batch": 8, "accumulate": 2}
    assert child.other_rates == {"full": 6e-4, "lora": 1} and child.pushed == {}
    assert child.word_kinds == {"colours": ["red"]}


def test_what_a_file_lacks_comes_from_the_repositorys_own(tmp_path):
    (tmp_path / "own.toml").write_text("[mine]\ntest_dialogues = 20\n", encoding="utf-8")
    child, tiny = (vars(load_profile(*args)) for args in (("mine", tmp_path / "own.toml"), ("tiny",)))
    assert {key for key in child if child[key] != tiny[key]} == {"name", "test_dialogues", "out", "checkpoints"}
    assert child["test_dialogues"] == 20 and child.keys() == tiny.keys()


def test_a_revision_belongs_to_the_name_beside_it(load):
    parent = '[parent]\nmodel = "a/b"\nmodel_revision = "v1"\n'
    assert load(parent, "parent").model == "a/b@v1"
    assert load(parent + '[mine]\nlike = "parent"\nshots = [0]\n').model == "a/b@v1"
    assert load(parent + '[mine]\nlike = "parent"\nmodel = "c/d"\n').model == "c/d", "a new name at the old revision"
    assert load(parent + '[mine]\nlike = "parent"\nmodel_revision = "v2"\n').model == "a/b@v2"


def test_an_empty_text_leaves_an_optional_key_out(load):
    parent = '[parent]\nreward = "a/b"\nreward_revision = "v1"\n[mine]\nlike = "parent"\n'
    assert load(parent).reward == "a/b@v1" and not hasattr(load(parent + 'reward = ""\n'), "reward")


# One line for each fault, with the place and the way out


@pytest.mark.parametrize("lines, parts", [
    ("test_dialogs = 20", ["unknown key test_dialogs", "is test_dialogues meant?"]),
    ("xyz = 3", ["unknown key xyz", "[common] and [tiny]"]),
    ('test_dialogues = "20"', ["test_dialogues should be a whole number, for instance 500, and is \"20\""]),
    ("test_dialogues = 20.0", ["test_dialogues should be a whole number", "is 20.0"]),
    ("test_dialogues = true", ["test_dialogues should be a whole number", "is true"]),
    ("test_dialogues = 2024-01-01", ["test_dialogues should be a whole number", "is \"2024-01-01\""]),
    ("network = 0", ["network should be true or false, for instance false, and is 0"]),
    ("model = 3", ["model should be a text in quotes, for instance \"data/models/tiny\", and is 3"]),
    ("model_revision = 1", ["model_revision should be a text in quotes"]),
    ("shots = 3", ["shots should be a list in [ ], for instance [0, 1, 2], and is 3"]),
    ("shots = [0, 1.5]", ["shots[1] should be a whole number", "is 1.5"]),
    ('kl_sweep = [0, "0.3"]', ["kl_sweep[1] should be a number, for instance 0.02, and is \"0.3\""]),
    ("full = 3", ["full should be a table in { }", "epochs = 1", "is 3"]),
    ("full = { lerning_rate = 1e-3 }", ["full: unknown key lerning_rate", "is learning_rate meant?"]),
    ("full = { kl = 0.1 }", ["full: unknown key kl", "known: epochs, learning_rate, batch, accumulate, checks"]),
    ('full = { epochs = "2" }', ["full: epochs should be a whole number", "is \"2\""]),
    ("ppo = { beta = 0.1 }", ["ppo: unknown key beta"]),
    ("pushed = { rate = 0.1 }", ["pushed: unknown key rate"]),
    ("other_rates = { ppo = 0.1 }", ["other_rates: unknown key ppo", "known: full, lora"]),
    ("word_kinds = { days = 7 }", ["word_kinds: days should be a list in [ ]"]),
    ("word_kinds = { days = [7] }", ["word_kinds: days[0] should be a text in quotes"]),
    ('model = "C:\\temp\\new"', ["model = \"C:\\temp\\new\" holds a tab", "'single quotes'"]),
    ('like = "tyni"', ['like = "tyni" names no profile', "known: mine, quick, tiny"]),
    ('like = "common"', ['like = "common" names no profile']),
    ("like = 3", ["like = 3 names no profile"]),
    ('like = "mine"', ["like leads in a circle: mine is like mine"]),
])
def test_a_fault_in_a_table_is_named(load, tmp_path, lines, parts):
    check_line(load, f"[mine]\n{lines}\n", [f"[mine] in {tmp_path / 'own.toml'}", *parts])


@pytest.mark.parametrize("text, parts", [
    ('[mine]\nlike = "b"\n[b]\nlike = "c"\n[c]\nlike = "b"\n',
     ["[c] in ", "like leads in a circle: mine is like b is like c is like b"]),
    ('[mine]\nlike = "b"\n[b]\nshot = [1]\n', ["[b] in ", "unknown key shot; is shots meant?"]),
    ("[mine]\nshots = [0]\n\n[mine]\nshots = [1]\n", [f"line {FIRST + 3}, [mine]: this table stands twice"]),
    ("[mine]\nshots = [0]\nshots = [1]\n[other]\n", [f"line {FIRST + 2}, [mine]: shots stands twice"]),
    ("[mine]\nshots = [0]\nshots = [1]\n", [f"line {FIRST + 2}, [mine]: shots stands twice"]),
    ('[mine]\nmodel = "C:\\Users\\me"\n[other]\n',
     [f"line {FIRST + 1}, [mine]: model = \"C:\\Users\\me\"", "'single quotes'"]),
    ('[mine]\r\nmodel = "D:\\data"\r\nshots = [0]\r\n',
     [f"line {FIRST + 1}, [mine]: model = \"D:\\data\"", "'single quotes'"]),
    ("[mine]\nspeaker = \"#\\d#\"\n", [f"line {FIRST + 1}, [mine]: speaker = \"#\\d#\"", "'single quotes'"]),
    ("[mine]\ndialogues = data/mine\n", [f"line {FIRST + 1}, [mine]: dialogues = data/mine", "put texts in quotes"]),
    ("[mine]\nnetwork = True\n", [f"line {FIRST + 1}, [mine]: network = True", "true and false"]),
    ("[mine]\nmodel = “data/x”\n", [f"line {FIRST + 1}, [mine]: model = “data/x”", "straight quotes"]),
    ("[mine]\nshots = [0, 1\n", ["[mine]", "Unclosed array"]),
    ("[[mine]]\nshots = [0]\n", ["write [mine] instead of [[mine]]"]),
])
def test_a_fault_in_the_file_is_named(load, tmp_path, text, parts):
    check_line(load, text, [str(tmp_path / "own.toml"), *parts])


def check_line(load, text: str, parts: list[str]) -> None:
    with pytest.raises(ProfileError) as error:
        load(text)
    message = str(error.value)
    assert not [part for part in parts if part not in message] and "\n" not in message, message


def test_a_line_above_all_tables_belongs_to_no_profile(tmp_path):
    (tmp_path / "own.toml").write_text("network = true\n[mine]\n", encoding="utf-8")
    with pytest.raises(ProfileError, match=r"own.toml: network belongs to no profile: .* a line such as \[tiny\]"):
        load_profile("mine", tmp_path / "own.toml")


@pytest.mark.parametrize("old, new, message", [
    ("network = false", "network = false\ntest_dialogues = '20'", r"\[tiny\] in .*: test_dialogues should be a whole"),
    ("network = false", "like = 'quick'", r"\[quick\] in .*: like leads in a circle: tiny is like quick is like tiny"),
    ("epochs = 1", "epoch = 1", r"\[tiny\] in .*: full: unknown key epoch; is epochs meant\?"),
    ("[0, 1, 2]", "[0, '1']", r"\[common\] in .*: shots\[1\] should be a whole number, for instance 0, and is \"1\""),
])
def test_tiny_and_common_are_checked_as_well(load, monkeypatch, old, new, message):
    monkeypatch.setitem(globals(), "TABLES", TABLES.replace(old, new))
    with pytest.raises(ProfileError, match=message):
        load("", "tiny")


@pytest.mark.parametrize("name", ["huge", "common"])
def test_a_name_that_is_no_profile(load, tmp_path, monkeypatch, name):
    monkeypatch.setenv("LAB_PROFILE", name)
    with pytest.raises(ProfileError, match=f"no profile '{name}' in .*own.toml; known: mine, quick, tiny$"):
        load("[mine]\n", None)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "own.toml").write_text("[mine]\ntest_dialogues = 20\n", encoding="utf-8-sig")
    assert load_profile("mine", tmp_path / "own.toml").test_dialogues == 20


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "own.toml").write_bytes("[mine]\n# Gespräche\n".encode("latin-1"))
    with pytest.raises(ProfileError, match="own.toml, line 2: byte 14 is not UTF-8: save the file as UTF-8"):
        load_profile("mine", tmp_path / "own.toml")
    monkeypatch.setenv("LAB_PROFILES", str(tmp_path / "missing.toml"))
    with pytest.raises(ProfileError, match="missing.toml cannot be read: No such .*LAB_PROFILES names"):
        load_profile()
    monkeypatch.setenv("LAB_PROFILES", str(tmp_path))
    with pytest.raises(ProfileError, match="cannot be read: "):
        load_profile()


# The profiles that ship


@pytest.mark.parametrize("name, values", [
    ("tiny", {"network": False, "model": "data/models/tiny", "tasks": "data/tasks", "seeds": [1, 2, 3],
              "test_dialogues": 500, "shots": [0, 1, 2, 3, 4, 5, 8], "data_curve": [125, 250, 500, 2000],
              "speaker": "#Person\\d#", "reward_samples": 192, "pushed": {"learning_rate": 7e-4},
              "full": {"epochs": 1, "learning_rate": 2e-4, "batch": 16, "checks": 2},
              "prompt_tuning": {"epochs": 1, "learning_rate": 1e-1, "batch": 16},
              "dpo": {"steps": 16, "batch": 32, "learning_rate": 1.5e-4, "beta": 0.1, "rows": 32}}),
    ("flan-t5-base", {"network": True, "model": "google/flan-t5-base", "tasks": "data/tasks", "seeds": [1, 2, 3],
                      "reward": "facebook/roberta-hate-speech-dynabench-r4-target", "test_dialogues": 500,
                      "mistake_examples": 250, "pushed": {"learning_rate": 1e-4}, "reward_samples": 192,
                      "full": {"epochs": 2, "learning_rate": 1e-4, "batch": 16, "accumulate": 2, "checks": 4},
                      "prompt_tuning": {"epochs": 2, "learning_rate": 1e-1, "batch": 16, "accumulate": 2},
                      "reward_training": {"epochs": 1, "learning_rate": 1e-4, "batch": 16},
                      "rloo": {"steps": 100, "batch": 64, "samples": 4, "passes": 2, "learning_rate": 2e-5, "kl": 0.07,
                               "rows": 16},
                      "dpo": {"steps": 100, "batch": 32, "learning_rate": 1e-5, "beta": 0.1, "rows": 16}}),
    ("quick", {"model": "data/models/tiny", "seeds": [1], "shot_draws": 1,
               "full": {"epochs": 1, "learning_rate": 2e-4, "batch": 16, "checks": 2}}),
])
def test_effective_values(name, values):
    table = profile_table(name, read_profiles(profile.PROFILES))
    assert {key: table[key] for key in values} == values


@pytest.mark.parametrize("name", ["tiny", "quick", "dialogsum", "flan-t5-base", "t4"])
def test_values_fit_one_another(name):
    p = load_profile(name, profile.PROFILES)
    assert p.mistake_examples in p.data_curve and min(p.data_curve) < p.mistake_examples < max(p.data_curve)
    assert p.train_examples not in p.data_curve, "the data curve would hold that amount twice"
    assert {0, 1} <= {*p.shots} and 1 in p.best_of and len(p.fixed_widths) == 2
    assert p.kl_every <= p.dpo["steps"] and p.kl_prompts <= p.heated_prompts + p.civil_prompts
    assert p.reward_samples <= p.heated_prompts and p.recall_length > 31, "edges of the recall experiment's ranges"
    test = dialogues.group(dialogues.load_split(p.heated, "test"))[:p.test_dialogues]
    assert p.examples_shown <= sum(d["summary_civil"] != "" for d in test) and p.rloo["samples"] > 1
    if p.dialogues.startswith(str(profile.ROOT)):
        rows = {split: len(dialogues.load_split(p.dialogues, split)) for split in ("train", "validation")}
        assert max(*p.data_curve, p.train_examples, p.sweep_examples, p.summary_examples) <= rows["train"]
        assert p.validation_examples <= rows["validation"] and p.head_dialogues <= rows["validation"]


@pytest.mark.parametrize("name", ["tiny", "quick", "dialogsum", "flan-t5-base", "t4"])
def test_lab_2_has_measured_its_own_rank(name):
    p = load_profile(name, profile.PROFILES)
    assert p.lora_rank in p.ranks, "the comparison of adapters shows LoRA at lora_rank from the comparison of ranks"


def test_settings_are_those_that_the_trainings_know():
    from utils import rl

    for key in ("ppo", "rloo", "dpo", "pushed"):
        known = profile.SETTINGS[key]
        assert {name: type(value) for name, value in rl.DEFAULTS.items()}.items() <= {
            name: type(value) for name, value in known.items()}.items()
        assert {"steps", "batch", "learning_rate"} <= known.keys()
    for key in ("full", "lora", "ia3", "prompt_tuning"):
        assert profile.SETTINGS[key].keys() == {"epochs", "learning_rate", "batch", "accumulate", "checks"}


def test_readmes_three_lines_are_a_profile(root, tmp_path):
    blocks = re.findall(r"^```toml\n(\[mine\].*?)^```$", (root / "README.md").read_text("utf-8"), re.M | re.S)
    assert blocks and blocks[0].count("\n") == 3, "README.md should show a profile [mine] of three lines"
    (tmp_path / "mine").mkdir()
    for split in ("train", "validation", "test"):
        table = pd.read_csv(root / "data" / "dialogues" / f"{split}.csv", dtype=str, keep_default_na=False)[:30]
        table[["id", "dialogue", "summary", "topic"]].to_csv(tmp_path / "mine" / f"{split}.csv", index=False)
    lines = blocks[0].replace("data/mine", (tmp_path / "mine").as_posix()).replace("[mine]", "[from-readme]")
    own = tmp_path / "profiles.toml"
    own.write_text(profile.PROFILES.read_text("utf-8") + "\n" + lines, encoding="utf-8")
    mine, tiny = load_profile("from-readme", own), load_profile("tiny", own)
    assert {key for key in vars(tiny) if vars(mine)[key] != vars(tiny)[key]} == {
        "name", "out", "checkpoints", "dialogues", "test_dialogues"}
    assert mine.test_dialogues == 20 and len(dialogues.load_split(mine.dialogues, "train")) == 30


def test_the_module_loads_no_large_library():
    code = "import sys, utils.profile as p; p.load_profile('tiny'); print({'torch', 'numpy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=profile.ROOT)
    assert done.stdout == "set()\n", done.stderr
