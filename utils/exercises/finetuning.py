"""Checks of Lab 2's exercises: labels and their loss, LoRA, the memory of a step."""

import random

import torch
from torch.nn.functional import cross_entropy, linear

from utils.exercises.drivers import lora_step, merge_step
from utils.exercises.feedback import call, close, compare, exercise, kind, need, tensor


@exercise(1)
def check_pad_labels(pad_labels) -> None:
    lengths = [random.randint(3, 6) for _ in range(4)] + [7]
    rows, width = [[random.randint(5, 99) for _ in range(n - 1)] + [1] for n in lengths], 9
    usual = "fill every row up to the width that is asked for, not to the longest row"
    answer = call(pad_labels, rows, width, usual=usual)
    need(not torch.is_tensor(answer) or not answer.is_floating_point(), "labels are token ids: integers, not floats.")
    answer = tensor(answer, 5, width, usual=usual)
    at = torch.arange(width) < torch.tensor(lengths)[:, None]
    right = torch.full((5, width), -100.0).masked_scatter(at, torch.tensor([float(i) for r in rows for i in r]))
    flipped = torch.full((5, width), -100.0).masked_scatter(at.flip(1), right[at])
    compare(answer, right, {
        "0 is the pad token: the loss would train the model to write it; it skips -100 and nothing else.":
            right.masked_fill(~at, 0),
        "1 is the end token: the loss would train the model to end again and again; it skips -100.":
            right.masked_fill(~at, 1),
        "-1 is no label that the loss skips: it skips -100.": right.masked_fill(~at, -1),
        "the labels come first and the filling after them: the decoder reads from the left.": flipped,
        "the end token is gone: it is a label too, or the model never learns to stop.":
            right.masked_fill(torch.arange(width) == torch.tensor(lengths)[:, None] - 1, -100),
    }, "the labels should stand first, as they are, and only -100 after them.")


@exercise(2)
def check_mean_loss(mean_loss) -> None:
    logits, labels = 2 * torch.randn(3, 6, 11), torch.randint(1, 11, (3, 6))
    counted = torch.arange(6) < torch.tensor([[2], [5], [6]])
    labels = labels.masked_fill(~counted, -100)
    usual = "-100 is no index: put any id in its place (clamp) and leave its term out of the sum"
    answer = tensor(call(mean_loss, logits, labels, usual=usual), usual="one mean over all counted labels")
    terms = -logits.log_softmax(-1).gather(2, labels.clamp(min=0)[..., None]).squeeze(2)
    right = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    inside = terms * counted
    index = labels.clamp(min=0)[..., None]
    compare(answer, right, {
        "the sign is wrong: the loss is minus the log-probability.": -right,
        "this is the sum: divide by the number of labels that count.": inside.sum(),
        "divide by the number of labels that count, not by all positions: pads would make the loss look better.":
            inside.mean(),
        "labels of -100 are counted in: multiply by the mask before you sum.": terms.mean(),
        "labels of -100 are in the sum: multiply by the mask, do not only divide by its sum.":
            terms.sum() / counted.sum(),
        "this is a mean of the rows' means: a token of a short row would count more; one mean over all tokens.":
            (inside.sum(1) / counted.sum(1)).mean(),
        "take the log-probability, not the logit: log_softmax over the vocabulary.":
            -(logits.gather(2, index).squeeze(2) * counted).sum() / counted.sum(),
        "the softmax runs over the wrong dimension: the vocabulary is the last one.":
            -(logits.log_softmax(1).gather(2, index).squeeze(2) * counted).sum() / counted.sum(),
    }, "this is not the mean: minus log_softmax over the vocabulary at each label, over the labels that count.")


@exercise(3)
def check_lora_count(lora_count) -> None:
    shapes = [(random.randint(20, 90), random.randint(100, 200)) for _ in range(3)]
    r = random.randint(3, 9)
    answer = call(lora_count, shapes, r)
    need(isinstance(answer, int | float) and not isinstance(answer, bool), f"one number is wanted, not {kind(answer)}.")
    outs, ins = zip(*shapes, strict=True)
    compare(answer, r * sum(outs + ins), {
        "these are the numbers in W, which is frozen: count what is in A and B.": sum(o * i for o, i in shapes),
        "A and B do not multiply: A has r times d_in numbers, B has d_out times r.": r * sum(o * i for o, i in shapes),
        "only A is counted: B is trained as well.": r * sum(ins),
        "only B is counted: A is trained as well.": r * sum(outs),
        "the rank is missing: A has r rows and B has r columns.": sum(outs + ins),
        "only the first layer is counted: every layer has an A and a B of its own.": r * (outs[0] + ins[0]),
        "W stays frozen: only A and B are trained.": sum(o * i for o, i in shapes) + r * sum(outs + ins),
    }, "this is not the number: add up the sizes of A and B over all layers.")


