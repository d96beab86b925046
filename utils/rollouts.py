"""Completions drawn from a policy, the log-probability of each of their tokens, and its distance from a reference.

Shapes: B completions in a batch, T tokens in the longest one, its end token included. mask [B, T] is 1
up to and including the end token, 0 after it.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from utils.generation import Draw, by_length, generate, in_dtype, require_room, without_prompt
from utils.models import autocast
from utils.prompts import encode_prompts
from utils.training import IGNORED, PAD_PROMPT, model_batch, predict


@torch.no_grad()
def rollout(policy, tokenizer, ids: list[list[int]], *, max_new_tokens: int, dtype=torch.float32, samples: int = 1,
            uniform: torch.Tensor | None = None):
    """(rows, texts): `samples` completions of each tokenized prompt, drawn at temperature 1 from the
    whole distribution; `uniform` [max_new_tokens, completions] gives the random numbers for it (see Draw).
    rows are {"input_ids", "labels"} as in utils.training, labels up to and including the end token.
    Probabilities are token_scores' business: the sampler rounds otherwise."""
    require_room(policy, [len(tokens) + max_new_tokens for tokens in ids])
    repeated = [prompt for prompt in ids for _ in range(samples)]
    batch = tokenizer.pad({"input_ids": repeated}, pad_to_multiple_of=PAD_PROMPT, return_tensors="pt").to(policy.device)
    drawn = in_dtype(policy, dtype).generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], logits_processor=[Draw(uniform)],
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens)
    drawn, ends = without_prompt(policy, drawn, batch["input_ids"]), policy.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    completions = [through_end(row, ends) for row in drawn.tolist()]
    rows = [{"input_ids": p, "labels": c} for p, c in zip(repeated, completions, strict=True)]
    return rows, [text.strip() for text in tokenizer.batch_decode(completions, skip_special_tokens=True)]


