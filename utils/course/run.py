"""Executes labs from beginning to end: labs run.

Writes the executed notebook and a readable page of each lab to out/<profile>/, together with records.json (seconds,
memory, hardware, date) and claims.json, and prints the claims. A lab's results appear there all together when the lab
has ended; a lab that is interrupted leaves its earlier results in place. So does one that fails; how far it came,
notebook, page and claims, goes to out/<profile>/failed/.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

import nbformat
import psutil
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter

from utils import needs
from utils.checkpoints import STALE
from utils.claims import read_claims, shown, write_claims
from utils.files import CourseError, DataError, read_json, read_text
from utils.profile import ROOT, choose_device, folder_faults, load_profile, models_folder, profiles_file, require

WIDGET = "application/vnd.jupyter.widget-view+json"


class LabError(CourseError, ValueError):
    """There is no lab of that number."""


class LabFailure(CourseError, RuntimeError):
    """A cell of a lab failed; the message names lab, cell and error in one line."""


def find_labs(numbers: list[int] | None = None) -> list[Path]:
    """The notebooks in reading order; those of the numbers where any are given. Raises LabError."""
    labs = {int(p.name[:2]): p for p in sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))}
    unknown = sorted(set(numbers or []) - set(labs))
    if unknown:
        raise LabError(f"no lab {', '.join(map(str, unknown))}; there are {', '.join(map(str, sorted(labs)))}")
    return [labs[n] for n in (numbers or sorted(labs))]


def read_notebook(path: Path):
    """A notebook in format 4. Raises DataError where it is none, as after a merge that left its marks."""
    text = read_text(path)
    try:
        return nbformat.reads(text, 4)
    except Exception as error:  # nbformat has a class for each fault, and some are json's
        marks = [i for i, line in enumerate(text.split("\n"), 1) if line.startswith(("<<<<<<<", ">>>>>>>"))]
        why = f"git left marks of a conflict in line {marks[0]}" if marks else f"{error}".split("\n")[0][:100]
        raise DataError(f"{path} is not a notebook ({why}): git checkout brings back the repository's own") from None


class PeakMemory(threading.Thread):
    """Watches the memory of a process and its children, and a CUDA device's, once a second."""

    def __init__(self, client, device):
        super().__init__(daemon=True)
        self.client, self.peak, self.gpu_mb, self.ended = client, 0, 0, threading.Event()
        self.cuda = device.type == "cuda"

    def run(self):
        while not self.ended.wait(1 if self.peak else 0.1):
            self.gpu_mb = max(self.gpu_mb, gpu_memory_mb() if self.cuda else 0)
            try:
                kernel = psutil.Process(self.client.km.provisioner.pid)
                family = [kernel, *kernel.children(recursive=True)]
                self.peak = max(self.peak, sum(p.memory_info().rss for p in family))
            except (AttributeError, TypeError, psutil.Error):
                continue  # not started yet, or ended already


def gpu_memory_mb() -> int:
    """What all programs together hold of the first GPU's memory, in MiB; 0 where nvidia-smi does not say."""
    words = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(words, capture_output=True, text=True, timeout=10).stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0


def hardware() -> dict:
    """What a record says of this machine: device, dtype, cores, system."""
    device, dtype, _ = choose_device()
    names = {"cuda": lambda: torch.cuda.get_device_name(), "mps": lambda: "Apple GPU", "cpu": lambda: "CPU"}
    return {"device": names[device.type](), "dtype": str(dtype).removeprefix("torch."), "cores": os.cpu_count(),
            "machine": f"{platform.system()} {platform.machine()}"}


def execute(path: Path, out: Path, show, seconds: float | None = None, **env: str) -> dict:
    """Runs one notebook with its results going to `out`; returns its record.

    `show` is called with a line of progress per cell; `seconds` limits each cell; `env` is added to the kernel's
    environment. Raises LabFailure naming the cell that failed, after writing notebook and page as far as they came.
    """
    notebook = read_notebook(path)
    code = [i for i, c in enumerate(notebook.cells) if c.cell_type == "code" and c.source.strip()]
    for i in code:  # a cell that is not reached has no output
        notebook.cells[i].update(outputs=[], execution_count=None)
    client = NotebookClient(notebook, timeout=seconds, kernel_name="python3",
                            extra_arguments=["--IPKernelApp.log_level=50"],  # its chatter is not the learner's
                            coalesce_streams=True, resources={"metadata": {"path": str(path.parent)}})
    start, starts = time.time(), []  # of the lab, of each of its code cells

    def show_progress(cell, cell_index):
        if cell_index in code:
            starts.append(time.time())
        show(f"{path.stem}: cell {len(starts)}/{len(code)}, {time.time() - start:.0f} s")

    client.on_cell_start = show_progress
    memory = PeakMemory(client, choose_device()[0])
    memory.start()
    failure = ""
    try:
        client.execute(env={**os.environ, **env, "LAB_OUT": str(out.parent),
                            "MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    except CellExecutionError as error:
        failure = f"{error.ename}: {error.evalue}"
    except AssertionError:
        if client.km is None:  # nbclient's answer to Ctrl-C: it puts the kernel away, then looks for it again
            raise KeyboardInterrupt from None
        raise
    except DeadKernelError:
        failure = ("its kernel died, most often because memory ran out: lower batch and batch_tokens in the profile's "
                   "table")
    except CellTimeoutError:
        failure = f"it took longer than the profile's cell_seconds, {seconds:.0f} s"
    finally:
        memory.ended.set()
    end = time.time()
    record = {"lab": path.stem, "seconds": round(end - start, 1), "peak_memory_mb": memory.peak >> 20,
              "peak_gpu_memory_mb": memory.gpu_mb, "cells": len(code), "date": time.strftime("%Y-%m-%d"), **hardware(),
              "cell_seconds": [round(b - a, 1) for a, b in pairwise([*starts, end])]}
    clean(notebook)
    out.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out / path.name)
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook)
    (out / f"{path.stem}.html").write_text(page, encoding="utf-8")
    if failure:
        raise LabFailure(f"{path.name} failed in code cell {len(starts)}: {first_line(failure)}")
    return record


