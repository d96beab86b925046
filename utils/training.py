"""Supervised training on (prompt, completion) pairs, of encoder-decoders and decoder-only models: one loop.

What it takes over from transformers' Trainer, to which a test compares it: AdamW without weight decay, a learning
rate that rises for a tenth of the steps and then falls to 0 in a straight line, gradients clipped to norm 1, rows of
like length together. What differs: the loss of a step is the mean over all the tokens it counts, however the step
is cut into batches (Trainer weighs a T5's batches wrongly, because T5's forward swallows the count of tokens).
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers.trainer_pt_utils import get_length_grouped_indices

from utils import checkpoints
from utils.dialogues import DataError
from utils.generation import by_length, require_room
from utils.models import autocast
from utils.prompts import completion_ids, encode_prompts, summary_prompt

IGNORED = -100  # a label that the loss does not count
PAD_PROMPT, PAD_ANSWER = 16, 8  # lengths are padded up to multiples: few shapes, and little waste

Pair = tuple[str, str]


# Examples and batches


def summary_pairs(table, n: int | None = None, seed: int = 0) -> list[Pair]:
    """n (prompt, summary) pairs drawn from a table of dialogues without replacement, all in order
    where n is None. With one seed a larger draw contains the smaller ones. Raises DataError for too
    few rows or an empty summary."""
    rows = list(zip(table["id"], table["dialogue"], table["summary"], strict=True))
    if n is not None and n > len(rows):
        raise DataError(f"{n} training dialogues asked for, {len(rows)} there: lower the profile's number or add rows")
    for name, _, summary in rows:
        if not summary.strip():
            raise DataError(f"empty summary (id {name!r}): a model cannot be trained on it; fill it in or drop the row")
    drawn = rows if n is None else random.Random(seed).sample(rows, len(rows))[:n]
    return [(summary_prompt(dialogue), summary) for _, dialogue, summary in drawn]


def encode(tokenizer, pairs: Sequence[Pair]) -> list[dict]:
    """[{"input_ids", "labels"}], the tokens of prompts and completions, the latter with the end token. Raises
    PromptTooLong."""
    ids = encode_prompts(tokenizer, [prompt for prompt, _ in pairs])
    labels = [completion_ids(tokenizer, *pair) for pair in pairs]
    return [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]


def collate(rows: list[dict], pad: int = 0, start: int | None = 0, *, prompt_width: int | None = None,
            answer_width: int | None = None, pad_label: int = IGNORED, mask: bool = True) -> dict[str, torch.Tensor]:
    """One batch for an encoder-decoder: input_ids, attention_mask [batch, prompt]; decoder_input_ids, labels [batch,
    answer]. The decoder reads the labels shifted right behind `start`.

    With start=None one for a decoder-only model: input_ids, attention_mask, position_ids, labels, each [batch, prompt +
    answer]. Prompts are padded on the left and answers on the right, so that all answers begin in one column; labels
    are IGNORED before it. The model predicts each label from what stands before it.

    Widths are the longest row's, rounded up, unless given. pad_label=pad and mask=False make the two mistakes
    that Lab 2 measures.
    """
    def width(side, multiple):
        return -(-max(1, *(len(r[side]) for r in rows)) // multiple) * multiple

    prompt_width = prompt_width or width("input_ids", PAD_PROMPT)
    answer_width = answer_width or width("labels", PAD_ANSWER)
    if width("input_ids", 1) > prompt_width or width("labels", 1) > answer_width:
        raise ValueError(f"a row is longer than the batch: {width('input_ids', 1)} and {width('labels', 1)} tokens "
                         f"where {prompt_width} and {answer_width} are given; raise fixed_widths in the profile")

    def padded(sides, to, fill, left=False):
        filling = [[fill] * (to - len(side)) for side in sides]
        return torch.tensor([f + s if left else s + f for s, f in zip(sides, filling, strict=True)])

    prompts, answers = [r["input_ids"] for r in rows], [r["labels"] for r in rows]
    ones = [[[1] * len(side) for side in sides] for sides in (prompts, answers)]
    if start is not None:
        ids, real = padded(prompts, prompt_width, pad), padded(ones[0], prompt_width, 0)
        return {"input_ids": ids, "attention_mask": real if mask else torch.ones_like(ids),
                "decoder_input_ids": padded([[start, *a][:answer_width] for a in answers], answer_width, pad),
                "labels": padded(answers, answer_width, pad_label)}

    def row(of_prompts, of_answers, fill):
        return torch.cat([padded(of_prompts, prompt_width, fill, left=True), padded(of_answers, answer_width, fill)], 1)

    real = row(*ones, 0)
    real = real if mask else torch.ones_like(real)
    labels = row([[IGNORED] * len(p) for p in prompts], answers, pad_label)
    labels[:, 0] = IGNORED  # nothing stands before the first token that could predict it
    return {"input_ids": row(prompts, answers, pad), "attention_mask": real,
            "position_ids": (real.cumsum(1) - 1).clamp(min=0), "labels": labels}


def model_batch(model, tokenizer, rows: list[dict], **options) -> dict[str, torch.Tensor]:
    """The rows as one batch of collate() for the model's kind, on its device; the options are collate's."""
    start = model.config.decoder_start_token_id if model.config.is_encoder_decoder else None
    batch = collate(rows, tokenizer.pad_token_id, start, **options)
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def predict(model, batch: dict, hidden: bool = False) -> tuple:
    """(logits [B, T, vocabulary], labels [B, T], hidden [B, T, width]) where the batch has labels: a decoder-only
    model's last layer, which multiplies by the whole vocabulary, is left out for its prompts. With `hidden` the last
    block's output, else None."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"} | {"use_cache": False}
    inputs |= {"output_hidden_states": True} if hidden else {}
    labels = batch["labels"]
    if model.config.is_encoder_decoder:
        out = model(**inputs)
        return out.logits, labels, out.decoder_hidden_states[-1] if hidden else None
    first = max(1, int((labels != IGNORED).any(0).int().argmax()))
    labels = labels[:, first:]
    places = slice(-labels.shape[1] - 1, -1)  # each label's is the one before it
    out = model(**inputs, logits_to_keep=labels.shape[1] + 1)
    return out.logits[:, :-1], labels, out.hidden_states[-1][:, places] if hidden else None


