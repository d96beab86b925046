"""README's table of what the labs cost: from records alone, nothing invented, nothing measured elsewhere lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils import profile
from utils.course import run, table

RECORD = {"lab": "01_first", "seconds": 157.5, "peak_memory_mb": 2071, "peak_gpu_memory_mb": 0, "date": "2026-11-21",
          "device": "CPU", "dtype": "bfloat16", "cores": 2, "machine": "Linux x86_64", "cells": 3}
ROW = "| 1 · First | tiny | 2 cores, bfloat16, Linux x86_64 | 2.6 | 2.1 GB | 2026-11-21 |"


@pytest.fixture
def update(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"# before\n{table.BEGIN}\n{table.END}\nafter\n", "utf-8")
    monkeypatch.setattr(table, "find_labs", lambda: [Path("01_first.ipynb"), Path("02_second_one.ipynb")])
    monkeypatch.setattr(table, "read_profiles", lambda: dict.fromkeys(["common", "tiny", "full"], {}))

    def with_records(**profiles):
        for name, records in profiles.items():
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "records.json").write_text(json.dumps({r["lab"]: r for r in records}), "utf-8")
        table.update(readme, tmp_path)
        return readme.read_text("utf-8")
    return with_records


def test_what_nobody_measured_is_said_and_what_was_measured_is_shown(update):
    text = update()
    assert "\nNot measured: `tiny`, every lab; `full`, every lab.\n" in text
    assert text.startswith("# before\n") and text.endswith("\nafter\n")
    text = update(tiny=[RECORD], other=[RECORD])
    assert ROW in text and "Not measured: `tiny`, Lab 2; `full`, every lab." in text and "other" not in text
    assert update() == text, "written again it is the same"


def test_a_later_record_replaces_and_another_machine_adds(update):
    update(tiny=[RECORD])
    text = update(tiny=[{**RECORD, "seconds": 60, "date": "2026-12-01"}])
    assert ROW not in text and "| 1.0 | 2.1 GB | 2026-12-01 |" in text
    gpu = {**RECORD, "device": "NVIDIA X", "peak_gpu_memory_mb": 10241}
    text = update(tiny=[gpu], full=[gpu])
    assert "| 1.0 | 2.1 GB | 2026-12-01 |" in text, "the first machine's row is lost"
    assert text.count("| NVIDIA X, bfloat16, Linux x86_64 | 2.6 | 2.1 GB, GPU 10.1 GB |") == 2


def test_a_record_without_a_date_is_no_row_and_missing_marks_are_named(update, tmp_path):
    assert "2.6" not in update(tiny=[{k: v for k, v in RECORD.items() if k != "date"}])
    (tmp_path / "README.md").write_text("nothing", "utf-8")
    with pytest.raises(profile.SetupError, match="README.md lacks the lines <!-- resources"):
        update()


def test_readme_has_the_table_of_these_labs_and_profiles(root, tmp_path):
    text, copy = (root / "README.md").read_text("utf-8"), tmp_path / "README.md"
    copy.write_text(text, "utf-8")
    table.update(copy, tmp_path)
    assert copy.read_text("utf-8") == text, "labs or profiles changed: make table"


def test_a_record_says_what_it_ran_on(monkeypatch, tmp_path):
    here = run.hardware()
    assert set(here) == {"device", "dtype", "cores", "machine"} and here["dtype"] in ("bfloat16", "float32")
    monkeypatch.setattr(run, "choose_device", lambda: (torch.device("cuda"), torch.bfloat16, ""))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA X")
    assert run.hardware()["device"] == "NVIDIA X"


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_gpu_memory_comes_from_nvidia_smi_and_is_0_without_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run.gpu_memory_mb() == 0
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho '1234 '\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert run.gpu_memory_mb() == 1234
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'\n")
    assert run.gpu_memory_mb() == 0


def test_the_processor_can_be_chosen(monkeypatch):
    monkeypatch.delenv("LAB_DEVICE", raising=False)  # CI sets it
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert profile.choose_device()[0].type == "mps" or torch.cuda.is_available()
    monkeypatch.setenv("LAB_DEVICE", "cpu")
    assert profile.choose_device()[0].type == "cpu"


def test_a_gpu_that_only_emulates_bf16_computes_in_fp32(monkeypatch):
    monkeypatch.delenv("LAB_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75"])
    for has, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, has=has:
                            including_emulation or has)
        assert profile.choose_device()[:2] == (torch.device("cuda"), dtype)


def test_a_gpu_that_this_torch_has_no_kernels_for_is_left_alone(monkeypatch):
    monkeypatch.delenv("LAB_DEVICE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla P100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90"])
    device, _, reason = profile.choose_device()
    assert device.type == "cpu" and reason.startswith("Tesla P100 has compute capability 6.0")


def test_the_command_writes_readme_of_its_checkout(root, tmp_path):
    for name in ("utils", "labs"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "README.md").write_text(f"{table.BEGIN}\n{table.END}\n", "utf-8")
    (tmp_path / "out" / "tiny").mkdir(parents=True)
    (tmp_path / "out" / "tiny" / "records.json").write_text(json.dumps({"x": {**RECORD, "lab": "01_x"}}), "utf-8")
    for old in (tmp_path / "labs").glob("*.ipynb"):
        old.unlink()
    (tmp_path / "labs" / "01_x.ipynb").touch()
    env = {k: v for k, v in os.environ.items() if k != "LAB_OUT"} | {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-m", "utils.course", "table"], cwd=tmp_path, env=env, check=True)
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "| 1 · X | tiny | 2 cores, bfloat16, Linux x86_64 | 2.6 |" in text
    assert "`flan-t5-base`, every lab" in text
