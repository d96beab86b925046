"""Prompts: instruction, worked examples (shots), query. One template for every task and model."""

import random
from collections.abc import Sequence

SUMMARIZE = "Summarize the conversation."
SUMMARY_CUE = "Summary:"
ANSWER_CUE = "Answer:"

Shot = tuple[str, str]


class PromptTooLong(ValueError):
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


def count_tokens(tokenizer, text: str) -> int:
    """Length of a text in tokens, the end token included."""
    return len(tokenizer(text, verbose=False)["input_ids"])


def check_window(tokenizer, prompt: str, window: int | None = None) -> int:
    """Returns the prompt's length in tokens; raises PromptTooLong where it passes the window."""
    window = window or tokenizer.model_max_length
    n = count_tokens(tokenizer, prompt)
    if n > window:
        raise PromptTooLong(
            f"the prompt has {n} tokens and the context window {window}: drop {n - window} tokens, "
            "for instance with fit_shots(), or truncate on purpose with truncate_prompt()"
        )
    return n


def fit_shots(tokenizer, dialogue: str, shots: Sequence[Shot], window: int | None = None) -> tuple[str, int]:
    """The prompt with as many leading shots as the window holds, and how many those are.

    Whole shots are dropped, the last first; the instruction and the query always stay. Raises
    PromptTooLong where the query alone does not fit.
    """
    window = window or tokenizer.model_max_length
    for k in range(len(shots), -1, -1):
        prompt = summary_prompt(dialogue, shots[:k])
        if count_tokens(tokenizer, prompt) <= window:
            return prompt, k
    check_window(tokenizer, summary_prompt(dialogue), window)
    raise AssertionError("unreachable")


def shorten(tokenizer, dialogues: Sequence[str], window: int | None = None) -> list[str]:
    """The dialogues, each with as many of its first turns as a zero-shot prompt holds; prints how many
    had to be shortened. Raises PromptTooLong where not even one turn fits."""
    window, kept, cut = window or tokenizer.model_max_length, [], 0
    for dialogue in dialogues:
        turns, whole = dialogue.split("\n"), dialogue
        while len(turns) > 1 and count_tokens(tokenizer, summary_prompt(dialogue)) > window:
            turns.pop()
            dialogue = "\n".join(turns)
        check_window(tokenizer, summary_prompt(dialogue), window)
        cut += dialogue != whole
        kept.append(dialogue)
    if cut:
        print(f"{cut} of {len(kept)} dialogues pass the window of {window} tokens: their last turns were dropped")
    return kept


def truncate_prompt(tokenizer, prompt: str, window: int | None = None) -> str:
    """What a careless pipeline does: keeps the first `window` tokens and loses the rest, query included."""
    window = window or tokenizer.model_max_length
    ids = tokenizer(prompt, truncation=True, max_length=window)["input_ids"]
    return tokenizer.decode(ids, skip_special_tokens=True)


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
