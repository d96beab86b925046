"""The small tasks: reading their files and scoring answers. All scores lie between 0 and 1."""

import ast
import json
import operator
import re
import unicodedata
from pathlib import Path

from utils.files import DataError, of_any_case, read_json_lines

FOLDER = Path(__file__).resolve().parents[1] / "data" / "tasks"
TASKS = ("reply", "translation", "code", "entities", "sentiment", "qa", "tool_call")
INSTRUCTION = {
    "reply": "Reply to the last message.",
    "translation": "Translate English to French.",
    "code": "Write a Python expression.",
    "entities": "List the people and places.",
    "sentiment": "Is the review positive or negative?",
    "qa": "Answer the question from the passage.",
    "tool_call": "Write the tool call as JSON.",
}
NEEDED = {"reply": {"accepted": list}, "translation": {"accepted": list}, "code": {"expected": str},
          "labels": {"instruction": str, "shots": list, "labels": list},
          "fields": {"instruction": str, "shots": list}}  # keys besides input and target, with their kinds

MAX_CHARS = 200  # the longest expression that is evaluated, in characters
MAX_INT = 10**6  # the largest integer that may be written
MAX_SIZE = 1000  # the largest text or list that may come out, in characters or items
MAX_STEPS = 5000  # the largest number of evaluated parts
MAX_POWER = 6
BUILTINS = {f.__name__: f for f in (len, sum, max, min, sorted, abs, round, range, list, str, int)}
METHODS = {"upper", "lower", "replace", "split", "join", "count", "startswith", "index", "title"}
OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow, ast.USub: operator.neg,
    ast.UAdd: operator.pos, ast.Not: operator.not_, ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}


def load_task(name: str, split: str, folder: Path | str = FOLDER) -> list[dict]:
    """The items of `folder`/`name`/`split`.jsonl, in order. Each has "input" and "target", texts both, and what else
    score() reads; its own target is right. Raises DataError."""
    path = Path(folder) / name / f"{split}.jsonl"
    if not path.parent.is_dir():
        raise DataError(f"{path.parent} is missing: the tasks are {', '.join(TASKS)}, the splits train and test")
    kinds, items = {"input": str, "target": str, **NEEDED.get(name, {})}, []
    for line, item in read_json_lines(of_any_case(path), tuple(kinds)):
        where = f"{path}, line {line}"
        for key, kind in kinds.items():
            if not isinstance(item[key], kind) or not item[key]:
                raise DataError(f"{where}: {key} should be a {kind.__name__}, and is {json.dumps(item[key])}")
        if name in TASKS and score(name, item["target"], item) != 1:
            raise DataError(f"{where}: no answer could be right, for its own target {item['target']!r} is not")
        items.append(item)
    return items


def score(task: str, output: str, item: dict) -> float:
    """How good an output is for an item of load_task: 0 (wrong) to 1 (right).

    reply, translation: is it one of the accepted texts? sentiment, qa: is it the target? All up to
    case, spaces and the punctuation at the end. code: has the expression the expected value?
    entities: F1 over the named people and places. tool_call: is it the same JSON object?
    """
    _known(task)
    if task in ("reply", "translation"):
        return float(normalize(output) in {normalize(text) for text in item["accepted"]})
    if task == "code":
        try:
            return float(repr(evaluate(output)) == item["expected"])
        except Exception:
            return 0.0
    if task == "entities":
        return f1(entities(output), entities(item["target"]))
    if task == "tool_call":
        try:
            return float(_typed(json.loads(output)) == _typed(json.loads(item["target"])))
        except (ValueError, RecursionError):
            return 0.0
    return float(normalize(output) == normalize(item["target"]))


def _known(task: str) -> str:
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: the tasks are {', '.join(TASKS)}")
    return task


def _typed(call) -> dict:
    """The JSON object with its types, so that 1, 1.0, "1" and true stay different."""
    if not isinstance(call, dict):
        raise ValueError("not an object")
    return {key: (type(value), value) for key, value in call.items()}


def normalize(text: str) -> str:
    """The text without what does not count: case, extra spaces, punctuation at the end."""
    text = unicodedata.normalize("NFC", text).replace("’", "'").casefold()
    return re.sub(r"\s+", " ", text).strip().rstrip(".!?… ")


def entities(text: str) -> set[tuple[str, str]]:
    """The (kind, name) pairs of a text such as "people: Anna, Tom; places: none"."""
    pairs = set()
    for part in text.split(";"):
        kind, _, names = part.partition(":")
        for name in names.split(","):
            if normalize(name) not in ("", "none"):
                pairs.add((normalize(kind), normalize(name)))
    return pairs


