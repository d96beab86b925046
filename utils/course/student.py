"""The student edition of the labs: labs student.

Writes every lab to out/student/ with nbgrader's preprocessors: a stub takes the place of what stands between
### BEGIN SOLUTION and ### END SOLUTION, checks are locked, outputs are cleared. All labs are written, or none.
"""

import re

import nbformat
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
)

from utils.course.run import find_labs, read_notebook
from utils.profile import CourseError, results_folder

STUB = "...  # YOUR CODE HERE"
REGION = re.compile(r"(BEGIN|END) (SOLUTION|HIDDEN TESTS|MARK SCHEME)")


class MarkerError(CourseError, ValueError):
    """A marker of a solution is unclosed, nested, alone, or in a cell that is no exercise."""


def check_markers(notebook, name: str) -> None:
    """Raises MarkerError naming notebook and cell. nbgrader says less, and accepts an END without BEGIN."""
    for number, cell in enumerate(notebook.cells, 1):
        first = next((line for line in cell.source.split("\n") if line.strip()), "")
        where, inside = f"{name}, cell {number} ({first[:50]!r})", None
        for line, text in enumerate(cell.source.split("\n"), 1):
            for edge, region in REGION.findall(text):
                if edge == "BEGIN" and inside:
                    raise MarkerError(f"{where}: BEGIN {region} in line {line} inside of {inside}: close that first")
                if edge == "END" and inside != region:
                    raise MarkerError(f"{where}: END {region} in line {line} without its BEGIN")
                inside = region if edge == "BEGIN" else None
                if region == "SOLUTION" and not cell.metadata.get("nbgrader", {}).get("solution"):
                    raise MarkerError(f"{where}: a solution in a cell that nbgrader's metadata do not call one")
        if inside:
            raise MarkerError(f"{where}: BEGIN {inside} is never closed: add ### END {inside}")


def student_edition(notebook, name: str):
    """A copy of the notebook for students. Raises MarkerError."""
    check_markers(notebook, name)
    edition, resources = nbformat.from_dict(notebook), {}
    for step in (CheckCellMetadata(), ClearSolutions(code_stub={"python": STUB}), ClearHiddenTests(), ClearMarkScheme(),
                 LockCells(), ClearOutput(), ComputeChecksums()):
        edition, resources = step.preprocess(edition, resources)
    return edition


def write_edition() -> None:
    """Writes the edition of every lab to out/student/, all labs or none. Raises MarkerError, OSError."""
    out = results_folder() / "student"
    editions = {path.name: student_edition(read_notebook(path), path.name) for path in find_labs()}
    out.mkdir(parents=True, exist_ok=True)
    for name, lab in editions.items():
        nbformat.write(lab, out / name)
        exercises = sum(bool(c.metadata.get("nbgrader", {}).get("solution")) for c in lab.cells)
        print(f"{out / name}: {exercises} exercises")
