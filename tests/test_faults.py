"""The tests notice the faults of faults.py: some test of the named file fails, and passes where nothing is planted."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faults import FAULTS

pytestmark = pytest.mark.slow
TESTS = Path(__file__).resolve().parent
FAILED = re.compile(r"^FAILED (\S+\.py::.*?) - (?:assert|AssertionError|Failed: DID NOT RAISE)", re.M)


def run(folder: Path, *words: str) -> tuple[int, str]:
    """(exit code, output) of pytest with the plugin of faults, in a process of its own."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "LAB_OUT": str(folder), "OMP_NUM_THREADS": "1", "COLUMNS": "200",
           "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-m", "pytest", "-p", "faults", "-p", "no:cacheprovider", "-x", *words],
                          cwd=TESTS.parent, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{fault: (exit code, output)} of the file that is to notice it, up to the first test that fails; two at a time."""
    def one(name):
        return run(tmp_path_factory.mktemp("out", numbered=True), f"--fault={name}", f"tests/{FAULTS[name][2]}")

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(FAULTS, pool.map(one, FAULTS), strict=True))


@pytest.mark.parametrize("name", FAULTS)
def test_the_fault_is_noticed(name, runs):
    code, output = runs[name]
    assert code == 1 and FAILED.search(output), f"no assertion of a test failed:\n{output[-3000:]}"


def test_without_a_fault_the_same_tests_pass(runs, tmp_path):
    noticed = {failed[1] for _, output in runs.values() for failed in FAILED.finditer(output)}
    assert noticed, "no fault was noticed"
    code, output = run(tmp_path, *sorted(noticed))
    assert code == 0, output[-3000:]
