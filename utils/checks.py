"""Is this the right environment, and can results be written? Each check returns the fault in one line, or ""."""

import errno
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
INSTALL = "python -m pip install --constraint constraints.txt --editable ."
DISK_FAULTS = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, getattr(errno, "EDQUOT", errno.ENOSPC)}
LITTLE = 500 * 2**20  # bytes; the checkpoints of Lab 2's largest training need about half of it


class SetupError(RuntimeError):
    """The labs cannot run here as things stand; the message says why and what to do."""


def environment_fault(project: Path = ROOT / "pyproject.toml") -> str:
    """Where this Python lacks the labs, or has libraries outside of the project's ranges: a kernel of
    another environment. Takes about 20 ms."""
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    wrong = []
    for requirement in map(Requirement, [table["name"], *table["dependencies"]]):
        try:
            found = version(requirement.name)
            if not requirement.specifier.contains(found, prereleases=True):
                wrong.append(f"{requirement.name} {found} instead of {requirement.specifier}")
        except PackageNotFoundError:
            wrong.append(f"no {requirement.name}")
    if not wrong:
        return ""
    more = f" and {len(wrong) - 3} more faults" if len(wrong) > 3 else ""
    return (f"this kernel is not the labs' environment: {sys.executable} has {', '.join(wrong[:3])}{more}. Start "
            f"Jupyter with make lab, choose the kernel where the labs are installed, or install them here: {INSTALL}")


def writing_fault(folder: Path) -> str:
    """Where nothing can be written to a folder that need not exist yet."""
    if os.access(_existing(folder), os.W_OK | os.X_OK):
        return ""
    return f"results go to {folder}, where nothing can be written: set LAB_OUT to a folder of yours"


def space_fault(folder: Path) -> str:
    """Where the disk of a folder is nearly full."""
    free = shutil.disk_usage(_existing(folder)).free
    return f"only {free >> 20} MB are free on the disk of {folder}: make room, or set LAB_OUT" if free < LITTLE else ""


def cannot_write(folder: Path, error: OSError) -> str:
    """The message for results that could not be written: disk full, read-only, no permission."""
    return (f"results cannot be written to {folder}: {error.strerror or error}. Make room there, or set LAB_OUT to a "
            "folder of yours on another disk")


def utils_fault() -> str:
    """Where a lab would import another package called utils than this one."""
    code = "from importlib.util import find_spec; print(*find_spec('utils').submodule_search_locations)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "labs", capture_output=True, text=True)
    found, here = done.stdout.strip(), Path(__file__).resolve().parent
    if found and Path(found).resolve() == here:
        return ""
    if not found:
        return f"the labs find no package utils, or a module of that name comes first: {INSTALL}"
    return (f"another package called utils comes before the labs' own: {found} instead of {here}. Take it off "
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


def require(*faults: str) -> None:
    """Raises SetupError with the first fault, if there is one."""
    for fault in filter(None, faults):
        raise SetupError(fault)


def _existing(folder: Path) -> Path:
    folder = Path(folder).absolute()
    return next(p for p in (folder, *folder.parents) if os.path.exists(p))  # Path's own raises where it may not look


if __name__ == "__main__":  # make lab
    try:
        require(environment_fault(), utils_fault(), kernel_fault())
    except SetupError as error:
        sys.exit(str(error))
