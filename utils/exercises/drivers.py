"""How a check uses what is no function of plain values, such as a learner's module: each driver takes it, then plain
values, and returns plain values. Drivers run where the learner's code runs and hold no answers."""

import torch
from torch import nn


def linear(weight, bias) -> nn.Linear:
    """A frozen layer with these numbers."""
    layer = nn.Linear(weight.shape[1], weight.shape[0]).requires_grad_(False)
    layer.weight.data, layer.bias.data = weight, bias
    return layer


def lora_step(LoraLinear, weight, bias, r, alpha, b, x):
    """(output, A, the gradients of the output's sum for A and B) of LoraLinear on a layer, its B set to b."""
    module = LoraLinear(linear(weight, bias), r, alpha)
    module.B.data.copy_(b)
    out = module(x)
    if not isinstance(out, torch.Tensor):
        return out
    gradients = (None, None)
    if out.requires_grad:
        gradients = torch.autograd.grad(out.sum(), [module.A, module.B], allow_unused=True)
    return out.detach(), module.A.detach(), gradients


def merge_step(merge, weight, bias, a, b, scale):
    """(weight, bias) of the layer that merge makes of a LoraLinear with these numbers."""
    module = nn.Module()
    module.layer, module.A, module.B, module.scale = linear(weight, bias), nn.Parameter(a), nn.Parameter(b), scale
    answer = merge(module)
    for given, now in ((weight, module.layer.weight), (bias, module.layer.bias), (a, module.A), (b, module.B)):
        given.copy_(now.detach())  # also where the layer was given new numbers in place of its own
    return (answer.weight.detach(), answer.bias) if isinstance(answer, nn.Linear) else answer
