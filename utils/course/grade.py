"""Grades submissions: labs grade PATH.

PATH is a student's notebook, a folder of a class or an archive of one (submissions.py). Only what the exercises need is
executed, behind a wall (wall.py, sandbox.py): the lab's cells tagged `setup`, then the student's exercise cells in
the notebook's order, and of cells that the student added what they define. An exercise's cell is known by its
grade_id, else by its id, else by the name that it defines. Checks come from labs/ and run here, outside of the wall, on
the values that the student's functions return. One exercise's failure does not touch the others. Points go to
out/grades/grades.csv, a row a student to gradebook.csv, the answers to grades.html.
"""

import ast
import builtins
import contextlib
import csv
import html
import io
import re
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nbformat
from tqdm import tqdm

from utils import exercises
from utils.course import submissions
from utils.course.run import find_labs
from utils.course.sandbox import Ended, Session, WallError, one_line, write_stage
from utils.course.submissions import Cell, Submission, SubmissionError
from utils.models import load_tokenizer
from utils.profile import ROOT, load_profile, results_folder

FIELDS = ("submission", "student", "lab", "exercise", "points", "of", "verdict", "message")
ANSWER_LIMIT = 20_000  # characters of an answer on the page
INSTALLS = re.compile(r"^(\s*)[%!]+\s*(?:pip3?|conda|mamba|uv|(?:\S*python\S*|\{sys\.executable\}) -m pip)\b.*$", re.M)
# What a check takes besides the student's function, made here: the grader's own.
GIVEN = {"tokenizer": lambda: load_tokenizer(load_profile("tiny", ROOT / "labs" / "profiles.toml").model)}


# Labs and the cells of a submission


def read_lab(path: Path) -> SimpleNamespace:
    """A lab's name, setup (sources of cells), exercises {name: (points, the check's source)}, answers {name that a
    solution defines: exercise}, and all its sources."""
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    setup = [c.source for c in cells if "setup" in c.metadata.get("tags", [])]
    marked = [(c, c.metadata["nbgrader"]) for c in cells if "nbgrader" in c.metadata]
    solutions = {mark.grade_id: c.source for c, mark in marked if mark.get("solution")}
    checks = {mark.grade_id: c for c, mark in marked if mark.get("grade")}
    tasks = {name: (checks[f"{name}-check"].metadata.nbgrader.points, checks[f"{name}-check"].source)
             for name in solutions}
    answers = {answer: name for name, source in solutions.items()
               for answer in names_defined(source) & names_used(tasks[name][1])}
    return SimpleNamespace(name=path.stem, setup=setup, exercises=tasks, answers=answers,
                           sources={c.source.strip() for c in cells})


def read_labs() -> list[SimpleNamespace]:
    """All labs that have exercises, as read_lab gives them."""
    return [lab for lab in map(read_lab, find_labs()) if lab.exercises]


def definitions(source: str) -> list[ast.stmt]:
    """The statements of a cell that define something and do nothing else: imports, functions, classes, constants."""
    try:
        body = ast.parse(re.sub(r"^\s*[%!].*$", "pass", source, flags=re.M)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    plain = ast.Constant | ast.Dict | ast.List | ast.Tuple | ast.Set | ast.Lambda | ast.Name | ast.UnaryOp
    return [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
            or isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, plain)]


def names_defined(source: str) -> set[str]:
    """The functions, classes and constants that a cell defines, without what it imports."""
    names = set()
    for node in definitions(source):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        names |= {t.id for t in targets if isinstance(t, ast.Name)} | {getattr(node, "name", "")}
    return names - {""}


