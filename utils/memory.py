"""What one training step holds in memory, counted tensor by tensor on any device."""

import contextlib
from collections.abc import Sequence

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from utils.training import Pair, collate, encode, token_loss


class LiveMemory(TorchDispatchMode):
    """Watches the tensors that operations make, also in the backward pass: `peak` is the most bytes
    that were alive at one time, besides those of the given storages."""

    def __init__(self, besides: set[int]):
        super().__init__()
        self.besides, self.live, self.peak = besides, {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.besides:
                    self.live[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.live = {k: v for k, v in self.live.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(n for _, n in self.live.values()))
        return made


def of_a_step(model, tokenizer, pairs: Sequence[Pair], *, dtype=torch.float32) -> dict[str, float]:
    """Takes two training steps and measures the second, which finds the optimizer's moments in place as all
    later ones do. In MB (2**20 bytes): weights, gradients, optimizer, saved (what the forward pass keeps for
    the backward pass) and the step's peak, all of them included. Moves the weights a little: pass a copy."""
    device, start = next(model.parameters()).device, model.config.decoder_start_token_id
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    saved = dict.fromkeys(weights, 0)

    def keep(tensor):
        storage = tensor.untyped_storage()
        saved.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    made = collate(encode(tokenizer, pairs), tokenizer.pad_token_id, start)
    made = {k: v.to(device) for k, v in made.items()}
    labels = made.pop("labels")

    def step(watch):
        optimizer.zero_grad(set_to_none=True)
        with watch, torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = token_loss(model(**made), labels)
        loss.backward()
        optimizer.step()

    step(contextlib.nullcontext())
    moments = [t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t) and t.dim()]
    held = weights | {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in moments}
    with LiveMemory(set(held)) as watched:
        step(torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t))
    report = {"weights": sum(weights.values()), "gradients": sum(p.grad.nbytes for p in trained),
              "optimizer": sum(t.nbytes for t in moments), "saved": sum(saved.values()),
              "peak": watched.peak + sum(held.values())}
    return {name: value / 2**20 for name, value in report.items()}
