"""The grader's side of the wall: starts the process of a submission (worker.py), sends it cells and inputs, takes plain
values back, and ends it with all that it holds.

The process gets a copy of utils without the answers of the exercises, a folder of its own, and of the environment
variables only those that it needs. Whatever it sends is one line of limited length that is decoded to Python's own
types, or it ends the process; so nothing that it patches, prints or forges can be more than a wrong answer.
"""

import ast
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from utils.exercises.values import Distant, Fault, decode, encode
from utils.profile import PROFILES, ROOT, CourseError

START_SECONDS = 600  # for the lab's own setup
LINE_LIMIT = 4 * 2**20  # bytes of what a submission sends at once
FOLDER_LIMIT = 64 * 2**20  # bytes of its folder
FILES_LIMIT = 4096  # files in it
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
# Functions of utils that are an exercise's answer; a submission's copy of utils refuses them.
ANSWERS = {"metrics": ["distinct"], "prompts": ["fit_shots"], "training": ["collate", "token_loss"],
           "reward": ["bradley_terry", "log_odds"], "rl": ["token_rewards", "gae", "policy_loss"]}
NO_CHECKS = '''"""While grading, checks run elsewhere: here each of them does nothing."""


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return lambda *_, **__: None
'''


class SandboxError(CourseError, RuntimeError):
    """Nobody's exercise can be graded: the lab's own cells do not run, or the wall has a hole."""


class WallError(CourseError, RuntimeError):
    """No wall can be had here."""


class Ended(BaseException):
    """The process of a submission was stopped or ended by itself: (verdict, message). No check may catch it."""


# What a submission's process gets


def write_stage(folder: Path) -> Path:
    """Writes utils without answers, and what a setup reads beside it, to a folder for every submission to read."""
    utils, here = ROOT / "utils", folder / "utils"
    for source in [*utils.glob("*.py"), *(utils / "rouge_by_example").glob("*.py"),
                   *(utils / "course" / f"{name}.py" for name in ("__init__", "wall", "worker")),
                   *(utils / "exercises" / f"{name}.py" for name in ("values", "drivers"))]:
        target = here / source.relative_to(utils)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(without_answers(source.read_text("utf-8"), source.stem), "utf-8")
    (here / "exercises" / "__init__.py").write_text(NO_CHECKS, "utf-8")
    (folder / "labs").mkdir()
    shutil.copy(PROFILES, folder / "labs")
    shutil.copy(ROOT / "pyproject.toml", folder)
    if os.name == "posix":
        (folder / "data").symlink_to(ROOT / "data")
    else:
        shutil.copytree(ROOT / "data", folder / "data")
    return folder


def without_answers(text: str, module: str) -> str:
    """The module's source; the functions that are answers say so instead."""
    if module not in ANSWERS:
        return text
    tree = ast.parse(text)
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and function.name in ANSWERS[module]:
            message = f"utils.{module}.{function.name} is what an exercise asks for: write it yourself"
            function.body = ast.parse(f"raise RuntimeError({message!r})").body
    return ast.unparse(tree)


def environment(folder: Path, stage: Path) -> dict[str, str]:
    """The process's environment variables; HOME and the like are its folder. It computes on one core and no GPU."""
    own = dict.fromkeys(("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "TMPDIR", "TEMP", "TMP", "LAB_OUT",
                         "IPYTHONDIR", "HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"), str(folder))
    fixed = {"LAB_PROFILE": "tiny", "LAB_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
             "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1",
             "PYTHONUTF8": "1", "PYTHONPATH": str(stage), "TOKENIZERS_PARALLELISM": "false"}
    return {k: os.environ[k] for k in KEPT if k in os.environ} | own | fixed


# The process