def names_used(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def exercise_of(cell: Cell, lab) -> str:
    """The exercise that a cell is of: by its grade_id, its id, or the name that it defines; "" for none."""
    for name in (cell.grade_id, cell.id):
        if name in lab.exercises:
            return name
    if cell.kind != "code":
        return next((e for a, e in lab.answers.items() if re.search(rf"^(def|class) {a}\b", cell.source, re.M)), "")
    if cell.source.strip() in lab.sources:
        return ""
    return next((lab.answers[name] for name in sorted(names_defined(cell.source)) if name in lab.answers), "")


def plan(cells: list[Cell], lab) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """([(exercise, source)] in the notebook's order, with "" for what other cells define; {exercise: what is to be
    said of its cells})."""
    steps, notes = [], {}
    for cell in cells:
        exercise = exercise_of(cell, lab)
        if exercise and cell.kind != "code":
            notes[exercise] = f"its cell is there as {cell.kind}, not as code: make it a code cell again"
        elif exercise:
            steps.append((exercise, INSTALLS.sub(r"\1pass  # no packages are installed while grading", cell.source)))
        elif cell.kind == "code" and cell.source.strip() not in lab.sources:
            if own := "\n".join(map(ast.unparse, definitions(cell.source))):
                steps.append(("", own))
    for exercise, number in Counter(e for e, _ in steps if e).items():
        if number > 1:
            notes[exercise] = f"{number} cells, run in their order"
        elif not any(exercise in (c.grade_id, c.id) for c in cells if c.kind == "code"):
            notes[exercise] = "its cell had lost its id and was known by what it defines"
        else:
            notes.pop(exercise, None)
    return steps, notes


# Grading


def verdict(name: str, message: str = "", output: str = "") -> dict:
    """What is known of an exercise: the verdict, the reason in one line, what the cell printed."""
    return {"verdict": name, "message": message, "output": output}


def grade(submission: Submission, labs: list, start) -> list[dict]:
    """One row per exercise (FIELDS, and source and output); a single row where the file is no submission.

    `start(setup)` starts a Session.
    """
    head = {"submission": submission.name, "student": submission.student, "id": submission.id}
    try:
        cells = submissions.read_cells(submission)
        scores = {lab.name: len({exercise_of(c, lab) for c in cells} - {""}) for lab in labs}
        best = max(scores, key=scores.get)
        if not scores[best]:
            code = sum(c.kind == "code" for c in cells)
            raise SubmissionError(f"no exercise of any lab is in it: none of its {code} code cells has an exercise's "
                                  "id or defines what one asks for")
    except SubmissionError as error:
        row = head | {"lab": "", "exercise": "", "points": 0, "of": 0, "source": ""}
        return [row | verdict("no submission", str(error))]
    lab = next(lab for lab in labs if lab.name == best)
    steps, notes = plan(cells, lab)
    results, rows = run(steps, lab, start), []
    for exercise, (points, _) in lab.exercises.items():
        result = results.get(exercise) or verdict("missing", notes.get(exercise, "its cell is not in the notebook"))
        if exercise in results and exercise in notes:
            result["message"] = f"{result['message']} ({notes[exercise]})".strip()
        rows.append(head | {"lab": lab.name, "exercise": exercise, "of": points, **result,
                            "points": points if result["verdict"] == "right" else 0,
                            "source": "\n\n".join(source for e, source in steps if e == exercise)})
    return rows


def run(steps: list[tuple[str, str]], lab, start) -> dict[str, dict]:
    """{exercise: verdict} of the steps, run in one process as in a notebook. Where that must be ended, a new one runs
    the cells before once more, for what they define, and goes on with the next."""
    results, faults, before, session = {}, {}, [], None
    last = {exercise: number for number, (exercise, _) in enumerate(steps)}
    try:
        for number, (exercise, source) in enumerate(steps):
            if exercise in results:
                continue
            try:
                session = session or restart(before, lab, start)
                session.restart_clock()
                fault = session.run(source)
                before.append(source)
                faults.setdefault(exercise, []).append(fault)
                if exercise and last[exercise] == number:
                    results[exercise] = judge(faults[exercise], lab.exercises[exercise][1], session)
            except Ended as end:
                session, _ = None, session and session.close()
                if exercise:
                    results[exercise] = verdict(*end.args)
        return results
    finally:
        if session:
            session.close()


def restart(before: list[str], lab, start) -> Session:
    """A new process in which the cells `before` have run; what ends it this time is left out of them."""
    while True:
        session = start(lab.setup)
        for number, source in enumerate(before):
            try:
                session.restart_clock()
                session.run(source)
            except Ended:
                session.close()
                del before[number]
                break
            except BaseException:
                session.close()
                raise
        else:
            return session


def judge(faults: list[tuple], check: str, session: Session) -> dict:
    """The verdict on an exercise: its check runs here, on the values of the names that it uses."""
    output = "\n".join(text for _, _, text in faults if text)
    error = next((e for e, _, _ in reversed(faults) if e), "")
    try:
        names = {name: GIVEN[name]() if name in GIVEN else session.look(name)
                 for name in names_used(check) - {"exercises", *dir(builtins)}}
        with contextlib.redirect_stdout(io.StringIO()):
            exec(check, {"exercises": exercises, **names})
        return verdict("right", "", output)
    except Exception as fault:
        if error.startswith("MemoryError"):
            return verdict("memory", f"the cell stops: {error}", output)
        if error:
            parses = all(parses for _, parses, _ in faults)
            return verdict("error", f"the cell {'stops' if parses else 'does not parse'}: {error}", output)
        if isinstance(fault, exercises.Unsolved):
            return verdict("unsolved", str(fault).partition(": ")[2], output)
        if isinstance(fault, exercises.Wrong):
            return verdict("wrong", one_line(str(fault).partition(": ")[2], 600), output)
        if isinstance(fault, AssertionError):
            return verdict("wrong", one_line(str(fault) or "an assertion of the check fails", 600), output)
        return verdict("error", f"the check cannot run: {one_line(f'{type(fault).__name__}: {fault}', 300)}", output)


# Writing


def plain_text(value):
    """Text that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def total(rows: list[dict]) -> str:
    """The points of a submission's rows: "7 of 9 points"."""
    return f"{sum(r['points'] for r in rows)} of {sum(r['of'] for r in rows)} points"


def write_csv(rows: list[dict], path: Path, fields=FIELDS) -> None:
    """Writes these columns of the rows for a spreadsheet."""
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        table = csv.DictWriter(file, fields, extrasaction="ignore", restval="")
        table.writeheader()
        table.writerows({k: plain_text(v) for k, v in row.items()} for row in rows)


def write_gradebook(rows: list[dict], labs: list, path: Path) -> None:
    """Writes a row a student and a column an exercise, with the columns that Canvas imports; of several notebooks of
    one lab the one with the most points counts. Exercises of labs that nobody handed in have no column."""
    names = {lab.name for lab in labs} & {row["lab"] for row in rows}
    columns = [exercise for lab in labs if lab.name in names for exercise in lab.exercises]
    table = []
    for student, number in dict.fromkeys((row["student"], row["id"]) for row in rows):
        own = [row for row in rows if (row["student"], row["id"]) == (student, number)]
        entry = {"Student": student, "ID": number, "SIS User ID": "", "SIS Login ID": "", "Section": ""}
        for lab in sorted(names):
            notebooks = {}
            for row in own:
                if row["lab"] == lab:
                    notebooks.setdefault(row["submission"], {})[row["exercise"]] = row["points"]
            entry |= max(notebooks.values(), key=lambda points: sum(points.values()), default={})
        notes = [f"{row['submission']}: {row['message']}" for row in own if not row["lab"]]
        for lab, number in Counter(lab for lab, _ in {(r["lab"], r["submission"]) for r in own if r["lab"]}).items():
            if number > 1:
                notes.append(f"{number} notebooks of {lab}, the best counts")
        table.append(entry | {"Total": sum(entry.get(c, 0) for c in columns), "Notes": "; ".join(notes)})
    write_csv(table, path, ("Student", "ID", "SIS User ID", "SIS Login ID", "Section", *columns, "Total", "Notes"))


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


def hidden_files(found: list[Submission], path: Path, out: Path) -> list[Path]:
    """Files that no submission may read, to be tried before each: solutions, checks, history, others' work, grades."""
    classmates = [one.content for one in found if isinstance(one.content, Path)][:5] or [path]
    checks = ROOT / "utils" / "exercises" / "prompting.py"
    return [file.resolve() for file in (*find_labs(), checks, ROOT / ".git" / "HEAD", *classmates, out / "grades.csv")]


def grade_all(path: Path, *, seconds: float = 20, trust: bool = False) -> None:
    """Grades what lies at the path: prints a line per submission, writes points and answers to out/grades/. An
    interruption keeps what was graded. With `trust` it goes on where no wall can be had. Raises SubmissionError,
    WallError, SandboxError, OSError."""
    path = path.expanduser().absolute()
    found, labs, rows = list(submissions.find(path)), read_labs(), []
    out = results_folder() / "grades"
    out.mkdir(parents=True, exist_ok=True)
    hidden = hidden_files(found, path, out)
    with tempfile.TemporaryDirectory(prefix="grade-utils-", ignore_cleanup_errors=True) as folder:
        stage = write_stage(Path(folder))
        wall = wall_here(stage, trust)

        def start(setup: list[str]) -> Session:
            return Session(stage, setup, wall=wall, seconds=seconds, hidden=hidden)

        bar = tqdm(found, desc="grading", leave=False, disable=len(found) < 2)
        try:
            for submission in bar:
                of_this = grade(submission, labs, start)
                rows += of_this
                verdicts = ", ".join(f"{n} {v}" for v, n in Counter(r["verdict"] for r in of_this).items())
                bar.write(f"{submission.name}: {total(of_this)}; {verdicts}")
        finally:
            if rows:
                write_csv(rows, out / "grades.csv")
                write_gradebook(rows, labs, out / "gradebook.csv")
                write_page(rows, out / "grades.html")
    print(f"points: {out / 'grades.csv'}, a row a student: {out / 'gradebook.csv'}, with the answers: "
          f"{out / 'grades.html'}")


def wall_here(stage: Path, trust: bool) -> bool:
    """Whether a wall can be had, in one printed line. Raises WallError where not, and nobody said to do without."""
    try:
        session = Session(stage, [])
        print(f"each submission runs behind a wall: {', '.join(session.layers)}")
        session.close()
        return True
    except WallError as error:
        if not trust:
            raise WallError(f"no wall can be had around students' code here ({error}): grade on Linux (labs/GRADING.md "
                            "says what it takes), or, if you trust everyone who handed in, add --trust") from None
        print(f"no wall can be had here ({error}): every submission runs with your rights")
        return False
