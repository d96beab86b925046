"""What travels between a check and a learner's function where the two live in different processes: plain values.

Numbers, texts, lists, tuples, dictionaries, tables; tensors and arrays as their bytes. Nothing is pickled, and what
comes back is of Python's own types whatever was sent: an object of another kind arrives as a stranger with its type's
name.
"""

import base64
import math
import os
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

TENSORS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
           "uint8": 1, "bool": 1}  # bytes of a number
ARRAYS = TENSORS.keys() - {"bfloat16"} | {"uint16", "uint32", "uint64"}


class Fault(NamedTuple):
    """How a call stopped."""

    kind: str  # the error's type
    message: str  # its first line
    line: int | None  # of the learner's cell
    stub: bool  # nothing was written yet


class Distant:
    """A learner's function in another process: attempt(given, driver) calls it there, as attempt does here."""

    def __init__(self, name: str, attempt: Callable):
        self.__name__, self.attempt = name, attempt

    def __call__(self, *given):
        answer, fault, _ = self.attempt(given, None)
        if fault:
            raise RuntimeError(f"{fault.kind}: {fault.message}")
        return answer


def attempt(function: Callable, given: tuple, driver: Callable | None = None) -> tuple[object, Fault | None, bool]:
    """(what function(*given), or driver(function, *given), returns; how it stopped; did it change what it was given).
    """
    before = encode(given)
    try:
        answer = driver(function, *given) if driver else function(*given)
    except Exception as error:
        return None, describe(error), False
    return answer, None, encode(given) != before


def describe(error: BaseException) -> Fault:
    """The error, and the line of the learner's cell that it comes from: not of a driver's or of a module's call."""
    torch = sys.modules.get("torch")
    passed = tuple(os.path.dirname(module.__file__) for module in (torch, sys.modules[__name__]) if module)
    where = error.__traceback__ and error.__traceback__.tb_next
    while where and where.tb_frame.f_code.co_filename.startswith(passed):
        where = where.tb_next
    message = (str(error).strip() or "no message").split("\n")[0][:200]
    stub = isinstance(error, NotImplementedError) and not str(error)  # torch's own say what is missing
    return Fault(type(error).__name__, message, where.tb_lineno if where else None, stub)


def encode(value):
    """The value as what JSON can hold."""
    torch, numpy, pandas = map(sys.modules.get, ("torch", "numpy", "pandas"))
    if value is None or isinstance(value, bool):
        return value
    if torch and isinstance(value, torch.Tensor):
        name = str(value.dtype).removeprefix("torch.")
        if name not in TENSORS or value.layout is not torch.strided:
            return {"other": f"Tensor of {name}"}
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return {"tensor": name, "shape": list(value.shape), "bytes": base64.b64encode(data).decode()}
    if numpy and isinstance(value, numpy.ndarray) and value.dtype.name in ARRAYS:
        return {"array": value.dtype.name, "shape": list(value.shape),
                "bytes": base64.b64encode(value.tobytes()).decode()}
    if numpy and isinstance(value, numpy.number | numpy.bool):
        return {"scalar": encode(numpy.asarray(value))}
    if pandas and isinstance(value, pandas.DataFrame):
        return {"table": [[encode(name), encode(value[name].tolist())] for name in value.columns]}
    if isinstance(value, int):
        return int(value) if abs(value) < 10**400 else {"other": "int"}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [encode(v) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
    return {"other": "ellipsis" if value is ... else type(value).__name__}


def decode(data):
    """The value that was encoded. For what encode never gives it raises ValueError, TypeError or RecursionError."""
    if data is None or type(data) in (bool, int, float, str):
        return data
    match data:
        case {"list": list(items)}:
            return [decode(item) for item in items]
        case {"tuple": list(items)}:
            return tuple(decode(item) for item in items)
        case {"dict": list(items)}:
            return {decode(key): decode(value) for key, value in items}
        case {"table": list(columns)}:
            import pandas

            return pandas.DataFrame({decode(name): decode(column) for name, column in columns})
        case {"tensor": str(name), "shape": list(shape), "bytes": str(text)} if name in TENSORS:
            import torch

            content, count = numbers(shape, text, TENSORS[name])
            flat = torch.frombuffer(content, dtype=torch.uint8) if count else torch.empty(0, dtype=torch.uint8)
            return (flat != 0 if name == "bool" else flat.view(getattr(torch, name))).reshape(shape)
        case {"array": str(name), "shape": list(shape), "bytes": str(text)} if name in ARRAYS:
            import numpy

            content, _ = numbers(shape, text, numpy.dtype(name).itemsize)
            kind = "uint8" if name == "bool" else name
            values = numpy.frombuffer(content, kind).reshape(shape)
            return values != 0 if name == "bool" else values
        case {"scalar": array}:
            return decode(array)[()]
        case {"other": "ellipsis"}:
            return ...
        case {"other": str(name)}:
            return type(re.sub(r"\W", "_", name)[:50] or "object", (), {})()
    raise ValueError("no value")


def numbers(shape: list, text: str, size: int) -> tuple[bytearray, int]:
    """(the bytes, how many numbers they are). Raises ValueError where the shape does not fit."""
    if len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**31 for n in shape):
        raise ValueError("no shape")
    content, count = bytearray(base64.b64decode(text, validate=True)), math.prod(shape)
    if len(content) != count * size:
        raise ValueError("the shape does not fit")
    return content, count
