"""The student edition: stubs for solutions, kind words at the first of them, and the original again once solved."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from utils.course import student

ROOT = Path(__file__).resolve().parent.parent
LABS = sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))


def solution_cells(notebook) -> dict:
    return {c.metadata.nbgrader.grade_id: c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("solution")}


@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_solutions_go_and_filled_in_they_give_the_original(path):
    original = nbformat.read(path, 4)
    edition = student.student_edition(original, path.name)
    nbformat.validate(edition)
    text = nbformat.writes(edition)
    assert "SOLUTION" not in text and not any(c.get("outputs") or c.get("execution_count") for c in edition.cells)
    solutions, stubs = solution_cells(original), solution_cells(edition)
    assert set(solutions) == set(stubs)
    for name, cell in solutions.items():
        region = re.search(r"( *)### BEGIN SOLUTION\n(.*?)\n *### END SOLUTION", cell.source, re.S)
        assert region[2] not in text and stubs[name].source.count(region[1] + student.STUB) == 1, name
        compile(stubs[name].source, name, "exec")
        stubs[name].source = stubs[name].source.replace(region[1] + student.STUB, region[0])
    assert [(c.cell_type, c.source) for c in edition.cells] == [(c.cell_type, c.source) for c in original.cells]
    checks = [c for c in edition.cells if c.metadata.get("nbgrader", {}).get("grade")]
    assert checks and all(c.metadata.editable is False and c.metadata.deletable is False for c in checks)


def test_all_labs_are_written_or_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LAB_OUT", str(tmp_path))
    faulty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("### BEGIN SOLUTION")])
    nbformat.write(faulty, tmp_path / "09_faulty.ipynb")
    with monkeypatch.context() as patched:
        patched.setattr(student, "find_labs", lambda: [*LABS, tmp_path / "09_faulty.ipynb"])
        with pytest.raises(student.MarkerError, match="09_faulty.ipynb, cell 1"):
            student.write_edition()
    assert not (tmp_path / "student").exists()
    student.write_edition()
    assert sorted(p.name for p in (tmp_path / "student").iterdir()) == [p.name for p in LABS]
    assert capsys.readouterr().out.count("exercises") == len(LABS)


@pytest.mark.parametrize("source, fault", [
    ("def f():\n    ### BEGIN SOLUTION\n    return 1", "BEGIN SOLUTION is never closed"),
    ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", "BEGIN SOLUTION in line 2 inside of SOLUTION"),
    ("### BEGIN SOLUTION\n### BEGIN HIDDEN TESTS\n### END SOLUTION", "BEGIN HIDDEN TESTS in line 2 inside of SOLUTION"),
    ("x = 1\n### END SOLUTION", "END SOLUTION in line 2 without its BEGIN")])
def test_a_marker_out_of_place_names_notebook_and_cell(source, fault):
    lab = nbformat.read(LABS[-1], 4)
    number = next(i for i, c in enumerate(lab.cells) if c.metadata.get("nbgrader", {}).get("solution"))
    lab.cells[number].source = source
    with pytest.raises(student.MarkerError, match=rf"lab.ipynb, cell {number + 1} \(.*{fault}"):
        student.student_edition(lab, "lab.ipynb")


def test_a_solution_outside_of_an_exercise_is_an_error():
    lab = nbformat.read(LABS[-1], 4)
    lab.cells[2].source += "\n### BEGIN SOLUTION\nx = 1\n### END SOLUTION"
    with pytest.raises(student.MarkerError, match="lab.ipynb, cell 3 .*do not call one"):
        student.student_edition(lab, "lab.ipynb")


def test_the_edition_runs_up_to_its_first_exercise_which_says_so_kindly(tmp_path, monkeypatch):
    [path] = [p for p in LABS if p.name.startswith("02")]
    monkeypatch.setenv("LAB_OUT", str(tmp_path))
    edition = student.student_edition(nbformat.read(path, 4), path.name)
    first = next(i for i, c in enumerate(edition.cells) if c.metadata.get("nbgrader", {}).get("grade"))
    edition.cells = edition.cells[: first + 1]
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(edition, timeout=120, allow_errors=True, resources=place).execute()
    errors = {i: o for i, c in enumerate(edition.cells) for o in c.get("outputs", []) if o.output_type == "error"}
    assert list(errors) == [first], errors
    assert errors[first].evalue.startswith("Exercise 1: pad_labels waits for you: fill it in in the cell above")
    assert errors[first].traceback == [f"Unsolved: {errors[first].evalue}"], "one line, no traceback"
