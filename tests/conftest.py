"""Shared by the tests: the repository's paths, the tiny profile, the bundled model."""

import os
import sys
from pathlib import Path

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
