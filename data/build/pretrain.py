"""Pretrains the bundled T5 from random weights on the corpus, on CPU or CUDA, resumable.

    python data/build/pretrain.py                            # stops and resumes anywhere
    python data/build/pretrain.py --export out/build/run     # its mean of two stages -> data/models/tiny

Each step is one batch of one length bucket, so that a few shapes serve the whole run. The order of
batches follows from the seed alone and the state holds weights, optimiser moments and step: a
resumed run repeats the interrupted one. The stages (episodes.STAGES) follow one another, each with
a warm-up and a decay of its own.
"""

import argparse
import contextlib
import json
import math
import os
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GenerationConfig, T5Config, T5ForConditionalGeneration

from utils.models import fuse_activations
from utils.profile import choose_device, tune_allocator

import batching
import episodes
import grammar

KINDS = episodes.KINDS
MODEL = grammar.HERE.parent / "models" / "tiny"
OUT = grammar.HERE.parent.parent / "out" / "build"
STEPS = {"skills": (7000, 2e-2), "matching": (2500, 1e-2), "styles": (4500, 8e-3), "doubts": (9000, 7e-3),
         "settling": (2000, 5e-3)}  # and peak learning rates
LAST = 2 / 3  # the model is the mean of the last two stages' weights, with this weight on the last
SHAPE = {"d_model": 256, "d_kv": 64, "d_ff": 512, "num_layers": 3, "num_decoder_layers": 3, "num_heads": 4}


class AdamWScale(torch.optim.Optimizer):
    """AdamW whose update of each matrix is scaled by that matrix's RMS, as in nanoT5 (Nawrot 2023):
    large matrices and small ones then learn at one relative rate."""

    def __init__(self, params, lr=2e-2, betas=(0.9, 0.98), eps=1e-6):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for p in params:
                if not self.state[p]:
                    self.state[p] = {"m": torch.zeros_like(p), "v": torch.zeros_like(p), "t": torch.zeros(1)}
                self.state[p]["t"] += 1
            (b1, b2), t = group["betas"], int(self.state[params[0]]["t"])
            grads = [p.grad for p in params]
            m, v = ([self.state[p][k] for p in params] for k in "mv")
            torch._foreach_lerp_(m, grads, 1 - b1)
            torch._foreach_mul_(v, b2)
            torch._foreach_addcmul_(v, grads, grads, 1 - b2)
            lr = group["lr"] * math.sqrt(1 - b2**t) / (1 - b1**t)
            for p, m_p, v_p in zip(params, m, v, strict=True):
                rms = max(1e-3, float(p.norm()) / math.sqrt(p.numel()))
                p.addcdiv_(m_p, v_p.sqrt().add_(group["eps"]), value=-lr * rms)


def rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 300 steps (a tenth of a short stage), then linear decay to 5 %."""
    warm = min(300, steps // 10)
    if step < warm:
        return peak * (step + 1) / max(1, warm)
    return peak * (1 - 0.95 * (step - warm) / max(1, steps - warm))


def save_state(out: Path, model, optimizer, step: int):
    """Weights, moments and step in one file, renamed into place when it is whole."""
    tensors = {f"w.{n}": p.detach().contiguous() for n, p in model.named_parameters()}
    for n, p in model.named_parameters():
        if optimizer.state[p]:
            tensors |= {f"{k}.{n}": v for k, v in optimizer.state[p].items()}
    save_file(tensors, out / "state.part", {"step": str(step)})
    os.replace(out / "state.part", out / "state.safetensors")


def load_state(out: Path, model, optimizer) -> int:
    path = out / "state.safetensors"
    if not path.exists():
        return 0
    tensors = load_file(path)
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(tensors[f"w.{n}"])
            optimizer.state[p] = {k: tensors[f"{k}.{n}"].to(p.device if k != "t" else "cpu") for k in "mvt"}
    from safetensors import safe_open
    with safe_open(path, "pt") as f:
        return int(f.metadata()["step"])


def new_model(tokenizer, seed: int, shape: dict):
    torch.manual_seed(seed)
    config = T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0,
                      eos_token_id=1, decoder_start_token_id=0, relative_attention_max_distance=128, **shape)
    config._attn_implementation = "eager"
    return T5ForConditionalGeneration(config)


def export(out: Path, target: Path, shape: dict):
    """The mean of the last two stages' weights in bf16, with configuration and tokenizer, as a model directory.

    Weights of one run that lie apart by a short stage can be averaged, and the mean is often better
    than either (Wortsman et al. 2022, arXiv:2203.05482).
    """
    ends = [out / f"{stage}.safetensors" for stage in list(STEPS)[-2:]]
    if missing := [str(f) for f in ends if not f.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)} missing: finish the run first, without --export")
    before, after = map(load_file, ends)
    tokenizer = AutoTokenizer.from_pretrained(target)
    model = new_model(tokenizer, 0, shape)
    with torch.no_grad():
        for n, p in model.named_parameters():
            p.copy_(torch.lerp(before[n], after[n], LAST))
    model.generation_config = GenerationConfig(
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, max_new_tokens=64)
    model.to(torch.bfloat16).save_pretrained(target)
    print(f"exported to {target}")


def weigh(lengths: torch.Tensor) -> torch.Tensor:
    """The weight of each answer's tokens, shape [batch, 1]: 1/sqrt(length), so that an answer of one
    word is not drowned by summaries of forty."""
    return lengths.clamp(min=1).float().rsqrt().unsqueeze(1)


def token_losses(model, input_ids, attention_mask, labels) -> torch.Tensor:
    """The cross-entropy of each token of the answers in nats, shape [batch, answer]; 0 where labels are -100."""
    logits = model(input_ids=input_ids, attention_mask=attention_mask,
                   decoder_input_ids=model._shift_right(labels)).logits
    return torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none")


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=OUT / "corpus")
    parser.add_argument("--out", type=Path, default=OUT / "run")
    parser.add_argument("--steps", type=int, nargs="+", default=[n for n, _ in STEPS.values()], help="of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-scale", type=int, default=1, help="times the batch sizes of batching.BUCKETS")
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--compile", action="store_true",
                        help="about 1.5 times as fast, after two minutes of compiling; needs a C++ compiler")
    parser.add_argument("--export", type=Path, help="write this run's weights to data/models/tiny and stop")
    args = parser.parse_args(arguments)
    if args.export:
        return export(args.export, MODEL, SHAPE)
    tune_allocator()
    device, dtype, why = choose_device()
    print(f"{device}, {dtype}: {why}")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = new_model(tokenizer, args.seed, SHAPE).to(device).train()
    fuse_activations(model)
    optimizer = AdamWScale(model.parameters())
    args.out.mkdir(parents=True, exist_ok=True)
    done, start = load_state(args.out, model, optimizer), 0
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters; {done} of {sum(args.steps)} steps done")
    for (stage, (_, peak)), steps in zip(STEPS.items(), args.steps, strict=False):
        if done < start + steps:
            first = max(0, done - start)
            train_stage(args, stage, start, steps, first, peak, model, optimizer, device, dtype)
        start += steps


def train_stage(args, stage, start, steps, first, peak, model, optimizer, device, dtype):
    """Trains one stage, from its step `first` to `steps`; `start` steps of earlier stages went before."""
    corpus = batching.read_corpus(args.corpus / stage)
    buckets = {k: v * args.batch_scale for k, v in batching.BUCKETS.items()}
    batches, epoch = [], 0
    while len(batches) < steps:
        batches += batching.plan(corpus["prompt_lengths"], args.seed + epoch, buckets)
        epoch += 1
    if dtype == torch.bfloat16:
        cast = lambda: torch.autocast(device.type, torch.bfloat16)  # noqa: E731
    else:
        cast = contextlib.nullcontext
    losses_of = torch.compile(token_losses, dynamic=True) if args.compile else token_losses
    log = open(args.out / "log.jsonl", "a", encoding="utf-8")
    report_every = max(1, args.save_every // 5)  # a part of save_every: a resumed run reports the same averages
    started, seen, tokens, losses = time.time(), 0, 0, {}
    for step in range(first, steps):
        length, rows = batches[step]
        batch = batching.collate(corpus, rows, length, device)
        with cast():
            by_token = losses_of(model, **batch)
        lengths = (batch["labels"] != -100).sum(1)
        weight = weigh(lengths)
        loss = (by_token * weight).sum() / (lengths.unsqueeze(1) * weight).sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate(step, steps, peak)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen, tokens = seen + len(rows), tokens + len(rows) * (length + batch["labels"].shape[1])
        each = (by_token.detach().sum(1) / lengths).tolist()
        for kind, value in zip(corpus["kinds"][rows], each, strict=True):
            losses.setdefault(KINDS[kind], []).append(value)
        if (step + 1) % report_every == 0 or step + 1 == steps:
            took = time.time() - started
            by_kind = {k: round(sum(v) / len(v), 3) for k, v in sorted(losses.items())}
            line = {"step": start + step + 1, "stage": stage, "loss": by_kind, "norm": round(float(norm), 3),
                    "examples_per_s": round(seen / took, 1), "tokens_per_s": round(tokens / took)}
            print(json.dumps(line), flush=True)
            print(json.dumps(line), file=log, flush=True)
            losses = {}
        if step + 1 == steps:
            ended = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters()}
            save_file(ended, args.out / "stage.part")
            os.replace(args.out / "stage.part", args.out / f"{stage}.safetensors")
        if (step + 1) % args.save_every == 0 or step + 1 == steps:
            save_state(args.out, model, optimizer, start + step + 1)


if __name__ == "__main__":
    main()
