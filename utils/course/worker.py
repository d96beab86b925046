"""The process in which a student's code runs. It shuts itself in (wall.py), then answers the grader's requests.

A request and its answer are a line of JSON each. Nothing that this process says is believed: the grader (sandbox.py)
compares the values that come back with its own.
"""

import contextlib
import importlib
import io
import json
import os
import sys

OUTPUT_LIMIT = 4000  # characters that are kept of a cell's output


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


def shut_in(job: dict) -> dict:
    """Puts the wall up as the job says. {"wall": its layers, "seen": what can be read or done all the same}."""
    if sys.platform != "linux":
        raise OSError(f"{sys.platform} has nothing that the labs build one of")
    from utils.course import wall

    layers = wall.enter(wall.readable(*job["read"]), os.getcwd(), memory=job["memory"], cpu=job["cpu"],
                        without=tuple(job["without"]))
    return {"wall": layers, "seen": wall.holes(job["hidden"])}


def work() -> None:
    """Answers the requests on stdin, one after the other, until there are no more."""
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    job = json.loads(requests.readline())

    def send(**fields):
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    try:
        state = shut_in(job) if job["walled"] else {"wall": [], "seen": []}
    except OSError as error:
        return send(fault=str(error))
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from utils.exercises.values import attempt, decode, describe, encode

    config = Config()
    config.HistoryManager.enabled, config.InteractiveShell.colors = False, "nocolor"
    shell = InteractiveShell.instance(config=config)
    shell.enable_gui = lambda *_, **__: None  # %matplotlib asks for it

    def run_cell(source: str) -> tuple[BaseException | None, str]:
        with (output := ShortOutput()), contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                result = shell.run_cell(source, store_history=False)
                error = result.error_before_exec or result.error_in_exec
            except BaseException as exit_or_interrupt:
                error = exit_or_interrupt
            return error, output.text()

    def in_one_line(error: BaseException | None) -> str:
        return "" if error is None else f"{type(error).__name__}: {describe(error).message}"

    for source in job["setup"]:
        error, _ = run_cell(source)
        if error:
            return send(setup=in_one_line(error), **state)
    send(setup="", **state)
    for line in requests:
        request = json.loads(line)
        if "cell" in request:
            error, output = run_cell(request["cell"])
            send(error=in_one_line(error), parses=not isinstance(error, SyntaxError), output=output)
            continue
        value = shell.user_ns.get(request["name"])
        if "given" not in request:
            send(there=request["name"] in shell.user_ns, function=callable(value),
                 value=None if callable(value) else plain(encode, value))
            continue
        driver = None
        if request["driver"]:
            driver = getattr(importlib.import_module("utils.exercises.drivers"), request["driver"])
        with contextlib.redirect_stdout(ShortOutput()), contextlib.redirect_stderr(ShortOutput()):
            answer, fault, changed = attempt(value, decode(request["given"]), driver)
        send(value=plain(encode, answer), fault=fault, changed=changed)


def plain(encode, value):
    """The value encoded; what cannot be is a stranger of its type."""
    try:
        return json.loads(json.dumps(encode(value)))
    except Exception:
        return {"other": type(value).__name__}


if __name__ == "__main__":
    sys.exit(work())
