"""Runs what students wrote in a process of its own, exercise after exercise, under limits.

The process has a temporary folder for its home, only those environment variables that it needs, a time limit for each
exercise and a memory limit; it is killed together with its children. Once the lab's setup has run, an audit hook of
Python (sys.addaudithook, in worker.py) keeps it from writing outside of its folder, opening connections, starting
programs, and reading the labs with their solutions. That stops accidents and the usual pranks. It is no container: code
that is written to get around the hook, through a C library for instance, can do what the user who grades can do, and
can forge its points. Grade strangers' work in a container or as another user.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from utils.course.worker import verdict
from utils.profile import ROOT, CourseError

START_SECONDS = 180  # for the lab's own setup
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class SandboxError(CourseError, RuntimeError):
    """The lab's own cells do not run, so that nobody's exercise can be graded."""


def run(setup: list[str], tasks: list[tuple[str, str, str]], *, seconds: float = 20,
        memory: int = 6 * 2**30) -> dict[str, dict]:
    """{name: {"verdict", "message", "output"}} of the tasks (name, the student's cell, the check).

    verdict: right, wrong, unsolved, error, time, memory or died. One process runs them all, in one namespace as in a
    notebook. Where it must be killed, a new process runs the cells before the one at fault once more, for what they
    define, and goes on with the next. Raises SandboxError.
    """
    results, repeats, remaining = {}, [], list(tasks)
    while remaining:
        with tempfile.TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True) as folder:
            reports, fault = run_process(setup, repeats + remaining, Path(folder), seconds, memory)
        if fault and len(reports) < len(repeats):  # this cell ran the first time only
            repeats.pop(len(reports))
            continue
        new = list(reports)[len(repeats):]
        results |= {name: reports[name] for name in new}
        repeats += [(name, source, "") for name, source, _ in remaining[:len(new)]]
        remaining = remaining[len(new):]
        if fault and remaining:
            results[remaining[0][0]] = fault
            remaining = remaining[1:]
    return results


def environment(folder: Path) -> dict[str, str]:
    """The process's environment variables; HOME and the like are its folder."""
    import matplotlib

    own = dict.fromkeys(("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "TMPDIR", "TEMP", "TMP", "LAB_OUT",
                         "IPYTHONDIR", "HF_HOME", "XDG_CACHE_HOME"), str(folder))
    fixed = {"LAB_PROFILE": "tiny", "MPLBACKEND": "Agg", "MPLCONFIGDIR": matplotlib.get_cachedir(),
             "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT),
             "TOKENIZERS_PARALLELISM": "false"}
    return {k: os.environ[k] for k in KEPT if k in os.environ} | own | fixed


def run_process(setup, tasks, folder: Path, seconds: float, memory: int) -> tuple[dict, dict | None]:
    """({name: report} of the tasks that one process finished, in order; the verdict on the next one where it ended
    the process, or None)."""
    process = subprocess.Popen([sys.executable, "-P", "-m", "utils.course.worker"], cwd=folder, env=environment(folder),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               encoding="utf-8", errors="replace", start_new_session=os.name == "posix")
    lines: queue.Queue = queue.Queue()

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    reports, ready = {}, False
    try:
        with contextlib.suppress(OSError):
            process.stdin.write(json.dumps({"setup": setup, "tasks": tasks}))
            process.stdin.close()
        while len(reports) < len(tasks):
            line = next_line(lines, process, seconds if ready else START_SECONDS, memory)
            if isinstance(line, dict):
                if not ready:
                    raise SandboxError(f"the lab's own setup did not end: {line['message']}")
                return reports, line
            report = parse(line)
            if not ready:
                if report.get("setup") != "":
                    raise SandboxError(f"the lab's own setup fails: {report.get('setup', line[:200])}")
                ready = True
            elif set(report) != {"name", "verdict", "message", "output"} or report["name"] != tasks[len(reports)][0]:
                return reports, verdict("died", "it wrote into the grader's own report")
            else:
                reports[report.pop("name")] = report
        return reports, None
    finally:
        kill(process)


def parse(line: str) -> dict:
    """A line of the process's report; {} where it is none."""
    try:
        report = json.loads(line)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def next_line(lines: queue.Queue, process, seconds: float, memory: int):
    """The process's next line, or the verdict on it: time, memory, died."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            with contextlib.suppress(psutil.Error):
                family = [p := psutil.Process(process.pid), *p.children(recursive=True)]
                if sum(one.memory_info().rss for one in family) > memory:  # a venv's python.exe starts another
                    return verdict("memory", f"it took more than {memory >> 20} MB of memory")
            continue
        return line or verdict("died", "the process that ran it ended in the middle of it")
    return verdict("time", f"it was stopped after {seconds:.0f} seconds: does a loop never end?")


def kill(process) -> None:
    """Ends the process and all that it started."""
    family = []
    with contextlib.suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
    if os.name == "posix":
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    for one in [*family, process]:
        with contextlib.suppress(psutil.Error, OSError):
            one.kill()
    process.wait()
