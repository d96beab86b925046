"""Checkpoints of a training: written whole or not at all, taken up by the same training alone.

One mechanism for all trainings: what is trained, the optimizer's state and whatever else the caller names go
into one safetensors file, the records of the steps so far into a json file beside it. What a training ended with,
its trained weights alone, stays there until clear() says that it is no longer needed: a lab that is begun anew
repeats no training that it has finished.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from utils.profile import CourseError

KEPT = 2  # the latest checkpoints
STALE = 7 * 24 * 3600  # seconds after which nobody is expected to go on with a training


class TrainingError(CourseError, RuntimeError):
    """A training cannot begin or go on here; the message says why and what to do."""


def fingerprint(model, *what) -> str:
    """What a training starts from, as a folder name: its weights, which of them are trained, and anything
    else that json can write (data, settings, seed, purpose). Only the same training may go on from there."""
    weights = [float(p.detach().cpu().double().sum()) for p in model.parameters()]
    configs = [getattr(model, "config", None), *getattr(model, "peft_config", {}).values()]  # dropout, LoRA's alpha
    configs = [config.to_dict() if hasattr(config, "to_dict") else str(config) for config in configs]
    text = json.dumps([weights, [n for n, p in model.named_parameters() if p.requires_grad], configs, *what],
                      default=lambda value: sorted(value) if isinstance(value, set) else str(value))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def sole_owner(place: Path | None) -> Iterator[None]:
    """Keeps a checkpoint folder for this process: a second one at the same training would overwrite and remove
    its checkpoints. A killed process holds nothing. Raises TrainingError where the folder is taken."""
    if place is None:
        yield
        return
    clear(place.parent, older=STALE)
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


def clear(folder: Path, older: float = 0) -> None:
    """Removes what trainings have left in a folder, but for those that are under way; with `older` only what nobody
    has touched for so many seconds."""
    for place in Path(folder).glob("?" * 16):
        if time.time() - place.stat().st_mtime < older:
            continue
        try:
            with FileLock(place / "lock", timeout=0):
                pass
        except Timeout:
            continue
        except (OSError, NotImplementedError):
            pass  # no locks here, see sole_owner
        shutil.rmtree(place, ignore_errors=True)


def save(place: Path, tensors: dict[str, torch.Tensor], records: list[dict]) -> None:
    """Writes the checkpoint that follows len(records) steps: aside, then renamed. The latest two are kept. Raises
    TrainingError where it cannot be written."""
    try:
        write(place / f"step-{len(records):06d}", tensors, records)
    except (SafetensorError, OSError) as error:  # a full disk, most often; it says so
        raise TrainingError(f"a checkpoint cannot be written to {place} ({error}): make room there, or set "
                            "LAB_CHECKPOINTS to a folder of yours on another disk") from error
    for old in sorted(place.glob("step-??????"))[:-KEPT]:
        shutil.rmtree(old)


def finish(place: Path, tensors: dict[str, torch.Tensor], records: list[dict]) -> None:
    """Keeps what the training has ended with in place of its checkpoints. Where it cannot be written this is said on
    stderr, and the training would have to be repeated: that is no reason to lose it now."""
    for old in sorted(place.glob("step-??????"))[:-1]:  # makes room
        shutil.rmtree(old, ignore_errors=True)
    try:
        write(place / "end", tensors, records)
    except (SafetensorError, OSError) as error:
        print(f"what a training ended with cannot be kept in {place} ({error}): it would be repeated if this is begun "
              "anew. Make room there, or set LAB_CHECKPOINTS to a folder of yours on another disk", file=sys.stderr)
        shutil.rmtree(place / "end.part", ignore_errors=True)
        return
    for old in place.glob("step-*"):
        shutil.rmtree(old, ignore_errors=True)


def write(target: Path, tensors: dict[str, torch.Tensor], records: list[dict]) -> None:
    """Writes tensors and records to a folder: aside, then renamed."""
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, part / "state.safetensors")
    (part / "records.json").write_text(json.dumps(records), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)  # one that was damaged
    os.replace(part, target)


def load_latest(place: Path | None) -> tuple[dict[str, torch.Tensor], list[dict], bool]:
    """(tensors, records, whether the training has ended) of what it ended with, else of the latest whole checkpoint;
    ({}, [], False) where there is none. Damaged ones are named on stderr and skipped."""
    for path in [*place.glob("end"), *sorted(place.glob("step-??????"), reverse=True)] if place else ():
        try:
            tensors = load_file(path / "state.safetensors")
            return tensors, json.loads((path / "records.json").read_text("utf-8")), path.name == "end"
        except (SafetensorError, ValueError, OSError) as error:
            print(f"{path} is damaged ({str(error)[:80]}): skipped", file=sys.stderr)
    return {}, [], False


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
