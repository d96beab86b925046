"""Executes labs from beginning to end: python -m utils.run [1 2 …]

Writes the executed notebook and a readable page of each lab to out/<profile>/ together with
records.json (seconds, memory, hardware, date) and claims.json, and prints the claims. A lab's results appear there
when the lab is done, all together; a failed or interrupted lab leaves the earlier ones in place.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import psutil
import torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter

from utils import checks
from utils.claims import read_claims, shown, write_claims
from utils.profile import ROOT, choose_device, load_profile

CELL_SECONDS = 7200  # a full-size training in one cell
WIDGET = "application/vnd.jupyter.widget-view+json"


def find_labs(numbers: list[int] | None = None) -> list[Path]:
    """The notebooks in reading order; some of them where numbers are given. Raises SystemExit."""
    labs = {int(p.name[:2]): p for p in sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))}
    unknown = sorted(set(numbers or []) - set(labs))
    if unknown:
        sys.exit(f"no lab {', '.join(map(str, unknown))}; there are {', '.join(map(str, sorted(labs)))}")
    return [labs[n] for n in (numbers or sorted(labs))]


class PeakMemory(threading.Thread):
    """Watches the memory of a process and its children, and a CUDA device's, once a second."""

    def __init__(self, client, device):
        super().__init__(daemon=True)
        self.client, self.peak, self.gpu_mb, self.done = client, 0, 0, threading.Event()
        self.cuda = device.type == "cuda"

    def run(self):
        while not self.done.wait(1 if self.peak else 0.1):
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


def execute(path: Path, out: Path, line) -> dict:
    """Runs one notebook with its results going to `out`; returns its record. `line` prints progress.

    Raises RuntimeError naming the cell that failed.
    """
    notebook = nbformat.read(path, 4)
    code = [i for i, c in enumerate(notebook.cells) if c.cell_type == "code" and c.source.strip()]
    client = NotebookClient(notebook, timeout=CELL_SECONDS, kernel_name="python3",
                            extra_arguments=["--IPKernelApp.log_level=50"],  # its chatter is not the learner's
                            coalesce_streams=True, resources={"metadata": {"path": str(path.parent)}})
    started, at = time.time(), {"cell": 0}

    def begun(cell, cell_index):
        at["cell"] = code.index(cell_index) + 1 if cell_index in code else at["cell"]
        line(f"{path.stem}: cell {at['cell']}/{len(code)}, {time.time() - started:.0f} s")

    client.on_cell_start = begun
    memory = PeakMemory(client, choose_device()[0])
    memory.start()
    before = os.environ.get("LAB_OUT")
    os.environ["LAB_OUT"] = str(out.parent)  # the kernel inherits it
    try:
        client.execute()
    except CellExecutionError as error:
        raise RuntimeError(f"{path.name} failed in code cell {at['cell']}: {error.ename}: {error.evalue}") from error
    except AssertionError:
        if client.km is None:  # nbclient's answer to Ctrl-C: it puts the kernel away, then looks for it again
            raise KeyboardInterrupt from None
        raise
    except DeadKernelError as error:
        raise RuntimeError(f"{path.name} failed in code cell {at['cell']}: its kernel died, most often because memory "
                           "ran out: lower batch and batch_tokens in the profile's table") from error
    except CellTimeoutError as error:
        raise RuntimeError(f"{path.name} failed in code cell {at['cell']}: {error}") from error
    finally:
        memory.done.set()
        os.environ.pop("LAB_OUT")
        if before is not None:
            os.environ["LAB_OUT"] = before
    record = {"lab": path.stem, "seconds": round(time.time() - started, 1), "peak_memory_mb": memory.peak >> 20,
              "peak_gpu_memory_mb": memory.gpu_mb, "cells": len(code), "date": time.strftime("%Y-%m-%d"), **hardware()}
    clean(notebook)
    out.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, out / path.name)
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook)
    (out / f"{path.stem}.html").write_text(page, encoding="utf-8")
    return record


