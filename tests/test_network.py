"""The tiny profile opens no connection, in the kernel neither; and the guard that finds out does see one."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

LAB = """
from utils import dialogues, metrics, tasks, training
from utils.generation import generate
from utils.models import load_model
from utils.profile import start
profile = start()
model, tokenizer = load_model(profile.model, profile.device)
rows = dialogues.load_split(profile.dialogues, "test")
print(generate(model, tokenizer, ["Say hi."], max_new_tokens=2), len(rows), metrics.rouge1(["a b"], [["a b"]]))
pairs = training.summary_pairs(rows, 2)
training.fine_tune(model, tokenizer, pairs, {"epochs": 1, "learning_rate": 1e-4, "batch": 2}, validation=pairs,
                   folder=profile.out / "guarded")
import peft, evaluate, datasets
"""


def guarded(log: Path) -> dict[str, str]:
    """The environment in which any connection that leaves this machine fails and is noted in `log`."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    folders = [str(Path(__file__).parent / "guard"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**plain, "PYTHONPATH": os.pathsep.join(folders), "LAB_GUARD": str(log)}


def test_the_tiny_profile_opens_no_connection(tmp_path, monkeypatch):
    log, notebook = tmp_path / "connections.txt", nbformat.v4.new_notebook()
    notebook.cells.append(nbformat.v4.new_code_cell(LAB))
    env = {**guarded(log), "LAB_OUT": str(tmp_path), "HF_HOME": str(tmp_path / "empty")}
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute(env=env)
    assert "profile tiny" in notebook.cells[0].outputs[0].text
    assert not log.exists(), log.read_text("utf-8")


@pytest.mark.parametrize("line", [
    "socket.create_connection(('192.0.2.1', 80), 1)", "socket.socket().connect_ex(('192.0.2.1', 80))",
    "urllib.request.urlopen('http://hub.example/x', timeout=1)",
    "huggingface_hub.HfApi().model_info('a/b', timeout=1)"])
def test_the_guard_sees_connections_also_swallowed_ones(line, tmp_path):
    code = f"import socket, urllib.request, huggingface_hub\ntry: {line}\nexcept Exception: pass"
    subprocess.run([sys.executable, "-c", code], env=guarded(tmp_path / "log"), check=True, timeout=60)
    assert "from" in (tmp_path / "log").read_text("utf-8")


def test_the_guard_lets_this_machine_talk_to_itself(tmp_path):
    code = ("import socket\nserver = socket.create_server(('127.0.0.1', 0))\n"
            "socket.create_connection(('localhost', server.getsockname()[1]), 1)")
    subprocess.run([sys.executable, "-c", code], env=guarded(tmp_path / "log"), check=True, timeout=60)
    assert not (tmp_path / "log").exists()
