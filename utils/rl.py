"""Alignment of a policy of either kind: PPO and RLOO from a reward on whole completions, DPO from pairs of them.

PPO (Schulman et al. 2017) as it is used on language models since Ziegler et al. (2019). What it leaves
out of the literature's:
  - a value network of its own, started from the reward model (Stiennon et al. 2020; Ouyang et al. 2022):
    here one linear layer on the policy's decoder
  - a KL coefficient that adapts to a target (Ziegler et al. 2019): here it is fixed
  - several optimizer steps in a pass over a batch (Schulman et al. 2017): here one, gradients accumulated
  - an entropy bonus (Schulman et al. 2017) and a share of pretraining gradients (PPO-ptx, Ouyang et al. 2022)
  - a penalty for completions that do not end, whitened rewards, a decaying learning rate, Adam's
    epsilon of 1e-5 (Huang et al. 2024, "The N+ Implementation Details of RLHF with PPO")
Dropout is off throughout. The reference is a copy of the policy as it was handed in, its adapter
included: not the model before fine-tuning.

Shapes are those of utils.rollouts: logp, values, rewards, mask [B, T], scores [B].

Under several processes each takes its share of the prompts, and the result is that of one process: random numbers
belong to a prompt's place in the batch, gradients are added up by hand, and the policy stays unwrapped, so that
generate and adapters work.
"""

import copy
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from utils import checkpoints
from utils.generation import by_length
from utils.prompts import encode_prompts
from utils.rollouts import kl_terms, read_prompts_once, rollout, row_batches, score_all, token_scores
from utils.training import checkpoint_place, encode, finish, model_batch, resume, save, update

DEFAULTS = {"passes": 2, "samples": 1, "kl": 0.1, "clip": 0.2, "value_clip": 0.2, "value_weight": 1.0,
            "value_learning_rate": 1e-2, "gamma": 1.0, "lam": 0.95, "max_new_tokens": 48, "rows": 32,
            "max_gradient": 1.0, "checkpoint_every": 4}


def frozen(policy):
    """A copy that no training reaches: the reference."""
    return copy.deepcopy(policy).requires_grad_(False).eval()


