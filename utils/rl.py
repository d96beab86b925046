"""Reinforcement learning from a reward on whole completions, for encoder-decoders: PPO and RLOO.

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
"""

import copy
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import nn

from utils.checkpoints import fingerprint
from utils.rollouts import chunks, read_once, rollout, score_all, token_scores
from utils.steps import run_steps
from utils.training import encode

DEFAULTS = {"passes": 2, "samples": 1, "kl": 0.1, "clip": 0.2, "value_clip": 0.2, "value_weight": 1.0,
            "value_learning_rate": 1e-2, "gamma": 1.0, "lam": 0.95, "max_new_tokens": 48, "rows": 32,
            "max_gradient": 1.0, "checkpoint_every": 4}


def frozen(policy):
    """A copy that no training reaches: the reference."""
    return copy.deepcopy(policy).requires_grad_(False).eval()


def value_head(policy) -> nn.Linear:
    """A linear layer from the decoder's last hidden state to a value; zero at first."""
    head = nn.Linear(policy.config.hidden_size, 1, device=policy.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


# The parts of the loss


def kl_terms(logp, ref_logp, mask) -> dict[str, torch.Tensor]:
    """Two estimates of KL(policy || reference) of each completion, [B], from the policy's own samples, both
    without bias (Schulman 2020, "Approximating KL Divergence"): k1 the plain one, k3 never below 0."""
    d = (logp - ref_logp) * mask
    return {"k1": d.sum(1), "k3": ((torch.exp(-d) - 1 + d) * mask).sum(1)}


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
    stored there, a training that was stopped goes on from them, and they are removed at the end. Under
    several processes (accelerator, the policy on its device) each takes its share of the prompts, and the
    result is that of one process: random numbers belong to a prompt's place in the batch, gradients are
    added up by hand, and the policy stays unwrapped, so that generate and adapters work. Returns history,
    reference, head, seconds. Raises FloatingPointError where a loss is not a number, ValueError.

    A record, means over the batch as it was drawn: score; reward (score less beta * kl); kl and kl_k3
    to the reference, nats a completion; entropy, nats a token; length, tokens; clip_fraction and
    ratio_max of the last pass; ratio_first, which is 1; value_loss; gradient (norm before it is
    clipped); seconds, and of them rollout, scoring, update.
    """
    s = {**DEFAULTS, **settings}
    if method not in ("ppo", "rloo") or method == "rloo" and s["samples"] < 2:
        raise ValueError(f"method {method!r} with {s['samples']} samples a prompt: ppo, or rloo with at least 2")
    ids = [row["input_ids"] for row in encode(tokenizer, [(prompt, "") for prompt in prompts])]
    reference, head = frozen(policy), value_head(policy) if method == "ppo" else None
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    some = min(s["batch"] // s["samples"], len(ids))
    if some < world:
        raise ValueError(f"{some} prompts in a step cannot be shared among {world} processes: raise batch")

    def total(x):
        return accelerator.reduce(x, "sum") if accelerator else x

    def most(x):
        return float(accelerator.gather(x.max()[None]).max() if accelerator else x.max())

    def one_step(step, learn):
        clock = [time.perf_counter()]
        uniform = torch.rand(s["max_new_tokens"], some, s["samples"])  # the same in all processes
        drawn = random.Random(f"{seed} {step}").sample(range(len(ids)), some)[rank::world]
        rows, texts = rollout(policy, tokenizer, [ids[i] for i in drawn], max_new_tokens=s["max_new_tokens"],
                              dtype=dtype, samples=s["samples"], uniform=uniform[:, rank::world].flatten(1))
        clock.append(time.perf_counter())

        scores = torch.as_tensor(np.asarray(score(texts)), dtype=torch.float32, device=policy.device)
        batches = read_once(policy, chunks(policy, tokenizer, rows, s["rows"]), dtype)
        old_logp, old_values, mask = score_all(policy, head, batches, dtype)
        ref_logp = score_all(reference, None, batches, dtype)[0]
        rewards = token_rewards(scores, old_logp, ref_logp, mask, s["kl"])
        if method == "ppo":
            advantages, returns = gae(rewards, old_values, mask, s["gamma"], s["lam"])
            advantages = whiten(advantages, mask, total)
        else:
            advantages = leave_one_out(rewards.sum(1), s["samples"])[:, None] * mask
        tokens, seen = total(mask.sum()), []  # seen: pass, ratios, error of the values
        clock.append(time.perf_counter())

        def losses(number):
            for i, (places, batch) in enumerate(batches):
                logp, values, m = token_scores(policy, head, batch, dtype)
                old, gained = (x[places, :m.shape[1]] for x in (old_logp, advantages))
                loss = policy_loss(logp, old, gained, m, s["clip"]).sum() / tokens
                ratio, value_error = torch.exp((logp - old).detach() * m)[m > 0], 0.0
                if head is not None:
                    before, target = (x[places, :m.shape[1]] for x in (old_values, returns))
                    error = value_loss(values, before, target, m, s["value_clip"]).sum() / tokens
                    loss, value_error = loss + s["value_weight"] * error, error.item()
                seen.append((number, ratio, value_error))
                whose = sorted({drawn[p // s["samples"]] for p in places.tolist()})
                yield loss, f"pass {number + 1}, batch {i + 1} of {len(batches)}, prompts {whose}"

        gradient = [learn(losses(number)) for number in range(s["passes"])][-1]
        clock.append(time.perf_counter())

        first, last = (torch.cat([ratio for n, ratio, _ in seen if n == k]) for k in (0, s["passes"] - 1))
        kl = kl_terms(old_logp, ref_logp, mask)
        means = {"score": scores, "reward": rewards.sum(1), "kl": kl["k1"], "kl_k3": kl["k3"], "length": mask.sum(1)}
        record = {name: float(total(each.sum()) / (some * s["samples"])) for name, each in means.items()}
        record |= {"entropy": float(-total((old_logp * mask).sum()) / tokens),
                   "clip_fraction": float(total(((last - 1).abs() > s["clip"]).float().sum()) / tokens)}
        value_error = torch.tensor(sum(v for n, _, v in seen if n == 0), device=policy.device)
        record |= {"value_loss": float(total(value_error)), "ratio_first": most((first - 1).abs()) + 1,
                   "ratio_max": most(last), "gradient": gradient, "seconds": clock[-1] - clock[0]}
        return record | dict(zip(("rollout", "scoring", "update"), np.diff(clock).tolist(), strict=True))

    what = {**s, "method": method, "label": label, "reward": float(score([label])[0])}
    place = folder and Path(folder) / fingerprint(policy, ids, what, seed)
    if accelerator:
        [place] = broadcast_object_list([place])
    done = run_steps(policy, head, one_step, s, seed=seed, place=place, label=label, callback=callback,
                     accelerator=accelerator)
    return SimpleNamespace(reference=reference, head=head, **done)
