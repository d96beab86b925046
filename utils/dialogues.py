"""Dialogues with their summaries: from a folder of csv files or from the hub, one shape for both."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from utils.files import DataError, listed, read_table
from utils.models import fetch

COLUMNS, OPTIONAL = ("dialogue", "summary"), ("id", "topic")
PAIR_COLUMNS = ("dialogue", "chosen", "rejected")


def load_split(source: str, split: str, needed: Sequence[str] = ()) -> pd.DataFrame:
    """One row per summary, columns id, dialogue, summary, topic (others are kept), in file order.

    `source` holds train.csv, validation.csv and test.csv: a folder, or a data set on the hub, which may end in @ and
    a revision. One turn a line, without blank lines. `needed` are further columns, of which some row must have a text;
    topic need not be there, nor id, which is then the row's number. Rows without a summary, and rows that repeat an
    earlier one, are left out, and it is printed which. Raises DataError, HubError.
    """
    path = fetch(source, "dialogues", needed=(f"{split}.csv",)) / f"{split}.csv"
    table = pd.DataFrame(read_table(path, (*COLUMNS, *needed), OPTIONAL))
    names = [name or f"{split}_{i}" for i, name in enumerate(table["id"])]
    table = table.assign(id=names, dialogue=[turns(text) for text in table["dialogue"]])
    for i in table.index[table["dialogue"] == ""][:1]:
        raise DataError(f"{path}: empty dialogue in data row {i + 1} (id {table['id'][i]!r})")
    for column in ("summary", *needed):
        if not table[column].any():
            raise DataError(f"{path}: no row has a {column}")
    table = leave_out(path, table, table["summary"] == "", "have no summary")
    return leave_out(path, table, table.duplicated(), "repeat an earlier row")


def load_pairs(folder: str, split: str) -> pd.DataFrame:
    """Preference pairs, columns id, dialogue, chosen, rejected (others are kept), in file order. Pairs that lack a text
    or have the same text twice are left out, and it is printed which. Raises DataError."""
    path = Path(folder) / f"{split}.csv"
    table = pd.DataFrame(read_table(path, PAIR_COLUMNS, ("id",)))
    names = [name or f"{split}_{i}" for i, name in enumerate(table["id"])]
    table = table.assign(id=names, dialogue=[turns(text) for text in table["dialogue"]])
    table = leave_out(path, table, (table[list(PAIR_COLUMNS)] == "").any(axis=1), "lack a text")
    return leave_out(path, table, table["chosen"] == table["rejected"], "have the same text twice")


def turns(text: str) -> str:
    """A dialogue with one turn a line: lines end in "\\n" alone, and blank ones are gone."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def leave_out(path: Path, table: pd.DataFrame, rows: pd.Series, reason: str) -> pd.DataFrame:
    """The table without the rows that are marked; prints which those are. Raises DataError where nothing is left."""
    if rows.all():
        raise DataError(f"{path}: all {len(table)} rows {reason}")
    if rows.any():
        print(f"{path}: {rows.sum()} of {len(table)} rows {reason} and are left out ({listed(table['id'][rows])})")
    return table[~rows].reset_index(drop=True)


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
