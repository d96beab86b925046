"""What students handed in: every notebook of a class, whatever it is called and wherever it lies, with its student.

A class is a folder with an entry for each student, a folder or a file, as learning platforms export it; or one archive
of such entries. Archives are read and never unpacked. Nobody is passed over: where an entry holds no notebook, it says
what it holds.
"""

import contextlib
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat

from utils.profile import CourseError

FILE_LIMIT = 50 * 2**20  # bytes of a notebook
ARCHIVE_LIMIT = 200 * 2**20  # bytes of what an archive holds
MEMBERS_LIMIT = 20_000
SKIPPED = {"__MACOSX", "venv", "env", "site-packages", "node_modules", "out", "__pycache__"}  # and hidden ones
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
JUNK = re.compile(r"\._|\.|Thumbs\.db$|desktop\.ini$")
CANVAS = re.compile(r"(?P<student>[^_]+)(_LATE)?_(?P<id>\d+)_\d+_.")  # doejane_LATE_123_4567_lab2.ipynb
MOODLE = re.compile(r"(?P<student>.+?)_(?P<id>\d+)_assignsubmission_")  # Jane Doe_123_assignsubmission_file_


class SubmissionError(CourseError, ValueError):
    """There is nothing to grade at the path that was given."""


class Submission(NamedTuple):
    """A notebook that was handed in, or what stands in a notebook's place."""

    student: str
    id: str  # the platform's number of the student, "" where the name holds none
    name: str  # path below the folder that was given
    content: bytes | Path  # of the notebook
    fault: str = ""  # why there is none


class Cell(NamedTuple):
    """A cell of a submission: "code", "markdown" or "raw", its source, its grade_id and its own id, "" for none."""

    kind: str
    source: str
    grade_id: str
    id: str


def find(path: Path) -> Iterator[Submission]:
    """All submissions at a path: a notebook, an archive, or a folder. Raises SubmissionError."""
    if path.is_dir():
        tops = [p for p in sorted(path.iterdir()) if not JUNK.match(p.name) and p.name not in SKIPPED]
        if not tops:
            raise SubmissionError(f"nothing was handed in at {path}: the folder is empty")
        for top in tops:
            yield from of_student(top.name, below(top, path))
    elif not path.is_file():
        raise SubmissionError(f"there is no {path}")
    elif is_archive(path.name):
        members, students = list(in_archive(path.name, path)), {}
        for name, content, fault in members:
            students.setdefault(name.removeprefix(f"{path.name}/").split("/")[0], []).append((name, content, fault))
        for student, files in students.items():
            yield from of_student(student, files)
    else:
        yield from of_student(path.name, [(path.name, path, "")])


def of_student(top: str, files) -> list[Submission]:
    """The submissions among a student's files (name, content, fault); one that names what there is where none is."""
    match = CANVAS.match(top) or MOODLE.match(top)
    student, number = (match["student"], match["id"]) if match else (re.sub(r"(\.\w{1,5}){1,2}$", "", top) or top, "")
    files = list(files)
    notebooks = [Submission(shown(student), number, shown(name), content, fault) for name, content, fault in files
                 if fault or is_notebook(name, content)]
    if notebooks:
        return notebooks
    names = ", ".join(name.rsplit("/", 1)[-1] for name, _, _ in files[:3]) + (", …" if len(files) > 3 else "")
    fault = f"no notebook is in it, but {shown(names)}" if files else "it is empty"
    return [Submission(shown(student), number, shown(top), b"", fault)]


def shown(name: str) -> str:
    """A file's name as text that can be written anywhere."""
    text = name.encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() else "?" for c in text)


def below(top: Path, base: Path) -> Iterator[tuple[str, bytes | Path, str]]:
    """(name, content, fault) of the files at and below a path, those in archives among them. Links are not followed."""
    if not top.is_dir() or top.is_symlink():
        yield from one_file(top.relative_to(base).as_posix(), top)
        return
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(f for f in folders if f not in SKIPPED and not JUNK.match(f))
        for name in sorted(names):
            if not JUNK.match(name):
                yield from one_file(Path(folder, name).relative_to(base).as_posix(), Path(folder, name))


def one_file(name: str, path: Path) -> Iterator[tuple[str, bytes | Path, str]]:
    if path.is_symlink():
        yield name, path, "it is a link to another place, which is not followed: the file itself is wanted"
    elif not path.is_file():
        yield name, path, "it is no file"
    elif is_archive(name):
        yield from in_archive(name, path)
    else:
        yield name, path, ""


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def may_hold_one(name: str) -> bool:
    """Whether a file of this name is looked into."""
    return ".ipynb" in name.lower() or Path(name).suffix.lower() in ("", ".txt", ".json") or is_archive(name)


