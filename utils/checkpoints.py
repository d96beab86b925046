"""Checkpoints of a training that was stopped: whose they are, and whether they are whole."""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open


def fingerprint(model, rows, settings, seed) -> str:
    """What a training starts from, as a folder name: only the same training may resume it."""
    weights = [float(p.detach().cpu().double().sum()) for p in model.parameters()]
    text = json.dumps([weights, rows, settings, seed, [n for n, p in model.named_parameters() if p.requires_grad]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def alone_in(place: Path | None) -> Iterator[None]:
    """Keeps a checkpoint folder for this process: a second one at the same training would overwrite and remove
    its checkpoints. A killed process holds nothing. Raises RuntimeError where the folder is taken."""
    if place is None:
        yield
        return
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(f"another process is at this same training (checkpoints in {place}): let it end or stop it "
                           "(the same lab in a second kernel?), then run this again") from None
    except (OSError, NotImplementedError):
        pass  # a file system without locks, some network drives: the training goes on, but holds nothing
    try:
        yield
    finally:
        lock.release()


def last_checkpoint(folder: Path) -> Path | None:
    """The latest whole checkpoint in a folder; half-written ones are named on stderr and skipped."""
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    for path in found:
        fault = checkpoint_fault(path)
        if not fault:
            return path
        print(f"{path} is half-written ({fault}): skipped", file=sys.stderr)
    return None


def checkpoint_fault(path: Path) -> str:
    """What is missing or damaged in a checkpoint of Trainer; "" where it is whole."""
    weights = [p for p in (path / "model.safetensors", path / "adapter_model.safetensors") if p.exists()]
    missing = [name for name in ("optimizer.pt", "scheduler.pt", "trainer_state.json") if not (path / name).exists()]
    if missing or not weights:
        return f"no {(missing or ['weights'])[0]}"
    try:
        for file in weights:
            with safe_open(file, "pt") as stored:
                stored.keys()
        torch.load(path / "optimizer.pt", weights_only=True, map_location="cpu")
        json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    except (SafetensorError, ValueError, RuntimeError, OSError, EOFError) as error:
        return (str(error).split("\n")[0] or type(error).__name__)[:80]
    return ""
