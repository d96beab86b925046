"""The notebooks: tidy as committed, and executed from beginning to end, every cell of them."""

import json
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

LABS = sorted((Path(__file__).resolve().parent.parent / "labs").glob("[0-9][0-9]_*.ipynb"))
CELL_SECONDS = 600


def code_cells(path: Path) -> list:
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def nbval(path: Path, folder: Path, checked: bool = True, **env: str) -> tuple[int, int, str]:
    """(cells that passed, cells that did not, output) of nbval over one notebook; with `checked` the saved
    outputs of the cells that ask for it are compared."""
    if not checked:  # they are the tiny profile's
        notebook = nbformat.read(path, 4)
        for cell in notebook.cells:
            cell.source = cell.source.replace("# NBVAL_CHECK_OUTPUT", "#")
        path = folder / path.name
        nbformat.write(notebook, path)
    report = folder / "nbval.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-x", "-p", "no:cacheprovider",
         f"--nbval-cell-timeout={CELL_SECONDS}", f"--junitxml={report}", "-o", "addopts=", str(path)],
        capture_output=True, text=True, cwd=path.parent,
        env={**guarded(folder / "connections.txt"), "LAB_OUT": str(folder / "out"), **env})
    cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    bad = sum(any(child.tag in {"failure", "error", "skipped"} for child in case) for case in cases)
    return len(cases) - bad, bad, done.stdout + done.stderr


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
    assert sum("claim(" in c.source for c in cells) >= 3


@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_lab_runs(path, tmp_path):
    passed, bad, output = nbval(path, tmp_path)
    assert bad == 0, output[-4000:]
    assert passed == len(code_cells(path)), f"nbval ran {passed} of {len(code_cells(path))} code cells"
    claims = json.loads((tmp_path / "out" / "tiny" / "claims" / f"{path.name[:2]}.json").read_text(encoding="utf-8"))
    assert claims and all(c["low"] <= c["value"] <= c["high"] and c["control"] for c in claims)
    connections = tmp_path / "connections.txt"
    assert not connections.exists(), f"the tiny profile went to the network: {connections.read_text()}"


def notebook_of(*sources: str):
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "display_name": "p"}})
    for i, source in enumerate(sources, 1):
        output = nbformat.v4.new_output("stream", name="stdout", text="saved\n")
        notebook.cells.append(nbformat.v4.new_code_cell(source, execution_count=i, outputs=[output]))
    return notebook


@pytest.mark.parametrize("source, good", [
    ("print('saved')", 2), ("assert 1 == 2", 1), ("# NBVAL_CHECK_OUTPUT\nprint('other')", 1)])
def test_the_check_itself_notices_faults(source, good, tmp_path):
    path = tmp_path / "probe.ipynb"
    nbformat.write(notebook_of("print('saved')", source), path)
    passed, bad, output = nbval(path, tmp_path)
    assert (passed, bad) == (good, 2 - good), output


def test_run_names_the_failing_cell_and_leaves_nothing(tmp_path):
    from utils.run import execute

    path, out = tmp_path / "07_probe.ipynb", tmp_path / "out" / "tiny"
    nbformat.write(notebook_of("print(1)", "raise ValueError('no such thing')"), path)
    with pytest.raises(RuntimeError, match="07_probe.ipynb failed in code cell 2: ValueError: no such thing"):
        execute(path, out, lambda text: None)
    assert not out.exists()


STOPPED = """
import sys
from pathlib import Path
from utils import run
run.find_labs = lambda labs: [Path(sys.argv[1])]
try:
    run.main([])
except KeyboardInterrupt:
    sys.exit("stopped")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="one process alone cannot be interrupted there")
def test_an_interrupted_run_ends_without_a_traceback_and_leaves_nothing(tmp_path):
    path, started = tmp_path / "07_probe.ipynb", tmp_path / "started"
    nbformat.write(notebook_of(f"import time\nopen({str(started)!r}, 'w').close()\ntime.sleep(60)"), path)
    run = subprocess.Popen([sys.executable, "-c", STOPPED, str(path)], stdout=subprocess.DEVNULL, text=True,
                           stderr=subprocess.PIPE, env={**os.environ, "LAB_OUT": str(tmp_path / "out")})
    while not started.exists():
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=30)[1]
    assert said.strip().endswith("stopped") and "Error" not in said, said
    assert not list((tmp_path / "out").rglob("07_probe*"))


def test_run_writes_notebook_page_and_record(tmp_path):
    from utils.run import execute

    path, out, seen = tmp_path / "07_probe.ipynb", tmp_path / "out" / "tiny", []
    nbformat.write(notebook_of("import sys\nprint('10 %\\r100 %\\r      ', file=sys.stderr)", "print('done')"), path)
    record = execute(path, out, seen.append)
    assert record["cells"] == 2 and record["peak_memory_mb"] > 0 and "cell 2/2" in seen[-1]
    cells = code_cells(out / path.name)
    assert [c.execution_count for c in cells] == [1, 2] and not cells[0].outputs, "a closed bar leaves no trace"
    assert "done" in (out / "07_probe.html").read_text(encoding="utf-8")


def test_unknown_lab_and_profile_are_clear(tmp_path):
    from utils.run import find_labs

    with pytest.raises(SystemExit, match="no lab 9; there are 0, 1"):
        find_labs([9])
    done = subprocess.run([sys.executable, "-m", "utils.run"], capture_output=True, text=True,
                          env={**os.environ, "LAB_PROFILE": "nope"})
    assert done.returncode and re.search("known: flan-t5-base.* tiny", done.stderr)
