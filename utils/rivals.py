"""What PPO is compared with: direct preference optimisation, best-of-n sampling, and the KL of each."""

import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from utils.checkpoints import fingerprint
from utils.generation import Draw, generate
from utils.rl import DEFAULTS, frozen, kl_terms
from utils.rollouts import chunks, read_once, rollout, score_all, token_scores
from utils.steps import run_steps
from utils.training import collate, encode


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
    checkpoint_every of rl.DEFAULTS. Callback, folder and result are those of rl.align().
    """
    s = {**DEFAULTS, **settings}
    sides = [encode(tokenizer, [(triple[0], triple[k]) for triple in triples]) for k in (1, 2)]
    reference = frozen(policy)

    def one_step(step, learn):
        began, margins = time.perf_counter(), []
        drawn = random.Random(f"{seed} {step}").sample(range(len(triples)), min(s["batch"], len(triples)))
        drawn.sort(key=lambda i: len(sides[0][i]["input_ids"]))

        def losses():
            size = max(1, s["rows"] // 2)
            for part in (drawn[i:i + size] for i in range(0, len(drawn), size)):
                rows = [side[i] for side in sides for i in part]
                batch = collate(rows, tokenizer.pad_token_id, policy.config.decoder_start_token_id)
                batch = {name: tensor.to(policy.device) for name, tensor in batch.items()}
                [(_, batch)] = read_once(policy, [(part, batch)], dtype)
                with torch.no_grad():
                    ref_logp = token_scores(reference, None, batch, dtype)[0]
                logp, _, mask = token_scores(policy, None, batch, dtype)
                margins.append(dpo_margin(logp, ref_logp, mask))
                yield -logsigmoid(s["beta"] * margins[-1]).sum() / len(drawn), f"pairs {part}"

        gradient = learn(losses())
        margin = torch.cat(margins).detach()
        return {"loss": float(-logsigmoid(s["beta"] * margin).mean()), "accuracy": float((margin > 0).float().mean()),
                "margin": float(margin.mean()), "gradient": gradient, "seconds": time.perf_counter() - began}

    place = folder and Path(folder) / fingerprint(policy, sides, {**s, "label": label}, seed)
    done = run_steps(policy, None, one_step, s, seed=seed, place=place, label=label, callback=callback)
    return SimpleNamespace(reference=reference, **done)


@torch.no_grad()
def sampled_kl(policy, reference, tokenizer, prompts: Sequence[str], *, max_new_tokens: int = 48, dtype=torch.float32,
               seed: int = 0, rows: int = 64) -> tuple[np.ndarray, list[str]]:
    """(KL [n], texts): one sampled completion of each prompt, and the policy's log-probability of it less
    the reference's, in nats: the unbiased estimate k1."""
    torch.manual_seed(seed)
    ids = [row["input_ids"] for row in encode(tokenizer, [(prompt, "") for prompt in prompts])]
    order, kl, texts = sorted(range(len(ids)), key=lambda i: len(ids[i])), np.zeros(len(ids)), [""] * len(ids)
    for part in (order[i:i + rows] for i in range(0, len(order), rows)):
        made, given = rollout(policy, tokenizer, [ids[i] for i in part], max_new_tokens=max_new_tokens, dtype=dtype)
        batches = chunks(policy, tokenizer, made, rows)
        (logp, _, mask), (ref_logp, _, _) = (score_all(m, None, batches, dtype) for m in (policy, reference))
        kl[part] = kl_terms(logp, ref_logp, mask)["k1"].cpu().double().numpy()
        for i, text in zip(part, given, strict=True):
            texts[i] = text
    return kl, texts


def best_of_n(policy, tokenizer, prompts: Sequence[str], score: Callable, ns: Sequence[int], *,
              max_new_tokens: int = 48, dtype=torch.float32, batch_tokens: int = 24_576, seed: int = 0,
              progress: str | None = None) -> dict[int, tuple[list[str], np.ndarray]]:
    """{n: (texts, scores)}: of the first n samples of each prompt the one that scores highest."""
    most = max(ns)
    texts = generate(policy, tokenizer, [p for p in prompts for _ in range(most)], max_new_tokens=max_new_tokens,
                     dtype=dtype, seed=seed, batch_tokens=batch_tokens, logits_processor=[Draw()], progress=progress)
    scores = np.asarray(score(texts)).reshape(len(prompts), most)
    best = {n: scores[:, :n].argmax(axis=1) for n in ns}
    return {n: ([texts[i * most + j] for i, j in enumerate(pick)], scores[np.arange(len(pick)), pick])
            for n, pick in best.items()}


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n sampling to the sampled policy in nats, log n - (n-1)/n (Stiennon et al. 2020); an
    upper bound where samples can be equal (Beirami et al. 2024)."""
    return math.log(n) - (n - 1) / n
