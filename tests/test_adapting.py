"""The instructors' page does what it says: its own blocks, run in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from standin import model_snapshot

from utils import profile

PAGE = Path(__file__).resolve().parent.parent / "labs" / "ADAPTING.md"


def blocks(marker: str) -> list[str]:
    """The fenced blocks of the page that bear a marker behind their language."""
    return re.findall(rf"^```python {marker}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def copy(root, tmp_path_factory):
    """A copy of the repository with an instructor's file and checkpoint in it: (folder, what the blocks printed)."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("labs", "utils", "data"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
    shutil.copy(root / "pyproject.toml", folder)
    profiles = folder / "labs" / "profiles.toml"  # without what an instructor has added by this page already
    profiles.write_text(profiles.read_text(encoding="utf-8").partition("\n[mine")[0], encoding="utf-8")
    table = pd.read_csv(root / "data" / "dialogues" / "train.csv", dtype=str, keep_default_na=False)[:600]
    table[["summary", "dialogue"]].set_axis(["abstract", "chat"], axis=1).to_csv(folder / "chats.csv", index=False)
    model_snapshot(folder / "my_checkpoint")
    program = folder / "page.py"
    program.write_text("\n".join(blocks("dialogues") + blocks("model")), encoding="utf-8")
    process = subprocess.run([sys.executable, str(program)], cwd=folder, env=environment(folder),
                             capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return folder, process.stdout


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "LAB_OUT": str(folder / "out")}


def test_the_page_has_blocks_for_both():
    assert len(blocks("dialogues")) == 3 and len(blocks("model")) == 2


def test_own_dialogues_are_three_splits_that_share_none(copy):
    folder, printed = copy
    parts = {s: pd.read_csv(folder / "data" / "mine" / f"{s}.csv", dtype=str, keep_default_na=False)
             for s in ("train", "validation", "test")}
    assert {s: len(t) for s, t in parts.items()} == {"train": 480, "validation": 60, "test": 60}
    assert all(list(t.columns) == ["id", "dialogue", "summary", "topic"] for t in parts.values())
    assert pd.concat(parts)["dialogue"].is_unique and pd.concat(parts)["id"].is_unique
    assert all(f"{s}: {len(t)} rows, {len(t)} dialogues, {len(t)} fit the window" in printed for s, t in parts.items())


def test_own_profiles_say_only_what_differs(copy, monkeypatch):
    folder, printed = copy
    monkeypatch.setattr(profile, "ROOT", folder)
    tables = profile.read_profiles(folder / "labs" / "profiles.toml")
    assert tables["mine"] == {"like": "quick", "dialogues": "data/mine", "test_dialogues": 20}
    assert "profile mine " in printed
    mine, too = (vars(profile.load_profile(name, folder / "labs" / "profiles.toml")) for name in ("mine", "mine-too"))
    assert {key for key in mine if mine[key] != too[key]} == {"name", "out", "checkpoints", "model"}
    assert too["model"] == str(folder / "data/models/mine") and too["dialogues"] == str(folder / "data/mine")


def test_a_profile_that_is_added_again_is_replaced_and_one_that_stands_twice_is_named(copy, monkeypatch, tmp_path):
    folder, _ = copy
    (tmp_path / "labs").mkdir()
    monkeypatch.chdir(tmp_path)
    path = Path("labs/profiles.toml")
    text = (folder / path).read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    exec(blocks("dialogues")[1].replace("test_dialogues=20", "test_dialogues=25"), {"Path": Path})
    before, after = profile.read_profiles(folder / path), profile.read_profiles(path)
    assert after == {**before, "mine": {**before["mine"], "test_dialogues": 25}}
    (tmp_path / "twice.toml").write_text(text + "\n[mine]\n", encoding="utf-8")
    with pytest.raises(profile.ProfileError, match=r"twice.toml, line \d+, \[mine\]: this table stands twice: change"):
        profile.load_profile("mine", tmp_path / "twice.toml")


def test_own_model_is_the_one_that_was_given(copy, tiny):
    from utils.generation import generate
    from utils.models import load_model
    from utils.prompts import summary_prompt

    folder, printed = copy
    model, tokenizer = load_model(str(folder / "data" / "models" / "mine"))
    assert not model.config.tie_word_embeddings and "profile mine-too" in printed
    prompts = [summary_prompt(d) for d in pd.read_csv(folder / "data" / "mine" / "test.csv")["dialogue"][:4]]
    completions = generate(model, tokenizer, prompts, max_new_tokens=40)
    assert completions == generate(*tiny, prompts, max_new_tokens=40), "saving changed what the model says"
    assert f"512 {completions[:1]}" in printed


@pytest.mark.parametrize("name, window", [pytest.param("mine", 768, marks=pytest.mark.slow), ("mine-too", 512)])
def test_lab_1_begins_with_them(name, window, copy, monkeypatch):
    """Its set-up, its first completion and its first two sections: all tasks, prompts with examples, the window."""
    folder, _ = copy
    [path] = (folder / "labs").glob("01_*.ipynb")
    notebook = nbformat.read(path, 4)
    end = next(i for i, c in enumerate(notebook.cells) if "\n## 3 " in "\n" + c.source)
    assert sum(c.cell_type == "code" for c in notebook.cells[:end]) >= 8
    last = nbformat.v4.new_code_cell("print(profile.name, len(train), len(test), window, profile.root)")
    notebook.cells = [*notebook.cells[:end], last]
    for key, value in environment(folder).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("LAB_PROFILE", name)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": folder / "labs"}}).execute()
    assert notebook.cells[-1].outputs[0].text.strip() == f"{name} 480 20 {window} {folder}"


def test_rouge_in_another_script(monkeypatch):
    from utils import metrics

    names = {}
    exec("\n".join(blocks("language")), names)
    text, other = "Ο πελάτης θέλει να επιστρέψει τα βιβλία.", "Ο πελάτης επιστρέφει τα βιβλία."
    assert metrics.rouge1([text], [[text]]) == 0, "the page says that it is 0"
    tokenizer = metrics._rouge().tokenizer
    monkeypatch.setattr(tokenizer, "plain", names["Words"]())
    monkeypatch.setattr(tokenizer, "known", {})
    assert metrics.rouge1([text, other], [[text], [text]]) == pytest.approx([100, 200 / 3])
