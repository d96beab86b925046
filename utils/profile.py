"""What a lab runs on: its profile, the device and dtype with the reason, seeds, and where results go.

Importing this module loads no large library, so that a broken installation can still be described.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import random
import re
import shutil
import sys
import tempfile
import tomllib
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from utils.files import CourseError, DataError, read_text

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parent.parent
INSTALL = "python -m pip install --constraint constraints.txt --editable ."
DISK_FAULTS = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, getattr(errno, "EDQUOT", errno.ENOSPC)}
LEAST_SPACE = 50 * 2**20  # bytes that a lab's notebook, page and claims may take

# What a profile's tables of settings may hold, each key with an example of its kind. training.fine_tune reads
# SUPERVISED, reward.train PAIRWISE, rl.align and rl.dpo read ALIGNED.
SUPERVISED = {"epochs": 1, "learning_rate": 1e-3, "batch": 16, "accumulate": 2, "checks": 2}
PAIRWISE = {"epochs": 1, "learning_rate": 1e-3, "batch": 16}
ALIGNED = {"steps": 10, "batch": 64, "learning_rate": 1e-4, "passes": 2, "samples": 4, "kl": 0.1, "clip": 0.2,
           "value_clip": 0.2, "value_weight": 1.0, "value_learning_rate": 1e-2, "gamma": 1.0, "lam": 0.95,
           "max_new_tokens": 48, "rows": 32, "max_gradient": 1.0, "checkpoint_every": 4}
SETTINGS = {"full": SUPERVISED, "lora": SUPERVISED, "ia3": SUPERVISED, "prompt_tuning": SUPERVISED,
            "other_rates": {"full": 1e-3, "lora": 1e-3}, "reward_training": PAIRWISE, "ppo": ALIGNED,
            "pushed": ALIGNED, "rloo": ALIGNED, "dpo": {**ALIGNED, "beta": 0.1}}
COMPLETED = SETTINGS.keys() - {"pushed"}  # inherited key by key; all other values are inherited as a whole
OPTIONAL = {"like": "tiny", "reward": "owner/name", "model_revision": "main", "dialogues_revision": "main",
            "reward_revision": "main", "judge_revision": "main",
            "cell_seconds": 7200}  # keys that [common] and [tiny] need not have
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes",
         list: "a list in [ ]", dict: "a table in { }"}
DEFAULT = "tiny"  # the profile where none is asked for, and the one that others build on where they name none
PROFILES = ROOT / "labs" / "profiles.toml"

_user_offline: dict[str, str | None] = {}  # the switches of set_offline as this process found them


class SetupError(CourseError, RuntimeError):
    """The labs cannot run here as things stand; the message says why and what to do."""


class ProfileError(CourseError, ValueError):
    """A profile is not there or cannot be used; the message names the file, the key and the fault."""


# Profiles


def profiles_file() -> Path:
    """The file of profiles: LAB_PROFILES, by default labs/profiles.toml."""
    return Path(os.environ.get("LAB_PROFILES") or PROFILES).expanduser()


def results_folder() -> Path:
    """Where results go: LAB_OUT, by default out/ in the repository."""
    return Path(os.environ.get("LAB_OUT") or ROOT / "out").expanduser().absolute()


def models_folder() -> Path:
    """Where models lie that labs get has brought: LAB_MODELS, by default models/ where results go."""
    return Path(os.environ.get("LAB_MODELS") or results_folder() / "models").expanduser().absolute()


def load_profile(name: str | None = None, path: Path | None = None) -> SimpleNamespace:
    """The profile's values as attributes, plus `name`, `root`, `out` (where results go) and `checkpoints`
    (where a training that was stopped left off).

    `name` defaults to the environment variable LAB_PROFILE, then to "tiny"; `path` to profiles_file(). Tables
    that this file does not have are those of labs/profiles.toml. Values that begin with "data/", "./" or "../" are
    paths seen from the repository, with "out/models/" from models_folder(), with "~" from the home folder, and come
    back absolute; a hub name whose revision is pinned comes back as name@revision. Raises ProfileError.
    """
    name = name or os.environ.get("LAB_PROFILE", "").strip() or DEFAULT
    path = Path(path or profiles_file())
    table = profile_table(name, {**read_profiles(PROFILES), **read_profiles(path)}, _shown(path))
    values = {key: absolute(value) if isinstance(value, str) else value
              for key, value in table.items() if not (key in OPTIONAL and value == "")}
    for key in [key for key in values if f"{key}_revision" in values]:
        values[key] += f"@{values[f'{key}_revision']}"
    out = results_folder() / name
    checkpoints = Path(os.environ.get("LAB_CHECKPOINTS") or out / "checkpoints").expanduser().absolute()
    return SimpleNamespace(name=name, root=ROOT, out=out, checkpoints=checkpoints, **values)


def absolute(text: str) -> str:
    """The path of a text that is meant as one, see load_profile(); any other text as it is."""
    if re.match(r"~\w*[/\\]", text):
        return os.path.expanduser(text)
    if re.match(r"out[/\\]models[/\\]", text):
        return str(models_folder() / text[11:])
    return os.path.normpath(ROOT / text) if re.match(r"(data|\.\.?)[/\\]", text) else text


def read_profiles(path: Path | None = None) -> dict[str, dict]:
    """{name: its own table} of a file of profiles, [common] among them. Raises ProfileError."""
    path = Path(path or profiles_file())
    where = _shown(path)
    try:
        text = read_text(path)
        tables = tomllib.loads(text)
    except DataError as error:
        own = ". LAB_PROFILES names this file; left out, it is labs/profiles.toml" if path != PROFILES else ""
        raise ProfileError(f"{error}{own}") from None
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(_syntax_fault(where, text, str(error))) from None
    for key, value in tables.items():
        if not isinstance(value, dict):
            raise ProfileError(f"{where}: {key} belongs to no profile: write it below a line such as [{DEFAULT}]"
                               if not isinstance(value, list) else f"{where}: write [{key}] instead of [[{key}]]")
    return tables


def _syntax_fault(where: str, text: str, message: str) -> str:
    """One line for a file that is not TOML: its line, its table, what the line says, what to do."""
    lines = text.rstrip("\n").split("\n")
    at = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message)
    reason, number = (at[1], int(at[2] or len(lines))) if at else (message, len(lines))
    line = lines[number - 1].strip()
    headers = re.findall(r"^\s*\[+([^][,=]+)\]", "\n".join(lines[:number]), re.M)
    place = f"{where}, line {number}, [{headers[-1]}]" if headers else f"{where}, line {number}"
    if reason.startswith("Cannot declare"):
        return f"{place}: this table stands twice: change the first one, or take another name"
    if reason.startswith("Cannot overwrite"):
        return f"{place}: {line.partition('=')[0].strip()} stands twice: keep one of the two lines"
    advice = "put texts in quotes, close what is opened, write true and false in lower case"
    if "\\" in line:
        advice = "put a text that holds \\ in 'single quotes', or write the path with /"
    elif set(line) & set("“”„‘’«»"):
        advice = "write the straight quotes \" or ' in place of the typographic ones"
    return f"{place}: {line} cannot be read ({reason}): {advice}"


def profile_table(name: str, tables: dict[str, dict], where: str = "labs/profiles.toml") -> dict:
    """All values of a profile: [common], completed by the profile that it is `like` ("tiny" where it says
    nothing), completed by its own table. Keys are known where [common] or [tiny] has them. Raises ProfileError
    for an unknown name or key, a wrong type, or a `like` that leads nowhere or in a circle."""
    known = sorted(tables.keys() - {"common"})
    if name not in known:
        raise ProfileError(f"there is no profile {name!r} in {where}; known: {', '.join(known)}")
    chain = [name]
    while chain[0] != DEFAULT or "like" in tables[DEFAULT]:
        parent = tables[chain[0]].get("like", DEFAULT)
        if parent not in known:
            raise ProfileError(f"[{chain[0]}] in {where}: like = {_toml(parent)} names no profile; known: "
                               f"{', '.join(known)}")
        if parent in chain:
            raise ProfileError(f"[{chain[0]}] in {where}: like leads in a circle: "
                               f"{' is like '.join([*reversed(chain), parent])}")
        chain.insert(0, parent)
    examples = {**OPTIONAL, **tables.get(DEFAULT, {}), **tables.get("common", {}), **SETTINGS}
    values = {}
    for link in ["common", *chain]:
        table = tables.get(link, {})
        _check(f"[{link}] in {where}:", table, examples)
        stale = {f"{key}_revision" for key in table} - table.keys()  # a new name is not at the old one's revision
        merged = {key: {**values[key], **table[key]} for key in COMPLETED & values.keys() & table.keys()}
        values = {**{key: value for key, value in values.items() if key not in stale}, **table, **merged}
    return {key: value for key, value in values.items() if key != "like"}


def _check(where: str, table: dict, examples: dict) -> None:
    """Raises ProfileError naming the first key that has no example, or whose value is of another type than it."""
    for key, value in table.items():
        if key not in examples:
            if near := get_close_matches(key, examples, n=1):
                advice = f"is {near[0]} meant?"
            elif "like" in examples:
                advice = f"[common] and [{DEFAULT}] hold all keys that there are"
            else:
                advice = f"known: {', '.join(examples)}"
            raise ProfileError(f"{where} unknown key {key}; {advice}")
        example = examples[key]
        _check_type(f"{where} {key}", value, example)
        if isinstance(example, dict):  # word_kinds may have any key
            _check(f"{where} {key}:", value, SETTINGS.get(key, dict.fromkeys(value, next(iter(example.values())))))


def _check_type(what: str, value, example) -> None:
    if type(value) is not type(example) and not (type(value) is int and type(example) is float):
        raise ProfileError(f"{what} should be {KINDS[type(example)]}, for instance {_toml(example)}, "
                           f"and is {_toml(value)}")
    if isinstance(value, str) and re.search(r"[\x00-\x1f]", value):
        raise ProfileError(f"{what} = {_toml(value)} holds a tab, a line break or the like, which \\ makes in double "
                           "quotes: put it in 'single quotes', or write the path with /")
    for i, entry in enumerate(value) if isinstance(value, list) and example else ():
        _check_type(f"{what}[{i}]", entry, example[0])


def _toml(value) -> str:
    """A value as it stands in a file of profiles, cut short."""
    if isinstance(value, dict):
        text = "{ " + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + " }"
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 70 else f"{text[:67]}..."


def _shown(path: Path) -> str:
    """The path as messages name it: below the repository without the repository's own."""
    path = path.absolute()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