def f1(named: set, wanted: set) -> float:
    """Harmonic mean of precision and recall (a fraction); 1 where both sets are empty."""
    if not named and not wanted:
        return 1.0
    return 2 * len(named & wanted) / (len(named) + len(wanted))


def evaluate(text: str):
    """The value of a Python expression of the small language of the code task.

    Nothing is handed to Python's eval: only literals, arithmetic, comparisons, indexing,
    comprehensions, BUILTINS and METHODS are understood, and size and time are bounded. Raises an
    error otherwise.
    """
    text = text.strip()
    if len(text) > MAX_CHARS:
        raise ValueError(f"longer than {MAX_CHARS} characters")
    return _value(ast.parse(text, mode="eval").body, {}, [MAX_STEPS])


def _value(node: ast.AST, names: dict, steps: list[int]):
    steps[0] -= 1
    if steps[0] < 0:
        raise ValueError("takes too long")
    result = _inner(node, names, steps)
    if _size(result) > MAX_SIZE:
        raise ValueError("the value is too large")
    return result


def _inner(node: ast.AST, names: dict, steps: list[int]):
    def value(part):
        return _value(part, names, steps)

    match node:
        case ast.Constant(value=int() | float() | str() | None as constant):
            if isinstance(constant, int) and abs(constant) > MAX_INT:
                raise ValueError("the number is too large")
            return constant
        case ast.Name(id=name):
            return names[name] if name in names else BUILTINS[name]
        case ast.List(elts=parts):
            return [value(part) for part in parts]
        case ast.Tuple(elts=parts):
            return tuple(value(part) for part in parts)
        case ast.UnaryOp(op=op, operand=part):
            return OPERATORS[type(op)](value(part))
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, value(left), value(right))
        case ast.BoolOp(op=op, values=parts):
            for part in parts:
                result = value(part)
                if bool(result) == isinstance(op, ast.Or):
                    break
            return result
        case ast.Compare(left=left, ops=ops, comparators=parts):
            left = value(left)
            for op, part in zip(ops, parts, strict=True):
                right = value(part)
                if not OPERATORS[type(op)](left, right):
                    return False
                left = right
            return True
        case ast.IfExp(test=test, body=body, orelse=other):
            return value(body) if value(test) else value(other)
        case ast.Subscript(value=sequence, slice=ast.Slice(lower=low, upper=high, step=step)):
            return value(sequence)[slice(*(part and value(part) for part in (low, high, step)))]
        case ast.Subscript(value=sequence, slice=part):
            return value(sequence)[value(part)]
        case ast.ListComp(elt=element, generators=loops) | ast.GeneratorExp(elt=element, generators=loops):
            return list(_loop(element, loops, names, steps))
        case ast.Call(func=function, args=args, keywords=keywords):
            options = {k.arg: value(k.value) for k in keywords}
            if not options.keys() <= {"key", "reverse"}:
                raise ValueError("option not allowed")
            return _call(function, [value(part) for part in args], options, value)
    raise ValueError(f"{type(node).__name__} is not allowed")


def _binary(op: ast.operator, left, right):
    if isinstance(op, ast.Pow) and abs(right) > MAX_POWER:
        raise ValueError("the power is too large")
    if isinstance(op, ast.Mod) and isinstance(left, str):
        raise ValueError("% is for numbers")
    if isinstance(op, ast.Mult):
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and _size(sequence) * times > MAX_SIZE:
                raise ValueError("repeated too often")
    return OPERATORS[type(op)](left, right)


def _call(function: ast.AST, args: list, options: dict, value):
    match function:
        case ast.Name(id=name) if name in BUILTINS:
            if name == "round" and len(args) > 1 and abs(args[1]) > 20:
                raise ValueError("too many digits")
            return BUILTINS[name](*args, **options)
        case ast.Attribute(value=sequence, attr=name) if name in METHODS:
            sequence = value(sequence)
            if isinstance(sequence, str | list):
                return getattr(sequence, name)(*args, **options)
    raise ValueError("call not allowed")


def _loop(element: ast.AST, loops: list, names: dict, steps: list[int]):
    first, *rest = loops
    if not isinstance(first.target, ast.Name) or first.is_async:
        raise ValueError("loop not allowed")
    for item in _value(first.iter, names, steps):
        inner = {**names, first.target.id: item}
        if all(_value(test, inner, steps) for test in first.ifs):
            if rest:
                yield from _loop(element, rest, inner, steps)
            else:
                yield _value(element, inner, steps)


def _size(value) -> int:
    """Characters of a text, items of a list (those of inner lists included), digits of a number."""
    if isinstance(value, int):
        return value.bit_length() // 3
    if isinstance(value, str | range):
        return len(value)
    if isinstance(value, list | tuple):
        return len(value) + sum(_size(item) for item in value)
    return 1
