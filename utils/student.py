"""The student edition of the labs: python -m utils.student

Writes every lab to out/student/ with nbgrader's preprocessors: what stands between ### BEGIN SOLUTION and
### END SOLUTION gives way to a stub, the checks are locked, outputs are gone. All labs or none are written.
"""

import os
import re
import sys
from pathlib import Path

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

from utils.checks import ROOT, SetupError, cannot_write

STUB = "...  # YOUR CODE HERE"
REGION = re.compile(r"(BEGIN|END) (SOLUTION|HIDDEN TESTS|MARK SCHEME)")


class MarkerError(ValueError):
    """A marker of a solution is unclosed, nested, alone, or in a cell that is no exercise."""


def check_markers(notebook, name: str) -> None:
    """Raises MarkerError naming notebook and cell. nbgrader says less, and takes an END without BEGIN."""
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
    made, resources = nbformat.from_dict(notebook), {}
    for step in (CheckCellMetadata(), ClearSolutions(code_stub={"python": STUB}), ClearHiddenTests(), ClearMarkScheme(),
                 LockCells(), ClearOutput(), ComputeChecksums()):
        made, resources = step.preprocess(made, resources)
    return made


def main() -> None:
    out = Path(os.environ.get("LAB_OUT") or ROOT / "out") / "student"
    labs = {path.name: nbformat.read(path, 4) for path in sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))}
    made = {name: student_edition(lab, name) for name, lab in labs.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, lab in made.items():
            nbformat.write(lab, out / name)
            exercises = sum(bool(c.metadata.get("nbgrader", {}).get("solution")) for c in lab.cells)
            print(f"{out / name}: {exercises} exercises")
    except OSError as error:
        raise SetupError(cannot_write(out, error)) from error


if __name__ == "__main__":
    try:
        main()
    except (MarkerError, SetupError) as error:
        sys.exit(str(error))