def step_orders(rows: list[dict], size: int, epochs: int, seed: int) -> list[list[int]]:
    """The rows of each optimizer step, `size` of them, over all epochs: shuffled so that rows of like length meet.
    The answer's length counts first, because a token of the answer costs twice as much as one of the prompt
    (decoder layers and vocabulary). The random numbers are its own: every process finds the same."""
    widest, generator = max(len(r["input_ids"]) for r in rows), torch.Generator().manual_seed(seed)
    lengths, steps = [len(r["labels"]) * widest + len(r["input_ids"]) for r in rows], []
    for _ in range(epochs):
        torch.empty((), dtype=torch.int64).random_(generator=generator)  # the first order is then Trainer's own
        order = get_length_grouped_indices(lengths, size, generator=generator)
        steps += [order[i:i + size] for i in range(0, len(order), size)]
    return steps


# The loss


def token_loss(logits, labels, count=None) -> torch.Tensor:
    """Cross-entropy (nats) summed over the labels [batch, answer] that are not IGNORED, from logits [batch, answer,
    vocabulary], divided by `count`: by default their own number, which makes it their mean."""
    total = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / (count if count is not None else (labels != IGNORED).sum())


@torch.inference_mode()
def mean_loss(model, tokenizer, pairs: Sequence[Pair], *, dtype=torch.float32, batch: int = 64,
              accelerator=None) -> float:
    """Mean cross-entropy (nats) of the completions' tokens, pads neither read nor counted. Several processes
    share each batch."""
    rows, totals = encode(tokenizer, pairs), torch.zeros(2, device=model.device)
    for group in by_length([len(r["input_ids"]) for r in rows], rows=batch):
        with autocast(model.device, dtype):
            logits, labels, _ = predict(model, model_batch(model, tokenizer, own_share(rows, group, accelerator)))
        totals += torch.stack([token_loss(logits, labels, 1), (labels != IGNORED).sum()])
    loss, count = (accelerator.reduce(totals, "sum") if accelerator else totals).tolist()
    return loss / count


# The loop