def is_notebook(name: str, content: bytes | Path) -> bool:
    """By its name, whatever was put behind it, or by what is in it."""
    if ".ipynb" in name.lower():
        return True
    if not may_hold_one(name):
        return False
    with contextlib.suppress(OSError, ValueError, RecursionError, SubmissionError):
        data = json.loads(text_of(content))
        return isinstance(data, dict) and "nbformat" in data
    return False


def in_archive(name: str, content: bytes | Path, depth: int = 0) -> list[tuple[str, bytes | Path, str]]:
    """(name, content, fault) of what an archive holds, archives in it among them; nothing is unpacked."""
    files = []
    try:
        for inner, data in members(content if isinstance(content, Path) else io.BytesIO(content), name):
            parts, path = [p for p in re.split(r"[\\/]+", inner) if p not in ("", ".", "..")], f"{name}/{inner}"
            if not parts or JUNK.match(parts[-1]) or any(p in SKIPPED or p.startswith(".") for p in parts[:-1]):
                continue
            if is_archive(inner) and depth < 2:
                files += in_archive(path, data, depth + 1)
            else:
                files.append((path, data, ""))
    except SubmissionError as error:
        files.append((name, b"", str(error)))
    except (OSError, ValueError, RuntimeError, EOFError, NotImplementedError, zipfile.BadZipFile, tarfile.TarError,
            zipfile.zlib.error) as error:
        files.append((name, b"", f"it is no archive that can be read ({error}): a zip or tar is wanted"))
    return files


def members(file, name: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of an archive's files. Raises SubmissionError where it holds too much."""
    size = 0
    if name.lower().endswith(".zip"):
        with zipfile.ZipFile(file) as archive:
            entries = [(e.filename, e.file_size, e) for e in archive.infolist() if not e.is_dir()]
            for number, (inner, claim, entry) in enumerate(entries):
                size = within(name, size + claim, number)
                if not may_hold_one(inner):
                    yield inner, b""
                    continue
                with archive.open(entry) as stream:
                    yield inner, stream.read(FILE_LIMIT + 1)
        return
    opened = {"name": file} if isinstance(file, Path) else {"fileobj": file}
    with tarfile.open(mode="r:*", **opened) as archive:
        for number, entry in enumerate(archive):
            size = within(name, size + entry.size, number)
            if entry.isfile() and may_hold_one(entry.name):
                with archive.extractfile(entry) as stream:
                    yield entry.name, stream.read(FILE_LIMIT + 1)
            elif not entry.isdir():
                yield entry.name, b""


def within(name: str, size: int, number: int) -> int:
    """The size, where it and the number of files are within the limits. Raises SubmissionError."""
    if size > ARCHIVE_LIMIT or number >= MEMBERS_LIMIT:
        raise SubmissionError(f"the archive {shown(name.rsplit('/', 1)[-1])} holds more than {ARCHIVE_LIMIT >> 20} MB "
                              f"or {MEMBERS_LIMIT} files: only the notebook is wanted")
    return size


def text_of(content: bytes | Path) -> str:
    """A file's text. Raises SubmissionError, UnicodeDecodeError, OSError."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
    if len(content) > FILE_LIMIT:
        raise SubmissionError(f"the file has more than {FILE_LIMIT >> 20} MB: clear its outputs")
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def read_cells(submission: Submission) -> list[Cell]:
    """The cells of a notebook, whatever is missing in them. Raises SubmissionError."""
    if submission.fault:
        raise SubmissionError(submission.fault)
    try:
        text = text_of(submission.content)
        notebook, cells = json.loads(text), []
        if int(notebook.get("nbformat", 4)) < 4:
            notebook = nbformat.reads(text, 4)
        for cell in notebook["cells"]:  # not through nbformat, which refuses what lacks a key
            metadata, source = cell.get("metadata"), cell.get("source") or ""
            own = metadata.get("nbgrader") if isinstance(metadata, dict) else None
            grade_id = own.get("grade_id") if isinstance(own, dict) else None
            cells.append(Cell(str(cell.get("cell_type")), source if isinstance(source, str) else "".join(source),
                              str(grade_id or ""), str(cell.get("id", ""))))
        return cells
    except SubmissionError:
        raise
    except RecursionError:
        raise SubmissionError("not a notebook: it is nested too deeply") from None
    except Exception as error:
        first = f"{type(error).__name__}: {error}".strip().split("\n")[0][:200]
        raise SubmissionError(f"not a notebook: {shown(first)}") from None
