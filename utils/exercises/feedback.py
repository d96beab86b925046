"""What all checks of exercises share: call what a learner wrote, compare, say in one sentence what is wrong."""

import functools
import random
from collections.abc import Callable

import torch

from utils.exercises.values import Distant, attempt


class Verdict(Exception):
    """Ends a cell with its one sentence alone; Jupyter shows no traceback above it."""

    def _render_traceback_(self):
        return [f"{type(self).__name__}: {self}"]


class Unsolved(Verdict):
    """Nothing was written yet."""


class Wrong(Verdict):
    """Something was written, and it is not right."""


def exercise(number: int) -> Callable:
    """Makes a check of a function that raises Wrong or Unsolved: the exercise's number stands in its message, its
    random numbers are fresh, and those outside stay as they were."""
    def wrap(test: Callable) -> Callable:
        @functools.wraps(test)
        def check(*given):
            state = random.getstate()
            random.seed()
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.default_generator.seed()
                    test(*given)
            except Verdict as verdict:
                raise type(verdict)(f"Exercise {number}: {verdict}") from None
            except Exception as error:  # the answer is of a kind that the comparison did not expect
                raise Wrong(f"Exercise {number}: what comes back cannot be compared ({type(error).__name__}): is it of "
                            "the type and shape that the exercise asks for?") from None
            finally:
                random.setstate(state)
            print(f"Exercise {number}: right.")
        return check
    return wrap


def unsolved(name: str) -> Unsolved:
    return Unsolved(f"{name} waits for you: fill it in in the cell above, run that cell, then this one.")


def call(function: Callable, *given, usual: str = "", driver: Callable | None = None):
    """What the learner's function returns, or a driver that is given it (drivers.py). `usual` is added where it stops
    with an error. Raises Unsolved where it returns nothing, Wrong where it stops or changes what it was given."""
    name = getattr(function, "__name__", type(function).__name__)
    if not callable(function):
        raise Wrong(f"a function is wanted here, not {kind(function)}.")
    if isinstance(function, Distant):
        answer, fault, changed = function.attempt(given, driver)
    else:
        answer, fault, changed = attempt(function, given, driver)
    if (fault and fault.stub) or (not fault and (answer is None or answer is Ellipsis)):
        raise unsolved(name)
    if fault:
        line = f"stops in line {fault.line} of its cell" if fault.line else "cannot be called as it should be"
        raise Wrong(f"{name} {line} ({fault.kind}: {fault.message}){usual and ': ' + usual}.")
    if changed:
        raise Wrong(f"{name} changes what it is given: work on a copy, not in place.")
    return answer


def kind(value) -> str:
    return f"a value of type {type(value).__name__}"


def need(condition, message: str) -> None:
    """Raises Wrong with the message where the condition does not hold."""
    if not condition:
        raise Wrong(message)


def tensor(answer, *shape: int, usual: str = "") -> torch.Tensor:
    """The same, as float64 without gradient. Raises Wrong where it is no tensor or has another shape."""
    wanted = f"a tensor of shape {list(shape)}" if shape else "a single number (a tensor of shape [])"
    need(isinstance(answer, torch.Tensor), f"{wanted} is wanted, not {kind(answer)}.")
    need(tuple(answer.shape) == shape, f"{wanted} is wanted, yours has {list(answer.shape)}{usual and ': ' + usual}.")
    return answer.detach().cpu().double()


def close(a, b) -> bool:
    a, b = (torch.as_tensor(x).detach().double() for x in (a, b))
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def compare(answer, right, mistakes: dict, otherwise: str) -> None:
    """Nothing where `answer` is right; else Wrong with the message of the mistake that gives the same
    numbers, mistakes = {message: what it gives}, or a list of such."""
    if not close(answer, right):
        messages = [message for message, wrong in mistakes.items()
                 if any(close(answer, w) for w in (wrong if isinstance(wrong, list) else [wrong]))]
        raise Wrong((messages or [otherwise])[0])


def prediction(guess, right: dict[str, str], hints: dict[str, str]) -> None:
    """Compares a dictionary of predictions; `hints` say for each entry where one usually goes wrong."""
    words = sorted(set(right.values()))
    need(isinstance(guess, dict) and set(guess) == set(right),
         f"the prediction should have these entries and no others: {', '.join(right)}.")
    if any(guess[key] in ("?", None, ...) for key in right):
        raise unsolved("your prediction")
    for key, value in right.items():
        need(guess[key] in words, f"{key!r}: write one of {', '.join(words)}.")
        need(guess[key] == value, f"{key!r} will come out otherwise: {hints[key]}.")
