"""Whether the labs can run here: the faults that are in the way, and the report that the bug form asks for."""

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from utils.profile import (
    INSTALL,
    ROOT,
    CourseError,
    ProfileError,
    choose_device,
    environment_fault,
    existing_parent,
    folder_faults,
    load_profile,
    require,
    results_folder,
    set_offline,
    space_fault,
    writing_fault,
)

LIBRARIES = (("torch", "transformers", "tokenizers", "safetensors"), ("datasets", "peft", "accelerate", "evaluate"),
             ("huggingface_hub", "numpy", "pandas", "scikit-learn"), ("jupyterlab", "ipykernel", "nbclient", "nbval"))
SETTINGS = ("LAB_PROFILE", "LAB_PROFILES", "LAB_DEVICE", "LAB_OUT", "LAB_MODELS", "LAB_CHECKPOINTS", "HF_HOME",
            "HF_ENDPOINT", "HF_HUB_OFFLINE", "PYTHONPATH", "CUDA_VISIBLE_DEVICES", "MPLBACKEND", "WORLD_SIZE",
            "PYTHONIOENCODING", "JUPYTER_PATH", "JUPYTER_RUNTIME_DIR")  # nothing that could be a secret


def utils_fault() -> str:
    """Where a lab would import another package called utils than this one; "" where all is well."""
    code = "from importlib.util import find_spec; print(*find_spec('utils').submodule_search_locations)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "labs", capture_output=True, text=True)
    location, here = done.stdout.strip(), ROOT / "utils"
    if location and Path(location).resolve() == here:
        return ""
    if not location:
        return f"the labs find no package utils, or a module of that name comes first: {INSTALL}"
    return (f"another package called utils comes before the labs' own: {location} instead of {here}. Take it off "
            "PYTHONPATH, or uninstall it, and start again")


def kernel_fault() -> str:
    """Where Jupyter's kernel python3 is another environment's (left by ipykernel install --user)."""
    from jupyter_client.kernelspec import KernelSpecManager

    spec = KernelSpecManager().get_kernel_spec("python3")
    python = Path(spec.argv[0])  # Jupyter puts its own Python where only a name stands
    if not python.is_absolute() or python.parent.resolve() == Path(sys.executable).parent.resolve():
        return ""
    return (f"Jupyter's kernel python3 is another environment's: {python} instead of {sys.executable}. Remove it: "
            f"jupyter kernelspec remove python3 (it stands in {spec.resource_dir})")


def proxy_fault() -> str:
    """Where the variables of a proxy, or of certificates, keep JupyterLab from starting and the hub out of reach."""
    import httpx

    try:
        httpx.Client().close()
    except Exception as error:  # ImportError, ValueError, OSError, httpx's own
        names = [name for name in os.environ if name.lower() in (
            "all_proxy", "http_proxy", "https_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")]
        return (f"JupyterLab cannot start, nor can anything be fetched, with {' and '.join(names)} as set here "
                f"({type(error).__name__}: {str(error).strip()}): correct or unset it; a SOCKS proxy needs "
                f"python -m pip install \"httpx[socks]\"")
    return ""


def backend_fault() -> str:
    """Where MPLBACKEND, or matplotlib's own settings, keep matplotlib from being imported."""
    try:
        import matplotlib  # noqa: F401
    except ValueError as error:
        return f"MPLBACKEND={os.environ.get('MPLBACKEND')} ({str(error).split(';')[0]}): unset it"
    return ""


def device_fault() -> str:
    """Where LAB_DEVICE names no device that the labs know. Raises SetupError."""
    choose_device()
    return ""


INSTALLATION = (environment_fault, utils_fault, kernel_fault)  # each needs what the one before it vouches for


def require_environment() -> None:
    """Raises SetupError with the first fault of the installation, if there is one."""
    for fault in INSTALLATION:
        require(fault())


def find_faults() -> list[str]:
    """Everything here that is in the labs' way, one line per fault: the installation, then the profile."""
    faults = list(filter(None, map(attempt, INSTALLATION)))
    try:
        profile = load_profile()
    except ProfileError as error:
        return list(filter(None, [*faults, str(error), writing_fault(results_folder())]))
    faults += filter(None, [*map(attempt, (proxy_fault, backend_fault, device_fault)), *folder_faults(profile),
                            space_fault(profile.out)])
    return faults or profile_faults(profile)


def profile_faults(profile) -> list[str]:
    """What of the profile would stop a lab later."""
    from utils import needs  # with the libraries that may be missing

    os.environ["LAB_PROFILE"] = profile.name
    set_offline(not profile.network)
    profile.device, profile.dtype, _ = choose_device()
    try:
        return needs.find_faults(profile)
    finally:
        set_offline(False)


def attempt(question) -> str:
    """The answer, or what went wrong in one line: a report must come out of a broken installation too."""
    try:
        return question()
    except CourseError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}".split("\n")[0]


def installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def environment() -> str:
    if os.path.realpath(sys.prefix) == str(ROOT / ".venv"):
        return f"{sys.prefix} (the checkout's own)"
    return f"{sys.prefix} (conda {os.environ.get('CONDA_DEFAULT_ENV', 'no')})"


def kernel() -> str:
    from jupyter_client.kernelspec import KernelSpecManager

    return " ".join(KernelSpecManager().get_kernel_spec("python3").argv[:3])


def device() -> str:
    where, dtype, why = choose_device()
    return f"{where}, {str(dtype).removeprefix('torch.')} ({why})"


def memory() -> str:
    import psutil

    state = psutil.virtual_memory()
    return f"{state.total / 2**30:.1f} GB, {state.available / 2**30:.1f} GB available"


def folder(path) -> str:
    return f"{path}, {shutil.disk_usage(existing_parent(path)).free / 2**30:.1f} GB free"


def cache() -> str:
    from huggingface_hub import constants

    return folder(constants.HF_HOME)


def commit() -> str:
    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    return git("rev-parse", "--short", "HEAD").strip() + (", with changes" if git("status", "--porcelain") else "")


def report_lines() -> list[str]:
    """This machine and installation in about twenty lines, its faults at the end."""
    rows = [("labs", installed("llm-course-labs")),
            ("commit", attempt(commit)),
            ("checkout", ROOT),
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
    return [f"{name:10} {text}" for name, text in rows + [("FAULT", text) for text in find_faults()]]