def through_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens up to and including the first end token; all of them where there is none."""
    return ids[: min((ids.index(end) + 1 for end in ends if end in ids), default=len(ids))]


def row_batches(policy, tokenizer, rows: list[dict], size: int) -> list[tuple[torch.Tensor, dict]]:
    """The rows as (places, batch) of at most `size`: completions of like length together, each batch as
    wide as it needs; places [size] says which rows they are."""
    groups = by_length([(len(row["labels"]), len(row["input_ids"])) for row in rows], rows=size)
    return [(torch.tensor(places), model_batch(policy, tokenizer, [rows[i] for i in places])) for places in groups]


@torch.no_grad()
def read_prompts_once(policy, batches: list[tuple], dtype=torch.float32) -> list[tuple]:
    """The same batches with the encoder's output in place of the prompt's tokens, where there is an encoder in which
    nothing is trained: then policy and reference read alike, and reading once serves every pass of a step."""
    if not policy.config.is_encoder_decoder:
        return batches
    encoder = policy.get_encoder()
    if any(p.requires_grad for p in encoder.parameters()):
        return batches
    read = []
    for places, batch in batches:
        batch = dict(batch)
        with same_kernel(dtype, policy.device):
            states = encoder(input_ids=batch.pop("input_ids"), attention_mask=batch["attention_mask"])
        read.append((places, batch | {"encoder_outputs": tuple(states.to_tuple())}))
    return read


@contextmanager
def same_kernel(dtype: torch.dtype, device):
    """Attention in the one kernel that is the same with and without gradients; with torch's own choice the
    ratio of the first pass would not be exactly 1. bf16 where asked for."""
    with sdpa_kernel(SDPBackend.MATH), autocast(device, dtype):
        yield


def token_scores(model, head, batch: dict, dtype=torch.float32) -> tuple:
    """(logp, values, mask), each [B, T], by one teacher-forced forward pass: the log-probability of
    each token of the completion, and the value of what stood before it (None without a head)."""
    with same_kernel(dtype, batch["labels"].device):
        logits, labels, hidden = predict(model, batch, hidden=head is not None)
    flat = logits.float().flatten(0, 1)
    logp = -cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="none").view(labels.shape)
    values = None if head is None else head(hidden.float()).squeeze(-1)
    return logp, values, (labels != IGNORED).float()


@torch.no_grad()
def score_all(model, head, batches: list[tuple], dtype=torch.float32) -> tuple:
    """token_scores of all rows in their own order, each [B, T] with the T of the longest."""
    parts = [token_scores(model, head, batch, dtype) for _, batch in batches]
    count, width = sum(len(places) for places, _ in batches), max(mask.shape[1] for *_, mask in parts)
    scores = torch.zeros(3, count, width, device=model.device)
    for (places, _), part in zip(batches, parts, strict=True):
        for kind, of_kind in enumerate(part):
            if of_kind is not None:
                scores[kind, places, :of_kind.shape[1]] = of_kind
    return scores[0], None if head is None else scores[1], scores[2]


# The distance from a reference, and best-of-n sampling


def kl_terms(logp, ref_logp, mask) -> dict[str, torch.Tensor]:
    """Two estimates of KL(policy || reference) of each completion, [B], from the policy's own samples, both
    without bias (Schulman 2020, "Approximating KL Divergence"): k1 the plain one, k3 never below 0."""
    d = (logp - ref_logp) * mask
    return {"k1": d.sum(1), "k3": ((torch.exp(-d) - 1 + d) * mask).sum(1)}


@torch.no_grad()
def sampled_kl(policy, reference, tokenizer, prompts: Sequence[str], *, max_new_tokens: int = 48, dtype=torch.float32,
               seed: int = 0, rows: int = 64) -> tuple[np.ndarray, list[str]]:
    """(KL [n], texts): one sampled completion of each prompt, and the policy's log-probability of it less
    the reference's, in nats: the unbiased estimate k1."""
    torch.manual_seed(seed)
    ids = encode_prompts(tokenizer, prompts)
    kl, texts = np.zeros(len(ids)), [""] * len(ids)
    for places in by_length([len(tokens) for tokens in ids], rows=rows):
        drawn, completions = rollout(policy, tokenizer, [ids[i] for i in places], max_new_tokens=max_new_tokens,
                                     dtype=dtype)
        batches = row_batches(policy, tokenizer, drawn, rows)
        (logp, _, mask), (ref_logp, _, _) = (score_all(m, None, batches, dtype) for m in (policy, reference))
        kl[places] = kl_terms(logp, ref_logp, mask)["k1"].cpu().double().numpy()
        for i, text in zip(places, completions, strict=True):
            texts[i] = text
    return kl, texts


def best_of_n(policy, tokenizer, prompts: Sequence[str], score: Callable, ns: Sequence[int], *,
              max_new_tokens: int = 48, dtype=torch.float32, batch_tokens: int = 24_576, seed: int = 0,
              progress: str | None = None) -> dict[int, tuple[list[str], np.ndarray]]:
    """{n: (texts, scores)}: of the first n samples of each prompt the one that scores highest."""
    most = max(ns)
    texts = generate(policy, tokenizer, [p for p in prompts for _ in range(most)], max_new_tokens=max_new_tokens,
                     dtype=dtype, seed=seed, batch_tokens=batch_tokens, logits_processor=[Draw()], progress=progress)
    scores = np.asarray(score(texts)).reshape(len(prompts), most)
    best = {n: scores[:, :n].argmax(axis=1) for n in ns}
    return {n: ([texts[i * most + j] for i, j in enumerate(pick)], scores[np.arange(len(pick)), pick])
            for n, pick in best.items()}


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n sampling to the sampled policy in nats, log n - (n-1)/n (Stiennon et al. 2020); an
    upper bound where samples can be equal (Beirami et al. 2024)."""
    return math.log(n) - (n - 1) / n
