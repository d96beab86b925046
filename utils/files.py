"""What users bring: text, tables and lines of JSON, read alike however an editor, a spreadsheet or a chat export wrote
them. Nothing but the standard library.
"""

import codecs
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}  # UTF-32's begins like UTF-16's
NO_TEXT = {b"PK\x03\x04": "is a spreadsheet or an archive: save it as csv in UTF-8",
           b"\x1f\x8b": "is packed by gzip: unpack it",
           b"version https://git-lfs": "is a pointer of Git LFS and not the file itself: fetch it with git lfs pull"}
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}


class CourseError(Exception):
    """Something that whoever runs the course can mend; the message, one line, says what, where and how."""


class DataError(CourseError, ValueError):
    """A file cannot be used; the message names the file, the line and the fault."""


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 or, with its mark, UTF-16 or UTF-32; lines end in "\\n". Raises DataError."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    for beginning, what in NO_TEXT.items():
        if raw.startswith(beginning):
            raise DataError(f"{path} {what}")
    encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: byte {error.start} is not {encoding.upper()}: save the file as UTF-8"
                        ) from None
    if "\0" in text:
        raise DataError(f"{path} holds zero bytes, as UTF-16 without its mark does: save the file as UTF-8")
    return text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a csv file that has at least these columns, {column: text without blanks around it}; an optional
    column that is not there is empty.

    Commas, semicolons, tabs or vertical bars between the columns, as the header has them; names of columns up to
    capitals and blanks. Rows and columns without a text, and a header that is repeated, are passed over. Raises
    DataError.
    """
    path, known = of_any_case(Path(path)), {name.casefold(): name for name in (*columns, *optional)}
    text = read_text(path).lstrip("\n")
    if text[:4] == "sep=":  # Excel's own first line
        text = text.partition("\n")[2]
    if not text.strip():
        raise DataError(f"{path} is empty: it needs a header line {','.join(columns)} and rows")
    first = text.partition("\n")[0]
    separator = max(SEPARATORS, key=lambda mark: len(known.keys() & set(plain(first.split(mark)))))
    csv.field_size_limit(2**31 - 1)  # characters; by default a long meeting is too much
    lines = csv.reader(io.StringIO(text), delimiter=separator, strict=True, skipinitialspace=True)
    advice = f"put texts that hold a {SEPARATORS[separator]}, a quote or a line end in quotes, and double quotes inside"
    rows = []
    try:
        written = next(lines)
        names = plain(written)
        header = [known.get(name, field.strip()) for name, field in zip(names, written, strict=True)]
        _check_header(path, header, columns)
        for fields in lines:
            fields = [field.strip() for field in fields]
            while len(fields) > len(header) and not fields[-1]:
                fields.pop()
            if not any(fields) or plain(fields) == names:
                continue
            if len(fields) != len(header):
                raise DataError(f"{path}, line {lines.line_num}: {len(fields)} fields where the header has "
                                f"{len(header)}: {advice}")
            row = {name: field for name, field in zip(header, fields, strict=True) if name}
            rows.append({**row, **{name: "" for name in optional if name not in row}})
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: {error}: {advice}") from None
    if not rows:
        raise DataError(f"{path} has a header but no rows")
    return rows


def of_any_case(path: Path) -> Path:
    """The file itself, or the one in its folder that differs from it in capitals alone. Raises DataError."""
    if path.exists():
        return path
    there = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    for other in there:
        if other.name.lower() == path.name.lower():
            return other
    names = [other.name for other in there if other.suffix.lower() == path.suffix]
    raise DataError(f"{path} does not exist; the folder holds: {', '.join(names) or f'no {path.suffix[1:]}'}"
                    if path.parent.is_dir() else f"{path} does not exist, nor does its folder")


def plain(fields: Sequence[str]) -> list[str]:
    """Names of columns without capitals, and without blanks and quotes around them."""
    return [field.strip(' "\t\u00a0').casefold() for field in fields]


def _check_header(path: Path, header: list[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in header]
    if missing:
        there = ", ".join(filter(None, header))
        raise DataError(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has "
                        f"{there if len(there) <= 100 else there[:97] + '...'}".replace("\n", " "))
    for name in filter(None, header):
        if header.count(name) > 1:
            raise DataError(f"{path} has two columns {name}: keep one of them")


def read_json(path: Path):
    """What a JSON file holds. Raises DataError."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is no JSON ({error}): mend it, or delete it where the labs wrote it") from None


def read_json_lines(path: Path, needed: Sequence[str] = ()) -> list[tuple[int, dict]]:
    """(line, object) of a file with one JSON object a line, each with at least the needed keys. Blank lines are
    passed over. Raises DataError."""
    path, items = Path(path), []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error.msg}); one object a line") from None
        if not isinstance(item, dict):
            raise DataError(f"{path}, line {number}: no object in braces")
        if missing := [key for key in needed if key not in item]:
            raise DataError(f"{path}, line {number} lacks {', '.join(missing)}; it has {', '.join(item)}")
        items.append((number, item))
    if not items:
        raise DataError(f"{path} holds no items")
    return items


def listed(names: Sequence[str]) -> str:
    """The first five names."""
    return ", ".join([*names][:5]) + (", ..." if len(names) > 5 else "")
