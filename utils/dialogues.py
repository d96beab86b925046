"""Dialogues with their summaries: from a folder of csv files or from the hub, one shape for both."""

import io
from pathlib import Path

import pandas as pd

from utils.hub import fetch

COLUMNS = ("id", "dialogue", "summary", "topic")


class DataError(ValueError):
    """A data file cannot be used; the message names the file and the fault."""


def load_split(source: str, split: str) -> pd.DataFrame:
    """One row a summary, columns id, dialogue, summary, topic (others are kept), in file order.

    `source` holds train.csv, validation.csv and test.csv: a folder, or a data set on the hub, which
    may end in @ and a revision. Raises DataError, HubError.
    """
    return read_csv(fetch(source, "dialogues", needed=(f"{split}.csv",)) / f"{split}.csv")


def read_csv(path: Path) -> pd.DataFrame:
    """One csv file in DialogSum's columns. Raises DataError."""
    if not path.exists():
        raise DataError(f"{path} does not exist; the folder holds: "
                        f"{', '.join(sorted(p.name for p in path.parent.glob('*.csv'))) or 'no csv'}")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(f"{path} is not valid UTF-8 at byte {error.start} (line {line}): save it as UTF-8") from error
    try:
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty: it needs a header line {','.join(COLUMNS)} and rows") from error
    except pd.errors.ParserError as error:
        raise DataError(f"{path} is not a readable csv: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas took the first field for a name of the row
        raise DataError(f"{path}: its rows have more fields than its header: put texts that hold commas in quotes")
    return _checked(table, str(path))


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        raise DataError(f"{where} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                        f"it has {', '.join(table.columns)}")
    if table.empty:
        raise DataError(f"{where} has a header but no rows")
    blank = table.index[table["dialogue"].str.strip() == ""]
    if len(blank):
        raise DataError(f"{where}: empty dialogue in data row {blank[0] + 1} (id {table['id'][blank[0]]!r})")
    return table


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
