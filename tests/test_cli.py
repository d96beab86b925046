"""The command `labs`: each command explains itself, each expected error is one line, exit codes tell how it went."""

import os
import re
import subprocess
import sys

import pytest

from utils.course import cli
from utils.profile import SetupError, results_folder

COMMANDS = {"run": "execute labs", "check": "would stop a lab", "report": "bug report", "student": "solutions",
            "grade": "grade a submission", "train": "outside of the notebooks", "get": "does not ship",
            "table": "readme.md", "compare": "side by side"}


def labs(*words, **env):
    return subprocess.run([sys.executable, "-m", "utils.course", *words], capture_output=True, text=True,
                          env={**os.environ, **env})


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    description, _, example = " ".join(capsys.readouterr().out.split()).partition("For example: ")
    assert end.value.code == 0 and COMMANDS[command] in description.lower() and f"labs {command}" in example


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0 and re.findall(r"^    (\w+)", capsys.readouterr().out, re.M) == list(COMMANDS)


@pytest.mark.parametrize("words", [[], ["walk"], ["run", "one"], ["train"], ["train", "sing"],
                                   ["train", "align", "--sharded"], ["grade"]])
def test_a_wrong_command_line_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2 and "usage: labs" in capsys.readouterr().err


def test_help_loads_no_large_library():
    code = ("import contextlib, io, sys\nfrom utils.course import cli\n"
            "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
            "    cli.main(['--help'])\n"
            "print(sorted({'torch', 'transformers', 'numpy', 'nbclient'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize("error, line", [
    (SetupError("no room"), "no room"), (MemoryError("out of memory"), "out of memory"),
    (OSError(28, "No space left on device"), "results cannot be written to"),
    (OSError(28, "No space left on device", str(results_folder() / "x")), "results cannot be written to"),
    (PermissionError(13, "Permission denied", "class/a.ipynb"), "class/a.ipynb: Permission denied"),
    (KeyboardInterrupt(), "interrupted")])
def test_an_expected_error_is_one_line_and_exit_code_1(error, line, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(cli, "check", fail)
    assert cli.main(["check"]) == 1
    [printed] = capsys.readouterr().err.strip().split("\n")
    assert line in printed


def test_a_fault_of_ours_is_not_hidden(monkeypatch):
    def fail(args):
        raise KeyError("a slip")

    monkeypatch.setattr(cli, "check", fail)
    with pytest.raises(KeyError):
        cli.main(["check"])


@pytest.mark.slow
def test_a_console_that_lacks_characters_is_no_obstacle(tmp_path):
    """The folder's name, which is printed, has a letter that ASCII lacks."""
    for words in (["run", "--help"], ["report"], ["student"]):
        done = labs(*words, PYTHONIOENCODING="ascii", LAB_OUT=str(tmp_path / "Übungen"))
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
