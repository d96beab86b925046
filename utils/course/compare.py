"""What holds on which model: labs compare puts the claims of several profiles side by side.

The claims that `labs run` has measured on this machine are kept in labs/claims/<profile>.json, to be committed; what
another machine measured stays until the same lab is run here. From these records alone come labs/CLAIMS.md, which has
every claim, and README's table of the claims that have a criterion.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from utils.claims import shown
from utils.course.run import find_labs
from utils.course.table import title
from utils.profile import ROOT, SetupError, read_profiles, results_folder

BEGIN, END = "<!-- claims: written by labs compare -->", "<!-- end of claims -->"
LEFT_OUT = {"common", "quick"}  # no profile, and a profile that measures little
INTRODUCTION = """# What holds on which model

Every claim that the labs have measured, by profile: the value with its 95 % interval, and where the claim has a
criterion whether it held. `labs compare` writes this page from the records in `labs/claims/`, which come from runs of
the labs. An empty place was not measured.
"""


def collect(profile: str, out: Path, records: Path) -> list[dict]:
    """The profile's claims: those in `out`, and of the labs that have none there those of the record, to which the
    others are written. Each row also says when and on what it was measured."""
    file, path = records / f"{profile}.json", out / profile / "claims.json"
    rows = json.loads(file.read_text("utf-8")) if file.exists() else []
    if path.exists() and (out / profile / "records.json").exists():  # else no lab has come to its end
        runs = json.loads((out / profile / "records.json").read_text("utf-8"))
        about = {int(lab[:2]): {"date": run["date"], "on": run["device"], "dtype": run["dtype"]}
                 for lab, run in runs.items() if "date" in run}
        new = [{**row, **about[row["lab"]]} for row in json.loads(path.read_text("utf-8")) if row["lab"] in about]
        replaced = {row["lab"] for row in new}
        rows = sorted([row for row in rows if row["lab"] not in replaced] + new, key=lambda row: row["lab"])
        records.mkdir(exist_ok=True)
        file.write_text(json.dumps(rows, indent=1) + "\n", "utf-8", newline="\n")
    return rows


def cell(row: dict | None) -> str:
    """A claim as it stands in the table."""
    if row is None:
        return ""
    between = "" if row["low"] == row["high"] else f" [{shown(row['low'])}, {shown(row['high'])}]"
    return f"{shown(row['value'])}{between}" + {True: " **held**", False: " *not held*"}.get(row["held"], "")


def table(lab: int, by_profile: dict[str, list[dict]], wanted: Callable = lambda row: True) -> str:
    """The lab's claims in rows, the profiles in columns, as Markdown; "" where there is none."""
    claims = {name: {row["claim"]: row for row in rows if row["lab"] == lab and wanted(row)}
              for name, rows in by_profile.items()}
    names = list(dict.fromkeys(claim for rows in claims.values() for claim in rows))
    if not names:
        return ""
    lines = [["claim", "unit", *by_profile], ["---"] * (2 + len(by_profile))]
    for name in names:
        row = next(rows[name] for rows in claims.values() if name in rows)
        criterion = f" ({row['criterion']})" if row["criterion"] else ""
        lines.append([name.replace("_", " ") + criterion, row["unit"], *(cell(r.get(name)) for r in claims.values())])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def update(root: Path = ROOT, out: Path | None = None) -> None:
    """Writes the records, labs/CLAIMS.md and README's table. Raises SetupError where README has no place for it,
    ProfileError where the profiles cannot be read."""
    out, records, readme = out or results_folder(), root / "labs" / "claims", root / "README.md"
    by_profile = {name: collect(name, out, records) for name in read_profiles() if name not in LEFT_OUT}
    by_profile = {name: rows for name, rows in by_profile.items() if rows}
    page, short = [INTRODUCTION], []
    for path in find_labs():
        lab = int(path.name[:2])
        page += [f"## {title(path.stem)}", table(lab, by_profile) or "Not measured yet."]
        if held := table(lab, by_profile, lambda row: row["criterion"]):
            short += [f"**{title(path.stem)}**", held]
    for name, rows in by_profile.items():
        runs = sorted({(row["lab"], row["date"], row["on"], row["dtype"]) for row in rows})
        page.append(f"`{name}`: " + "; ".join(f"Lab {lab} on {date}, {on}, {dtype}" for lab, date, on, dtype in runs))
    (root / "labs" / "CLAIMS.md").write_text("\n\n".join(page) + "\n", "utf-8", newline="\n")
    text = readme.read_text("utf-8")
    between = re.search(f"(?<={re.escape(BEGIN)}\n).*?(?={re.escape(END)})", text, re.S)
    if not between:
        raise SetupError(f"{readme} lacks the lines {BEGIN} and {END}, between which the claims go")
    text = f"{text[:between.start()]}\n" + "\n\n".join(short) + f"\n\n{text[between.end():]}"
    readme.write_text(text, "utf-8", newline="\n")
    print(f"{sum(map(len, by_profile.values()))} claims of {', '.join(by_profile)}: {root / 'labs' / 'CLAIMS.md'}")
