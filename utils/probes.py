"""Looking inside: a T5's attention maps, its heads switched off, the bytes that a training step holds."""

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from utils.models import autocast
from utils.training import Pair, encode, model_batch, predict, token_loss

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
    saved = []
    try:
        for layer, head in heads:
            attention = model.decoder.block[layer].layer[1].EncDecAttention
            if not 0 <= head < attention.n_heads:
                raise IndexError(f"layer {layer} has heads 0 to {attention.n_heads - 1}, not {head}")
            columns = attention.o.weight.data[:, head * attention.key_value_proj_dim:][:, :attention.key_value_proj_dim]
            saved.append((columns, columns.clone()))
            columns.zero_()
        yield model
    finally:
        for columns, before in reversed(saved):
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
    nats = [[] for _ in off]
    for i in range(0, len(pairs), batch):
        rows = encode(tokenizer, pairs[i:i + batch])
        tensors = model_batch(model, tokenizer, rows)
        ids, labels = tensors.pop("input_ids"), tensors.pop("labels").clamp(min=0)
        with autocast(model.device, dtype):
            memory = model.encoder(input_ids=ids, attention_mask=tensors["attention_mask"])
            for heads, arrays in zip(off, nats, strict=True):
                with without_heads(model, heads):
                    logits = model(encoder_outputs=memory, **tensors).logits
                losses = -logits.float().log_softmax(-1).gather(2, labels[..., None])[..., 0].cpu().numpy()
                arrays += [losses[j, : len(row["labels"])] for j, row in enumerate(rows)]
    return nats


class LiveMemory(TorchDispatchMode):
    """Watches the tensors that operations make, also in the backward pass: `peak` is the most bytes
    that were alive at one time, besides those of the given storages."""

    def __init__(self, besides: set[int]):
        super().__init__()
        self.besides, self.live, self.peak = besides, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.besides:
                    self.live[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.live = {k: v for k, v in self.live.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(n for _, n in self.live.values()))
        return result


def step_memory(model, tokenizer, pairs: Sequence[Pair], *, dtype=torch.float32) -> dict[str, float]:
    """Takes two training steps and measures the second, which finds the optimizer's moments in place as all
    later ones do. In MB (2**20 bytes): weights, gradients, optimizer, saved (what the forward pass keeps for
    the backward pass) and the step's peak, all of them included. Moves the weights a little: pass a copy."""
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    saved = dict.fromkeys(weights, 0)

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    batch = model_batch(model, tokenizer, encode(tokenizer, pairs))

    def step(watch):
        optimizer.zero_grad(set_to_none=True)
        with watch, autocast(model.device, dtype):
            loss = token_loss(*predict(model, batch)[:2])
        loss.backward()
        optimizer.step()

    step(contextlib.nullcontext())
    moments = [t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t) and t.dim()]
    lasting = weights | {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in moments}
    with LiveMemory(set(lasting)) as watched:
        step(torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t))
    report = {"weights": sum(weights.values()), "gradients": sum(p.grad.nbytes for p in trained),
              "optimizer": sum(t.nbytes for t in moments), "saved": sum(saved.values()),
              "peak": watched.peak + sum(lasting.values())}
    return {name: value / 2**20 for name, value in report.items()}
