"""Checkpoints of a training: written whole or not at all, taken up by the same training alone.

One mechanism for all trainings: what is trained, the optimizer's state and whatever else the caller names go
into one safetensors file, the records of the steps so far into a json file beside it.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from utils.profile import CourseError

KEPT = 2  # the latest checkpoints


class TrainingError(CourseError, RuntimeError):
    """A training cannot begin or go on here; the message says why and what to do."""


def fingerprint(model, *what) -> str:
    """What a training starts from, as a folder name: its weights, which of them are trained, and anything
    else that json can write (data, settings, seed, purpose). Only the same training may go on from there."""
    weights = [float(p.detach().cpu().double().sum()) for p in model.parameters()]
    text = json.dumps([weights, [n for n, p in model.named_parameters() if p.requires_grad], *what])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def sole_owner(place: Path | None) -> Iterator[None]:
    """Keeps a checkpoint folder for this process: a second one at the same training would overwrite and remove
    its checkpoints. A killed process holds nothing. The folder goes when the training has ended well. Raises
    TrainingError where the folder is taken."""
    if place is None:
        yield
        return
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrainingError(f"another process is at this same training (checkpoints in {place}): let it end or stop it "
                            "(the same lab in a second kernel?), then run this again") from None
    except (OSError, NotImplementedError):
        pass  # a file system without locks, some network drives: the training goes on, but holds nothing
    try:
        yield
    finally:
        lock.release()
    shutil.rmtree(place, ignore_errors=True)


def save(place: Path, tensors: dict[str, torch.Tensor], records: list[dict]) -> None:
    """Writes the checkpoint that follows len(records) steps: aside, then renamed. The latest two are kept. Raises
    TrainingError where it cannot be written."""
    final = place / f"step-{len(records):06d}"
    part = final.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, part / "state.safetensors")
    except SafetensorError as error:  # a full disk, most often; it says so
        raise TrainingError(f"a checkpoint cannot be written to {place} ({error}): make room there, or set "
                            "LAB_CHECKPOINTS to a folder of yours on another disk") from error
    (part / "records.json").write_text(json.dumps(records), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)  # one that was damaged
    os.replace(part, final)
    for old in sorted(place.glob("step-??????"))[:-KEPT]:
        shutil.rmtree(old)


def load_latest(place: Path | None) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """(tensors, records) of the latest whole checkpoint, ({}, []) where there is none. Damaged ones are named
    on stderr and skipped."""
    for path in sorted(place.glob("step-??????"), reverse=True) if place else ():
        try:
            return load_file(path / "state.safetensors"), json.loads((path / "records.json").read_text("utf-8"))
        except (SafetensorError, ValueError, OSError) as error:
            print(f"{path} is damaged ({str(error)[:80]}): skipped", file=sys.stderr)
    return {}, []


def optimizer_tensors(optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state as named tensors: {"optimizer.0.exp_avg": ...}."""
    return {f"optimizer.{i}.{name}": tensor for i, state in optimizer.state_dict()["state"].items()
            for name, tensor in state.items()}


def restore_optimizer(optimizer, tensors: dict[str, torch.Tensor], like: Callable) -> None:
    """Puts back what optimizer_tensors took; like(tensor, i) brings a tensor into the form of parameter i."""
    state: dict[int, dict] = {}
    for full_name, tensor in tensors.items():
        if full_name.startswith("optimizer."):
            _, i, name = full_name.split(".", 2)
            state.setdefault(int(i), {})[name] = like(tensor, int(i)) if tensor.dim() else tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def not_finite(label: str, what: str, place: Path | None, records: list[dict]) -> FloatingPointError:
    """The error that ends a training whose numbers are none any more; it names step and last checkpoint."""
    good = sorted(place.glob("step-??????"))[-1:] if place else []
    return FloatingPointError(f"{label}: {what} in step {len(records)}; last good checkpoint: "
                              f"{good[0] if good else 'none'}")