def fine_tune(model, tokenizer, pairs: Sequence[Pair], settings: dict, *, seed: int = 0, dtype=torch.float32,
              validation: Sequence[Pair] = (), folder: Path | None = None, label: str = "training",
              collator: Callable | None = None, accelerator=None, sharding=None) -> SimpleNamespace:
    """Trains `model` in place on (prompt, completion) pairs and leaves it in evaluation mode.

    settings: epochs, learning_rate, batch and optionally accumulate (batches to a step) and checks
    (how often in all to stop and look; once an epoch by default). With `folder` every check leaves a
    checkpoint there, from which a training that was stopped goes on, and one that has ended is not repeated, until
    checkpoints.clear(folder). With `validation` every check measures its loss, and the weights of the lowest one are
    kept.
    Under several processes (accelerator) each computes its share of every batch, and without dropout the result is
    that of one process; with `sharding` (utils.course.sharding) each also holds only its share of the weights,
    afterwards too. A training goes on under any number of processes; all must see the folder.
    Returns losses and validation [(step, nats per token)], seconds, steps, examples_per_second.
    Raises DataError, PromptTooLong, MemoryError, FloatingPointError where the loss is not a number, and
    TrainingError where another process is at the same training.
    """
    rows = encode(tokenizer, pairs)
    if not rows:
        raise DataError("there is nothing to train on: the list of pairs is empty")
    require_room(model, [len(row["input_ids"]) + len(row["labels"]) for row in rows])
    collator = collator or (lambda group: model_batch(model, tokenizer, group))
    size, parts = settings["batch"] * settings.get("accumulate", 1), settings.get("accumulate", 1)
    steps = step_orders(rows, size, settings["epochs"], seed)
    check_every = -(-len(steps) // settings.get("checks", settings["epochs"]))
    probe = {name: tensor.tolist() for name, tensor in collator(rows[:1]).items()}  # pads and mask, as they will be
    what = [rows, list(validation), settings, seed, str(dtype), label, probe]
    place = checkpoint_place(folder, model, what, accelerator)
    if sharding:
        sharding.shard(model, dtype)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=settings["learning_rate"], weight_decay=0.0, fused=True)
    optimizer.zero_grad()  # of gradients that something else has left
    main = not accelerator or accelerator.is_main_process

    with checkpoints.sole_owner(place if main else None):
        records, best, ended = resume(place, trained, optimizer, accelerator, sharding)
        bar = tqdm(total=len(steps), initial=len(records), desc=label, leave=False, disable=not main)
        for step in range(len(records), 0 if ended else len(steps)):
            began = time.perf_counter()
            torch.manual_seed(random.Random(f"{seed} {step}").getrandbits(48))  # for dropout
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = settings["learning_rate"] * warmup_and_decay(step, len(steps))
            batches = [collator(own_share(rows, part, accelerator)) for part in np.array_split(steps[step], parts)]
            counted = torch.tensor(sum(int((batch["labels"] != IGNORED).sum()) for batch in batches),
                                   device=model.device)
            counted = accelerator.reduce(counted, "sum") if accelerator else counted
            loss = torch.zeros((), device=model.device)
            for batch in batches:
                batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
                part = batch_loss(model, batch, counted, dtype)
                (part * accelerator.num_processes if sharding else part).backward()  # sharded gradients are averaged
                loss += part.detach()
            loss = float(accelerator.reduce(loss, "sum") if accelerator else loss)
            norm = update(optimizer, accelerator=None if sharding else accelerator)
            if not math.isfinite(loss + norm):
                raise checkpoints.not_finite(label, f"the loss is {loss}, the gradient {norm}", place, records)
            records.append({"step": step + 1, "loss": loss, "seconds": time.perf_counter() - began})
            if (step + 1) % check_every == 0 or step + 1 == len(steps):
                best = check(model, tokenizer, validation, records, trained, best, dtype, 4 * size, accelerator)
                save(place, trained, optimizer, records, best, main, sharding)
            bar.update()
        bar.close()
        for name, weights in best.items():
            with torch.no_grad():
                trained[name].copy_(weights)
        if not ended:
            finish(place, trained, records, main, sharding)
        if accelerator:
            accelerator.wait_for_everyone()
    model.eval()
    seconds = sum(record["seconds"] for record in records)
    return SimpleNamespace(
        losses=[(r["step"], r["loss"]) for r in records], seconds=seconds, steps=len(records),
        validation=[(r["step"], r["validation"]) for r in records if "validation" in r],
        examples_per_second=settings["epochs"] * len(rows) / seconds)


