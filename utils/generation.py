"""Batched generation: prompts of like length together, answers back in the order of the prompts."""

import copy
import time
from collections.abc import Sequence

import torch
from tqdm import tqdm
from transformers import LogitsProcessor

from utils.prompts import PromptTooLong, completion_ids, encode_prompts

PAD_TO = 32  # lengths are padded up to multiples: every new shape costs the CPU a compilation


def in_dtype(model, dtype: torch.dtype):
    """The model itself, or a copy of it in the dtype with fused attention: faster on CPU than
    autocast, which casts every weight again at every token. The original stays as it is."""
    if next(model.parameters()).dtype == dtype:
        return model
    fast = copy.deepcopy(model).to(dtype)
    (fast.get_base_model() if hasattr(fast, "get_base_model") else fast).set_attn_implementation("sdpa")
    return fast


class Draw(LogitsProcessor):
    """Samples at temperature 1 from the whole distribution and leaves only the drawn token possible, so that
    greedy search takes it. On CPU torch.multinomial draws a random number for each of the vocabulary's
    tokens; the inverse of the cumulated probabilities needs one for each row. They can be given, uniform
    [steps, rows], for one call of generate: then a row's draws do not depend on the batch it is in."""

    def __init__(self, uniform: torch.Tensor | None = None):
        self.steps = None if uniform is None else iter(uniform)

    def __call__(self, input_ids, scores):
        total = scores.float().softmax(-1).cumsum(-1)
        uniform = torch.rand(len(scores)) if self.steps is None else next(self.steps)
        point = uniform.to(scores.device)[:, None] * total[:, -1:]
        drawn = torch.searchsorted(total, point, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def by_length(lengths: Sequence, *, rows: int | None = None, tokens: int | None = None) -> list[list[int]]:
    """Indices grouped by like length, longest first: `rows` in a group, or as many as have `tokens` in all when
    they are padded. The lengths are numbers; with `rows` anything that can be compared will do."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    groups, start = [], 0
    while start < len(order):
        size = rows or max(1, tokens // padded(lengths[order[start]]))
        groups.append(order[start:start + size])
        start += size
    return groups


def padded(length: int) -> int:
    """The length to which generation pads prompts that are at most that long."""
    return -(-length // PAD_TO) * PAD_TO


@torch.inference_mode()
def generate(model, tokenizer, prompts: list[str], *, max_new_tokens: int = 48, dtype=torch.float32,
             batch_tokens: int = 24_576, window: int | None = None, progress: str | None = None,
             seed: int | None = None, encoded: dict | None = None, **sampling) -> list[str]:
    """One completion for each prompt, special tokens removed, in the order of the prompts; with
    num_return_sequences=m the m samples of a prompt stand one after another.

    Greedy unless `sampling` says otherwise (do_sample=True, temperature=…, top_k=…, top_p=…).
    `seed` seeds the sampling. `progress` labels a progress bar. Raises PromptTooLong where a prompt passes the
    `window` (by default the tokenizer's), or leaves a decoder-only model no room for the completion, before anything
    is generated.
    `encoded` keeps an encoder's outputs: handed to a second call with the same prompts and batches, it spares models
    with the same encoder from reading them again, which is more than half of the work for a small model.
    """
    ids = encode_prompts(tokenizer, prompts, window)
    require_room(model, [len(tokens) + max_new_tokens for tokens in ids])
    if seed is not None:
        torch.manual_seed(seed)
    settings = {"do_sample": False, "num_beams": 1, "max_new_tokens": max_new_tokens, **sampling}
    if settings["do_sample"]:
        settings = {"top_k": 0, "top_p": 1.0, "temperature": 1.0, **settings}
    original, was_training = model, model.training
    model = in_dtype(model.eval(), dtype)
    copies = settings.get("num_return_sequences", 1)
    out: list[str] = [""] * (len(prompts) * copies)
    bar = tqdm(total=len(prompts), desc=progress, disable=progress is None, leave=False)
    for group in by_length([len(t) for t in ids], tokens=batch_tokens // copies):
        batch = tokenizer.pad({"input_ids": [ids[i] for i in group]}, padding=True, pad_to_multiple_of=PAD_TO,
                              return_tensors="pt").to(model.device)
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if encoded is not None and model.config.is_encoder_decoder:
            ids_read = tuple(group)
            if ids_read not in encoded:
                encoded[ids_read] = model.get_encoder()(**inputs)
            inputs = {"encoder_outputs": copy.copy(encoded[ids_read]), "attention_mask": batch["attention_mask"]}
        completions = without_prompt(model, model.generate(**inputs, **settings), batch["input_ids"])
        texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
        for place, i in enumerate(group):
            out[i * copies:(i + 1) * copies] = [t.strip() for t in texts[place * copies:(place + 1) * copies]]
        bar.update(len(group))
    bar.close()
    original.train(was_training)
    return out


def without_prompt(model, sequences: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
    """[B, new tokens]: what generate() wrote, less the start token of an encoder-decoder, or the prompts [B, P] with
    which a decoder-only model's sequences begin."""
    return sequences[:, 1 if model.config.is_encoder_decoder else prompts.shape[1]:]


def require_room(model, lengths: Sequence[int]) -> None:
    """Raises PromptTooLong where a decoder-only model has fewer positions than one of these lengths, each of a prompt
    with its completion."""
    positions, longest = getattr(model.config, "max_position_embeddings", None), max(lengths, default=0)
    if not model.config.is_encoder_decoder and positions and longest > positions:
        raise PromptTooLong(f"a prompt with its completion takes {longest} tokens, and the model has {positions} "
                            "positions: shorten the prompt, or lower max_new_tokens")


@torch.inference_mode()
def next_token_logits(model, tokenizer, prompt: str, completion: str = "") -> torch.Tensor:
    """Logits over the vocabulary, shape [vocab], for the token that follows prompt and completion."""
    [ids] = encode_prompts(tokenizer, [prompt])
    before = completion_ids(tokenizer, prompt, completion)[:-1] if completion else []
    if model.config.is_encoder_decoder:
        before = [model.config.decoder_start_token_id, *before]
        inputs = {"input_ids": ids, "decoder_input_ids": before}
    else:
        inputs = {"input_ids": ids + before}
    inputs = {name: torch.tensor([tokens], device=model.device) for name, tokens in inputs.items()}
    return model(**inputs).logits[0, -1].float()


@torch.inference_mode()
def continue_with(model, tokenizer, prompts: list[str], tokens: int, *, use_cache: bool = True):
    """(ids [batch, tokens], seconds): greedy, exactly `tokens` new tokens, with or without KV cache."""
    batch = tokenizer.pad({"input_ids": encode_prompts(tokenizer, prompts)}, padding=True, pad_to_multiple_of=PAD_TO,
                          return_tensors="pt").to(model.device)
    length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    started = time.perf_counter()
    ids = model.generate(**batch, **length, do_sample=False, use_cache=use_cache).cpu()  # waits for the device
    return without_prompt(model, ids, batch["input_ids"]), time.perf_counter() - started
