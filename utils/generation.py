"""Batched generation: prompts of like length together, answers back in the order of the prompts."""

import copy
import time

import torch
from tqdm import tqdm
from transformers import LogitsProcessor

from utils.prompts import PromptTooLong

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
    [steps, rows]: then a row's draws do not depend on the batch it is in (encoder-decoders only)."""

    def __init__(self, uniform: torch.Tensor | None = None):
        self.uniform = uniform

    def __call__(self, input_ids, scores):
        total = scores.float().softmax(-1).cumsum(-1)
        uniform = torch.rand(len(scores)) if self.uniform is None else self.uniform[input_ids.shape[1] - 1]
        point = uniform.to(scores.device)[:, None] * total[:, -1:]
        drawn = torch.searchsorted(total, point, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def batches(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Indices grouped by like length, longest first, each group's padded size at most batch_tokens."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups, start = [], 0
    while start < len(order):
        width = -(-lengths[order[start]] // PAD_TO) * PAD_TO
        size = max(1, batch_tokens // width)
        groups.append(order[start:start + size])
        start += size
    return groups


@torch.inference_mode()
def generate(model, tokenizer, prompts: list[str], *, max_new_tokens: int = 48, dtype=torch.float32,
             batch_tokens: int = 24_576, window: int | None = None, progress: str | None = None,
             seed: int | None = None, **sampling) -> list[str]:
    """One completion for each prompt, special tokens removed, in the order of the prompts; with
    num_return_sequences=m the m samples of a prompt stand one after another.

    Greedy unless `sampling` says otherwise (do_sample=True, temperature=…, top_k=…, top_p=…).
    `seed` seeds the sampling. `window` is the context window in tokens (the tokenizer's
    model_max_length by default): a longer prompt raises PromptTooLong before anything is
    generated; nothing is ever cut silently. `progress` labels a progress bar.
    """
    window = window or tokenizer.model_max_length
    ids = [tokenizer(p, verbose=False)["input_ids"] for p in prompts]
    for i, tokens in enumerate(ids):
        if len(tokens) > window:
            raise PromptTooLong(f"prompt {i} of {len(ids)} has {len(tokens)} tokens, the context window {window}: "
                                "drop shots (fit_shots) or truncate it on purpose (truncate_prompt)")
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
    for group in batches([len(t) for t in ids], batch_tokens // copies):
        batch = tokenizer.pad({"input_ids": [ids[i] for i in group]}, padding=True, pad_to_multiple_of=PAD_TO,
                              return_tensors="pt").to(model.device)
        made = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **settings)
        texts = tokenizer.batch_decode(made, skip_special_tokens=True)
        for place, i in enumerate(group):
            out[i * copies:(i + 1) * copies] = [t.strip() for t in texts[place * copies:(place + 1) * copies]]
        bar.update(len(group))
    bar.close()
    original.train(was_training)
    return out


@torch.inference_mode()
def next_token_logits(model, tokenizer, prompt: str, completion: str = "") -> torch.Tensor:
    """Logits over the vocabulary, shape [vocab], for the token that follows prompt and completion."""
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    start = [model.config.decoder_start_token_id]
    before = start + (tokenizer(completion, add_special_tokens=False)["input_ids"] if completion else [])
    decoder = torch.tensor([before], device=model.device)
    return model(**inputs, decoder_input_ids=decoder).logits[0, -1].float()


@torch.inference_mode()
def continue_with(model, tokenizer, prompts: list[str], tokens: int, *, use_cache: bool = True):
    """(ids [batch, tokens + 1], seconds): greedy, exactly `tokens` new tokens, with or without KV cache."""
    batch = tokenizer(prompts, padding=True, pad_to_multiple_of=PAD_TO, return_tensors="pt").to(model.device)
    exactly = {"max_new_tokens": tokens, "min_new_tokens": tokens}
    started = time.perf_counter()
    ids = model.generate(**batch, **exactly, do_sample=False, use_cache=use_cache).cpu()  # waits for the device
    return ids, time.perf_counter() - started
