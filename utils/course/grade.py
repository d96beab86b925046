"""Grades submissions: labs grade PATH.

PATH is a student's notebook or a folder of them. Each is matched to its lab by the grade_id of its cells. Only what
the exercises need is executed: the lab's cells tagged `setup`, then each of the student's exercise cells, followed by
its check. Setup and checks come from labs/ and not from the submission, so that a deleted or edited check changes
nothing. What an exercise needs must therefore stand in its own cell or in an earlier exercise's. One exercise's failure
does not touch the others. Points go to out/grades/grades.csv, and with the answers to out/grades/grades.html. What the
isolation is worth is written in sandbox.py.
"""

import csv
import html
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nbformat
from tqdm import tqdm

from utils.course import sandbox, worker
from utils.course.run import find_labs
from utils.profile import CourseError, results_folder

FIELDS = ("submission", "lab", "exercise", "points", "of", "verdict", "message")
ANSWER_LIMIT = 20_000  # characters of an answer on the page
FILE_LIMIT = 50 * 2**20  # bytes of a notebook that is still read


class SubmissionError(CourseError, ValueError):
    """There is nothing to grade at the path that was given."""


def cells_by_id(notebook) -> dict[str, str]:
    """{grade_id: source}; of two cells with one id the last counts."""
    marked = ((c.metadata.get("nbgrader"), c) for c in notebook.cells if c.cell_type == "code")
    return {str(m.get("grade_id")): c.source for m, c in marked if isinstance(m, dict)}


def read_lab(path: Path) -> SimpleNamespace:
    """A lab's name, setup (sources of cells) and exercises {grade_id: (points, the check's source)}."""
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    setup = [c.source for c in cells if "setup" in c.metadata.get("tags", [])]
    solutions = [c.metadata.nbgrader.grade_id for c in cells if c.metadata.get("nbgrader", {}).get("solution")]
    checks = {c.metadata.nbgrader.grade_id: c for c in cells if c.metadata.get("nbgrader", {}).get("grade")}
    return SimpleNamespace(name=path.stem, setup=setup, exercises={
        name: (checks[f"{name}-check"].metadata.nbgrader.points, checks[f"{name}-check"].source) for name in solutions})


def read_labs() -> list[SimpleNamespace]:
    """All labs that have exercises, as read_lab gives them."""
    return [lab for lab in map(read_lab, find_labs()) if lab.exercises]


def read_submission(path: Path) -> tuple[dict[str, str], str]:
    """({grade_id: source}, "") or ({}, what is wrong with the file)."""
    try:
        if path.stat().st_size > FILE_LIMIT:
            return {}, f"the file has more than {FILE_LIMIT >> 20} MB: clear its outputs"
        return cells_by_id(nbformat.read(path, 4)), ""
    except RecursionError:
        return {}, "not a notebook: it is nested too deeply"
    except Exception as error:
        return {}, f"not a notebook: {worker.one_line(error)}"


def grade(path: Path, name: str, labs: list, **limits) -> list[dict]:
    """One row per exercise (FIELDS, and source and output); a single row where the file is no submission."""
    answers, fault = read_submission(path)
    matches = Counter(lab.name for lab in labs for exercise in lab.exercises if exercise in answers)
    if not matches:
        row = {"submission": name, "lab": "", "exercise": "", "points": 0, "of": 0, "verdict": "no submission",
               "message": fault or "no exercise of any lab is in it: were the cells copied into a new notebook?"}
        return [row | {"source": "", "output": ""}]
    lab = next(lab for lab in labs if lab.name == matches.most_common(1)[0][0])
    tasks = [(e, answers[e], check) for e, (_, check) in lab.exercises.items() if e in answers]
    results, rows = sandbox.run(lab.setup, tasks, **limits), []
    for exercise, (points, _) in lab.exercises.items():
        result = results.get(exercise) or worker.verdict("missing", "its cell is not in the notebook")
        rows.append({"submission": name, "lab": lab.name, "exercise": exercise,
                     "points": points if result["verdict"] == "right" else 0, "of": points,
                     **result, "source": answers.get(exercise, "")})
    return rows


def find_submissions(path: Path) -> list[tuple[Path, str]]:
    """[(file, name)]: the file itself, or a folder's notebooks at any depth. Raises SubmissionError."""
    if path.is_dir():
        files = [p for p in sorted(path.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts and p.is_file()]
        if not files:
            raise SubmissionError(f"no notebook (*.ipynb) in {path}")
        return [(p, p.relative_to(path).as_posix().encode("utf-8", "replace").decode()) for p in files]
    if not path.is_file():
        raise SubmissionError(f"there is no {path}")
    return [(path, path.name)]


def plain_text(value):
    """Text that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def total(rows: list[dict]) -> str:
    """The points of a submission's rows: "7 of 9 points"."""
    return f"{sum(r['points'] for r in rows)} of {sum(r['of'] for r in rows)} points"


def write_csv(rows: list[dict], path: Path) -> None:
    """Writes the columns FIELDS of the rows for a spreadsheet."""
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        table = csv.DictWriter(file, FIELDS, extrasaction="ignore")
        table.writeheader()
        table.writerows({k: plain_text(v) for k, v in row.items()} for row in rows)


def write_page(rows: list[dict], path: Path) -> None:
    """Writes a web page of all submissions, with answers and what they printed shown as text."""
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
             "<title>Grades</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;"
             "padding:0 1em}td,th{text-align:left;padding:.2em .8em;vertical-align:top}pre{background:#f4f4f4;"
             "padding:.6em;overflow:auto;max-height:24em}.right{color:#06662a}</style><h1>Grades</h1>"]
    for name in dict.fromkeys(row["submission"] for row in rows):
        of_this = [row for row in rows if row["submission"] == name]
        parts.append(f"<h2>{html.escape(name)}: {total(of_this)}</h2><p>{html.escape(of_this[0]['lab'])}</p><table>"
                     "<tr><th>exercise<th>points<th>verdict<th>message")
        for r in of_this:
            answer = f"<details><summary>answer</summary><pre>{html.escape(r['source'][:ANSWER_LIMIT])}</pre>" + (
                f"<p>It printed:<pre>{html.escape(r['output'])}</pre>" if r["output"] else "") + "</details>"
            parts.append(f"<tr class='{r['verdict']}'><td>{html.escape(r['exercise'])}<td>{r['points']} / {r['of']}"
                         f"<td>{r['verdict']}<td>{html.escape(r['message'])}{answer if r['source'] else ''}")
        parts.append("</table>")
    path.write_text("\n".join(parts), encoding="utf-8", errors="replace")


def grade_all(path: Path, *, seconds: float = 20) -> None:
    """Grades the notebook or the folder at the path: prints a line per submission, writes points and answers to
    out/grades/. An interruption keeps what was graded. Raises SubmissionError, SandboxError, OSError."""
    files, labs, rows = find_submissions(path.expanduser()), read_labs(), []
    out = results_folder() / "grades"
    out.mkdir(parents=True, exist_ok=True)
    bar = tqdm(files, desc="grading", leave=False, disable=len(files) < 2)
    try:
        for file, name in bar:
            of_this = grade(file, name, labs, seconds=seconds)
            rows += of_this
            verdicts = ", ".join(f"{n} {v}" for v, n in Counter(r["verdict"] for r in of_this).items())
            bar.write(f"{name}: {total(of_this)}; {verdicts}")
    finally:
        if rows:
            write_csv(rows, out / "grades.csv")
            write_page(rows, out / "grades.html")
    print(f"points: {out / 'grades.csv'}, with the answers: {out / 'grades.html'}")
