"""Weights, gradients and moments spread over the processes (FSDP2; Zhao et al. 2023), each gathered when needed.

accelerate's own switch for it does nothing on CPU, where it trains with whole copies and says nothing. Here
the blocks are sharded by hand, and a checkpoint is the same as that of one process.
"""

import warnings
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only
from transformers import Seq2SeqTrainer


def shard(model, dtype: torch.dtype) -> None:
    """Shards the model in place, to be computed in the dtype: each block by itself, and in one group what is
    left, so that the embeddings stay one tensor with whatever is tied to them."""
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)  # T5 changes no block's output in place
    mesh = init_device_mesh(model.device.type, (distributed.get_world_size(),))
    options = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)}
    for block in [m for m in model.modules() if type(m).__name__ in model._no_split_modules]:
        fully_shard(block, **options)
    fully_shard(model, **options)
    model.register_load_state_dict_pre_hook(lambda _, state, *__: state.update(spread(state, model)))
    model._is_accelerate_prepared = True  # Trainer is not to wrap it once more


def whole(state):
    """A state dict with its sharded tensors gathered on the CPU, shared ones once. All processes must call it."""
    made = {}

    def gathered(tensor):
        if id(tensor) not in made:
            made[id(tensor)] = tensor.detach().full_tensor().cpu()
        return made[id(tensor)]

    return tree_map_only(DTensor, gathered, state)


def like(tensor, param):
    """A whole tensor, sharded as the parameter is."""
    return distribute_tensor(tensor.to(param.device), param.device_mesh, param.placements)


def spread(state: dict, model) -> dict:
    """The model's sharded tensors from a state dict of whole ones."""
    return {name: like(state[name], p) for name, p in model.named_parameters(remove_duplicate=False)
            if name in state and not isinstance(state[name], DTensor)}


def save_whole(model, folder: Path, tokenizer=None) -> None:
    """Saves a model, sharded or not, as one process would. All processes must call it; the first writes."""
    weights = whole(model.state_dict(keep_vars=True))
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        model.save_pretrained(folder, state_dict=weights)
        if tokenizer:
            tokenizer.save_pretrained(folder)


class ShardedTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer that shards its model when it makes the optimizer, and stores whole checkpoints."""

    def create_optimizer(self, model=None):
        shard(self.model, torch.bfloat16 if self.args.bf16 else torch.float32)
        optimizer = super().create_optimizer()
        optimizer.register_load_state_dict_pre_hook(self._spread_moments)
        return optimizer

    @staticmethod
    def _spread_moments(optimizer, state):
        params = [p for group in optimizer.param_groups for p in group["params"]]
        moments = {i: {k: like(v, params[i]) if v.dim() else v for k, v in found.items()}
                   for i, found in state["state"].items()}
        return {**state, "state": moments}

    def save_model(self, output_dir=None, _internal_call=False):
        save_whole(self.model, output_dir)

    def _save_optimizer_and_scheduler(self, output_dir):
        moments = whole(self.optimizer.state_dict())
        if self.args.should_save:
            torch.save(moments, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")
