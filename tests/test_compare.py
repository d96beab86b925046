"""What holds on which model: from records of runs alone, side by side, nothing measured elsewhere lost."""

import json

import pytest

from utils.claims import FIELDS
from utils.course import compare
from utils.profile import SetupError

RUN = {"date": "2026-11-25", "device": "CPU", "dtype": "float32"}


def row(lab, claim, value, held=None, spread=1.0):
    criterion = "" if held is None else "above 0.00"
    return dict(zip(FIELDS, (lab, claim, value, value - spread, value + spread, 50, 1, "points", "c", criterion, held),
                    strict=True))


@pytest.fixture
def update(tmp_path):
    (tmp_path / "labs").mkdir()
    (tmp_path / "README.md").write_text(f"# before\n{compare.BEGIN}\n{compare.END}\nafter\n", "utf-8")

    def with_runs(**profiles):
        for name, rows in profiles.items():
            folder = tmp_path / "out" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "claims.json").write_text(json.dumps(rows), "utf-8")
            (folder / "records.json").write_text(json.dumps({f"{r['lab']:02d}_x": RUN for r in rows}), "utf-8")
        compare.update(tmp_path, tmp_path / "out")
        return [(tmp_path / p).read_text("utf-8") for p in ("labs/CLAIMS.md", "README.md")]
    return with_runs


def test_claims_stand_side_by_side(update):
    page, readme = update(tiny=[row(1, "one_shot_gain", 38.0, True), row(1, "words", 7.0)],
                          smollm2=[row(1, "one_shot_gain", -3.0, False), row(2, "rate", 0.5, spread=0)])
    assert ("| one shot gain (above 0.00) | points | 38.00 [37.00, 39.00] **held** | -3.00 [-4.00, -2.00] *not held* |"
            in page)
    assert "| words | points | 7.00 [6.00, 8.00] |  |" in page and "| rate | points |  | 0.50 |" in page
    assert "one shot gain" in readme and "words" not in readme and readme.endswith("\nafter\n")
    assert "`tiny`: Lab 1 on 2026-11-25, CPU, float32" in page
    assert page.count("Not measured yet.") == 2, "Labs 0 and 3"


def test_what_another_machine_measured_stays(update, tmp_path):
    update(tiny=[row(1, "a", 1.0), row(2, "b", 2.0)])
    (tmp_path / "out" / "tiny" / "claims.json").unlink()
    assert "| b | points | 2.00" in update()[0]
    page = update(tiny=[row(1, "c", 3.0)])[0]
    assert "| c |" in page and "| b |" in page and "| a |" not in page, "a lab's claims are replaced as a whole"
    assert update() == update(), "written again it is the same"


def test_claims_of_a_run_that_did_not_end_are_left_out(update, tmp_path):
    update(tiny=[row(1, "a", 1.0)], smollm2=[row(1, "a", 2.0)])
    (tmp_path / "labs" / "claims" / "smollm2.json").unlink()
    (tmp_path / "out" / "smollm2" / "records.json").unlink()
    assert "smollm2" not in update()[0]


def test_a_readme_without_the_marks_is_told(update, tmp_path):
    (tmp_path / "README.md").write_text("no marks", "utf-8")
    with pytest.raises(SetupError, match="lacks the lines"):
        update(tiny=[row(1, "a", 1.0)])
