"""Prompts: instruction, worked examples (shots), query; and what a model reads of them, token by token.

A prompt is a text, or a conversation: a list of {"role": …, "content": …}. A model with a chat template reads both as a
conversation, a text as its user's only turn; a model without one reads texts as they stand.
"""

import random
from bisect import bisect
from collections.abc import Sequence

from jinja2 import TemplateError

from utils.files import CourseError, listed

SUMMARIZE = "Summarize the conversation."
SUMMARY_CUE = "Summary:"
ANSWER_CUE = "Answer:"

Shot = tuple[str, str]
Prompt = str | list[dict]


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


class PromptError(CourseError, ValueError):
    """The model cannot read a conversation of this form."""


def chat_prompt(dialogue: str, shots: Sequence[Shot] = (), instruction: str = SUMMARIZE,
                system: str = "") -> list[dict]:
    """The same request as summary_prompt() as a conversation: a system turn where there is one to give, each shot as
    a turn of the user and an answer of the assistant, then the query."""
    turns = [{"role": "system", "content": system}] if system else []
    for shot, answer in shots:
        turns += [{"role": "user", "content": build(instruction, shot, cue=SUMMARY_CUE)},
                  {"role": "assistant", "content": answer}]
    return [*turns, {"role": "user", "content": build(instruction, dialogue, cue=SUMMARY_CUE)}]


def one_sequence(tokenizer) -> bool:
    """Whether prompt and completion are one sequence of tokens: so it is for a decoder-only model, whose tokenizer
    load_model() makes pad on the left."""
    return tokenizer.padding_side == "left"


def prompt_ids(tokenizer, prompt: Prompt) -> list[int]:
    """The tokens of a prompt as the model reads them: through the chat template where there is one, with the end token
    for an encoder-decoder. Raises PromptError for a conversation that the model cannot read."""
    if not tokenizer.chat_template:
        if not isinstance(prompt, str):
            raise PromptError("this model has no chat template: give it a text, for instance of summary_prompt(), "
                              "instead of a conversation")
        return tokenizer(prompt, verbose=False)["input_ids"]
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    try:
        return tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    except TemplateError as error:
        raise PromptError(f"the model's chat template refuses a conversation of the roles "
                          f"{', '.join(turn['role'] for turn in turns)}: {error}. A system turn can be written at the "
                          "top of the user's first turn instead") from None


def completion_ids(tokenizer, prompt: Prompt, completion: str) -> list[int]:
    """The tokens of a completion as the model should write them after the prompt, the end token included. Without a
    chat template a space stands between a decoder-only model's prompt and the completion."""
    if not one_sequence(tokenizer):
        return tokenizer(text_target=completion, verbose=False)["input_ids"]
    if tokenizer.chat_template:
        ids = tokenizer(completion, add_special_tokens=False, verbose=False)["input_ids"]
    else:
        ids = tokenizer(f"{prompt} {completion}", verbose=False)["input_ids"][len(prompt_ids(tokenizer, prompt)):]
    return [*ids, tokenizer.eos_token_id]


def encode_prompts(tokenizer, prompts: Sequence[Prompt], window: int | None = None) -> list[list[int]]:
    """prompt_ids of each prompt. `window` is the context window in tokens (the tokenizer's model_max_length by
    default). Raises PromptTooLong: nothing is ever cut silently."""
    window = window or tokenizer.model_max_length
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    for i, tokens in enumerate(ids):
        if len(tokens) > window:
            raise PromptTooLong(f"prompt {i} of {len(ids)} has {len(tokens)} tokens and the context window {window}: "
                                "shorten its dialogue (fit_window), drop shots (fit_shots) or truncate it on purpose "
                                "(truncate_prompt)")
    return ids


def count_tokens(tokenizer, prompt: Prompt) -> int:
    """Length of a prompt in tokens, all that its chat template or the tokenizer adds included."""
    return len(prompt_ids(tokenizer, prompt))


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
    be shortened, and which. Raises PromptTooLong, with the id, where not even one turn fits."""
    window, cut, shortened = window or tokenizer.model_max_length, [], []

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
            dialogue = "\n".join(turns[:kept])
            cut.append(name)
        shortened.append(dialogue)
    if cut:
        print(f"{len(cut)} of {len(table)} dialogues pass the window of {window} tokens: their last turns are dropped "
              f"({listed(cut)})")
    return table.assign(dialogue=shortened)


def truncate_prompt(tokenizer, prompt: str, window: int | None = None) -> str:
    """What a careless pipeline does: keeps the first `window` tokens and loses the rest, query included."""
    window = window or tokenizer.model_max_length
    ids = tokenizer(prompt, verbose=False)["input_ids"]
    around = count_tokens(tokenizer, prompt) - len(ids)  # what a chat template puts around the text
    ids = tokenizer(prompt, truncation=True, max_length=max(1, window - around))["input_ids"]
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
