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

Shapes: B completions in a batch, T tokens in the longest one, its end token included. mask [B, T] is 1
up to and including the end token, 0 after it.
"""

import copy
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from utils.checkpoints import fingerprint
from utils.generation import Draw, in_dtype
from utils.steps import run_steps
from utils.training import IGNORED, PAD_PROMPT, collate, encode

DEFAULTS = {"passes": 2, "samples": 1, "kl": 0.1, "clip": 0.2, "value_clip": 0.2, "value_weight": 1.0,
            "value_learning_rate": 1e-2, "gamma": 1.0, "lam": 0.95, "max_new_tokens": 48, "rows": 32,
            "max_gradient": 1.0, "checkpoint_every": 4}


# From a policy to completions, and from completions to log-probabilities


@torch.no_grad()
def rollout(policy, tokenizer, ids: list[list[int]], *, max_new_tokens: int, dtype=torch.float32, samples: int = 1):
    """(rows, texts): `samples` completions of each tokenized prompt, drawn at temperature 1 from the
    whole distribution. rows are {"input_ids", "labels"} as in utils.training, labels up to and
    including the end token. Probabilities are token_scores' business: the sampler rounds otherwise."""
    asked = [prompt for prompt in ids for _ in range(samples)]
    batch = tokenizer.pad({"input_ids": asked}, pad_to_multiple_of=PAD_PROMPT, return_tensors="pt").to(policy.device)
    made = in_dtype(policy, dtype).generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], logits_processor=[Draw()],
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


def token_scores(model, head, batch: dict, dtype=torch.float32) -> tuple:
    """(logp, values, mask), each [B, T], by one teacher-forced forward pass: the log-probability of
    each token of the completion, and the value of what stood before it (None without a head).

    Attention runs in its one kernel that is the same with and without gradients; with torch's own
    choice the ratio of the first pass would not be exactly 1.
    """
    labels, inputs = batch["labels"], {k: v for k, v in batch.items() if k != "labels"}
    with sdpa_kernel(SDPBackend.MATH), torch.autocast(labels.device.type, torch.bfloat16,
                                                      enabled=dtype == torch.bfloat16):
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


def frozen(policy):
    """A copy that no training reaches: the reference."""
    return copy.deepcopy(policy).requires_grad_(False).eval()


def value_head(policy) -> nn.Linear:
    """A linear layer from the decoder's last hidden state to a value; zero at first."""
    config = policy.config
    head = nn.Linear(getattr(config, "d_model", None) or config.hidden_size, 1, device=policy.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


# The parts of the loss


def kl_terms(logp, ref_logp, mask) -> dict[str, torch.Tensor]:
    """Three estimates of KL(policy || reference) of each completion, [B], from the policy's own samples
    (Schulman 2020, "Approximating KL Divergence"): k1 unbiased, k2 low in variance, k3 both."""
    d = (logp - ref_logp) * mask
    return {"k1": d.sum(1), "k2": (d**2 / 2).sum(1), "k3": ((torch.exp(-d) - 1 + d) * mask).sum(1)}


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


def value_loss(values, old_values, returns, mask, clip: float | None = 0.2) -> torch.Tensor:
    """[B, T]: half the squared error; with `clip`, the larger of it and that of a value held near the old one."""
    error = (values - returns) ** 2
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns) ** 2)
    return error * mask / 2


# The loop


def align(policy, tokenizer, prompts: Sequence[str], score: Callable, settings: dict, *, method: str = "ppo",
          seed: int = 0, dtype=torch.float32, callback: Callable | None = None, folder: Path | None = None,
          accelerator=None, label: str = "alignment") -> SimpleNamespace:
    """Trains `policy` in place so that score(completions) -> [n] rises: method "ppo", or "rloo" (Ahmadian
    et al. 2024), which needs no value head but settings["samples"] of two or more.

    settings: steps, batch (completions in a step), learning_rate, and any of DEFAULTS; `rows` go through
    the model at a time; the value head has a learning rate of its own. callback(record) sees every
    step's record and ends the training by returning True. With `folder` every `checkpoint_every` steps
    are stored there, a training that was stopped goes on from them, and they are removed at the end.
    Under several processes (accelerator, the policy on its device) each takes its share of the prompts,
    and gradients are added up by hand: the policy stays unwrapped, so that generate and adapters work.
    Returns history, reference, head, seconds. Raises FloatingPointError where a loss is not a number.

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

    def total(x):
        return accelerator.reduce(x, "sum") if accelerator else x

    def one_step(step, learn):
        clock = [time.perf_counter()]
        some = min(s["batch"] // s["samples"], len(ids))
        drawn = random.Random(f"{seed} {step}").sample(range(len(ids)), some)[rank::world]
        rows, texts = rollout(policy, tokenizer, [ids[i] for i in drawn], max_new_tokens=s["max_new_tokens"],
                              dtype=dtype, samples=s["samples"])
        clock.append(time.perf_counter())

        scores = torch.as_tensor(np.asarray(score(texts)), dtype=torch.float32, device=policy.device)
        batches = chunks(policy, tokenizer, rows, s["rows"])
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
        means = {"score": scores.mean(), "reward": rewards.sum(1).mean(), "kl": kl["k1"].mean(),
                 "kl_k3": kl["k3"].mean(), "entropy": -(old_logp * mask).sum() / mask.sum(),
                 "length": mask.sum(1).mean(), "clip_fraction": ((last - 1).abs() > s["clip"]).float().mean()}
        record = {name: float(total(mean) / world) for name, mean in means.items()}
        value_error = torch.tensor(sum(v for n, _, v in seen if n == 0), device=policy.device)
        record |= {"value_loss": float(total(value_error)), "ratio_first": float((first - 1).abs().max()) + 1,
                   "ratio_max": float(last.max()), "gradient": gradient, "seconds": clock[-1] - clock[0]}
        return record | dict(zip(("rollout", "scoring", "update"), np.diff(clock).tolist(), strict=True))

    what = {**s, "method": method, "label": label, "reward": float(score([label])[0])}
    place = folder and Path(folder) / fingerprint(policy, ids, what, seed)
    done = run_steps(policy, head, one_step, s, seed=seed, place=place, label=label, callback=callback,
                     accelerator=accelerator)
    return SimpleNamespace(reference=reference, head=head, **done)
