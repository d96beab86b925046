"""Supervised training of an encoder-decoder: Seq2SeqTrainer with its traps taken out.

transformers' Trainer scales a T5's loss wrongly under gradient accumulation, because T5's forward
swallows the count of tokens without using it; here the loss is a sum divided by that count.
"""

import math
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PrinterCallback, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.utils import logging

from utils.checkpoints import alone_in, fingerprint, last_checkpoint
from utils.dialogues import DataError
from utils.prompts import PromptTooLong, summary_prompt
from utils.sharding import ShardedTrainer

IGNORED = -100  # a label that the loss does not count
PAD_PROMPT, PAD_ANSWER = 16, 8  # lengths are padded up to multiples: few shapes, and little waste

Pair = tuple[str, str]


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
    chosen = rows if n is None else random.Random(seed).sample(rows, len(rows))[:n]
    return [(summary_prompt(dialogue), summary) for _, dialogue, summary in chosen]


def encode(tokenizer, pairs: Sequence[Pair]) -> list[dict]:
    """[{"input_ids", "labels"}], token ids with the end token. Raises PromptTooLong."""
    rows = []
    for i, (prompt, completion) in enumerate(pairs):
        ids = tokenizer(prompt, verbose=False)["input_ids"]
        if len(ids) > tokenizer.model_max_length:
            raise PromptTooLong(f"training prompt {i} has {len(ids)} tokens, the window {tokenizer.model_max_length}: "
                                "drop it, or truncate it on purpose with prompts.truncate_prompt()")
        rows.append({"input_ids": ids, "labels": tokenizer(text_target=completion, verbose=False)["input_ids"]})
    return rows


def collate(rows: list[dict], pad: int = 0, start: int = 0, *, prompt_width: int | None = None,
            answer_width: int | None = None, pad_label: int = IGNORED, mask: bool = True) -> dict[str, torch.Tensor]:
    """One batch: input_ids, attention_mask [batch, prompt]; decoder_input_ids, labels [batch, answer].

    The decoder reads the labels shifted right behind `start`. Widths are the longest row's, rounded
    up, unless given. pad_label=pad and mask=False make the two mistakes that Lab 2 measures.
    """
    def width(side, multiple):
        return -(-max(1, *(len(r[side]) for r in rows)) // multiple) * multiple

    prompt_width = prompt_width or width("input_ids", PAD_PROMPT)
    answer_width = answer_width or width("labels", PAD_ANSWER)
    if width("input_ids", 1) > prompt_width or width("labels", 1) > answer_width:
        raise ValueError(f"a row is longer than the batch: {width('input_ids', 1)} and {width('labels', 1)} tokens "
                         f"where {prompt_width} and {answer_width} are given; raise fixed_widths in the profile")

    def padded(side, to, fill, before=()):
        return torch.tensor([(list(before) + r[side] + [fill] * to)[:to] for r in rows])

    ids = padded("input_ids", prompt_width, pad)
    seen = torch.tensor([[1] * len(r["input_ids"]) + [0] * (prompt_width - len(r["input_ids"])) for r in rows])
    return {"input_ids": ids, "attention_mask": seen if mask else torch.ones_like(ids),
            "decoder_input_ids": padded("labels", answer_width, pad, before=[start]),
            "labels": padded("labels", answer_width, pad_label)}


def token_loss(outputs, labels, num_items_in_batch=None) -> torch.Tensor:
    """Mean cross-entropy (nats) over the counted labels of the whole batch, accumulated parts included."""
    logits = outputs.logits.float()
    total = cross_entropy(logits.view(-1, logits.shape[-1]), labels.view(-1), ignore_index=IGNORED, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum())


class Bar(TrainerCallback):
    """A progress bar over the optimizer's steps, gone when training ends."""

    def __init__(self, label):
        self.label = label

    def on_train_begin(self, args, state, control, **_):
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.label, leave=False,
                        disable=not state.is_world_process_zero)

    def on_step_end(self, args, state, control, **_):
        self.bar.update()

    def on_train_end(self, args, state, control, **_):
        self.bar.close()


