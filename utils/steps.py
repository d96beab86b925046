"""What the alignment methods share: optimizer steps with a watch for NaN, seeds, checkpoints, a callback."""

import json
import math
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from utils.checkpoints import alone_in


def run_steps(policy, head, one_step: Callable, settings: dict, *, seed: int, place: Path | None, label: str,
              callback: Callable | None = None, accelerator=None) -> dict:
    """Calls one_step(step, learn) -> record for settings["steps"] steps, or until callback(record) is True.

    one_step calls learn(losses) for each optimizer step: losses yields (loss, where it comes from), and
    the gradients add up. All random numbers follow from seed and step, so a checkpoint needs none. With
    `place` one is stored there every settings["checkpoint_every"] steps, and removed at the end; where
    there is one, the run goes on from it. Returns history and seconds. Raises FloatingPointError, and
    RuntimeError where another process is at the same run.
    """
    trained = {f"policy.{n}": p for n, p in policy.named_parameters() if p.requires_grad}
    trained |= {f"head.{n}": p for n, p in (head.named_parameters() if head else ())}
    weights = list(trained.values())
    groups = [{"params": [p for p in policy.parameters() if p.requires_grad], "lr": settings["learning_rate"]}]
    if head:
        groups.append({"params": list(head.parameters()), "lr": settings["value_learning_rate"]})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    policy.eval()
    main = not accelerator or accelerator.is_main_process

    def fail(what):
        good = place / f"step-{saved:06d}" if place and saved else "none"
        raise FloatingPointError(f"{label}: {what} in step {len(history)}; last good checkpoint: {good}")

    def learn(losses) -> float:
        """One optimizer step on the sum of the losses; the gradient's norm before it is clipped."""
        optimizer.zero_grad()
        for loss, where in losses:
            if not torch.isfinite(loss):
                fail(f"the loss is {loss.item()} ({where})")
            loss.backward()
        for p in weights if accelerator else ():
            p.grad = accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")
        norm = float(nn.utils.clip_grad_norm_(weights, settings["max_gradient"]))
        if not math.isfinite(norm):
            fail(f"the gradient is {norm} ({where})")
        optimizer.step()
        return norm

    with alone_in(place if main else None):
        history = load_latest(place, trained, optimizer) if place else []
        saved = len(history)
        if accelerator and len(set(gather_object([saved]))) > 1:
            raise RuntimeError(f"{label}: the processes find different checkpoints in {place}: it must be a folder "
                               "that all hosts see")
        bar = tqdm(total=settings["steps"], initial=saved, desc=label, leave=False, disable=not main)
        while len(history) < settings["steps"]:
            step = len(history)
            torch.manual_seed(random.Random(f"{seed} {step} 0").getrandbits(48))
            history.append({"step": step, **one_step(step, learn)})
            bar.update()
            if place and main and len(history) % settings["checkpoint_every"] == 0:
                save(place, trained, optimizer, history)
                saved = len(history)
            if callback and callback(history[-1]):
                break
        bar.close()
    optimizer.zero_grad()
    if place and main:
        shutil.rmtree(place, ignore_errors=True)
    return {"history": history, "seconds": sum(record["seconds"] for record in history)}


def save(place: Path, trained: dict, optimizer, history: list[dict]) -> None:
    """Weights and the optimizer's moments as safetensors, the records as json: written aside, then
    renamed. The two latest are kept."""
    final = place / f"step-{len(history):06d}"
    part = final.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tensors = {name: p.detach() for name, p in trained.items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": tensor for name, tensor in state.items()}
    save_file({name: t.contiguous() for name, t in tensors.items()}, part / "state.safetensors")
    (part / "history.json").write_text(json.dumps(history), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)  # one that was damaged
    os.replace(part, final)
    for old in sorted(place.glob("step-??????"))[:-2]:
        shutil.rmtree(old)


def load_latest(place: Path, trained: dict, optimizer) -> list[dict]:
    """Puts the latest whole checkpoint's weights and moments in place and returns its records, [] where
    there is none. Damaged ones are named on stderr and skipped."""
    for path in sorted(place.glob("step-??????"), reverse=True):
        try:
            tensors = load_file(path / "state.safetensors")
            history = json.loads((path / "history.json").read_text(encoding="utf-8"))
        except (SafetensorError, ValueError, OSError) as error:
            print(f"{path} is damaged ({str(error)[:80]}): skipped", file=sys.stderr)
            continue
        state: dict[int, dict] = {}
        for name in [n for n in tensors if n.startswith("optimizer.")]:
            _, i, key = name.split(".", 2)
            state.setdefault(int(i), {})[key] = tensors.pop(name)
        with torch.no_grad():
            for name, p in trained.items():
                p.copy_(tensors[name])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        return history
    return []
