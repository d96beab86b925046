"""What one needs to know of this machine and installation: python -m utils.report"""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from utils import checks

LIBRARIES = (("torch", "transformers", "tokenizers", "safetensors"), ("datasets", "peft", "accelerate", "evaluate"),
             ("huggingface_hub", "numpy", "pandas", "scikit-learn"), ("jupyterlab", "ipykernel", "nbclient", "nbval"))
SETTINGS = ("LAB_PROFILE", "LAB_PROFILES", "LAB_DEVICE", "LAB_OUT", "LAB_CHECKPOINTS", "HF_HOME", "HF_ENDPOINT",
            "HF_HUB_OFFLINE", "PYTHONPATH", "CUDA_VISIBLE_DEVICES")  # nothing that could be a secret


def installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def attempt(question) -> str:
    """The answer, or what went wrong: a report must come out of a broken installation too."""
    try:
        return question()
    except Exception as error:
        return f"unknown: {type(error).__name__}: {error}".split("\n")[0]


def environment() -> str:
    if os.path.realpath(sys.prefix) == str(checks.ROOT / ".venv"):
        return f"{sys.prefix} (the checkout's own)"
    return f"{sys.prefix} (conda {os.environ.get('CONDA_DEFAULT_ENV', 'no')})"


def kernel() -> str:
    from jupyter_client.kernelspec import KernelSpecManager

    return " ".join(KernelSpecManager().get_kernel_spec("python3").argv[:3])


def device() -> str:
    from utils.profile import choose_device

    where, dtype, why = choose_device()
    return f"{where}, {str(dtype).removeprefix('torch.')} ({why})"


def memory() -> str:
    import psutil

    seen = psutil.virtual_memory()
    return f"{seen.total / 2**30:.1f} GB, {seen.available / 2**30:.1f} GB available"


def folder(path) -> str:
    return f"{path}, {shutil.disk_usage(checks._existing(path)).free / 2**30:.1f} GB free"


def cache() -> str:
    from huggingface_hub import constants

    return folder(constants.HF_HOME)


def commit() -> str:
    def git(*words):
        return subprocess.run(["git", *words], cwd=checks.ROOT, capture_output=True, text=True, check=True).stdout

    return git("rev-parse", "--short", "HEAD").strip() + (", with changes" if git("status", "--porcelain") else "")


def lines() -> list[str]:
    """The report, about twenty lines, and then what stands in the labs' way here, a line each."""
    def load_profile():  # needs torch, which may be what is broken
        from utils.profile import load_profile as load

        return load()

    rows = [("labs", installed("llm-course-labs")),
            ("commit", attempt(commit)),
            ("checkout", checks.ROOT),
            ("python", f"{platform.python_version()}, {sys.executable}"),
            ("env", environment()),
            ("kernel", attempt(kernel)),
            ("system", platform.platform()),
            ("cores", f"{os.cpu_count()}, {platform.machine()}"),
            ("memory", attempt(memory)),
            ("device", attempt(device)),
            ("profile", attempt(lambda: f"{load_profile().name}, model {load_profile().model}")),
            ("results", attempt(lambda: folder(load_profile().out))),
            ("hub cache", attempt(cache)),
            *(("versions", ", ".join(map(installed, group))) for group in LIBRARIES),
            ("settings", ", ".join(f"{k}={os.environ[k]}" for k in SETTINGS if k in os.environ) or "none")]
    asked = (checks.environment_fault, checks.utils_fault, checks.kernel_fault,
             lambda: checks.writing_fault(load_profile().out), lambda: checks.space_fault(load_profile().out))
    faults = [("FAULT", text) for text in map(attempt, asked) if text]
    return [f"{name:10} {text}" for name, text in rows + faults]


if __name__ == "__main__":
    print("\n".join(lines()))
