"""Runs what students wrote in a process of its own, exercise after exercise, under limits.

The process has a temporary folder for home, an environment with nothing in it that it does not need, a time
limit for each exercise and a limit of memory; it is killed with all its children. A hook of Python's own
(sys.addaudithook) refuses it, once the lab's setup is done, to write outside of its folder, to open connections,
to start programs and to read the labs with their solutions. That stops accidents and the usual pranks. It is no
container: code that is written to get around the hook, through a C library for instance, can do what the user
who grades can do, and can forge its points. Grade strangers' work in a container or as another user.
"""

import contextlib
import io
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

from utils.checks import ROOT

SHOWN = 4000  # characters of output that are kept of a cell
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
REFUSED = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
           "pty.spawn", "os.startfile", "os.kill", "os.killpg", "signal.pthread_kill", "socket.connect", "socket.bind",
           "socket.sendto", "socket.getaddrinfo", "ctypes.dlopen", "sqlite3.connect"}
# Events that change files, and from which argument on they name open folders to start from, -1 for none.
CHANGES = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.chmod": 2,
           "os.chown": 3, "os.utime": 3, "os.truncate": 2, "shutil.rmtree": 1}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class SetupFailed(RuntimeError):
    """The lab's own cells do not run: nobody's exercise can be graded."""


def run(setup: list[str], tasks: list[tuple[str, str, str]], *, seconds: float = 20, start_seconds: float = 180,
        memory: int = 6 * 2**30) -> dict[str, dict]:
    """{name: {"verdict", "message", "output"}} of the tasks (name, the student's cell, the check).

    verdict: right, wrong, unsolved, error, time, memory or died. One process runs them all, in one
    namespace as in a notebook; where one must be killed, a new process goes on with the next. Raises SetupFailed.
    """
    results, left = {}, list(tasks)
    while left:
        with tempfile.TemporaryDirectory(prefix="grade-", ignore_cleanup_errors=True) as folder:
            done, ended = one_process(setup, left, Path(folder), seconds, start_seconds, memory)
        results |= done
        left = left[len(done):]
        if ended and left:
            results[left[0][0]] = ended
            left = left[1:]
    return results


def environment(folder: Path) -> dict[str, str]:
    """What the process sees; HOME and the like are its folder."""
    import matplotlib

    own = dict.fromkeys(("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "TMPDIR", "TEMP", "TMP", "LAB_OUT",
                         "IPYTHONDIR", "HF_HOME", "XDG_CACHE_HOME"), str(folder))
    fixed = {"LAB_PROFILE": "tiny", "MPLBACKEND": "Agg", "MPLCONFIGDIR": matplotlib.get_cachedir(),
             "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT),
             "TOKENIZERS_PARALLELISM": "false"}
    return {k: os.environ[k] for k in KEPT if k in os.environ} | own | fixed


def one_process(setup, tasks, folder: Path, seconds: float, start_seconds: float, memory: int) -> tuple:
    """(results of the tasks it finished, in order; how the next one ended it, or None)."""
    process = subprocess.Popen([sys.executable, "-P", "-m", "utils.sandbox"], cwd=folder, env=environment(folder),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               encoding="utf-8", errors="replace", start_new_session=os.name == "posix")
    lines: queue.Queue = queue.Queue()

    def read():
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    done, ready = {}, False
    try:
        with contextlib.suppress(OSError):
            process.stdin.write(json.dumps({"setup": setup, "tasks": tasks}))
            process.stdin.close()
        while len(done) < len(tasks):
            line = next_line(lines, process, seconds if ready else start_seconds, memory)
            if isinstance(line, dict):
                if not ready:
                    raise SetupFailed(f"the lab's own setup did not end: {line['message']}")
                return done, line
            report = parsed(line)
            if not ready:
                if report.get("setup") != "":
                    raise SetupFailed(f"the lab's own setup fails: {report.get('setup', line[:200])}")
                ready = True
            elif set(report) != {"name", "verdict", "message", "output"} or report["name"] != tasks[len(done)][0]:
                return done, verdict("died", "it wrote into the grader's own report")
            else:
                done[report.pop("name")] = report
        return done, None
    finally:
        kill(process)