class Session:
    """The process of one submission: run cells, look at names, call functions. Each may raise Ended.

    `wall` False runs it without. `hidden` are files that it must not be able to read. Raises WallError, SandboxError.
    """

    def __init__(self, stage: Path, setup: list[str], *, wall: bool = True, seconds: float = 20,
                 memory: int = 6 * 2**30, hidden: tuple = (), without: tuple = ()):
        self.seconds, self.memory, self.deadline, self.process = seconds, memory, 0.0, None
        self.place = tempfile.mkdtemp(prefix="grade-")
        try:
            self.start(stage, setup, wall, [str(path) for path in hidden], without)
        except BaseException:
            self.close()
            raise

    def start(self, stage, setup, wall, hidden, without) -> None:
        for name in ("home", "root"):
            os.mkdir(os.path.join(self.place, name))
        home = Path(self.place, "home")
        self.process = subprocess.Popen([sys.executable, "-P", "-m", "utils.course.worker"], cwd=home,
                                        env=environment(home, stage), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, start_new_session=os.name == "posix")
        self.deadline = time.monotonic() + START_SECONDS
        try:
            state = self.ask(setup=setup, walled=wall, memory=self.memory, cpu=int(START_SECONDS + 20 * self.seconds),
                             read=[str(stage), str(ROOT / "data")], hidden=hidden, without=without)
        except Ended as end:
            raise SandboxError(f"the lab's own setup did not end: {end.args[1]}") from None
        if "fault" in state:
            raise WallError(str(state["fault"]))
        if state["seen"]:
            raise SandboxError(f"the wall has a hole here: a submission could {', '.join(state['seen'])}")
        if state["setup"]:
            raise SandboxError(f"the lab's own setup fails: {state['setup']}")
        self.layers = state["wall"]

    def restart_clock(self) -> None:
        """What comes next has `seconds` in all."""
        self.deadline = time.monotonic() + self.seconds

    def run(self, source: str) -> tuple[str, bool, str]:
        """(the error in one line or "", does the cell parse, what it printed)."""
        match self.ask(cell=source):
            case {"error": str(error), "parses": bool(parses), "output": str(output)}:
                return one_line(error, 300), parses, printable(output[:5000])
        raise forged()

    def look(self, name: str):
        """The value of a name, a Distant where it is a function. Raises NameError."""
        match self.ask(name=name):
            case {"there": False}:
                raise NameError(f"no cell defines {name}")
            case {"there": True, "function": True}:
                return Distant(name, lambda given, driver: self.attempt(name, given, driver))
            case {"there": True, "function": False, "value": value}:
                return plain(value)
        raise forged()

    def attempt(self, name: str, given: tuple, driver=None) -> tuple[object, Fault | None, bool]:
        """values.attempt in the process: what the function of that name returns, how it stopped, what it changed."""
        match self.ask(name=name, given=encode(given), driver=driver and driver.__name__):
            case {"value": value, "fault": None, "changed": bool(changed)}:
                return plain(value), None, changed
            case {"fault": [str(kind), str(message), int() | None as line, bool(stub)]}:
                return None, Fault(one_line(kind, 60), one_line(message, 200), line, stub), False
        raise forged()

    def ask(self, **request) -> dict:
        """Sends a request and waits for its answer until the deadline, watching memory and folder."""
        line, answer = json.dumps(request).encode() + b"\n", queue.Queue()

        def exchange():
            with contextlib.suppress(OSError, ValueError):
                self.process.stdin.write(line)
                self.process.stdin.flush()
                answer.put(self.process.stdout.readline(LINE_LIMIT))
            answer.put(b"")

        threading.Thread(target=exchange, daemon=True).start()
        while True:
            with contextlib.suppress(queue.Empty):
                return read_answer(answer.get(timeout=0.2))
            if time.monotonic() > self.deadline:
                raise Ended("time", f"it was stopped after {self.seconds:.0f} seconds: does a loop never end?")
            if self.resident() > self.memory:
                raise Ended("memory", f"it took more than {self.memory >> 20} MB of memory")
            if over_limit(Path(self.place, "home")):
                raise Ended("disk", f"it wrote more than {FOLDER_LIMIT >> 20} MB or {FILES_LIMIT} files")

    def family(self) -> list[psutil.Process]:
        """The process and all that it started: a venv's python.exe starts another, and so do namespaces."""
        with contextlib.suppress(psutil.Error):
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def resident(self) -> int:
        """Bytes of memory that the process and its children hold."""
        held = 0
        for one in self.family():
            with contextlib.suppress(psutil.Error):
                held += one.memory_info().rss
        return held

    def close(self) -> None:
        """Ends the process and all that it started, and removes its folder."""
        if self.process:
            family = self.family()
            if os.name == "posix":
                with contextlib.suppress(OSError):
                    os.killpg(self.process.pid, signal.SIGKILL)
            for one in family:
                with contextlib.suppress(psutil.Error):
                    one.kill()
            self.process.kill()
            self.process.wait()
        remove(self.place)


def read_answer(line: bytes) -> dict:
    """A line of the process as a dictionary. Raises Ended where it is none."""
    if not line:
        raise Ended("died", "the process that ran it ended in the middle of it")
    try:
        answer = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise forged()
    return answer


def forged() -> Ended:
    return Ended("died", "what its process sent is no answer: it wrote into the grader's line")


def plain(data):
    """The value that was sent, of Python's own types. Raises Ended where it is none."""
    try:
        return decode(data)
    except Exception:
        raise forged() from None


def one_line(text: str, length: int) -> str:
    """Text that was sent, as one short line that a terminal, a csv and a page can show."""
    return printable(text[: 4 * length].split("\n")[0])[:length]


def printable(text: str) -> str:
    """Text without what would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def over_limit(folder: Path) -> bool:
    """Whether a folder holds too much; a folder in memory has its own limit."""
    waiting, size, files = [str(folder)], 0, 0
    try:
        while waiting:
            for entry in os.scandir(waiting.pop()):
                size, files = size + entry.stat(follow_symlinks=False).st_size, files + 1
                if size > FOLDER_LIMIT or files > FILES_LIMIT:
                    return True
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
    except FileNotFoundError:  # it goes while one looks
        return False
    except OSError:  # too deep to name
        return True
    return False


def remove(folder: str) -> None:
    """Removes a folder, however deep it has become."""
    with contextlib.suppress(RecursionError):
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.exists(folder) and os.name == "posix":
        subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL)
