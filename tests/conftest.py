"""Shared by the tests: the repository's paths, the tiny profile, the bundled model."""

import os
import sys
from pathlib import Path

import huggingface_hub
import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("LAB_OUT", str(ROOT / "out" / "tests"))
os.environ.update(LAB_PROFILE="tiny", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(ROOT / "data" / "build"))


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