# Faults of the installation and the disk: each function returns the fault in one line, or ""


def environment_fault(project: Path = ROOT / "pyproject.toml") -> str:
    """Where this Python lacks the labs, or has libraries outside of the project's ranges: a kernel of
    another environment. Takes about 20 ms."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    faults = []
    for requirement in map(Requirement, [table["name"], *table["dependencies"]]):
        try:
            installed = version(requirement.name)
            if not requirement.specifier.contains(installed, prereleases=True):
                faults.append(f"{requirement.name} {installed} instead of {requirement.specifier}")
        except PackageNotFoundError:
            faults.append(f"no {requirement.name}")
    if not faults:
        return ""
    more = f" and {len(faults) - 3} more faults" if len(faults) > 3 else ""
    return (f"this kernel is not the labs' environment: {sys.executable} has {', '.join(faults[:3])}{more}. Start "
            f"Jupyter with make lab, choose the kernel where the labs are installed, or install them here: {INSTALL}")


def writing_fault(folder: Path, what: str = "results go", variable: str = "LAB_OUT") -> str:
    """Where no file can be written to a folder, or to the nearest of its parents while it is not there yet. It tries:
    permissions alone tell nothing of root, of read-only and full disks, and of links that lead nowhere."""
    folder = Path(folder).absolute()
    place = next(p for p in (folder, *folder.parents) if os.path.lexists(p))
    try:
        with tempfile.TemporaryFile(dir=place, buffering=0) as file:
            file.write(b"x")
    except OSError as error:
        return (f"{what} to {folder}, where nothing can be written: set {variable} to a folder of yours "
                f"({error.strerror})")
    return ""


def folder_faults(profile: SimpleNamespace) -> list[str]:
    """The faults of all folders that a lab writes to."""
    places = [profile.out, *(profile.out / name for name in ("claims", "models"))]
    faults = [*(writing_fault(place) for place in places),
              writing_fault(profile.checkpoints, "checkpoints go", "LAB_CHECKPOINTS")]
    return [fault for fault in faults if fault]


def space_fault(folder: Path, needed: int = 0) -> str:
    """Where the disk of a folder has no room for so many bytes and for the results."""
    free, needed = shutil.disk_usage(existing_parent(folder)).free, needed + LEAST_SPACE
    if free >= needed:
        return ""
    return (f"only {free >> 20} MB are free on the disk of {folder}, and the labs may need {needed >> 20} MB there: "
            "make room, or set LAB_OUT to a folder on another disk")


def cannot_write(folder: Path, error: OSError) -> str:
    """The message for results that could not be written: disk full, read-only, no permission."""
    return (f"results cannot be written to {folder}: {error.strerror or error}. Make room there, or set LAB_OUT to a "
            "folder of yours on another disk")


def require(*faults: str) -> None:
    """Raises SetupError with the first fault, if there is one."""
    for fault in filter(None, faults):
        raise SetupError(fault)


def existing_parent(folder: Path) -> Path:
    """The folder itself where it exists, else the nearest of its parents that does."""
    folder = Path(folder).absolute()
    return next(p for p in (folder, *folder.parents) if os.path.exists(p))  # Path's own raises where it may not look


# Device, memory, random numbers


def choose_device() -> tuple[torch.device, torch.dtype, str]:
    """(device, dtype, reason). bf16 on CUDA and on CPUs that compute in it, else fp32; never fp16,
    in which T5 overflows. LAB_DEVICE=cpu leaves a GPU alone. Raises SetupError for another value of it."""
    import torch

    asked = os.environ.get("LAB_DEVICE", "").strip().lower()
    if asked not in ("", "cpu"):
        raise SetupError(f"LAB_DEVICE={asked} is not known: cpu leaves a GPU alone; without it a GPU is taken where "
                         "there is one, and CUDA_VISIBLE_DEVICES says which")
    cpu = asked == "cpu"
    if torch.cuda.is_available() and not cpu and cuda_fault():
        return torch.device("cpu"), torch.bfloat16 if cpu_has_bf16() else torch.float32, cuda_fault()
    if torch.cuda.is_available() and not cpu:
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.device("cuda"), torch.bfloat16, f"{torch.cuda.get_device_name()} computes in bf16"
        return torch.device("cuda"), torch.float32, f"{torch.cuda.get_device_name()} has no bf16"
    if torch.backends.mps.is_available() and not cpu:
        return torch.device("mps"), torch.float32, "Apple GPU; fp32 because T5 overflows in fp16"
    if cpu_has_bf16():
        return torch.device("cpu"), torch.bfloat16, "this CPU multiplies in bf16 (AMX or AVX512-BF16)"
    return torch.device("cpu"), torch.float32, "this CPU has no bf16 arithmetic"


def cuda_fault() -> str:
    """Where the installed torch has no kernels for the graphics card; "" where it has."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    built = [int(arch.rpartition("_")[2].rstrip("af")) for arch in torch.cuda.get_arch_list() if "_" in arch]
    if not built or 10 * major + minor >= min(built):
        return ""
    return (f"{torch.cuda.get_device_name()} has compute capability {major}.{minor}, and this torch was built for "
            f"{min(built) / 10} and newer: the CPU is used")


