"""A lab that is killed and begun anew repeats no training that it has finished, and claims the same at its end."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from utils import claims
from utils.profile import ROOT

pytestmark = pytest.mark.slow


def begin(lab: int, out: Path):
    """labs run, in a process of its own, with results and checkpoints in `out`."""
    return subprocess.Popen([sys.executable, "-m", "utils.course", "run", str(lab)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            env={**os.environ, "LAB_PROFILE": "quick", "LAB_OUT": str(out)})


def finish(lab: int, out: Path) -> list[dict]:
    process = begin(lab, out)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return claims.read_claims(out / "quick" / "claims" / f"{lab:02d}.json")


def kill(process) -> None:
    """Ends the process and its children, the kernel among them, without a chance to tidy up."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family)
    process.communicate()


def ended(out: Path, lab: int) -> dict[Path, float]:
    """What trainings have ended with so far, and when it was written."""
    return {p: (p / "records.json").stat().st_mtime
            for p in (out / "quick" / "checkpoints" / f"lab-{lab:02d}").glob("*/end")}


@pytest.mark.parametrize("lab, places", [(2, (1, 5, 9)), (3, (2, 4, 6))])
def test_killed_at_three_places_it_claims_the_same(lab, places, tmp_path):
    out, before = tmp_path / "killed", {}
    for place in places:  # kill -9 as soon as so many trainings have ended
        process = begin(lab, out)
        while len(ended(out, lab)) < place:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        kill(process)
        now = ended(out, lab)
        assert before.items() <= now.items(), "a training that had ended was repeated, or lost"
        assert not (out / "quick" / "claims").exists(), "a lab that was cut off has no results"
        before = now
    resumed = finish(lab, out)
    assert len(resumed) > 8 and resumed == finish(lab, tmp_path / "whole")
    assert not ended(out, lab) and not ended(tmp_path / "whole", lab), "a lab that has ended leaves nothing"
