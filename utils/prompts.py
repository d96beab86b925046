"""Prompts: instruction, worked examples (shots), query. One template for every task and model."""

import random
from bisect import bisect
from collections.abc import Sequence

from utils.profile import CourseError

SUMMARIZE = "Summarize the conversation."
SUMMARY_CUE = "Summary:"
ANSWER_CUE = "Answer:"

Shot = tuple[str, str]


class PromptTooLong(CourseError, ValueError):
    """A prompt does not fit the model's context window."""


def build(instruction: str, query: str, shots: Sequence[Shot] = (), cue: str = ANSWER_CUE) -> str:
    """The prompt text: instruction, then each shot with its answer, then the query and the bare cue.

    `shots` are (input, answer) pairs; with none of them the prompt is zero-shot.
    """
    blocks = [f"{x}\n{cue} {y}" for x, y in shots] + [f"{query}\n{cue}"]
    return "\n\n".join([instruction, *blocks])


def summary_prompt(dialogue: str, shots: Sequence[Shot] = (), instruction: str = SUMMARIZE) -> str:
    """The prompt that asks for a summary of one dialogue."""
    return build(instruction, dialogue, shots, SUMMARY_CUE)


def encode_prompts(tokenizer, prompts: Sequence[str], window: int | None = None) -> list[list[int]]:
    """Token ids of each prompt, the end token included. `window` is the context window in tokens (the
    tokenizer's model_max_length by default). Raises PromptTooLong: nothing is ever cut silently."""
    window = window or tokenizer.model_max_length
    ids = [tokenizer(prompt, verbose=False)["input_ids"] for prompt in prompts]
    for i, tokens in enumerate(ids):
        if len(tokens) > window:
            raise PromptTooLong(f"prompt {i} of {len(ids)} has {len(tokens)} tokens and the context window {window}: "
                                "shorten its dialogue (fit_window), drop shots (fit_shots) or truncate it on purpose "
                                "(truncate_prompt)")
    return ids


def count_tokens(tokenizer, text: str) -> int:
    """Length of a text in tokens, the end token included."""
    return len(tokenizer(text, verbose=False)["input_ids"])


def fit_shots(tokenizer, dialogue: str, shots: Sequence[Shot], window: int | None = None) -> tuple[str, int]:
    """The prompt with as many leading shots as the window holds, and how many those are.

    Whole shots are dropped, the last first; the instruction and the query always stay. Raises
    PromptTooLong where the query alone does not fit.
    """
    window = window or tokenizer.model_max_length
    k, prompt = len(shots), summary_prompt(dialogue, shots)
    while k > 0 and count_tokens(tokenizer, prompt) > window:
        k -= 1
        prompt = summary_prompt(dialogue, shots[:k])
    encode_prompts(tokenizer, [prompt], window)  # raises where even the query alone is too long
    return prompt, k


def fit_window(tokenizer, table, window: int | None = None):
    """The table of dialogues, each with as many of its first turns as a zero-shot prompt holds; prints how many had to
    be shortened. Raises PromptTooLong, with the id, where not even one turn fits."""
    window, count, shortened = window or tokenizer.model_max_length, 0, []

    def too_long(turns: list[str]) -> bool:
        return count_tokens(tokenizer, summary_prompt("\n".join(turns))) > window

    for name, dialogue in zip(table["id"], table["dialogue"], strict=True):
        turns = dialogue.split("\n")
        if too_long(turns):
            kept = bisect(range(1, len(turns)), False, key=lambda n, turns=turns: too_long(turns[:n]))
            if kept == 0:
                reason = "its first turn alone is longer" if turns[1:] else "it has no line ends to shorten it at"
                raise PromptTooLong(f"dialogue {name} does not fit the window of {window} tokens ({reason}): put one "
                                    "turn on a line, leave the row out, or take a model with a longer window")
            dialogue, count = "\n".join(turns[:kept]), count + 1
        shortened.append(dialogue)
    if count:
        print(f"{count} of {len(table)} dialogues pass the window of {window} tokens: their last turns are dropped")
    return table.assign(dialogue=shortened)


def truncate_prompt(tokenizer, prompt: str, window: int | None = None) -> str:
    """What a careless pipeline does: keeps the first `window` tokens and loses the rest, query included."""
    window = window or tokenizer.model_max_length
    ids = tokenizer(prompt, truncation=True, max_length=window)["input_ids"]
    return tokenizer.decode(ids, skip_special_tokens=True)


def practice_prompts(preferences, dialogues, heated: int, civil: int) -> tuple[list[str], list[str]]:
    """(heated, civil): the prompts that Lab 3 practises on, from the first dialogues of the preference pairs and
    from the first dialogues of the table that have no civil summary because they need none."""
    calm = dialogues["dialogue"][dialogues["summary_civil"] == ""]
    return tuple([summary_prompt(d) for d in table] for table in (preferences["dialogue"][:heated], calm[:civil]))


def draw_shots(examples: Sequence[Shot], k: int, seed: int, *, shuffle_answers: bool = False) -> list[Shot]:
    """k examples drawn without replacement. With shuffle_answers every answer moves on to the next
    shot, so that no input keeps its own (the control; with k = 1 a foreign answer is drawn)."""
    rng = random.Random(int(seed))
    if k > len(examples):
        raise ValueError(f"{k} shots asked for, {len(examples)} examples there")
    drawn = rng.sample(range(len(examples)), k + 1 if shuffle_answers and k == 1 else k)
    shots = [examples[i] for i in drawn]
    if shuffle_answers and shots:
        answers = [y for _, y in shots]
        shots = [(x, y) for (x, _), y in zip(shots, answers[1:] + answers[:1], strict=True)]
    return shots[:k]
