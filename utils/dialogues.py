"""Dialogues with their summaries: from a folder of csv files or from the hub, one shape for both."""

import codecs
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from utils.models import fetch
from utils.profile import CourseError

COLUMNS, OPTIONAL = ("id", "dialogue", "summary"), ("topic",)
PAIR_COLUMNS = ("dialogue", "chosen", "rejected")
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}


class DataError(CourseError, ValueError):
    """A data file cannot be used; the message names the file and the fault."""


def load_split(source: str, split: str, needed: Sequence[str] = ()) -> pd.DataFrame:
    """One row per summary, columns id, dialogue, summary, topic (others are kept), in file order.

    `source` holds train.csv, validation.csv and test.csv: a folder, or a data set on the hub, which may end in @ and
    a revision. `needed` are further columns that must be there; topic need not. Rows without a summary are left out,
    and it is printed which. Raises DataError, HubError.
    """
    path = fetch(source, "dialogues", needed=(f"{split}.csv",)) / f"{split}.csv"
    table = read_table(path, (*COLUMNS, *needed), OPTIONAL)
    blank = table.index[table["dialogue"].str.strip() == ""]
    if len(blank):
        raise DataError(f"{path}: empty dialogue in data row {blank[0] + 1} (id {table['id'][blank[0]]!r})")
    unanswered = table["summary"].str.strip() == ""
    if unanswered.all():
        raise DataError(f"{path}: no row has a summary")
    if unanswered.any():
        names = ", ".join(table["id"][unanswered][:5]) + (", ..." if unanswered.sum() > 5 else "")
        print(f"{path}: {unanswered.sum()} of {len(table)} rows have no summary and are left out ({names})")
    return table[~unanswered].reset_index(drop=True)


def load_pairs(folder: str, split: str) -> pd.DataFrame:
    """Preference pairs, columns dialogue, chosen, rejected (others are kept), in file order. Raises DataError."""
    return read_table(Path(folder) / f"{split}.csv", PAIR_COLUMNS)


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """A csv file with at least these columns, all of them text; an optional one that is not there is empty.

    UTF-8, or UTF-16 with its mark; columns separated by commas, semicolons or tabs, as the header has them; lines, also
    those inside of a text, end in "\\n" whatever ends them in the file. Raises DataError.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; the folder holds: "
                        f"{', '.join(sorted(p.name for p in path.parent.glob('*.csv'))) or 'no csv'}")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path} is not valid UTF-8 at byte {error.start} (line {line}): save it as UTF-8") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    header = text.lstrip("\n").partition("\n")[0]
    separator = max(SEPARATORS, key=lambda mark: len({*columns} & {name.strip(' "') for name in header.split(mark)}))
    try:
        table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty: it needs a header line {','.join(columns)} and rows") from error
    except pd.errors.ParserError as error:
        raise DataError(f"{path} is not a readable csv with a {SEPARATORS[separator]} between the columns: "
                        f"{str(error).strip()}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first field for a name of the row
        raise DataError(f"{path}: its rows have more fields than its header: put texts that hold a "
                        f"{SEPARATORS[separator]} in quotes")
    table.columns = table.columns.str.strip()
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise DataError(f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                        f"it has {', '.join(table.columns)}")
    if table.empty:
        raise DataError(f"{path} has a header but no rows")
    return table.assign(**{c: "" for c in optional if c not in table.columns})


def group(table: pd.DataFrame) -> list[dict]:
    """One entry a dialogue, in order of first appearance: the row's values and `references`, the
    list of all its summaries (three in DialogSum's test split, one elsewhere)."""
    groups: dict[str, dict] = {}
    for row in table.to_dict("records"):
        entry = groups.setdefault(row["dialogue"], {**row, "references": []})
        entry["references"].append(row["summary"])
    return list(groups.values())


def lead(dialogue: str, turns: int = 3) -> str:
    """The first turns of a dialogue as they stand: the baseline that every summariser must beat."""
    return "\n".join(dialogue.split("\n")[:turns])
