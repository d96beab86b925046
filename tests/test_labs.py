"""The notebooks: tidy as committed, and executed from beginning to end, every cell of them."""

import math
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest
from test_network import guarded

from utils import claims
from utils.course import run

LABS = sorted((Path(__file__).resolve().parent.parent / "labs").glob("[0-9][0-9]_*.ipynb"))
CELL_SECONDS = 1200


def code_cells(path: Path) -> list:
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def nbval(path: Path, folder: Path, checked: bool = True, seconds: int = CELL_SECONDS, **env) -> tuple[int, int, str]:
    """(cells that passed, cells that did not, output) of nbval over one notebook, `seconds` for a cell; with `checked`
    the saved outputs of the cells that ask for it are compared: they are those of the profile tiny."""
    if not checked:
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            cell.source = cell.source.replace("# NBVAL_CHECK_OUTPUT", "#")
        path = folder / path.name
        nbformat.write(notebook, path)
    report = folder / "nbval.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-x", "-p", "no:cacheprovider",
         f"--nbval-cell-timeout={seconds}", f"--junitxml={report}", "-o", "addopts=", str(path)],
        capture_output=True, text=True, cwd=path.parent,
        env={**guarded(folder / "connections.txt"), "LAB_OUT": str(folder / "out"), **env})
    cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    bad = sum(any(child.tag in {"failure", "error", "skipped"} for child in case) for case in cases)
    return len(cases) - bad, bad, done.stdout + done.stderr


def run_and_check(path: Path, folder: Path, profile: str, **options) -> None:
    """Runs a lab under nbval: every code cell must pass, claims be written and nothing go to the network."""
    passed, bad, output = nbval(path, folder, LAB_PROFILE=profile, **options)
    assert bad == 0, output[-4000:]
    assert passed == len(code_cells(path)), f"nbval ran {passed} of {len(code_cells(path))} code cells"
    rows = claims.read_claims(folder / "out" / profile / "claims" / f"{path.name[:2]}.json")
    assert len(rows) >= 3, "a lab measures three claims at least"
    for row in rows:
        assert tuple(row) == claims.FIELDS and row["lab"] == int(path.name[:2]), row
        assert math.isfinite(row["value"]) and row["low"] <= row["value"] <= row["high"], row
        assert row["n"] >= 1 and row["seeds"] >= 1 and row["unit"] and row["control"], row
    connections = folder / "connections.txt"
    assert not connections.exists(), f"the lab went to the network: {connections.read_text('utf-8')}"


@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_lab_is_tidy(path):
    notebook, cells = nbformat.read(path, 4), code_cells(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < 2 * 2**20, "a lab of over 2 MiB is slow to open"
    assert notebook.metadata.kernelspec.name == "python3"
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1)), "run it from a fresh kernel"
    assert sum(bool(c.outputs) for c in cells) > len(cells) / 2, "outputs are missing"
    for cell in cells:
        assert len(cell.source.split("\n")) <= 15, "a code cell is over 15 lines:\n" + cell.source
        assert not any(o.output_type == "error" for o in cell.outputs)
        assert not re.search(r"^\s*[!%]\s*(pip|conda|apt)|pip install|subprocess", cell.source, re.M)
        text = "".join(str(o.get("text", "")) for o in cell.outputs)
        assert "Warning" not in text, "a saved output shows a warning:\n" + text


@pytest.mark.parametrize("profile", ["quick", pytest.param("tiny", marks=pytest.mark.slow)])
@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_lab_runs(path, profile, tmp_path):
    run_and_check(path, tmp_path, profile, checked=profile == "tiny")


def notebook_of(*sources: str):
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "p"}})
    for i, source in enumerate(sources, 1):
        output = nbformat.v4.new_output("stream", name="stdout", text="saved\n")
        notebook.cells.append(nbformat.v4.new_code_cell(source, execution_count=i, outputs=[output]))
    return notebook


@pytest.mark.parametrize("source, checked, good", [
    ("print('saved')", True, 2), ("assert 1 == 2", True, 1), ("# NBVAL_CHECK_OUTPUT\nprint('other')", True, 1),
    ("# NBVAL_CHECK_OUTPUT\nprint('other')", False, 2)])
def test_the_check_itself_notices_faults(source, checked, good, tmp_path):
    path = tmp_path / "probe.ipynb"
    nbformat.write(notebook_of("print('saved')", source), path)
    passed, bad, output = nbval(path, tmp_path, checked)
    assert (passed, bad) == (good, 2 - good), output


CLAIM = """
from types import SimpleNamespace
from utils.claims import claim
from utils.profile import results_folder
claim(SimpleNamespace(out=results_folder() / "tiny"), 7, "first", {}, n=1, unit="x", control="none")"""


