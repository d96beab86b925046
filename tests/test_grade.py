"""Grading: every way to hand in is graded or answered, and no way to cheat earns a point or harms the next student."""

import csv
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from utils.course import grade, sandbox, student, submissions
from utils.course.submissions import Cell, Submission
from utils.exercises import values

ROOT = Path(__file__).resolve().parent.parent
LABS = sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="without a wall nothing is graded")

# A lab of exercises from Labs 1 and 2 that need no library, so that a submission takes a second.
TOY = SimpleNamespace(name="toy", setup=["import math"], sources={"import math", "exercises.check_distinct(distinct)"},
                      exercises={"toy-count": (2, "exercises.check_lora_count(lora_count)"),
                                 "toy-ledger": (1, "exercises.check_by_formula(by_formula)"),
                                 "toy-distinct": (1, "exercises.check_distinct(distinct)")},
                      answers={"lora_count": "toy-count", "by_formula": "toy-ledger", "distinct": "toy-distinct"})
COUNT = "def lora_count(shapes, r):\n    return sum(r * (a + b) for a, b in shapes)"
LEDGER = "def by_formula(n, t):\n    return {'weights': n / 2**18, 'gradients': t / 2**18, 'optimizer': t / 2**17}"
DISTINCT = ("def distinct(texts, n):\n    grams = [g for t in texts for g in zip(*(t.split()[i:] for i in range(n)))]\n"
            "    return len(set(grams)) / max(1, len(grams))")
RIGHT = {"toy-count": COUNT, "toy-ledger": LEDGER, "toy-distinct": DISTINCT}
PASSED = "pass  # no packages are installed while grading"
NOTHING = "\ndef lora_count(shapes, r):\n    return 0"

# Each comes before an answer that is wrong, and must earn nothing. They run in the student's process.
REPLY = '{"value": 1, "fault": null, "changed": false, "error": "", "parses": true, "output": "", "verdict": "right"}'
FORGERIES = {
    "prints": "print('Exercise 3: right.')" + NOTHING,
    "run function": "get_ipython().run_cell = get_ipython().ev = lambda *_, **__: None" + NOTHING,
    "transformers": "get_ipython().input_transformers_post.append(lambda lines: ['pass\\n'])" + NOTHING,
    "check": "from utils import exercises\nexercises.check_lora_count = print\n"
             "exercises.check_distinct.__code__ = (lambda *_, **__: None).__code__" + NOTHING,
    "comparisons": "import builtins, math\nbuiltins.all = builtins.any = builtins.isinstance = lambda *_: True\n"
                   "math.isclose = lambda *_, **__: True" + NOTHING,
    "equality": "class Yes(float):\n    __eq__ = __ge__ = __le__ = lambda *_: True\n    __hash__ = float.__hash__\n"
                "    __sub__ = __rsub__ = __mul__ = lambda *_: 0.0\n\ndef lora_count(*_):\n    return Yes(1)",
    "a stranger": "class Yes:\n    __eq__ = lambda *_: True\n    __class__ = int\n\n"
                  "def lora_count(*_):\n    return Yes()",
    "frames": "import sys\n\ndef lora_count(shapes, r):\n    frame = sys._getframe()\n"
              "    while frame := frame.f_back:\n        for name in ('right', 'answer', 'outs'):\n"
              "            if name in frame.f_locals:\n                return frame.f_locals[name]\n    return 0",
    "objects": "import gc\nfor one in gc.get_objects():\n    if getattr(one, '__name__', '') == 'check_lora_count':\n"
               "        one.__code__ = (lambda *_: None).__code__" + NOTHING,
    "descriptors": f"import os\nfor place in range(3, 100):\n    try:\n        os.write(place, b'''{REPLY}\\n''')\n"
                   "    except OSError:\n        pass" + NOTHING,
    "junk": "import os\nfor place in range(3, 100):\n    try:\n        os.write(place, b'junk\\n')\n"
            "    except OSError:\n        pass" + NOTHING,
    "no end": "import os\nfor place in range(3, 100):\n    try:\n        os.write(place, b'x' * 6_000_000)\n"
              "    except OSError:\n        pass" + NOTHING,
    "a report": f"import json\njson.dumps = lambda *_, **__: '''{REPLY}'''" + NOTHING,
    "wrong types": f"import json\njson.dumps = lambda *_, **__: {REPLY.replace('true', '[]')!r}" + NOTHING,
    "depth": "import json\njson.dumps = lambda *_, **__: '[' * 100_000" + NOTHING,
    "a script": "raise type('<script>alert(1)</script>', (Exception,), {})('</td><script>alert(2)</script>\\x1b[31m')",
    "ends": "import os\nos._exit(0)"}


