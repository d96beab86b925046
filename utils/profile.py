"""What a lab runs on: the profile's table, the device and dtype with the reason, seeds, allocator."""

import ctypes
import os
import platform
import random
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from utils import checks
from utils.checks import ROOT

BEFORE: dict[str, str | None] = {}  # the switches of set_offline as this process found them


class UnknownProfile(ValueError):
    """LAB_PROFILE names no table of labs/profiles.toml."""


def load_profile(name: str | None = None, path: Path | None = None) -> SimpleNamespace:
    """The profile's table as attributes, plus `name`, `root`, `out` (where results go) and
    `checkpoints` (where a training that was stopped left off).

    `name` defaults to the environment variable LAB_PROFILE, then to "tiny"; `path` to LAB_PROFILES,
    then to labs/profiles.toml. Values that begin with "data/" are paths below the repository and
    come back absolute; a hub name whose revision is pinned comes back as name@revision. Raises
    UnknownProfile.
    """
    name = name or os.environ.get("LAB_PROFILE") or "tiny"
    path = path or os.environ.get("LAB_PROFILES") or ROOT / "labs" / "profiles.toml"
    tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    if name not in tables:
        raise UnknownProfile(f"LAB_PROFILE={name!r} is not in {Path(path).name}; known: {', '.join(sorted(tables))}")
    values = {k: str(ROOT / v) if isinstance(v, str) and v.startswith("data/") else v
              for k, v in tables[name].items()}
    for key in [k for k in values if f"{k}_revision" in values]:
        values[key] += f"@{values[f'{key}_revision']}"
    out = Path(os.environ.get("LAB_OUT") or ROOT / "out").absolute() / name
    checkpoints = Path(os.environ.get("LAB_CHECKPOINTS") or out / "checkpoints").absolute()
    return SimpleNamespace(name=name, root=ROOT, out=out, checkpoints=checkpoints, **values)


def choose_device() -> tuple[torch.device, torch.dtype, str]:
    """(device, dtype, reason). bf16 on CUDA and on CPUs that compute in it, else fp32; never fp16,
    in which T5 overflows. LAB_DEVICE=cpu leaves a GPU alone."""
    cpu = os.environ.get("LAB_DEVICE") == "cpu"
    if torch.cuda.is_available() and not cpu:
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.device("cuda"), torch.bfloat16, f"{torch.cuda.get_device_name()} computes in bf16"
        return torch.device("cuda"), torch.float32, f"{torch.cuda.get_device_name()} has no bf16"
    if torch.backends.mps.is_available() and not cpu:
        return torch.device("mps"), torch.float32, "Apple GPU; fp32 because T5 overflows in fp16"
    if cpu_has_bf16():
        return torch.device("cpu"), torch.bfloat16, "this CPU multiplies in bf16 (AMX or AVX512-BF16)"
    return torch.device("cpu"), torch.float32, "this CPU has no bf16 arithmetic"


def cpu_has_bf16() -> bool:
    """True where the processor itself computes in bf16 (AMX or AVX512-BF16)."""
    try:
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    except AttributeError:
        return False


def tune_allocator() -> bool:
    """Tells glibc to keep freed memory: fresh large allocations dominate training steps on CPU.

    Returns False, having done nothing, where the C library is another.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        return bool(libc.mallopt(-1, 2**31 - 1) and libc.mallopt(-3, 2**31 - 1))  # M_TRIM_, M_MMAP_THRESHOLD
    except (OSError, AttributeError):
        return False


def set_seed(seed: int) -> None:
    """Seeds Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def set_offline(offline: bool) -> None:
    """Keeps the Hugging Face libraries off the network, also where they were imported before, or lets this
    process back on after it was kept off; what its user had switched off stays off."""
    import datasets
    import evaluate
    import huggingface_hub

    for switch in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
        BEFORE.setdefault(switch, os.environ.get(switch))
        if offline:
            os.environ[switch] = "1"  # for processes started from here
        elif BEFORE[switch] is None:
            os.environ.pop(switch, None)
    if offline or BEFORE["HF_HUB_OFFLINE"] is None:
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = offline
        evaluate.config.HF_EVALUATE_OFFLINE = offline


def start(seed: int = 0, name: str | None = None) -> SimpleNamespace:
    """A lab's first call: the profile with `device`, `dtype` and `why` set, seeded, reported in one line.

    Raises UnknownProfile, and SetupError where the kernel is another environment's or nothing can be
    written.
    """
    import transformers

    profile = load_profile(name)
    checks.require(checks.environment_fault(), checks.writing_fault(profile.out))
    os.environ["LAB_PROFILE"] = profile.name  # for messages, and for processes started from here
    set_offline(not profile.network)
    tune_allocator()
    set_seed(seed)
    profile.device, profile.dtype, profile.why = choose_device()
    print(f"profile {profile.name} · {profile.device} · {str(profile.dtype).removeprefix('torch.')} "
          f"({profile.why}) · Python {platform.python_version()} · torch {torch.__version__} · "
          f"transformers {transformers.__version__}")
    if fault := checks.space_fault(profile.out):
        print(fault)
    return profile
