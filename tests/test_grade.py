"""Grading: a verdict for every kind of submission, and no harm from any of them."""

import csv
import itertools
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest

from utils.course import grade, sandbox, student

ROOT = Path(__file__).resolve().parent.parent
LABS = sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))
LAB = LABS[2]  # the submissions with faults are of this lab
POINTS = {"lab2-pad-labels": 1, "lab2-mean-loss": 2, "lab2-lora-count": 1, "lab2-lora": 2, "lab2-merge": 2,
          "lab2-ledger": 1}
PADDED = "def pad_labels(rows, width):\n    return torch.tensor([r + [{}] * (width - len(r)) for r in rows])"


def submission(folder: Path, name: str, answers: dict[str, str], notebook=None) -> None:
    """Writes a notebook, by default LAB with its solutions, with these cells replaced; None takes the cell out."""
    notebook = notebook or nbformat.read(LAB, 4)
    for cell in list(notebook.cells):
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        if grade_id in answers and answers[grade_id] is None:
            notebook.cells.remove(cell)
        elif grade_id in answers:
            cell.source = answers[grade_id]
    nbformat.write(notebook, folder / name)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """{submission: {exercise: row}}, the page, the output and a file to attack: one run over a class of ten."""
    folder, out = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("out")
    victim = folder / "victim.txt"
    victim.write_text("mine")
    submission(folder, "solved.ipynb", {
        "lab2-ledger": "%matplotlib inline\ndef by_formula(n, t):\n    "
                       "return {'weights': n / 2**18, 'gradients': t / 2**18, 'optimizer': t / 2**17}"})
    for path in LABS:
        if path != LAB:
            submission(folder, path.name, {}, nbformat.read(path, 4))
    submission(folder, "untouched.ipynb", {}, student.student_edition(nbformat.read(LAB, 4), LAB.name))
    submission(folder, "mixed.ipynb", {
        "lab2-pad-labels": "import time\nwhile True:\n    time.sleep(0.01)", "lab2-pad-labels-check": None,
        "lab2-mean-loss": "def mean_loss(logits, labels):\n    return logits.mean(",
        "lab2-mean-loss-check": "print('fine')",
        "lab2-lora-count": "for _ in range(300):\n    print('x' * 10_000)\ndef lora_count(shapes, r):\n    return 0",
        "lab2-lora": None, "lab2-merge": "def merge(lora):\n    raise NotImplementedError",
        "lab2-ledger": "import os\nos._exit(0)"})
    submission(folder, "pranks.ipynb", {
        "lab2-pad-labels": "exercises.check_pad_labels = print\n" + PADDED.format(0),
        "lab2-mean-loss": f"open({str(victim)!r}, 'w').write('gone')",
        "lab2-lora-count": f"import os, shutil\nopen('own.txt', 'w').write('x')\nos.remove({str(victim)!r})",
        "lab2-lora": "import subprocess\nsubprocess.run(['echo', 'hello'])",
        "lab2-merge": f"try:\n    print(open({str(LAB)!r}).read())\nexcept PermissionError:\n"
                      f"    print(open({str(ROOT / 'out' / 'tiny' / LAB.name)!r}).read())",
        "lab2-ledger": "import os\nprint(sorted(os.environ))\nraise ValueError(os.environ['LAB_TEST_SECRET'])"})
    (folder / "half.ipynb").write_text((folder / "solved.ipynb").read_text("utf-8")[:5000], encoding="utf-8")
    (folder / "=cmd.ipynb").write_text("[" * 100_000, encoding="utf-8")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")]), folder / "other.ipynb")
    done = subprocess.run([sys.executable, "-m", "utils.course", "grade", str(folder), "--seconds", "10"], cwd=ROOT,
                          text=True, capture_output=True,
                          env={**os.environ, "LAB_OUT": str(out), "LAB_TEST_SECRET": "hush"})
    assert done.returncode == 0, done.stderr
    with (out / "grades" / "grades.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    by_submission = {}
    for row in rows:
        by_submission.setdefault(row["submission"], {})[row["exercise"]] = row
    return {"rows": by_submission, "page": (out / "grades" / "grades.html").read_text("utf-8"), "victim": victim,
            "printed": done.stdout}


def verdicts(graded, name: str) -> dict[str, str]:
    return {exercise: row["verdict"] for exercise, row in graded["rows"][name].items()}


def test_right_answers_earn_their_points_and_stubs_none(graded):
    solved, untouched = graded["rows"]["solved.ipynb"], graded["rows"]["untouched.ipynb"]
    assert {e: int(r["points"]) for e, r in solved.items()} == POINTS, solved
    assert {e: int(r["of"]) for e, r in solved.items()} == POINTS and solved["lab2-pad-labels"]["lab"] == LAB.stem
    assert set(verdicts(graded, "untouched.ipynb").values()) == {"unsolved"}
    assert {r["points"] for r in untouched.values()} == {"0"}
    assert f"solved.ipynb: {sum(POINTS.values())} of {sum(POINTS.values())} points" in graded["printed"]


@pytest.mark.parametrize("path", [path for path in LABS if path != LAB], ids=lambda p: p.stem)
def test_each_lab_is_graded_from_its_setup_alone(graded, path):
    """The lab's own solutions earn all points."""
    rows = graded["rows"][path.name].values()
    assert 4 <= len(rows) <= 6 and {row["verdict"] for row in rows} == {"right"}, rows
    assert all(row["lab"] == path.stem and int(row["points"]) == int(row["of"]) > 0 for row in rows)


def test_one_fault_does_not_touch_the_other_exercises(graded):
    rows = graded["rows"]["mixed.ipynb"]
    assert verdicts(graded, "mixed.ipynb") == {
        "lab2-pad-labels": "time", "lab2-mean-loss": "error", "lab2-lora-count": "wrong", "lab2-lora": "missing",
        "lab2-merge": "unsolved", "lab2-ledger": "died"}
    assert "after 10 seconds" in rows["lab2-pad-labels"]["message"]
    assert "does not parse: SyntaxError" in rows["lab2-mean-loss"]["message"]
    assert "2,9" in graded["page"] and "characters more" in graded["page"], "three megabytes are cut to a few lines"
    assert len(graded["page"]) < 200_000


def test_a_check_written_over_counts_for_nothing(graded):
    row = graded["rows"]["pranks.ipynb"]["lab2-pad-labels"]
    assert row["verdict"] == "wrong" and "0 is the pad token" in row["message"]


def test_nothing_outside_of_its_folder_is_touched_and_nothing_secret_is_seen(graded):
    rows = graded["rows"]["pranks.ipynb"]
    assert graded["victim"].read_text() == "mine"
    assert "nothing may be written outside" in rows["lab2-mean-loss"]["message"]
    assert "os.remove is refused outside" in rows["lab2-lora-count"]["message"]
    assert "subprocess.Popen is refused" in rows["lab2-lora"]["message"]
    assert "the labs may not be read" in rows["lab2-merge"]["message"]
    assert "KeyError: 'LAB_TEST_SECRET'" in rows["lab2-ledger"]["message"] and "hush" not in graded["page"]


def test_what_is_no_submission_is_told_so(graded):
    for name, reason in (("half.ipynb", "not a notebook"), ("'=cmd.ipynb", "not a notebook"),
                         ("other.ipynb", "no exercise of any lab")):
        [row] = graded["rows"][name].values()
        assert row["verdict"] == "no submission" and reason in row["message"], row


def test_what_was_graded_is_kept_when_grading_is_interrupted(tmp_path, monkeypatch):
    def stopped(path, name, labs, seconds):
        if name == "b.ipynb":
            raise KeyboardInterrupt
        return [{"submission": name, "lab": "l", "exercise": "e", "points": 1, "of": 1, "verdict": "right",
                 "message": "", "source": "", "output": ""}]

    for name in ("a.ipynb", "b.ipynb"):
        (tmp_path / name).write_text("{}")
    monkeypatch.setattr(grade, "grade", stopped)
    monkeypatch.setenv("LAB_OUT", str(tmp_path / "out"))
    with pytest.raises(KeyboardInterrupt):
        grade.grade_all(tmp_path)
    assert "a.ipynb" in (tmp_path / "out" / "grades" / "grades.csv").read_text("utf-8")


def test_answers_are_shown_as_text(tmp_path):
    row = {"submission": "<b>", "lab": "l", "exercise": "e", "points": 0, "of": 1, "verdict": "wrong",
           "message": "=1+1\ud800", "source": "<script>alert(1)</script>", "output": "</pre><script>"}
    grade.write_page([row], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page and "<b>" not in page
    grade.write_csv([row], tmp_path / "grades.csv")
    assert ",'=1+1" in (tmp_path / "grades.csv").read_text("utf-8")


def test_a_process_is_ended_with_its_children_and_for_memory():
    hog = "import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    job = sandbox.run([hog], [("a", "x = bytearray(2**30)\nwhile True: pass", "")], memory=800 * 2**20, seconds=30)
    assert job["a"]["verdict"] == "memory"
    running = [a for p in psutil.process_iter(["cmdline"]) for a in p.info["cmdline"] or []]
    assert "import time; time.sleep(60)" not in running


def test_junk_in_the_grader_s_report_is_nobody_else_s_fault():
    junk = ("import contextlib, os\nfor fd in range(3, 30):\n"
            "    with contextlib.suppress(OSError):\n        os.write(fd, b'junk\\n')")
    job = sandbox.run([], [("a", junk, ""), ("b", "x = 1", "assert x == 1")])
    assert job["a"]["verdict"] == "died" and job["b"]["verdict"] == "right"


@pytest.mark.slow
def test_what_earlier_cells_defined_outlives_a_cell_that_is_killed(monkeypatch):
    rounds, environment = itertools.count(), sandbox.environment
    monkeypatch.setattr(sandbox, "environment", lambda folder: {**environment(folder), "ROUND": str(next(rounds))})
    die = "import os\nos._exit(1)"
    tasks = [("a", "import math\nx = 1", ""), ("once", f"{die} if os.environ['ROUND'] > '0' else 1", ""),
             ("killed", "while True: pass", ""), ("b", "z = math.pi + x", "assert z > 4"), ("killed too", die, ""),
             ("c", "z += 1", "assert z > 5")]
    jobs = {name: job["verdict"] for name, job in sandbox.run([], tasks, seconds=3).items()}
    assert jobs == {"a": "right", "once": "right", "killed": "time", "b": "right", "killed too": "died", "c": "right"}
    assert next(rounds) == 4, "the cell that ran only once is tried a second time and then left out"


def test_a_setup_that_fails_is_nobodys_fault():
    with pytest.raises(sandbox.SandboxError, match="the lab's own setup fails: ZeroDivisionError"):
        sandbox.run(["1 / 0"], [("a", "x = 1", "")])


def test_a_path_that_is_not_there_and_an_empty_folder(tmp_path):
    for path, reason in ((tmp_path / "none.ipynb", "there is no"), (tmp_path, "no notebook")):
        with pytest.raises(grade.SubmissionError, match=reason):
            grade.find_submissions(path)