def test_a_lab_that_fails_leaves_how_far_it_came_and_its_earlier_results(tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "07_probe.ipynb", tmp_path / "out" / "tiny"
    monkeypatch.setenv("LAB_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(run, "find_labs", lambda numbers: [path])
    nbformat.write(notebook_of(CLAIM.format(1.0), "print('before')"), path)
    assert run.run_labs() == 0
    nbformat.write(notebook_of(CLAIM.format(2.0), "raise ValueError('no such thing\\nat all')", "print('never')"), path)
    capsys.readouterr()
    assert run.run_labs() == 1
    [line] = capsys.readouterr().err.strip().split("\n")
    assert line == ("07_probe.ipynb failed in code cell 2: ValueError: no such thing. How far it came: "
                    f"{out / 'failed' / '07_probe.html'}")
    assert [c.execution_count for c in code_cells(out / "failed" / path.name)] == [1, 2, None]
    assert "no such thing" in (out / "failed" / "07_probe.html").read_text("utf-8")
    values = [claims.read_claims(folder / "claims" / "07.json")[0]["value"] for folder in (out, out / "failed")]
    assert values == [1.0, 2.0] and claims.read_claims(out / "claims.json")[0]["value"] == 1.0
    assert code_cells(out / path.name)[1].outputs[0].text == "before\n", "the earlier results stay"
    nbformat.write(notebook_of(CLAIM.format(3.0)), path)
    assert run.run_labs() == 0 and not [p for p in (out / "failed").rglob("*") if p.is_file()]


def test_a_profile_may_limit_the_time_of_a_cell(tmp_path):
    path, out = tmp_path / "07_probe.ipynb", tmp_path / "out" / "tiny"
    nbformat.write(notebook_of("print(1)", "import time\ntime.sleep(60)"), path)
    with pytest.raises(run.LabFailure, match="code cell 2: it took longer than the profile's cell_seconds, 3 s"):
        run.execute(path, out, lambda text: None, 3)
    assert (out / "07_probe.html").exists()


STOPPED = """
import sys
from pathlib import Path
from utils.course import cli, run
run.find_labs = lambda *_: [Path(sys.argv[1])]
sys.exit(cli.main(["run"]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="one process alone cannot be interrupted there")
def test_an_interrupted_run_ends_without_a_traceback_and_leaves_nothing(tmp_path):
    path, started = tmp_path / "07_probe.ipynb", tmp_path / "started"
    nbformat.write(notebook_of(f"import time\nopen({str(started)!r}, 'w').close()\ntime.sleep(60)"), path)
    process = subprocess.Popen([sys.executable, "-c", STOPPED, str(path)], stdout=subprocess.DEVNULL, text=True,
                               stderr=subprocess.PIPE, env={**os.environ, "LAB_OUT": str(tmp_path / "out")})
    while not started.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode and "interrupted" in errors and "Traceback" not in errors, errors
    assert not list((tmp_path / "out").rglob("07_probe*"))


def test_run_writes_notebook_page_and_record(tmp_path):
    path, out, lines = tmp_path / "07_probe.ipynb", tmp_path / "out" / "tiny", []
    nbformat.write(notebook_of("import sys\nprint('10 %\\r100 %\\r      ', file=sys.stderr)", "print('done')"), path)
    record = run.execute(path, out, lines.append)
    assert record["cells"] == len(record["cell_seconds"]) == 2
    assert record["peak_memory_mb"] > 0 and "cell 2/2" in lines[-1]
    cells = code_cells(out / path.name)
    assert [c.execution_count for c in cells] == [1, 2] and not cells[0].outputs, "a closed bar leaves no trace"
    assert "done" in (out / "07_probe.html").read_text(encoding="utf-8")


def test_labs_are_found_by_number_and_an_unknown_one_is_a_clear_error():
    assert run.find_labs() == LABS and run.find_labs([1]) == [LABS[1]]
    with pytest.raises(run.LabError, match="no lab 9; there are 0, 1"):
        run.find_labs([9])


@pytest.mark.parametrize("words, profile, message", [
    (["99"], "tiny", "no lab 99; there are 0, 1"), ([], "nope", "no profile 'nope' in .*; known: .*tiny")])
def test_the_command_says_what_it_does_not_know_in_one_line(words, profile, message):
    done = subprocess.run([sys.executable, "-m", "utils.course", "run", *words], capture_output=True, text=True,
                          env={**os.environ, "LAB_PROFILE": profile})
    [line] = done.stderr.strip().split("\n")
    assert done.returncode and re.search(message, line), line