def trainable_copy(policy):
    """A copy of which only a part is trained. Of an encoder-decoder the decoder's blocks: what writes. The encoder
    stays as it is, so that it reads each prompt once for policy and reference. Of a decoder-only model the upper half
    of its blocks: gradients then go half the way back."""
    copied = copy.deepcopy(policy).requires_grad_(False)
    if copied.config.is_encoder_decoder:
        copied.decoder.block.requires_grad_(True)
    else:
        blocks = max((m for m in copied.modules() if isinstance(m, nn.ModuleList)), key=len)
        blocks[len(blocks) // 2:].requires_grad_(True)
    return copied


def value_head(policy) -> nn.Linear:
    """A linear layer from the last hidden state of the policy's decoder to a value; zero at first."""
    head = nn.Linear(policy.config.hidden_size, 1, device=policy.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


# The parts of the loss


def token_rewards(scores, logp, ref_logp, mask, beta: float) -> torch.Tensor:
    """[B, T]: -beta (log p - log p_ref) for every token, and the completion's score [B] on its last one."""
    last = mask.sum(1).long() - 1
    rewards = -beta * (logp - ref_logp) * mask
    rewards[torch.arange(len(rewards)), last] += scores
    return rewards


def gae(rewards, values, mask, gamma: float = 1.0, lam: float = 0.95) -> tuple[torch.Tensor, torch.Tensor]:
    """(advantages, returns), each [B, T]: generalised advantage estimation (Schulman et al. 2016)."""
    values, advantages, later = values * mask, torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        following = values[:, t + 1] if t + 1 < rewards.shape[1] else 0.0
        later = (rewards[:, t] + gamma * following - values[:, t] + gamma * lam * later) * mask[:, t]
        advantages[:, t] = later
    return advantages, advantages + values


def leave_one_out(rewards, samples: int) -> torch.Tensor:
    """[B]: each completion's reward less the mean of its prompt's other samples (Kool et al. 2019)."""
    groups = rewards.view(-1, samples)
    return (groups - (groups.sum(1, keepdim=True) - groups) / (samples - 1)).flatten()


def whiten(x, mask, total: Callable = lambda t: t) -> torch.Tensor:
    """[B, T] with mean 0 and variance 1 over the mask, over all processes where `total` adds them up."""
    count, first = total(torch.stack([mask.sum(), (x * mask).sum()]))
    mean = first / count
    variance = total(((x - mean) ** 2 * mask).sum()) / count
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask


def policy_loss(logp, old_logp, advantages, mask, clip: float = 0.2) -> torch.Tensor:
    """[B, T]: PPO's clipped loss of each token (Schulman et al. 2017, equation 7), to be minimised."""
    ratio = torch.exp((logp - old_logp) * mask)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages) * mask


def value_loss(values, old_values, returns, mask, clip: float = 0.2) -> torch.Tensor:
    """[B, T]: half the squared error, or that of a value held near the old one where it is larger."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns) ** 2, (near - returns) ** 2) * mask / 2


# The loop


def align(policy, tokenizer, prompts: Sequence[str], score: Callable, settings: dict, *, method: str = "ppo",
          seed: int = 0, dtype=torch.float32, callback: Callable | None = None, folder: Path | None = None,
          accelerator=None, label: str = "alignment") -> SimpleNamespace:
    """Trains `policy` in place so that score(completions) -> [n] rises: method "ppo", or "rloo" (Ahmadian
    et al. 2024), which needs no value head but settings["samples"] of two or more.

    settings: steps, batch (completions in a step), learning_rate, and any of DEFAULTS; `rows` go through
    the model at a time, and the value head has a learning rate of its own. callback(record) sees every
    step's record and ends the training by returning True. With `folder` every `checkpoint_every` steps are
    stored there, a training that was stopped goes on from them, and one that has ended is not repeated, until
    checkpoints.clear(folder). Returns history, reference, head, seconds. Raises FloatingPointError where a loss is
    not a number, ValueError, and TrainingError where another process is at the same run.

    A record, means over the batch as it was drawn: score; reward (score less beta * kl); kl and kl_k3
    to the reference, nats per completion; entropy, nats per token; length, tokens; clip_fraction and
    ratio_max of the last pass; ratio_first, which is 1; value_loss; gradient (norm before it is
    clipped); seconds, and of them rollout, scoring, update.
    """
    s = {**DEFAULTS, **settings}
    if method not in ("ppo", "rloo") or method == "rloo" and s["samples"] < 2:
        raise ValueError(f"method {method!r} with {s['samples']} samples per prompt: ppo, or rloo with at least 2")
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    total = (lambda x: accelerator.reduce(x, "sum")) if accelerator else (lambda x: x)  # over all processes
    ids, main = encode_prompts(tokenizer, prompts), rank == 0
    count = min(s["batch"] // s["samples"], len(ids))  # prompts in a step
    if count < world:
        raise ValueError(f"{count} prompts in a step cannot be shared among {world} processes: raise batch")
    reference, head = frozen(policy), value_head(policy) if method == "ppo" else None
    trained, optimizer = trainable(policy, head, s)
    what = [ids, {**s, "method": method, "reward": float(score([label])[0])}, seed, str(dtype), label]
    place = checkpoint_place(folder, policy, what, accelerator)
    policy.eval()

    with checkpoints.sole_owner(place if main else None):
        history, _, ended = resume(place, trained, optimizer, accelerator)
        bar = tqdm(total=s["steps"], initial=len(history), desc=label, leave=False, disable=not main)
        for step in range(len(history), 0 if ended else s["steps"]):
            torch.manual_seed(random.Random(f"{seed} {step} 0").getrandbits(48))
            clock = [time.perf_counter()]

            # Rollout: completions of this process's share of the step's prompts
            uniform = torch.rand(s["max_new_tokens"], count, s["samples"])  # the same in all processes
            drawn = random.Random(f"{seed} {step}").sample(range(len(ids)), count)[rank::world]
            rows, texts = rollout(policy, tokenizer, [ids[i] for i in drawn], max_new_tokens=s["max_new_tokens"],
                                  dtype=dtype, samples=s["samples"], uniform=uniform[:, rank::world].flatten(1))
            clock.append(time.perf_counter())

            # Score: the reward of each completion, the log-probability of each token under policy and reference
            scores = torch.as_tensor(np.asarray(score(texts)), dtype=torch.float32, device=policy.device)
            batches = read_prompts_once(policy, row_batches(policy, tokenizer, rows, s["rows"]), dtype)
            old_logp, old_values, mask = score_all(policy, head, batches, dtype)
            ref_logp, _, _ = score_all(reference, None, batches, dtype)
            rewards = token_rewards(scores, old_logp, ref_logp, mask, s["kl"])
            if method == "ppo":
                advantages, returns = gae(rewards, old_values, mask, s["gamma"], s["lam"])
                advantages = whiten(advantages, mask, total)
            else:
                advantages, returns = leave_one_out(rewards.sum(1), s["samples"])[:, None] * mask, None
            tokens = total(mask.sum())
            clock.append(time.perf_counter())

            # Learn: each pass is one optimizer step on the whole batch, a few rows at a time
            ratios, value_errors = [], []  # of each pass: new to old probability of every token, error of the values
            for number in range(s["passes"]):
                ratios.append([])
                value_errors.append(torch.zeros((), device=policy.device))
                for places, batch in batches:
                    logp, values, real = token_scores(policy, head, batch, dtype)
                    old, advantage = (x[places, :real.shape[1]] for x in (old_logp, advantages))
                    loss = policy_loss(logp, old, advantage, real, s["clip"]).sum() / tokens
                    if head is not None:
                        before, target = (x[places, :real.shape[1]] for x in (old_values, returns))
                        error = value_loss(values, before, target, real, s["value_clip"]).sum() / tokens
                        loss = loss + s["value_weight"] * error
                        value_errors[-1] += error.detach()
                    if not torch.isfinite(loss):
                        whose = sorted({drawn[p // s["samples"]] for p in places.tolist()})
                        raise checkpoints.not_finite(label, f"the loss is {loss.item()} (pass {number + 1}, prompts "
                                                     f"{whose})", place, history)
                    loss.backward()
                    ratios[-1].append(torch.exp((logp - old).detach() * real)[real > 0])
                gradient = update(optimizer, limit=s["max_gradient"], accelerator=accelerator)
                if not math.isfinite(gradient):
                    raise checkpoints.not_finite(label, f"the gradient is {gradient}", place, history)
            clock.append(time.perf_counter())

            first, last = torch.cat(ratios[0]), torch.cat(ratios[-1])
            kl = kl_terms(old_logp, ref_logp, mask)
            sums = {"score": scores, "reward": rewards.sum(1), "kl": kl["k1"], "kl_k3": kl["k3"], "length": mask.sum(1)}
            record = {name: float(total(x.sum()) / (count * s["samples"])) for name, x in sums.items()}
            record |= {"entropy": float(-total((old_logp * mask).sum()) / tokens),
                       "clip_fraction": float(total(((last - 1).abs() > s["clip"]).float().sum()) / tokens),
                       "ratio_first": largest((first - 1).abs(), accelerator) + 1, "gradient": gradient,
                       "ratio_max": largest(last, accelerator), "value_loss": float(total(value_errors[0]))}
            history.append({"step": step, **record, "seconds": clock[-1] - clock[0],
                            **dict(zip(("rollout", "scoring", "update"), np.diff(clock).tolist(), strict=True))})
            if len(history) % s["checkpoint_every"] == 0:
                save(place, trained, optimizer, history, {}, main)
            bar.update()
            if callback and callback(history[-1]):
                break
        bar.close()
        if not ended:
            finish(place, trained, history, main)
    return SimpleNamespace(history=history, reference=reference, head=head,
                           seconds=sum(record["seconds"] for record in history))


def trainable(policy, head, s: dict) -> tuple[dict, torch.optim.Optimizer]:
    """({name: weight}, optimizer): what has gradients in the policy and the value head, each at its own rate."""
    weights = {f"policy.{name}": p for name, p in policy.named_parameters() if p.requires_grad}
    groups = [{"params": list(weights.values()), "lr": s["learning_rate"]}]
    if head is not None:
        weights |= {f"head.{name}": p for name, p in head.named_parameters()}
        groups.append({"params": list(head.parameters()), "lr": s["value_learning_rate"]})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
    optimizer.zero_grad()  # of gradients that something else has left
    return weights, optimizer


def largest(x, accelerator=None) -> float:
    """The largest entry over all processes."""
    return float(accelerator.gather(x.max()[None]).max() if accelerator else x.max())


# Without samples or reward model


def dpo_margin(logp, ref_logp, mask) -> torch.Tensor:
    """[pairs]: how much more than the reference the policy prefers the first half of the rows, [2 pairs, T],
    to the second (Rafailov et al. 2023); the loss is -log sigmoid(beta * margin)."""
    chosen, rejected = ((logp - ref_logp) * mask).sum(1).chunk(2)
    return chosen - rejected


def dpo(policy, tokenizer, triples: Sequence[tuple[str, str, str]], settings: dict, *, seed: int = 0,
        dtype=torch.float32, callback: Callable | None = None, folder: Path | None = None,
        label: str = "DPO") -> SimpleNamespace:
    """Trains `policy` in place on (prompt, chosen, rejected), without samples or reward model.

    settings: steps, batch (pairs in a step), learning_rate, beta, and rows, max_gradient,
    checkpoint_every of DEFAULTS. Callback, folder, errors and result are those of align().
    """
    s = {**DEFAULTS, **settings}
    sides = [encode(tokenizer, [(triple[0], triple[k]) for triple in triples]) for k in (1, 2)]
    reference = frozen(policy)
    trained, optimizer = trainable(policy, None, s)
    place = checkpoint_place(folder, policy, [sides, s, seed, str(dtype), label])
    policy.eval()
    with checkpoints.sole_owner(place):
        history, _, ended = resume(place, trained, optimizer)
        bar = tqdm(total=s["steps"], initial=len(history), desc=label, leave=False)
        for step in range(len(history), 0 if ended else s["steps"]):
            began, margins = time.perf_counter(), []
            drawn = random.Random(f"{seed} {step}").sample(range(len(triples)), min(s["batch"], len(triples)))
            for places in by_length([len(sides[0][i]["input_ids"]) for i in drawn], rows=max(1, s["rows"] // 2)):
                pairs = [drawn[i] for i in places]
                batch = model_batch(policy, tokenizer, [side[i] for side in sides for i in pairs])
                [(_, batch)] = read_prompts_once(policy, [(pairs, batch)], dtype)
                with torch.no_grad():
                    ref_logp, _, _ = token_scores(reference, None, batch, dtype)
                logp, _, mask = token_scores(policy, None, batch, dtype)
                margins.append(dpo_margin(logp, ref_logp, mask))
                loss = -logsigmoid(s["beta"] * margins[-1]).sum() / len(drawn)
                if not torch.isfinite(loss):
                    raise checkpoints.not_finite(label, f"the loss is {loss.item()} (pairs {pairs})", place, history)
                loss.backward()
            gradient = update(optimizer, limit=s["max_gradient"])
            if not math.isfinite(gradient):
                raise checkpoints.not_finite(label, f"the gradient is {gradient}", place, history)
            margin = torch.cat(margins).detach()
            history.append({"step": step, "loss": float(-logsigmoid(s["beta"] * margin).mean()),
                            "accuracy": float((margin > 0).float().mean()), "margin": float(margin.mean()),
                            "gradient": gradient, "seconds": time.perf_counter() - began})
            if len(history) % s["checkpoint_every"] == 0:
                save(place, trained, optimizer, history, {})
            bar.update()
            if callback and callback(history[-1]):
                break
        bar.close()
        if not ended:
            finish(place, trained, history)
    return SimpleNamespace(history=history, reference=reference, seconds=sum(record["seconds"] for record in history))