@exercise(4)
def check_lora(LoraLinear) -> None:
    weight, bias, x, r = torch.randn(7, 12) / 4, torch.randn(7), torch.randn(2, 3, 12), random.choice([2, 4])
    alpha, b = random.choice([6.0, 10.0]), torch.randn(7, r)
    usual = "A comes first, [r, d_in], then B, [d_out, r]: mind the transposes"
    answer = call(LoraLinear, weight, bias, r, alpha, b, x, driver=lora_step, usual=usual)
    need(isinstance(answer, tuple) and len(answer) == 3, f"a tensor is wanted of forward, not {kind(answer)}.")
    out, a, gradients = tensor(answer[0], 2, 3, 7, usual=usual), tensor(answer[1], r, 12, usual=usual), answer[2]
    a, b, x = a.requires_grad_(), b.double().requires_grad_(), x.double()
    plain, update = linear(x, weight.double(), bias.double()), linear(x, b @ a)
    compare(out, plain + alpha / r * update, {
        "the frozen layer's own output is missing: the update is added to it.": alpha / r * update,
        "nothing is added to the frozen layer.": plain,
        "the update is not scaled: multiply it by alpha / r, which is self.scale.": plain + update,
        "the update is scaled by alpha alone: alpha / r is self.scale.": plain + alpha * update,
        "self.scale is alpha / r already: do not divide by r again.": plain + alpha / r**2 * update,
        "only the update is scaled, not the frozen layer's output.": alpha / r * (plain + update),
        "the update is added, not subtracted.": plain - alpha / r * update,
    }, "h = W x + alpha / r · B A x: " + usual + ".")
    for mine, right in zip(gradients, torch.autograd.grad(alpha / r * update.sum(), [a, b]), strict=True):
        need(isinstance(mine, torch.Tensor) and close(mine, right),
             "no gradient reaches A and B: use them as they are, without .data or .detach().")


@exercise(5)
def check_merge(merge) -> None:
    weight, bias, a, b, scale = torch.randn(6, 10), torch.randn(6), torch.randn(3, 10), torch.randn(6, 3), 2.5
    usual = "B A has the shape of W, [d_out, d_in], and A B has not"
    answer = call(merge, weight, bias, a, b, scale, driver=merge_step, usual=usual)
    need(isinstance(answer, tuple) and len(answer) == 2, f"a plain nn.Linear is wanted, not {kind(answer)}.")
    update = b @ a
    compare(tensor(answer[0], 6, 10, usual=usual), weight + scale * update, {
        "the update is not scaled: W + scale · B A.": weight + update,
        "this is the update alone: add it to W.": scale * update,
        "this is W as it was: add scale · B A.": weight,
        "the update is added, not subtracted.": weight - scale * update,
        "only the update is scaled, not W.": scale * (weight + update),
    }, "the merged weight should be W + scale · B A.")
    need(answer[1] is not None and close(answer[1], bias), "the bias is lost: the merged layer has the old one's.")


@exercise(6)
def check_by_formula(by_formula) -> None:
    trained = random.randint(10**6, 9 * 10**6)
    n = 37 * trained + 1000  # no small multiple
    answer = call(by_formula, n, trained)
    need(isinstance(answer, dict) and set(answer) == {"weights", "gradients", "optimizer"},
         "a dictionary with weights, gradients and optimizer is wanted.")
    need(all(isinstance(v, int | float) for v in answer.values()), "each entry should be a number.")
    right = {"weights": 4 * n, "gradients": 4 * trained, "optimizer": 8 * trained}

    def says(part, numbers):
        return close(answer[part] * 2**20 / 1e6, numbers / 1e6)

    need(not any(close(answer[part], size / 1e6) for part, size in right.items()),
         "these are millions of bytes: a megabyte has 2**20 here.")
    need(not any(close(answer[part], size) for part, size in right.items()), "these are bytes: divide by 2**20.")
    need(not says("weights", 4 * trained), "all weights are held in memory, trained or not.")
    need(not says("weights", n), "these are numbers, not bytes: one in fp32 takes four.")
    need(says("weights", right["weights"]), "weights: four bytes for each, trained or not.")
    need(not says("gradients", 4 * n), "only trained weights have gradients.")
    need(says("gradients", right["gradients"]), "gradients: four bytes for each trained weight.")
    need(not says("optimizer", 8 * n), "Adam keeps moments of trained weights only.")
    need(not says("optimizer", 4 * trained), "Adam keeps two numbers for each trained weight, not one.")
    need(says("optimizer", right["optimizer"]), "optimizer: two moments of four bytes for each trained weight.")