def clean(notebook) -> None:
    """Leaves of printed text what a screen would show at the end (progress bars overwrite themselves)
    and drops what is nothing without this kernel: widgets, timestamps of cells."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                kept = [line.removesuffix("\r").rpartition("\r")[2].rstrip() for line in output.text.split("\n")]
                output.text = "\n".join(kept) if "".join(kept).strip() else ""
        if "outputs" in cell:
            cell.outputs = [o for o in cell.outputs if o.get("text", "x") and WIDGET not in o.get("data", {})]


def publish(staged: Path, final: Path) -> None:
    """Moves a finished lab's files into place, each in one step."""
    for source in sorted(p for p in staged.rglob("*") if p.is_file()):
        target = final / source.relative_to(staged)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)


def merge_claims(out: Path) -> list[dict]:
    """All labs' claims in one list, also written to claims.json."""
    rows = [row for path in sorted((out / "claims").glob("*.json")) for row in read_claims(path)]
    write_claims(out / "claims.json", rows)
    return rows


def table(rows: list[dict]) -> str:
    """The claims as text, one a line."""
    lines = [f"{'lab':>3}  {'claim':34} {'value':>9}  {'95 % interval':>19}  {'n':>5}  unit"]
    for r in rows:
        between = f"[{shown(r['low'])}, {shown(r['high'])}]"
        lines.append(f"{r['lab']:>3}  {r['claim']:34} {shown(r['value']):>9}  {between:>19}  {r['n']:>5}  {r['unit']}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labs", nargs="*", type=int, help="numbers of labs; all of them by default")
    args = parser.parse_args(arguments)
    profile = load_profile()
    try:
        checks.require(checks.environment_fault(), checks.utils_fault(), checks.kernel_fault())
        return run_labs(profile, find_labs(args.labs))
    except checks.SetupError as error:
        sys.exit(str(error))
    except OSError as error:
        if error.errno not in checks.DISK_FAULTS:
            raise
        sys.exit(checks.cannot_write(profile.out, error))


def run_labs(profile, labs: list[Path]) -> int:
    """Executes and publishes each; prints all claims. 0, or 1 where a lab failed."""
    out, terminal, failed = profile.out, sys.stdout.isatty(), []
    out.mkdir(parents=True, exist_ok=True)
    if os.environ.get("LAB_PROFILES"):  # the kernels start in labs/
        os.environ["LAB_PROFILES"] = str(Path(os.environ["LAB_PROFILES"]).absolute())
    os.environ["LAB_CHECKPOINTS"] = str(profile.checkpoints)  # outlives a lab that was interrupted

    def line(text, end=False):
        if terminal or end:
            print(f"\r{text:<78}" if terminal else text, end="\n" if end else "", flush=True)

    for path in labs:
        with tempfile.TemporaryDirectory(dir=out, prefix=".partial-") as partial:
            staged = Path(partial) / profile.name
            try:
                record = execute(path, staged, line)
            except RuntimeError as error:
                failed.append(str(error))
                line(f"{path.stem}: FAILED", end=True)
                continue
            records = out / "records.json"
            known = json.loads(records.read_text("utf-8")) if records.exists() else {}
            (staged / "records.json").write_text(json.dumps({**known, path.stem: record}, indent=1), "utf-8")
            shutil.rmtree(staged / ".cache", ignore_errors=True)
            publish(staged, out)
            merge_claims(out)  # here, so that an interruption in the next lab leaves them whole
        line(f"{path.stem}: done in {record['seconds']:.0f} s, peak memory {record['peak_memory_mb']} MB, "
             f"read {out / path.stem}.html", end=True)
    rows = merge_claims(out)
    if rows:
        print("\n" + table(rows) + f"\n\nclaims: {out / 'claims.json'}")
    for message in failed:
        print(message, file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted: finished labs are kept, the running one left nothing behind")
