"""Weights, gradients and moments spread over the processes (FSDP2; Zhao et al. 2023), each gathered when needed.

accelerate's own switch for it does nothing on CPU, where it trains with whole copies and says nothing. Here the
blocks are sharded by hand, and a checkpoint is the same as that of one process.
"""

import warnings
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only


def shard(model, dtype: torch.dtype) -> None:
    """Shards the model in place, to be computed in the dtype: each block by itself, and in one group what is
    left, so that the embeddings stay one tensor with whatever is tied to them."""
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)  # T5 changes no block's output in place
    mesh = init_device_mesh(model.device.type, (distributed.get_world_size(),))
    options = {"mesh": mesh, "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)}
    for block in [m for m in model.modules() if type(m).__name__ in model._no_split_modules]:
        fully_shard(block, **options)
    fully_shard(model, **options)


def gather(state):
    """A state dict with its sharded tensors gathered on the CPU, shared ones once. All processes must call it."""
    gathered = {}

    def once(tensor):
        if id(tensor) not in gathered:
            gathered[id(tensor)] = tensor.detach().full_tensor().cpu()
        return gathered[id(tensor)]

    return tree_map_only(DTensor, once, state)


def like(tensor, param):
    """A whole tensor, sharded as the parameter is."""
    return distribute_tensor(tensor.to(param.device), param.device_mesh, param.placements)


def save_whole(model, folder: Path, tokenizer=None) -> None:
    """Saves a model, sharded or not, as one process would. All processes must call it; the first writes."""
    weights = gather(model.state_dict(keep_vars=True))
    if not distributed.is_initialized() or distributed.get_rank() == 0:
        model.save_pretrained(folder, state_dict=weights)
        if tokenizer:
            tokenizer.save_pretrained(folder)
