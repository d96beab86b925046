"""Grades submissions: python -m utils.grade PATH

PATH is a student's notebook or a folder of them. Each is matched to its lab by the grade_id of its cells. Only what
the exercises need is executed: the lab's cells tagged `setup`, and each of the student's exercise cells followed by
its check, both setup and check taken from labs/ and not from the submission, so a deleted or edited check changes
nothing. What an exercise needs must therefore stand in its own cell or in an earlier exercise's. One exercise's failure
does not touch the others. Points go to out/grades/grades.csv, with the answers to out/grades/grades.html. What the
isolation is worth: see utils/sandbox.py.
"""

import argparse
import csv
import html
import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nbformat

from utils import sandbox, worker
from utils.checks import ROOT, SetupError, cannot_write

FIELDS = ("submission", "lab", "exercise", "points", "of", "verdict", "message")
SHOWN = 20_000  # characters of an answer on the page
LARGEST = 50 * 2**20  # bytes of a notebook that is still read


def cells_by_id(notebook) -> dict[str, str]:
    """{grade_id: source}; of two cells with one id the last counts."""
    marked = ((c.metadata.get("nbgrader"), c) for c in notebook.cells if c.cell_type == "code")
    return {str(m.get("grade_id")): c.source for m, c in marked if isinstance(m, dict)}


def read_lab(path: Path) -> SimpleNamespace:
    """name, setup (sources) and exercises {grade_id: (points, check's source)} of an original."""
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    setup = [c.source for c in cells if "setup" in c.metadata.get("tags", [])]
    solutions = [c.metadata.nbgrader.grade_id for c in cells if c.metadata.get("nbgrader", {}).get("solution")]
    checks = {c.metadata.nbgrader.grade_id: c for c in cells if c.metadata.get("nbgrader", {}).get("grade")}
    return SimpleNamespace(name=path.stem, setup=setup, exercises={
        name: (checks[f"{name}-check"].metadata.nbgrader.points, checks[f"{name}-check"].source) for name in solutions})


def read_labs() -> list[SimpleNamespace]:
    return [lab for lab in map(read_lab, sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))) if lab.exercises]


def read_submission(path: Path) -> tuple[dict[str, str], str]:
    """({grade_id: source}, "") or ({}, what is wrong with the file)."""
    try:
        if path.stat().st_size > LARGEST:
            return {}, f"the file has more than {LARGEST >> 20} MB: clear its outputs"
        return cells_by_id(nbformat.read(path, 4)), ""
    except RecursionError:
        return {}, "not a notebook: it is nested too deeply"
    except Exception as error:
        return {}, f"not a notebook: {worker.one_line(error)}"


def grade(path: Path, name: str, labs: list, **limits) -> list[dict]:
    """One row an exercise (FIELDS, and source and output); a single row where the file is no submission."""
    given, fault = read_submission(path)
    found = Counter(lab.name for lab in labs for exercise in lab.exercises if exercise in given)
    if not found:
        row = {"submission": name, "lab": "", "exercise": "", "points": 0, "of": 0, "verdict": "no submission",
               "message": fault or "no exercise of any lab is in it: were the cells copied into a new notebook?"}
        return [row | {"source": "", "output": ""}]
    lab = next(lab for lab in labs if lab.name == found.most_common(1)[0][0])
    tasks = [(e, given[e], check) for e, (_, check) in lab.exercises.items() if e in given]
    results, rows = sandbox.run(lab.setup, tasks, **limits), []
    for exercise, (points, _) in lab.exercises.items():
        result = results.get(exercise) or worker.verdict("missing", "its cell is not in the notebook")
        earned = points if result["verdict"] == "right" else 0
        rows.append({"submission": name, "lab": lab.name, "exercise": exercise, "points": earned, "of": points,
                     **result, "source": given.get(exercise, "")})
    return rows


def submissions(path: Path) -> list[tuple[Path, str]]:
    """[(file, name)]: the file itself, or a folder's notebooks at any depth. Raises SystemExit."""
    if path.is_dir():
        files = [p for p in sorted(path.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts and p.is_file()]
        if not files:
            sys.exit(f"no notebook (*.ipynb) in {path}")
        return [(p, p.relative_to(path).as_posix().encode("utf-8", "replace").decode()) for p in files]
    if not path.is_file():
        sys.exit(f"there is no {path}")
    return [(path, path.name)]


def harmless(value):
    """Text that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def write_csv(rows: list[dict], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        table = csv.DictWriter(file, FIELDS, extrasaction="ignore")
        table.writeheader()
        table.writerows({k: harmless(v) for k, v in row.items()} for row in rows)


def write_page(rows: list[dict], path: Path) -> None:
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
             "<title>Grades</title><style>body{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;"
             "padding:0 1em}td,th{text-align:left;padding:.2em .8em;vertical-align:top}pre{background:#f4f4f4;"
             "padding:.6em;overflow:auto;max-height:24em}.right{color:#06662a}</style><h1>Grades</h1>"]
    for name in dict.fromkeys(row["submission"] for row in rows):
        own = [row for row in rows if row["submission"] == name]
        total = f"{sum(r['points'] for r in own)} of {sum(r['of'] for r in own)} points"
        parts.append(f"<h2>{html.escape(name)}: {total}</h2><p>{html.escape(own[0]['lab'])}</p><table>"
                     "<tr><th>exercise<th>points<th>verdict<th>what was said")
        for r in own:
            answer = f"<details><summary>answer</summary><pre>{html.escape(r['source'][:SHOWN])}</pre>" + (
                f"<p>It printed:<pre>{html.escape(r['output'])}</pre>" if r["output"] else "") + "</details>"
            parts.append(f"<tr class='{r['verdict']}'><td>{html.escape(r['exercise'])}<td>{r['points']} / {r['of']}"
                         f"<td>{r['verdict']}<td>{html.escape(r['message'])}{answer if r['source'] else ''}")
        parts.append("</table>")
    path.write_text("\n".join(parts), encoding="utf-8", errors="replace")


def store(rows: list[dict], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_csv(rows, out / "grades.csv")
        write_page(rows, out / "grades.html")
    except OSError as error:
        raise SetupError(cannot_write(out, error)) from error


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a student's notebook, or a folder of them")
    parser.add_argument("--seconds", type=float, default=20, help="limit for each exercise")
    args = parser.parse_args(arguments)
    files, labs, rows = submissions(args.path), read_labs(), []
    out = Path(os.environ.get("LAB_OUT") or ROOT / "out") / "grades"
    sys.stdout.reconfigure(errors="replace")  # names that the terminal cannot show
    try:
        for path, name in files:
            own = grade(path, name, labs, seconds=args.seconds)
            rows += own
            print(f"{name}: {sum(r['points'] for r in own)} of {sum(r['of'] for r in own)} points; "
                  + ", ".join(f"{n} {v}" for v, n in Counter(r["verdict"] for r in own).items()), flush=True)
    finally:  # what was graded is kept, however it ends
        if rows:
            store(rows, out)
    print(f"points: {out / 'grades.csv'}, with the answers: {out / 'grades.html'}")


if __name__ == "__main__":
    try:
        main()
    except (sandbox.SetupFailed, SetupError) as error:
        sys.exit(str(error))
