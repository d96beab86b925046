"""The generators of the seven small tasks: makers.make(name, rng, test) draws one item of a task.

Test items may use slot values and wordings that training never shows (about one in eight, see
`allowed`), and no input can ever be drawn for both: its hash decides where it belongs.
"""

import functools
import importlib
import random
import tomllib
from pathlib import Path

import grammar

TASKS = ("reply", "translation", "code", "entities", "sentiment", "qa", "tool_call")
INSTRUCTIONS: dict[str, list[str]] = {  # the first phrasing of each is the canonical one
    "reply": [
        "Reply to the last message.", "Write the next line of the chat.", "Answer the last message.",
        "What would a friendly person reply?", "Continue the chat with one line.", "Give a fitting reply.",
    ],
    "translation": [
        "Translate English to French.", "Translate the sentence into French.", "Say this in French.",
        "Put the following sentence into French.", "Give the French translation.",
        "How do you say this in French?",
    ],
    "code": [
        "Write a Python expression.", "Write this as a Python expression.", "Turn the text into Python code.",
        "Give one line of Python for this.", "Express this in Python.",
        "Which Python expression computes this?",
    ],
    "entities": [
        "List the people and places.", "Name the people and places in the sentence.",
        "Extract the people and the places.", "Find all people and places in the text.",
        "Which people and places are mentioned?", "Write down who and which places are named.",
    ],
    "sentiment": [
        "Is the review positive or negative?", "Classify the review as positive or negative.",
        "Label the review: positive or negative.", "Name the sentiment: positive or negative.",
        "Did the writer like it: positive or negative?", "Decide whether the review is positive or negative.",
    ],
    "qa": [
        "Answer the question from the passage.", "Read the passage and answer the question.",
        "Copy the answer from the passage.",
        "Answer with words of the passage, or say it is not in the passage.",
        "Find the answer in the passage.", "Use the passage to answer the question.",
    ],
    "tool_call": [
        "Write the tool call as JSON.", "Turn the request into a tool call.", "Call the right tool, in JSON.",
        "Choose a tool and give its arguments as JSON.", "Which tool call answers the request?",
        "Translate the request into a JSON tool call.",
    ],
}
POOLS = {k: tuple(v) for k, v in tomllib.loads((grammar.HERE / "pools.toml").read_text("utf-8")).items()}


@functools.cache
def allowed(values: tuple, test: bool, least: int = 3) -> tuple:
    """The values open to a split: all of them in test, in train those not held out (all of them again
    where fewer than `least` would be left)."""
    kept = tuple(v for v in values if test or not grammar.held_out(str(v)))
    return kept if len(kept) >= least else values


def words(task: str) -> dict:
    """The word lists and patterns of a task, from the toml file beside it. Where a value among its
    `values` is a string, it names a pool."""
    book = tomllib.loads((Path(__file__).parent / f"{task}.toml").read_text("utf-8"))
    values = {slot: POOLS[v] if isinstance(v, str) else tuple(v) for slot, v in book.get("values", {}).items()}
    return {**book, "values": values}


def make(task: str, rng: random.Random, test: bool = False) -> dict:
    """One item of a task: {"input", "target", ...what its scorer needs besides}."""
    module = importlib.import_module(f"makers.{task}")
    while True:
        item = module.make(rng, test)
        if grammar.held_out(item["input"]) == test:
            return item
