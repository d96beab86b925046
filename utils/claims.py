"""What a lab has just measured, written down: one claim a line, with interval, n, seeds and control."""

import json
import math
import os
from pathlib import Path

from utils.files import read_json
from utils.profile import SetupError, cannot_write

FIELDS = ("lab", "claim", "value", "low", "high", "n", "seeds", "unit", "control", "criterion", "held")


def claim(profile, lab: int, name: str, value, *, n: int, unit: str, control: str, seeds: int = 1,
          above: float | None = None, below: float | None = None) -> None:
    """Records one measured claim in out/<profile>/claims/<lab>.json and prints it.

    value is a number or (mean, low, high). With `above` or `below` the claim has a criterion: it has held where the
    whole interval lies on that side, and this is printed and stored; another model may well not meet it, so
    nothing stops. A claim of the same lab and name is replaced. Raises ValueError where a number is not finite.
    """
    mean, low, high = value if isinstance(value, tuple) else (value, value, value)
    if not all(math.isfinite(x) for x in (mean, low, high)):
        raise ValueError(f"claim {name} of lab {lab} is not a finite number: {mean}, [{low}, {high}]")
    limits = [f"above {shown(above)}"] if above is not None else []
    limits += [f"below {shown(below)}"] if below is not None else []
    held = (above is None or low > above) and (below is None or high < below) if limits else None
    row = dict(zip(FIELDS, (lab, name, float(mean), float(low), float(high), n, seeds, unit, control,
                            " and ".join(limits), held), strict=True))
    path = Path(profile.out) / "claims" / f"{lab:02d}.json"
    rows = [r for r in read_claims(path) if r["claim"] != name] + [row]
    write_claims(path, rows)
    band = f" [{shown(low)}, {shown(high)}]" if isinstance(value, tuple) else ""
    print(f"{name}: {shown(mean)}{band} {unit} (n = {n}, control: {control})")
    if limits:
        print(f"  {'held' if held else 'NOT held'} on this run: the interval should lie {row['criterion']}")


def shown(number: float) -> str:
    """Two decimals; a number that they would not show in its power of ten."""
    return f"{number:.2f}" if number == 0 or abs(number) >= 0.005 else f"{number:.1e}"


def read_claims(path: Path) -> list[dict]:
    """The claims of a file, [] where there is none. Raises DataError."""
    return read_json(path) if path.exists() else []


def write_claims(path: Path, rows: list[dict]) -> None:
    """Writes the file whole or not at all. Raises SetupError where the disk is full or read-only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise SetupError(cannot_write(path.parent, error)) from error