def cpu_has_bf16() -> bool:
    """True where the processor itself computes in bf16 (AMX or AVX512-BF16)."""
    import torch

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
    import numpy as np
    import torch

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
        _user_offline.setdefault(switch, os.environ.get(switch))
        if offline:
            os.environ[switch] = "1"  # for processes started from here
        elif _user_offline[switch] is None:
            os.environ.pop(switch, None)
    if offline or _user_offline["HF_HUB_OFFLINE"] is None:
        huggingface_hub.constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = offline
        evaluate.config.HF_EVALUATE_OFFLINE = offline


def show_figures() -> None:
    """Lets a notebook show its figures where MPLBACKEND names a backend that shows none in it."""
    backend = os.environ.get("MPLBACKEND", "").lower()
    shows = backend.startswith("module://") or backend in ("", "inline", "widget", "ipympl", "nbagg", "notebook")
    if "ipykernel" in sys.modules and not shows:
        from IPython import get_ipython

        if shell := get_ipython():
            shell.run_line_magic("matplotlib", "inline")


def print_anywhere() -> None:
    """Lets a console show "?" for a character that it lacks, instead of stopping the program."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def start(seed: int = 0, name: str | None = None, lab: int | None = None) -> SimpleNamespace:
    """A lab's first call: the profile with `device`, `dtype` and `why` set, seeded, reported in one line. With the
    lab's number its checkpoints have a folder of their own, and what it needs is looked at (utils.needs).

    Raises ProfileError, SetupError where the kernel is another environment's or nothing can be written, and the error
    that a model or data set of the profile would stop the lab with later.
    """
    print_anywhere()
    profile = load_profile(name)
    require(environment_fault(), *folder_faults(profile))
    if lab is not None:
        profile.checkpoints /= f"lab-{lab:02d}"
    import torch
    import transformers

    os.environ["LAB_PROFILE"] = profile.name  # for messages, and for processes started from here
    set_offline(not profile.network)
    tune_allocator()
    set_seed(seed)
    profile.device, profile.dtype, profile.why = choose_device()
    show_figures()
    print(f"profile {profile.name} · {profile.device} · {str(profile.dtype).removeprefix('torch.')} "
          f"({profile.why}) · Python {platform.python_version()} · torch {torch.__version__} · "
          f"transformers {transformers.__version__}")
    if lab is not None:
        from utils import needs  # it is built on this module

        needs.require(profile, lab)
    return profile