def first_line(text: str) -> str:
    return text.strip().split("\n")[0].removesuffix(":")


def clean(notebook) -> None:
    """Keeps of printed text what a screen would show at the end (progress bars overwrite themselves), and drops
    what means nothing without this kernel: widgets, timestamps of cells."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                lines = [line.removesuffix("\r").rpartition("\r")[2].rstrip() for line in output.text.split("\n")]
                output.text = "\n".join(lines) if "".join(lines).strip() else ""
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.get("text", "x") and WIDGET not in o.get("data", {})]


def publish(staging: Path, out: Path) -> None:
    """Moves a lab's files into place, each in one step."""
    for source in sorted(p for p in staging.rglob("*") if p.is_file()):
        target = out / source.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)


def merge_claims(out: Path) -> list[dict]:
    """All labs' claims in one list, also written to claims.json."""
    rows = [row for path in sorted((out / "claims").glob("*.json")) for row in read_claims(path)]
    write_claims(out / "claims.json", rows)
    return rows


def claims_table(rows: list[dict]) -> str:
    """The claims as text, one per line."""
    lines = [f"{'lab':>3}  {'claim':38} {'value':>9}  {'95 % interval':>19}  {'n':>5}  {'held':4}  unit"]
    for r in rows:
        between, held = f"[{shown(r['low'])}, {shown(r['high'])}]", {True: "yes", False: "NO"}.get(r.get("held"), "")
        lines.append(f"{r['lab']:>3}  {r['claim']:38} {shown(r['value']):>9}  {between:>19}  {r['n']:>5}  {held:4}  "
                     f"{r['unit']}")
    return "\n".join(lines)


def run_labs(numbers: list[int] | None = None) -> int:
    """Executes and publishes the labs of these numbers, all by default, and prints all claims.

    Returns 0, or 1 where a lab failed. Raises LabError, ProfileError, SetupError.
    """
    profile, labs = load_profile(), find_labs(numbers)
    out, terminal, failures = profile.out, sys.stdout.isatty(), []
    require(*folder_faults(profile))
    needs.tell(profile, [int(path.name[:2]) for path in labs])
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(".partial-*"):  # of a run that was killed
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)
    env = {"LAB_PROFILES": str(profiles_file().absolute()),  # the kernels start in labs/
           "LAB_MODELS": str(models_folder()), "LAB_CHECKPOINTS": str(profile.checkpoints)}  # both outlive a lab

    def show(text, end=False):
        if terminal or end:
            print(f"\r{text:<78}" if terminal else text, end="\n" if end else "", flush=True)

    for path in labs:
        with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as partial:
            staging = Path(partial) / profile.name
            try:
                record = execute(path, staging, show, getattr(profile, "cell_seconds", None), **env)
            except LabFailure as error:
                publish(staging, out / "failed")
                failures.append(f"{error}. How far it came: {out / 'failed' / path.stem}.html")
                show(f"{path.stem}: FAILED", end=True)
                continue
            file = out / "records.json"
            records = read_json(file) if file.exists() else {}
            (staging / "records.json").write_text(json.dumps({**records, path.stem: record}, indent=1), "utf-8")
            publish(staging, out)
            for stale in (f"{path.stem}.ipynb", f"{path.stem}.html", f"claims/{path.name[:2]}.json"):
                (out / "failed" / stale).unlink(missing_ok=True)
            merge_claims(out)  # here, so that an interruption in the next lab leaves them complete
        show(f"{path.stem}: done in {record['seconds']:.0f} s, peak memory {record['peak_memory_mb']} MB, "
             f"read {out / path.stem}.html", end=True)
    rows = merge_claims(out)
    if rows:
        print(f"\n{claims_table(rows)}\n\nclaims: {out / 'claims.json'}")
    for message in failures:
        print(message, file=sys.stderr)
    return 1 if failures else 0