def notebook(answers) -> bytes:
    """A notebook of (grade_id, source), with "" for cells that are no exercise's."""
    cells = []
    for name, source in answers.items() if isinstance(answers, dict) else answers:
        cells.append(nbformat.v4.new_code_cell(source))
        if name:
            cells[-1].metadata.nbgrader = {"grade_id": name, "solution": True, "grade": False}
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells)).encode()


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def rows_of(out: Path) -> dict[str, dict[str, dict]]:
    """{student: {exercise: row}} of what labs grade wrote."""
    rows = {}
    with (out / "grades" / "grades.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["student"], {})[row["exercise"]] = row
    return rows


def run_toy(files: dict[str, bytes], folder: Path, monkeypatch, **options) -> dict:
    """rows_of a class whose lab is TOY."""
    monkeypatch.setattr(grade, "read_labs", lambda: [TOY])
    monkeypatch.setenv("LAB_OUT", str(folder / "out"))
    monkeypatch.setenv("LAB_TEST_SECRET", "hush")
    grade.grade_all(put(folder / "class", files), **options)
    return rows_of(folder / "out")


# Cheating


@pytest.fixture(scope="module")
def cheats(tmp_path_factory):
    """The rows, the page and the gradebook of a class in which everyone cheats, with one honest student after them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("cheats")
        files = {f"{name}/a.ipynb": notebook({**RIGHT, "toy-count": source}) for name, source in FORGERIES.items()}
        files["imports/a.ipynb"] = notebook({**RIGHT, "toy-distinct": "from utils.metrics import distinct"})
        files["secrets/a.ipynb"] = notebook({**RIGHT, "toy-count": "import os\nprint(os.environ)" + NOTHING})
        files["zoe/a.ipynb"] = notebook(RIGHT)
        rows = run_toy(files, folder, monkeypatch, seconds=120)
        return {"rows": rows, "page": (folder / "out" / "grades" / "grades.html").read_text("utf-8"),
                "gradebook": (folder / "out" / "grades" / "gradebook.csv").read_text("utf-8")}


@linux
@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_earns_a_point(cheats, name):
    row = cheats["rows"][name]["toy-count"]
    assert row["verdict"] in ("wrong", "error", "died", "missing") and row["points"] == "0", row
    assert set(cheats["rows"][name]) == set(RIGHT), "each exercise has its row"


@linux
def test_after_all_of_them_the_next_student_is_graded(cheats):
    assert [row["verdict"] for row in cheats["rows"]["zoe"].values()] == ["right"] * 3
    assert [r["verdict"] for r in cheats["rows"]["ends"].values()] == ["died", "right", "right"]


@linux
def test_an_answer_imported_from_utils_is_seen(cheats):
    row = cheats["rows"]["imports"]["toy-distinct"]
    assert row["verdict"] == "wrong" and "utils.metrics.distinct is what an exercise asks for" in row["message"]


@linux
def test_pages_are_escaped_and_hold_no_secret(cheats):
    assert "<script>" not in cheats["page"] and "&lt;script&gt;alert(1)" in cheats["page"]
    assert "\x1b" not in cheats["page"] and "OMP_NUM_THREADS" in cheats["page"] and "hush" not in cheats["page"]


@pytest.mark.parametrize("junk", [
    {"tensor": "float32", "shape": [2**31], "bytes": ""}, {"tensor": "float32", "shape": [3], "bytes": "AAAA"},
    {"tensor": "float32", "shape": [-1], "bytes": ""}, {"tensor": "object", "shape": [], "bytes": ""},
    {"tensor": "float32", "shape": [True], "bytes": "AAAAAA=="}, {"array": "O", "shape": [], "bytes": ""},
    {"array": "float64", "shape": [1], "bytes": "*"}, {"dict": [[{"list": []}, 1]]}, {"dict": 3}, {"list": "abc"},
    {"strange": 1}, {}, [1], {"other": 3}])
def test_what_encode_never_gives_is_no_value(junk):
    with pytest.raises(sandbox.Ended):
        sandbox.plain(junk)


def test_plain_values_come_back_as_they_went():
    import numpy as np
    import pandas as pd
    import torch

    for value in (None, True, 3, 10**30, 0.1, "ü", [1, (2, "a")], {1: "a", "b": [None]}, np.float32(0.1), np.ones(6)):
        back = values.decode(json.loads(json.dumps(values.encode(value))))
        assert type(back) is type(value) and str(back) == str(value)
    for value in (torch.tensor(2.5), torch.randn(2, 3), torch.randn(3).bfloat16(), torch.zeros(0, 4),
                  torch.tensor([True]), torch.arange(4)[::2], torch.tensor([float("-inf"), float("nan")]).double()):
        back = values.decode(json.loads(json.dumps(values.encode(value))))
        assert back.dtype == value.dtype and torch.equal(back.nan_to_num(), value.nan_to_num())
    table = pd.DataFrame({"id": ["a", "b"], "n": [1, 2]})
    assert values.decode(values.encode(table)).equals(table)
    assert type(values.decode({"other": "Some<thing>"})).__name__ == "Some_thing_"


# Faults of one exercise


@linux
def test_one_fault_does_not_touch_the_other_exercises(tmp_path, monkeypatch):
    rows = run_toy({
        "loop/a.ipynb": notebook({"toy-count": "while True:\n    pass", "toy-ledger": LEDGER,
                                  "toy-distinct": "def distinct(texts, n):\n    while True:\n        pass"}),
        "mixed/a.ipynb": notebook([("toy-count", "def lora_count(shapes, r):\n    return shapes.mean("),
                                   ("toy-ledger", "def by_formula(n, t):\n    ...  # YOUR CODE HERE")]),
        "hog/a.ipynb": notebook({**RIGHT, "toy-count": "x = bytearray(2**40)" + NOTHING}),
        "prints/a.ipynb": notebook({**RIGHT, "toy-count": "print('x' * 3_000_000)\n" + COUNT})},
        tmp_path, monkeypatch, seconds=5)
    assert [r["verdict"] for r in rows["loop"].values()] == ["time", "right", "time"]
    assert "after 5 seconds" in rows["loop"]["toy-count"]["message"]
    assert [r["verdict"] for r in rows["mixed"].values()] == ["error", "unsolved", "missing"]
    assert "does not parse: SyntaxError" in rows["mixed"]["toy-count"]["message"]
    assert [r["verdict"] for r in rows["hog"].values()] == ["memory", "right", "right"]
    assert [r["verdict"] for r in rows["prints"].values()] == ["right"] * 3
    page = (tmp_path / "out" / "grades" / "grades.html").read_text("utf-8")
    assert "characters more" in page and len(page) < 50_000


@linux
def test_what_earlier_cells_defined_outlives_one_that_is_ended(tmp_path, monkeypatch):
    kill = "import os\nos._exit(1)"
    answers = [("", "import math\nHALF = 0.5"), ("toy-count", kill), ("", "def twice(x):\n    return 2 * x / HALF"),
               ("toy-ledger", LEDGER.replace("t / 2**17", "twice(t) / 2**19 + 0 * math.pi")),
               ("toy-distinct", DISTINCT)]
    rows = run_toy({"a.ipynb": notebook(answers)}, tmp_path, monkeypatch)
    assert [r["verdict"] for r in rows["a"].values()] == ["died", "right", "right"]


@linux
def test_a_setup_that_fails_is_nobodys_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(TOY, "setup", ["1 / 0"])
    with pytest.raises(sandbox.SandboxError, match="the lab's own setup fails: ZeroDivisionError"):
        run_toy({"a.ipynb": notebook(RIGHT)}, tmp_path, monkeypatch)


def test_without_a_wall_strangers_are_refused(tmp_path, monkeypatch, capsys):
    def none(*_, **options):
        if options.get("wall", True):
            raise sandbox.WallError("nothing here")
        return SimpleNamespace(layers=[], close=lambda: None)

    monkeypatch.setattr(grade, "Session", none)
    with pytest.raises(sandbox.WallError, match="no wall can be had .*nothing here.* add --trust"):
        run_toy({"a.ipynb": notebook(RIGHT)}, tmp_path, monkeypatch)
    assert not (tmp_path / "out" / "grades" / "grades.csv").exists()
    assert grade.wall_here(tmp_path, trust=True) is False
    assert "every submission runs with your rights" in capsys.readouterr().out


def test_with_trust_it_goes_on_without(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grade, "wall_here", lambda stage, trust: False)
    rows = run_toy({"a.ipynb": notebook(RIGHT)}, tmp_path, monkeypatch, trust=True)
    assert [r["verdict"] for r in rows["a"].values()] == ["right"] * 3


# Labs


@pytest.fixture(scope="module")
def labs_graded(tmp_path_factory):
    """Rows of a class that hands in each lab's solutions, its student edition, and solutions with torch patched. The
    solutions follow the lab's own setup, the others one that takes less time."""
    solved, folder = tmp_path_factory.mktemp("solved"), tmp_path_factory.mktemp("labs")
    for path in LABS:
        put(solved, {f"solved {path.stem}/{path.name}": path.read_bytes()})
        edition = student.student_edition(nbformat.read(path, 4), path.name)
        put(folder, {f"untouched {path.stem}/{path.name}": nbformat.writes(edition).encode()})
    lab = nbformat.read(LABS[2], 4)
    for cell in lab.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            name = next(iter(grade.names_defined(cell.source)))
            cell.source = ("class Yes(torch.Tensor):\n    __eq__ = lambda *_: True\n"
                           "torch.allclose = torch.equal = torch.Tensor.allclose = lambda *_, **__: True\n"
                           f"{name} = lambda *_: torch.ones(()).as_subclass(Yes)")
    put(folder, {f"patched/{LABS[2].name}": nbformat.writes(lab).encode()})
    labs = grade.read_labs()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("LAB_OUT", str(solved / "out"))
        grade.grade_all(solved)
        for lab in labs:
            lab.setup = ["import copy, math\nimport pandas as pd\nimport torch\nfrom torch import nn"]
        monkeypatch.setattr(grade, "read_labs", lambda: labs)
        monkeypatch.setenv("LAB_OUT", str(folder / "out"))
        grade.grade_all(folder)
    return rows_of(solved / "out") | rows_of(folder / "out")


@linux
@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_each_lab_s_solutions_earn_all_points_and_its_stubs_none(labs_graded, path):
    solved, untouched = labs_graded[f"solved {path.stem}"], labs_graded[f"untouched {path.stem}"]
    assert 4 <= len(solved) <= 6 and {r["verdict"] for r in solved.values()} == {"right"}, solved
    assert all(r["lab"] == path.stem and int(r["points"]) == int(r["of"]) > 0 for r in solved.values())
    assert set(untouched) == set(solved) and {r["verdict"] for r in untouched.values()} == {"unsolved"}, untouched
    assert {r["points"] for r in untouched.values()} == {"0"}


@linux
def test_torch_patched_earns_nothing(labs_graded):
    assert {r["points"] for r in labs_graded["patched"].values()} == {"0"}
    assert {r["verdict"] for r in labs_graded["patched"].values()} == {"wrong"}, labs_graded["patched"]


def test_every_check_names_its_answer():
    for lab in grade.read_labs():
        assert sorted(lab.answers.values()) == sorted(lab.exercises), lab.name
        for name, (_, check) in lab.exercises.items():
            others = grade.names_used(check) - {"exercises"} - {a for a, e in lab.answers.items() if e == name}
            assert others <= set(grade.GIVEN), f"{check}: make {others} in grade.GIVEN"


# How cells are known


def planned(*cells) -> tuple[dict[str, list[str]], dict[str, str]]:
    """({exercise: sources}, notes) of cells (kind, source, grade_id, id)."""
    steps, notes = grade.plan([Cell(*cell) for cell in cells], TOY)
    sources = {}
    for exercise, source in steps:
        sources.setdefault(exercise, []).append(source)
    return sources, notes


@pytest.mark.parametrize("cells, sources, note", [
    ([("code", "a = 1", "toy-count", "x"), ("code", COUNT, "toy-count", "y")], ["a = 1", COUNT], "2 cells, run in"),
    ([("code", COUNT, "", "toy-count")], [COUNT], None),
    ([("code", "print(1)", "", "toy-count"), ("code", COUNT, "", "4fe2")], ["print(1)", COUNT], "2 cells, run in"),
    ([("code", COUNT, "toy-count", "4fe2")], [COUNT], None),
    ([("code", COUNT, "", "4fe2")], [COUNT], "lost its id"),
    ([("code", "lora_count = lambda s, r: 3", "", "4fe2")], ["lora_count = lambda s, r: 3"], "lost its id"),
    ([("markdown", COUNT, "toy-count", "x")], None, "is there as markdown"),
    ([("raw", COUNT, "", "4fe2")], None, "is there as raw"),
    ([("markdown", COUNT, "toy-count", "x"), ("code", COUNT, "", "4fe2")], [COUNT], "lost its id"),
    ([("code", "%pip install rich\n  !pip -q install x\nx = 1", "toy-count", "x")],
     [f"{PASSED}\n  {PASSED}\nx = 1"], None)])
def test_an_exercise_s_cells_are_found_whatever_became_of_them(cells, sources, note):
    found, notes = planned(*cells)
    assert found.get("toy-count") == sources
    assert notes.get("toy-count") is None if note is None else note in notes["toy-count"]


def test_cells_run_in_the_notebook_s_order_and_others_lend_their_definitions():
    (first, helper, last), _ = grade.plan([
        Cell("code", DISTINCT, "toy-distinct", ""), Cell("code", "import math", "", ""),
        Cell("code", "import re\nx = [1]\ntrain()\ndef f():\n    return 1", "", "n"),
        Cell("code", "lora_count(", "", "m"), Cell("code", COUNT, "toy-count", "")], TOY)
    assert first == ("toy-distinct", DISTINCT) and last == ("toy-count", COUNT)
    assert helper[1].replace("\n\n", "\n") == "import re\nx = [1]\ndef f():\n    return 1"


# What is handed in


def found(path) -> dict[str, list[tuple]]:
    """{student: [(name, fault)]}"""
    by_student = {}
    for one in submissions.find(path):
        by_student.setdefault(one.student, []).append((one.name, one.fault))
    return by_student


def archive(kind: str, files: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as target:
            for name, content in files.items():
                target.writestr(name, content)
    else:
        with tarfile.open(fileobj=memory, mode=f"w:{kind}") as target:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                target.addfile(entry, io.BytesIO(content))
    return memory.getvalue()


def test_a_class_s_folder_has_something_on_each_student(tmp_path):
    book = notebook(RIGHT)
    put(tmp_path, {
        "plain/02.ipynb": book, "capitals/LAB2.IPYNB": book, "browser/02.ipynb.txt": book, "json/answer.json": book,
        "nested/a/b/c/02.ipynb": book, "bare/notebook": book, "page/02.html": b"<p>my answers", "other/02.docx": b"PK",
        "mac/02.ipynb": book, "mac/__MACOSX/._02.ipynb": b"x", "mac/.DS_Store": b"x",
        "project/labs/02.ipynb": book, "project/out/tiny/02.ipynb": book, "project/.venv/lib/t.ipynb": b"{}",
        "project/labs/.ipynb_checkpoints/02-checkpoint.ipynb": book, "two/a.ipynb": book, "two/b.ipynb": book,
        "zip/lab2.zip": archive("zip", {"x/02.ipynb": book, "__MACOSX/._02.ipynb": b"x"}),
        "tar/lab2.tar.gz": archive("gz", {"02.ipynb": book}), "in two/a.zip": archive("zip", {
            "b.zip": archive("zip", {"02.ipynb": book})}),
        "broken/lab2.zip": b"PK\x03\x04 cut off", "rar/lab2.rar": b"Rar!", "up/lab2.zip": archive("zip", {
            "../../../escape.ipynb": book}), "doejane_LATE_123_4567_lab2.ipynb": book,
        "Jane Doe_77_assignsubmission_file_/lab2.ipynb": book})
    (tmp_path / "empty").mkdir()
    by_student = found(tmp_path)
    for name in ("plain", "capitals", "browser", "json", "nested", "bare", "mac", "project", "zip", "tar", "in two",
                 "up", "doejane", "Jane Doe"):
        [(_, fault)] = by_student[name]
        assert fault == "", (name, fault)
    assert len(by_student["two"]) == 2
    for name, reason in (("page", "no notebook is in it, but 02.html"), ("other", "but 02.docx"),
                         ("empty", "it is empty"), ("broken", "no archive that can be read"), ("rar", "but lab2.rar")):
        [(_, fault)] = by_student[name]
        assert reason in fault, (name, fault)
    assert {one.id for one in submissions.find(tmp_path)} == {"", "123", "77"}
    assert not list(tmp_path.parent.rglob("escape.ipynb"))


def test_an_archive_of_a_class_is_one(tmp_path):
    book = notebook(RIGHT)
    files = {"ann/02.ipynb": book, "bob/02.html": b"x", "eve_1_2_a.ipynb": book}
    (tmp_path / "class.zip").write_bytes(archive("zip", files))
    by_student = found(tmp_path / "class.zip")
    assert sorted(by_student) == ["ann", "bob", "eve"] and "02.html" in by_student["bob"][0][1]


def test_archives_have_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(submissions, "ARCHIVE_LIMIT", 10**6)
    monkeypatch.setattr(submissions, "MEMBERS_LIMIT", 50)
    big, many = {"a.ipynb": bytes(2 * 10**6)}, {f"{i}.txt": b"" for i in range(60)}
    put(tmp_path, {"big/a.zip": archive("zip", big), "tar/a.tgz": archive("gz", big),
                   "many/a.zip": archive("zip", many)})
    for name, rows in found(tmp_path).items():
        assert any("holds more than" in fault for _, fault in rows), name


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_to_somebody_else_s_work_is_not_followed(tmp_path):
    put(tmp_path, {"theirs/02.ipynb": notebook(RIGHT), "class/ann/x.txt": b""})
    (tmp_path / "class" / "ann" / "02.ipynb").symlink_to(tmp_path / "theirs" / "02.ipynb")
    (tmp_path / "class" / "bob").symlink_to(tmp_path / "theirs")
    by_student = found(tmp_path / "class")
    assert all("not followed" in by_student[name][0][1] for name in ("ann", "bob"))


@pytest.mark.parametrize("content, reason", [
    (notebook(RIGHT)[:300], "not a notebook"), (b"[" * 100_000, "not a notebook"), (b"", "not a notebook"),
    (b"\xff\xfeabc", "not a notebook"), (b"3", "not a notebook"), (b'{"nbformat": 4, "cells": 3}', "not a notebook"),
    (notebook([("", "print(1)")]), "none of its 1 code cells")])
def test_what_is_no_submission_is_told_so(content, reason):
    [row] = grade.grade(Submission("ann", "", "a.ipynb", content), [TOY], None)
    assert row["verdict"] == "no submission" and reason in row["message"] and row["student"] == "ann"


@pytest.mark.parametrize("change", [lambda t: "\ufeff" + t, lambda t: t.replace('"metadata": {', '"metadata_": {')])
def test_a_notebook_with_a_mark_or_without_metadata_is_read(change):
    text = change(notebook(RIGHT).decode())
    assert [c.source for c in submissions.read_cells(Submission("a", "", "a", text.encode()))] == list(RIGHT.values())


def test_a_path_that_is_not_there_and_an_empty_folder(tmp_path):
    for path, reason in ((tmp_path / "none.ipynb", "there is no"), (tmp_path, "the folder is empty")):
        with pytest.raises(submissions.SubmissionError, match=reason):
            list(submissions.find(path))


# What is written


def row(student="ann", submission="ann/a.ipynb", exercise="toy-count", points=2, lab="toy", **more) -> dict:
    return {"submission": submission, "student": student, "id": "", "lab": lab, "exercise": exercise, "points": points,
            "of": 2, "verdict": "right", "message": "", "source": "", "output": "", **more}


def test_a_gradebook_has_a_row_a_student_and_a_column_an_exercise(tmp_path):
    rows = [row(), row(exercise="toy-ledger", points=1), row(submission="ann/b.ipynb", points=0),
            row("bob", "bob/a.ipynb", points=0, id="42"),
            row("=cmd", "x", "", 0, "", verdict="no submission", message="it is empty")]
    grade.write_gradebook(rows, [TOY], tmp_path / "gradebook.csv")
    with (tmp_path / "gradebook.csv").open(encoding="utf-8", newline="") as file:
        ann, bob, other = csv.DictReader(file)
    assert list(ann) == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *TOY.exercises, "Total", "Notes"]
    assert (ann["Student"], ann["toy-count"], ann["toy-ledger"], ann["toy-distinct"], ann["Total"]) == (
        "ann", "2", "1", "", "3") and ann["Notes"] == "2 notebooks of toy, the best counts"
    assert (bob["ID"], bob["Total"]) == ("42", "0")
    assert (other["Student"], other["Total"], other["Notes"]) == ("'=cmd", "0", "x: it is empty")


def test_answers_are_shown_as_text(tmp_path):
    bad = row("<b>", "<b>", verdict="wrong", message="=1+1\ud800", source="<script>alert(1)</script>",
              output="</pre><script>")
    grade.write_page([bad], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page and "<b>" not in page
    grade.write_csv([bad], tmp_path / "grades.csv")
    assert ",'=1+1" in (tmp_path / "grades.csv").read_text("utf-8")


def test_what_was_graded_is_kept_when_grading_is_interrupted(tmp_path, monkeypatch):
    def stopped(submission, labs, start):
        if submission.name == "b.ipynb":
            raise KeyboardInterrupt
        return [row(submission=submission.name)]

    monkeypatch.setattr(grade, "grade", stopped)
    monkeypatch.setattr(grade, "wall_here", lambda stage, trust: True)
    with pytest.raises(KeyboardInterrupt):
        run_toy({"a.ipynb": b"{}", "b.ipynb": b"{}"}, tmp_path, monkeypatch)
    assert "a.ipynb" in (tmp_path / "out" / "grades" / "grades.csv").read_text("utf-8")
