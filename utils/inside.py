"""Looking inside a T5: attention maps, heads switched off, where a name stands in a tokenized text."""

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from utils.training import Pair, collate, encode

Head = tuple[int, int]  # (layer, head), both from 0


@torch.inference_mode()
def attention_maps(model, inputs: dict, decoder_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """{"encoder", "decoder", "cross"}: attention weights, each [batch, layers, heads, queries, keys], on CPU.

    Needs a model with eager attention; raises ValueError where it has another.
    """
    if model.config._attn_implementation != "eager":
        raise ValueError('this model computes no attention maps: load it with attention="eager"')
    out = model(**inputs, decoder_input_ids=decoder_ids, output_attentions=True)
    parts = {"encoder": out.encoder_attentions, "decoder": out.decoder_attentions, "cross": out.cross_attentions}
    return {name: torch.stack(layers, dim=1).float().cpu() for name, layers in parts.items()}


@contextlib.contextmanager
def without_heads(model, heads: Iterable[Head]):
    """While the context lasts, these cross-attention heads write nothing: their columns of the output
    matrix are zero. The weights come back as they were."""
    kept = []
    try:
        for layer, head in heads:
            attention = model.decoder.block[layer].layer[1].EncDecAttention
            if not 0 <= head < attention.n_heads:
                raise IndexError(f"layer {layer} has heads 0 to {attention.n_heads - 1}, not {head}")
            columns = attention.o.weight.data[:, head * attention.key_value_proj_dim:][:, :attention.key_value_proj_dim]
            kept.append((columns, columns.clone()))
            columns.zero_()
        yield model
    finally:
        for columns, before in reversed(kept):
            columns.copy_(before)


def tokens_of(offsets: list[tuple[int, int]], spans: list[tuple[int, int]]) -> torch.Tensor:
    """True for each token that shares a character with one of the spans, shape [tokens]. Offsets as a
    fast tokenizer gives them with return_offsets_mapping=True."""
    return torch.tensor([any(a < end and b > start for start, end in spans) for a, b in offsets])


@torch.inference_mode()
def token_nats(model, tokenizer, pairs: Sequence[Pair], off: Sequence[list[Head]] = ((),), *, dtype=torch.float32,
               batch: int = 32) -> list[list[np.ndarray]]:
    """Cross-entropy (nats) of every token of each pair's completion, end token included: for each list
    of cross-attention heads in `off` (these are silent), one array a pair. The encoder runs once."""
    device, start, made = next(model.parameters()).device, model.config.decoder_start_token_id, [[] for _ in off]
    for i in range(0, len(pairs), batch):
        rows = encode(tokenizer, pairs[i:i + batch])
        tensors = {k: v.to(device) for k, v in collate(rows, tokenizer.pad_token_id, start).items()}
        ids, labels = tensors.pop("input_ids"), tensors.pop("labels").clamp(min=0)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            memory = model.encoder(input_ids=ids, attention_mask=tensors["attention_mask"])
            for heads, arrays in zip(off, made, strict=True):
                with without_heads(model, heads):
                    logits = model(encoder_outputs=memory, **tensors).logits
                nats = -logits.float().log_softmax(-1).gather(2, labels[..., None])[..., 0].cpu().numpy()
                arrays += [nats[j, : len(row["labels"])] for j, row in enumerate(rows)]
    return made