def fine_tune(model, tokenizer, pairs: Sequence[Pair], settings: dict, *, seed: int = 0, dtype=torch.float32,
              validation: Sequence[Pair] = (), folder: Path | None = None, label: str = "training",
              collator=None, sharded: bool = False) -> SimpleNamespace:
    """Trains `model` in place on (prompt, completion) pairs and leaves it in evaluation mode.

    settings: epochs, learning_rate, batch and optionally accumulate (batches to a step) and checks
    (how often in all to stop and look; once an epoch by default). With `folder` every check leaves a
    checkpoint there, from which a training that was stopped goes on; with `validation` too, the
    weights of the check with the lowest validation loss are kept. The folder is empty at the end.
    Started by torchrun, each process computes its share of every batch, and without dropout the result is
    that of one process; where `sharded`, each also holds only its share of the weights, afterwards too
    (see utils.sharding). A training goes on under any number of processes; all must see the folder.
    Returns losses and validation [(step, nats a token)], seconds, steps, examples_per_second.
    Raises DataError, PromptTooLong, MemoryError, and RuntimeError where another process is at the same training.
    """
    rows, held = encode(tokenizer, pairs), encode(tokenizer, validation)
    if not rows:
        raise DataError("there is nothing to train on: the list of pairs is empty")
    batch, accumulate = settings["batch"], settings.get("accumulate", 1)
    steps = math.ceil(len(rows) / (batch * accumulate)) * settings["epochs"]
    device, start = next(model.parameters()).device, model.config.decoder_start_token_id
    collator = collator or (lambda r: collate(r, tokenizer.pad_token_id, start))
    place = folder and Path(folder) / fingerprint(model, rows, settings, seed)
    check_every = -(-steps // settings.get("checks", settings["epochs"]))
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(place or Path(tempfile.gettempdir()) / "llm-course-labs"), num_train_epochs=1, seed=seed,
        per_device_train_batch_size=1, per_device_eval_batch_size=1, gradient_accumulation_steps=accumulate,
        learning_rate=settings["learning_rate"], warmup_steps=steps // 10, optim="adamw_torch_fused",
        bf16=dtype == torch.bfloat16, use_cpu=device.type == "cpu", train_sampling_strategy="sequential",
        save_strategy="steps" if place else "no", save_steps=check_every,
        eval_strategy="steps" if held else "no", eval_steps=check_every, load_best_model_at_end=bool(held and place),
        metric_for_best_model="eval_loss" if held else None, greater_is_better=False, save_total_limit=2,
        logging_steps=max(1, steps // 25), report_to="none", disable_tqdm=True, label_names=["labels"],
        remove_unused_columns=False, dataloader_pin_memory=device.type == "cuda", prediction_loss_only=True,
        average_tokens_across_devices=True, ddp_find_unused_parameters=False)
    arguments._n_gpu = 1  # a process has one device; Trainer would take all that it sees, and batches as large
    world, step = arguments.world_size, batch * accumulate
    batches = [part for order in orders(rows, step, settings["epochs"], seed) for i in range(0, len(order), step)
               for part in np.array_split(order[i:i + step], accumulate)]
    looks = np.array_split(np.arange(len(held)), -(-len(held) // (4 * batch)) or 1)
    trainer = (ShardedTrainer if sharded and world > 1 else Seq2SeqTrainer)(
        model=model, args=arguments, train_dataset=shares(rows, batches, world),
        eval_dataset=shares(held, looks, world) if held else None, compute_loss_func=token_loss, callbacks=[Bar(label)],
        data_collator=lambda items: collator(items[0]))
    trainer.remove_callback(PrinterCallback)
    main = trainer.is_world_process_zero()
    began, verbosity = time.perf_counter(), logging.get_verbosity()
    logging.set_verbosity_error()  # tied weights are stored once; reloading them is no news
    try:
        with alone_in(place if main else None):
            [resume] = broadcast_object_list([place and main and last_checkpoint(place)])
            trainer.train(resume_from_checkpoint=resume and str(resume))
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"out of memory on {device} with {batch} examples in a batch: lower `batch` in this "
                          "profile's table of labs/profiles.toml and raise `accumulate` by as much") from error
    finally:
        logging.set_verbosity(verbosity)
    seconds, history = time.perf_counter() - began, trainer.state.log_history
    model.eval()
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        model.__dict__.pop(name, None)  # accelerate leaves autocast around them, also in copies
    trainer.accelerator.wait_for_everyone()
    if place and main:
        shutil.rmtree(place, ignore_errors=True)
    return SimpleNamespace(
        losses=[(h["step"], h["loss"]) for h in history if "loss" in h],
        validation=[(h["step"], h["eval_loss"]) for h in history if "eval_loss" in h],
        seconds=seconds, steps=trainer.state.global_step, examples_per_second=settings["epochs"] * len(rows) / seconds)


def orders(rows: list[dict], step: int, epochs: int, seed: int) -> list[list[int]]:
    """For each epoch the rows' indices, shuffled so that rows of like length meet in a step of `step` rows: the
    answer's length first, because a token of the answer costs twice as much as one of the prompt (decoder
    layers and vocabulary). The random numbers are its own: every process finds the same."""
    widest, generator = max(len(r["input_ids"]) for r in rows), torch.Generator().manual_seed(seed)
    lengths, made = [len(r["labels"]) * widest + len(r["input_ids"]) for r in rows], []
    for _ in range(epochs):
        torch.empty((), dtype=torch.int64).random_(generator=generator)  # the first order is then Trainer's own
        made.append(get_length_grouped_indices(lengths, step, generator=generator))
    return made


def shares(rows: list[dict], batches: Sequence[Sequence[int]], world: int) -> list[list[dict]]:
    """Each batch as `world` lists of rows one after another: accelerate deals them out in turn. A process for
    which nothing is left gets a row whose labels do not count."""
    return [[rows[i] for i in batch[rank::world]] or [{**rows[0], "labels": []}]
            for batch in batches for rank in range(world)]


@torch.inference_mode()
def mean_loss(model, tokenizer, pairs: Sequence[Pair], *, dtype=torch.float32, batch: int = 64) -> float:
    """Mean cross-entropy (nats) of the completions' tokens, pads neither read nor counted."""
    rows = sorted(encode(tokenizer, pairs), key=lambda r: len(r["input_ids"]))
    device, start, total, count = next(model.parameters()).device, model.config.decoder_start_token_id, 0.0, 0
    for i in range(0, len(rows), batch):
        made = {k: v.to(device) for k, v in collate(rows[i:i + batch], tokenizer.pad_token_id, start).items()}
        labels = made.pop("labels")
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = model(**made)
        total += float(token_loss(outputs, labels, 1))
        count += int((labels != IGNORED).sum())
    return total / count
