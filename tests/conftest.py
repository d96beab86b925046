"""Shared by the tests: the repository's paths, the tiny profile, the bundled model."""

import os
import sys
from pathlib import Path

import huggingface_hub
import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")  # set where the tests run side by side
os.environ.setdefault("LAB_OUT", str(ROOT / "out" / "tests" / WORKER))
if WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes with two threads each wait for one another
os.environ.update(LAB_PROFILE="tiny", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(ROOT / "data" / "build"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Side by side, the tests of a file stay with one process, since they share fixtures; the labs, which take longest,
    come first and each by itself."""
    items.sort(key=lambda item: item.path.stem not in ("test_labs", "test_grade"))
    for item in items:
        if item.path.stem != "test_labs":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tiny():
    """(model, tokenizer) of the bundled model, on CPU, in fp32."""
    from utils.models import load_model

    return load_model(str(ROOT / "data" / "models" / "tiny"))


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Points the hub's client in this process at an address, and at an empty cache."""
    def point(address):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                            address + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("LAB_PROFILE", "flan-t5-base")
    return point