def parsed(line: str) -> dict:
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
                if psutil.Process(process.pid).memory_info().rss > memory:
                    return verdict("memory", f"it took more than {memory >> 20} MB of memory")
            continue
        return line or verdict("died", "the process that ran it ended in the middle of it")
    return verdict("time", f"it was stopped after {seconds:.0f} seconds: does a loop never end?")


def verdict(name: str, message: str, output: str = "") -> dict:
    return {"verdict": name, "message": message, "output": output}


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


# Inside of the process


class Capped(io.StringIO):
    """Keeps the first SHOWN characters of what is printed, and counts the rest."""

    more = 0

    def write(self, text):
        room = max(0, SHOWN - self.tell())
        super().write(text[:room])
        self.more += max(0, len(text) - room)
        return len(text)

    def text(self) -> str:
        return self.getvalue() + (f"\n… and {self.more:,} characters more" if self.more else "")


def guard(folder: Path, hidden: list[Path]) -> None:
    """From here on Python refuses what is listed above. It cannot be undone."""
    devices, hidden = {os.devnull, os.path.realpath(os.devnull)}, [os.path.realpath(top) for top in hidden]
    folder = os.path.realpath(folder)

    def below(path, *tops) -> bool:
        return os.path.realpath(os.fsdecode(path)).startswith(tuple(top + os.sep for top in tops))

    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str | bytes | os.PathLike):
                return
            if isinstance(flags, int) and flags & WRITES:
                if os.fsdecode(path) not in devices and not below(path, folder):
                    raise PermissionError(f"grading: nothing may be written outside of its folder: {path!r}")
            elif below(path, *hidden):
                raise PermissionError("grading: the labs may not be read")
        elif event in REFUSED:
            raise PermissionError(f"grading: {event} is refused")
        elif event in CHANGES:
            start = CHANGES[event]
            paths = [a for a in arguments[:start] if isinstance(a, str | bytes | os.PathLike)]
            from_here = paths and all(a in (-1, None) for a in arguments[start:])
            if not from_here or not all(below(p, folder) for p in paths):
                raise PermissionError(f"grading: {event} is refused outside of its folder")

    sys.addaudithook(hook)


def work() -> None:
    """Reads the job from stdin, reports on what was stdout; what cells print goes nowhere but into the report."""
    job, report = json.load(sys.stdin), os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from utils import exercises

    config = Config()
    config.HistoryManager.enabled, config.InteractiveShell.colors = False, "nocolor"
    shell = InteractiveShell.instance(config=config)
    shell.enable_gui = lambda *_, **__: None  # %matplotlib asks for it
    pristine = {module: dict(vars(module)) for name, module in list(sys.modules.items())
                if name.startswith("utils.exercises")}

    def cell(source: str) -> tuple[BaseException | None, str]:
        with (printed := Capped()), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                result = shell.run_cell(source, store_history=False)
                error = result.error_before_exec or result.error_in_exec
            except BaseException as stopped:
                error = stopped
            return error, printed.text()

    def say(**what):
        report.write(json.dumps(what) + "\n")
        report.flush()

    for source in job["setup"]:
        error, _ = cell(source)
        if error:
            say(setup=one_line(error))
            return
    guard(Path.cwd(), [ROOT / "labs", ROOT / "tests"])
    say(setup="")
    for name, source, check in job["tasks"]:
        said, output = cell(source)
        for module, attributes in pristine.items():  # a check that was written over counts for nothing
            vars(module).update(attributes)
        shell.user_ns["exercises"] = exercises
        error, _ = cell(check)
        say(name=name, **judged(said, error, output))


def judged(said: BaseException | None, error: BaseException | None, output: str) -> dict:
    """The verdict from what the student's cell raised and what its check raised."""
    from utils.exercises import Unsolved, Wrong

    if error is None:
        return verdict("right", "", output)
    if isinstance(said, SyntaxError):
        return verdict("error", f"the cell does not parse: {one_line(said)}", output)
    if said is not None:
        return verdict("error", f"the cell stops: {one_line(said)}", output)
    if isinstance(error, Unsolved | Wrong):
        name = "unsolved" if isinstance(error, Unsolved) else "wrong"
        return verdict(name, one_line(error).partition(": ")[2], output)
    return verdict("error", f"the check cannot run: {one_line(error)}", output)


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0][:300]


if __name__ == "__main__":
    work()
