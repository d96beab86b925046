"""What the labs cost: labs table writes README's table from the records of labs run.

A row is a lab, a profile and the hardware it ran on. A row of which this machine has no record stays as it is, so that
every machine adds its own; labs and profiles without a row are named below the table.
"""

import json
import math
import re
from pathlib import Path

from utils.course.run import find_labs
from utils.profile import ROOT, SetupError, read_profiles, results_folder

HEAD = ("lab", "profile", "hardware", "minutes", "peak memory", "date")
BEGIN, END = "<!-- resources: written by make table -->", "<!-- end of resources -->"


def title(stem: str) -> str:
    """"02_fine_tuning" → "2 · Fine tuning"."""
    return f"{int(stem[:2])} · {stem[3:].replace('_', ' ').capitalize()}"


def row(record: dict, profile: str) -> tuple[str, ...]:
    """A record of `labs run` as the cells of a row, memory rounded up to a tenth of a GB."""
    device = f"{record['cores']} cores" if record["device"] == "CPU" else record["device"]
    memory = [math.ceil(record[key] / 102.4) / 10 for key in ("peak_memory_mb", "peak_gpu_memory_mb")]
    return (title(record["lab"]), profile, f"{device}, {record['dtype']}, {record['machine']}",
            f"{record['seconds'] / 60:.1f}", f"{memory[0]} GB" + (f", GPU {memory[1]} GB" if memory[1] else ""),
            record["date"])


def record_rows(out: Path, profiles: list[str]) -> list[tuple[str, ...]]:
    """The rows of out/<profile>/records.json; a record without a date gives none."""
    paths = {p: out / p / "records.json" for p in profiles}
    return [row(record, profile) for profile, path in paths.items() if path.exists()
            for record in json.loads(path.read_text("utf-8")).values() if "date" in record]


def measured_rows(text: str) -> list[tuple[str, ...]]:
    """The rows with measurements of a table that `table` wrote."""
    cells = [tuple(c.strip() for c in line.strip("|").split("|")) for line in text.splitlines() if line.startswith("|")]
    return [c for c in cells[2:] if len(c) == len(HEAD)]


def table(titles: list[str], profiles: list[str], rows: list[tuple[str, ...]]) -> str:
    """The table in Markdown: labs in order, profiles in order, then hardware; of rows for the same three the last
    counts. Below it the labs that were not measured on a profile."""
    latest, lines, missing = {r[:3]: r for r in rows}, [], {}
    for lab in titles:
        for profile in profiles:
            rows = sorted(r for key, r in latest.items() if key[:2] == (lab, profile))
            lines += rows
            if not rows:
                missing.setdefault(profile, []).append(lab)
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in [HEAD, ("---",) * len(HEAD), *lines])
    numbers = {name: "every lab" if labs == titles else "Lab " + ", ".join(lab.partition(" ")[0] for lab in labs)
               for name, labs in missing.items()}
    open_rows = "; ".join(f"`{name}`, {numbers[name]}" for name in profiles if name in missing)
    return text + (f"\n\nNot measured: {open_rows}." if open_rows else "")


def update(readme: Path = ROOT / "README.md", out: Path | None = None) -> None:
    """Writes the table between README's two marks, from the records in `out`, by default the results folder.

    Raises SetupError where a mark is missing, ProfileError where the profiles cannot be read.
    """
    titles, profiles = [title(path.stem) for path in find_labs()], [p for p in read_profiles() if p != "common"]
    text = readme.read_text("utf-8")
    between = re.search(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", text, re.S)
    if not between:
        raise SetupError(f"{readme} lacks the lines {BEGIN} and {END}, between which the table goes")
    rows = measured_rows(between[0]) + record_rows(out or results_folder(), profiles)
    new = f"{text[:between.start()]}\n{table(titles, profiles, rows)}\n\n{text[between.end():]}"
    readme.write_text(new, "utf-8", newline="\n")
