"""The process that sandbox.py starts: it runs a student's cells and their checks, and reports on each.

Started as a program, it reads its job from stdin. Once the lab's setup has run, guard() takes away what the cells do
not need.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from utils.profile import ROOT

OUTPUT_LIMIT = 4000  # characters that are kept of a cell's output
REFUSED = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
           "pty.spawn", "os.startfile", "os.kill", "os.killpg", "signal.pthread_kill", "socket.connect", "socket.bind",
           "socket.sendto", "socket.getaddrinfo", "ctypes.dlopen", "sqlite3.connect"}
# Events that change files, and from which argument on they name open folders to start from, -1 for none.
CHANGES = {"os.remove": 1, "os.rmdir": 1, "os.mkdir": 2, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.chmod": 2,
           "os.chown": 3, "os.utime": 3, "os.truncate": 2, "shutil.rmtree": 1}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def verdict(name: str, message: str, output: str = "") -> dict:
    """What the grader is told of a cell: the verdict, the reason in one line, what the cell printed."""
    return {"verdict": name, "message": message, "output": output}


class ShortOutput(io.StringIO):
    """Keeps the first OUTPUT_LIMIT characters of what is printed, and counts the rest."""

    more = 0

    def write(self, text):
        room = max(0, OUTPUT_LIMIT - self.tell())
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
    """Reads the job from stdin and writes a report per task, as a line of JSON, to the process's first stdout. What
    cells print goes into their report alone."""
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

    def run_cell(source: str) -> tuple[BaseException | None, str]:
        with (output := ShortOutput()), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                result = shell.run_cell(source, store_history=False)
                error = result.error_before_exec or result.error_in_exec
            except BaseException as exit_or_interrupt:
                error = exit_or_interrupt
            return error, output.text()

    def send(**fields):
        report.write(json.dumps(fields) + "\n")
        report.flush()

    for source in job["setup"]:
        error, _ = run_cell(source)
        if error:
            send(setup=one_line(error))
            return
    guard(Path.cwd(), [ROOT / "labs", ROOT / "tests", ROOT / "out", ROOT / ".git"])
    send(setup="")
    for name, source, check in job["tasks"]:
        cell_error, output = run_cell(source)
        for module, attributes in pristine.items():  # a check that was written over counts for nothing
            vars(module).update(attributes)
        shell.user_ns["exercises"] = exercises
        check_error, _ = run_cell(check)
        send(name=name, **judge(cell_error, check_error, output))


def judge(cell_error: BaseException | None, check_error: BaseException | None, output: str) -> dict:
    """The verdict from what the student's cell raised and what its check raised."""
    from utils.exercises import Unsolved, Wrong

    if check_error is None:
        return verdict("right", "", output)
    if isinstance(cell_error, SyntaxError):
        return verdict("error", f"the cell does not parse: {one_line(cell_error)}", output)
    if cell_error is not None:
        return verdict("error", f"the cell stops: {one_line(cell_error)}", output)
    if isinstance(check_error, Unsolved | Wrong):
        name = "unsolved" if isinstance(check_error, Unsolved) else "wrong"
        return verdict(name, one_line(check_error).partition(": ")[2], output)
    return verdict("error", f"the check cannot run: {one_line(check_error)}", output)


def one_line(error: BaseException) -> str:
    """The error's type and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip()}".split("\n")[0][:300]


if __name__ == "__main__":
    work()
