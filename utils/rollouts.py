"""Completions drawn from a policy, and the log-probability of each of their tokens.

Shapes: B completions in a batch, T tokens in the longest one, its end token included. mask [B, T] is 1
up to and including the end token, 0 after it.
"""

from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from utils.generation import Draw, in_dtype
from utils.training import IGNORED, PAD_PROMPT, collate


@torch.no_grad()
def rollout(policy, tokenizer, ids: list[list[int]], *, max_new_tokens: int, dtype=torch.float32, samples: int = 1,
            uniform: torch.Tensor | None = None):
    """(rows, texts): `samples` completions of each tokenized prompt, drawn at temperature 1 from the
    whole distribution; `uniform` [max_new_tokens, completions] gives the random numbers for it (see Draw).
    rows are {"input_ids", "labels"} as in utils.training, labels up to and including the end token.
    Probabilities are token_scores' business: the sampler rounds otherwise."""
    asked = [prompt for prompt in ids for _ in range(samples)]
    batch = tokenizer.pad({"input_ids": asked}, pad_to_multiple_of=PAD_PROMPT, return_tensors="pt").to(policy.device)
    made = in_dtype(policy, dtype).generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], logits_processor=[Draw(uniform)],
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens)
    completions = [through_end(row, tokenizer.eos_token_id) for row in made[:, 1:].tolist()]
    rows = [{"input_ids": p, "labels": c} for p, c in zip(asked, completions, strict=True)]
    return rows, [text.strip() for text in tokenizer.batch_decode(completions, skip_special_tokens=True)]


def through_end(ids: list[int], end: int) -> list[int]:
    """The tokens up to and including the first end token; all of them where there is none."""
    return ids[: ids.index(end) + 1] if end in ids else ids


def chunks(policy, tokenizer, rows: list[dict], size: int) -> list[tuple[torch.Tensor, dict]]:
    """The rows as (places, batch) of at most `size`: completions of like length together, each batch as
    wide as it needs; places [size] says which rows they are."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]["labels"]), len(rows[i]["input_ids"])))
    made = []
    for places in (order[i:i + size] for i in range(0, len(rows), size)):
        batch = collate([rows[i] for i in places], tokenizer.pad_token_id, policy.config.decoder_start_token_id)
        made.append((torch.tensor(places), {name: tensor.to(policy.device) for name, tensor in batch.items()}))
    return made


@torch.no_grad()
def read_once(policy, batches: list[tuple], dtype=torch.float32) -> list[tuple]:
    """The same batches with the encoder's output in place of the prompt's tokens, where nothing in the
    encoder is trained: then policy and reference read alike, and reading once serves every pass of a step."""
    encoder = policy.get_encoder()
    if any(p.requires_grad for p in encoder.parameters()):
        return batches
    made = []
    for places, batch in batches:
        batch = dict(batch)
        with exactly(dtype, policy.device):
            read = encoder(input_ids=batch.pop("input_ids"), attention_mask=batch["attention_mask"])
        made.append((places, batch | {"encoder_outputs": tuple(read.to_tuple())}))
    return made


@contextmanager
def exactly(dtype: torch.dtype, device):
    """Attention in its one kernel that is the same with and without gradients; with torch's own choice the
    ratio of the first pass would not be exactly 1. bf16 where asked for."""
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(torch.device(device).type, torch.bfloat16,
                                                      enabled=dtype == torch.bfloat16):
        yield


def token_scores(model, head, batch: dict, dtype=torch.float32) -> tuple:
    """(logp, values, mask), each [B, T], by one teacher-forced forward pass: the log-probability of
    each token of the completion, and the value of what stood before it (None without a head)."""
    labels, inputs = batch["labels"], {k: v for k, v in batch.items() if k != "labels"}
    with exactly(dtype, labels.device):
        out = model(**inputs, output_hidden_states=head is not None, use_cache=False)
    flat = out.logits.float().flatten(0, 1)
    logp = -cross_entropy(flat, labels.flatten(), ignore_index=IGNORED, reduction="none").view(labels.shape)
    values = None if head is None else head(out.decoder_hidden_states[-1].float()).squeeze(-1)
    return logp, values, (labels != IGNORED).float()


@torch.no_grad()
def score_all(model, head, batches: list[tuple], dtype=torch.float32) -> tuple:
    """token_scores of all rows in their own order, each [B, T] with the T of the longest."""
    count, width = sum(len(places) for places, _ in batches), max(b["labels"].shape[1] for _, b in batches)
    whole = torch.zeros(3, count, width, device=model.device)
    for places, batch in batches:
        for kind, part in enumerate(token_scores(model, head, batch, dtype)):
            if part is not None:
                whole[kind, places, :part.shape[1]] = part
    return whole[0], None if head is None else whole[1], whole[2]