def batch_loss(model, batch: dict, counted, dtype) -> torch.Tensor:
    """The batch's share of the step's mean loss over `counted` labels. Raises MemoryError."""
    try:
        with autocast(model.device, dtype):
            logits, labels, _ = predict(model, batch)
        return token_loss(logits, labels, counted)
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"out of memory on {model.device} with {len(batch['labels'])} examples in a batch: lower "
                          "`batch` in this profile's table of labs/profiles.toml and raise `accumulate` by as much"
                          ) from error


def warmup_and_decay(step: int, steps: int) -> float:
    """The factor of the learning rate: up to 1 over the first tenth of the steps, then down to 0."""
    warmup = steps // 10
    return step / warmup if step < warmup else (steps - step) / (steps - warmup)


def update(optimizer, *, limit: float = 1.0, accelerator=None) -> float:
    """One optimizer step on the gradients as they have added up, over all processes; afterwards there are none.
    Returns their norm before it is clipped to `limit`; where that is not finite no weight moves."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    for p in weights if accelerator else ():
        p.grad = accelerator.reduce(torch.zeros_like(p) if p.grad is None else p.grad, "sum")
    norm = nn.utils.clip_grad_norm_(weights, limit)
    norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm


def own_share(rows: list[dict], chosen: Sequence[int], accelerator=None) -> list[dict]:
    """The chosen rows that this process computes. Where nothing is left for it, a row whose labels do not count,
    so that all processes take part in every step."""
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    return [rows[i] for i in chosen[rank::world]] or [{**rows[0], "labels": []}]


# Checks and checkpoints


def check(model, tokenizer, validation, records, trained, best, dtype, batch, accelerator) -> dict:
    """Adds the validation loss to the last record; returns the weights of the lowest one so far, {} without
    validation."""
    if not validation:
        return {}
    model.eval()
    loss = mean_loss(model, tokenizer, validation, dtype=dtype, batch=batch, accelerator=accelerator)
    lowest = min((r["validation"] for r in records if "validation" in r), default=math.inf)
    records[-1]["validation"] = loss
    return {name: p.detach().clone() for name, p in trained.items()} if loss < lowest else best


def checkpoint_place(folder: Path | None, model, what: list, accelerator=None) -> Path | None:
    """The folder below `folder` where this training alone keeps its checkpoints, the same for all processes."""
    place = folder and Path(folder) / checkpoints.fingerprint(model, what)
    return broadcast_object_list([place])[0] if accelerator else place


def save(place, trained: dict, optimizer, records, best: dict, main: bool = True, sharding=None) -> None:
    """A checkpoint of the trained weights, the optimizer and the best weights so far; nothing without a place."""
    if place:
        tensors = checkpoints.optimizer_tensors(optimizer) | {f"weights.{name}": p for name, p in trained.items()}
        tensors |= {f"best.{name}": p for name, p in best.items()}
        tensors = sharding.gather(tensors) if sharding else tensors  # all processes take part
        if main:
            checkpoints.save(place, tensors, records)


def finish(place, trained: dict, records, main: bool = True, sharding=None) -> None:
    """Keeps the trained weights that the training has ended with; nothing without a place."""
    if place:
        tensors = {f"weights.{name}": p for name, p in trained.items()}
        tensors = sharding.gather(tensors) if sharding else tensors  # all processes take part
        if main:
            checkpoints.finish(place, tensors, records)


def resume(place, trained: dict, optimizer, accelerator=None, sharding=None) -> tuple[list[dict], dict, bool]:
    """Puts the latest checkpoint's weights and the optimizer's state in place; returns its records, the best weights
    so far and whether the training has ended. Raises TrainingError where the processes find different checkpoints."""
    tensors, records, ended = checkpoints.load_latest(place)
    if accelerator and len(set(gather_object([(len(records), ended)]))) > 1:
        raise checkpoints.TrainingError(f"the processes find different checkpoints in {place}: it must be a folder "
                                        "that all hosts see")
    best = {}
    if records:
        like = sharding.like if sharding else (lambda tensor, param: tensor.to(param.device))
        params = [p for group in optimizer.param_groups for p in group["params"]]
        with torch.no_grad():
            for name, p in trained.items():
                p.copy_(like(tensors[f"weights.{name}"], p))
        best = {name: like(tensors[f"best.{name}"], p) for name, p in trained.items() if f"best.{name}" in tensors}
        checkpoints.restore_optimizer(optimizer, tensors, lambda tensor, i: like(tensor, params[i]))
    return records, best, ended
