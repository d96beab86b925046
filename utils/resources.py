"""What the labs cost: python -m utils.resources (make table) writes README's table from make run's records.

A row is a lab, a profile and the hardware it ran on. A row of which this machine has no record stays as
it is, so that every machine adds its own; where there is no row of a lab and profile, the table says so.
"""

import json
import math
import os
import re
import sys
import tomllib
from pathlib import Path

from utils.checks import ROOT
from utils.run import find_labs

HEAD = ("lab", "profile", "hardware", "minutes", "peak memory", "date")
BEGIN, END = "<!-- resources: written by make table -->", "<!-- end of resources -->"


def title(stem: str) -> str:
    """"02_fine_tuning" → "2 · Fine tuning"."""
    return f"{int(stem[:2])} · {stem[3:].replace('_', ' ').capitalize()}"


def row(record: dict, profile: str) -> tuple[str, ...]:
    """A record of make run as cells of the table, memory rounded up."""
    device = f"{record['cores']} cores" if record["device"] == "CPU" else record["device"]
    memory = [math.ceil(record[key] / 102.4) / 10 for key in ("peak_memory_mb", "peak_gpu_memory_mb")]
    return (title(record["lab"]), profile, f"{device}, {record['dtype']}, {record['machine']}",
            f"{record['seconds'] / 60:.1f}", f"{memory[0]} GB" + (f", GPU {memory[1]} GB" if memory[1] else ""),
            record["date"])


def recorded(out: Path, profiles: list[str]) -> list[tuple[str, ...]]:
    """The rows of out/<profile>/records.json; records without a date, from before there was one, are left out."""
    found = {p: out / p / "records.json" for p in profiles}
    return [row(record, profile) for profile, path in found.items() if path.exists()
            for record in json.loads(path.read_text("utf-8")).values() if "date" in record]


def rows_of(text: str) -> list[tuple[str, ...]]:
    """The measured rows of a table that `table` wrote."""
    cells = [tuple(c.strip() for c in line.strip("|").split("|")) for line in text.splitlines() if line.startswith("|")]
    return [c for c in cells[2:] if len(c) == len(HEAD) and c[2] != "not measured"]


def table(titles: list[str], profiles: list[str], rows: list[tuple[str, ...]]) -> str:
    """The table: labs in order, profiles in order, then hardware; of rows with the same three the last counts."""
    latest, lines = {r[:3]: r for r in rows}, []
    for lab in titles:
        for profile in profiles:
            ran = sorted(r for key, r in latest.items() if key[:2] == (lab, profile))
            lines += ran or [(lab, profile, "not measured", "", "", "")]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [HEAD, ("---",) * len(HEAD), *lines])


def update(readme: Path, out: Path, titles: list[str], profiles: list[str]) -> None:
    """Writes the table between README's two marks. Raises SystemExit where they are missing."""
    text = readme.read_text("utf-8")
    between = re.search(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", text, re.S)
    if not between:
        sys.exit(f"{readme} lacks the lines {BEGIN} and {END}, between which the table goes")
    rows = rows_of(between[0]) + recorded(out, profiles)
    new = f"{text[:between.start()]}\n{table(titles, profiles, rows)}\n\n{text[between.end():]}"
    readme.write_text(new, "utf-8", newline="\n")


if __name__ == "__main__":
    known = list(tomllib.loads((ROOT / "labs" / "profiles.toml").read_text("utf-8")))
    results = Path(os.environ.get("LAB_OUT") or ROOT / "out")
    update(ROOT / "README.md", results, [title(p.stem) for p in find_labs()], known)
