"""A supervised step and sampling on SmolLM2, ours beside TRL's SFTTrainer and transformers' generate at their defaults.

    python -m pip install trl && labs get smollm2
    python tests/benchmarks/decoder_only.py

Same examples, same batch, one after the other in one process. Prints real tokens per second, the ratios, and which
share of the machine's matrix product rate the training reaches: 6 operations per weight and token for all weights.
"""

import copy
import tempfile
import time

import torch
from datasets import Dataset
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from utils import dialogues, prompts, training
from utils.generation import generate
from utils.models import autocast, load_model
from utils.profile import ROOT, choose_device, load_profile, tune_allocator

BATCH, STEPS, SAMPLED, NEW_TOKENS = 8, 6, 32, 48


def matmul_rate(device, dtype, n: int = 2048) -> float:
    """Operations per second of a square matrix product in the dtype."""
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        float((a @ b)[0, 0])
        best = min(best, time.perf_counter() - began)
    return 2 * n**3 / best


def by_trl(model, tokenizer, pairs, folder) -> float:
    """Seconds of SFTTrainer for all pairs, loss on the completion alone, the rest as it comes."""
    rows = Dataset.from_dict({"prompt": [[{"role": "user", "content": p}] for p, _ in pairs],
                              "completion": [[{"role": "assistant", "content": c}] for _, c in pairs]})
    settings = SFTConfig(output_dir=folder, per_device_train_batch_size=BATCH, num_train_epochs=1, report_to=[],
                         save_strategy="no", disable_tqdm=True, learning_rate=1e-5)
    trainer = SFTTrainer(model, settings, train_dataset=rows, processing_class=tokenizer)
    began = time.perf_counter()
    trainer.train()
    return time.perf_counter() - began


def by_transformers(model, tokenizer, asked, dtype) -> float:
    """Seconds of generate() for the prompts in batches of BATCH as they come, sampled."""
    began = time.perf_counter()
    for i in range(0, len(asked), BATCH):
        texts = [tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True,
                                               tokenize=False) for p in asked[i:i + BATCH]]
        fed = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False).to(model.device)
        with torch.inference_mode(), autocast(model.device, dtype):
            model.generate(**fed, do_sample=True, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS)
    return time.perf_counter() - began


def main() -> None:
    logging.set_verbosity_error()
    tune_allocator()
    device, dtype, reason = choose_device()
    print(f"{device}, {dtype}: {reason}")
    model, tokenizer = load_model(load_profile("smollm2").model, device)
    table = dialogues.load_split(str(ROOT / "data" / "dialogues"), "train")
    pairs = training.summary_pairs(table, BATCH * STEPS, seed=1)
    tokens = sum(len(row["input_ids"]) + len(row["labels"]) for row in training.encode(tokenizer, pairs))
    rate = matmul_rate(device, dtype)

    settings = {"epochs": 1, "learning_rate": 1e-5, "batch": BATCH}
    run = training.fine_tune(copy.deepcopy(model), tokenizer, pairs, settings, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        theirs = by_trl(copy.deepcopy(model), copy.copy(tokenizer), pairs, folder)
    share = 6 * sum(p.numel() for p in model.parameters()) * tokens / run.seconds / rate
    print(f"training: ours {tokens / run.seconds:.0f} tokens/s ({100 * share:.0f} % of {rate / 1e9:.0f} GFLOP/s), "
          f"SFTTrainer {tokens / theirs:.0f}; {theirs / run.seconds:.2f} times as fast")

    asked = [prompts.summary_prompt(d) for d in table["dialogue"][:SAMPLED]]
    began = time.perf_counter()
    generate(model, tokenizer, asked, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=True, dtype=dtype)
    ours, theirs = time.perf_counter() - began, by_transformers(model, tokenizer, asked, dtype)
    print(f"sampling: ours {SAMPLED * NEW_TOKENS / ours:.0f} tokens/s, generate {SAMPLED * NEW_TOKENS / theirs:.0f}; "
          f"{theirs / ours:.2f} times as fast")


if __name__ == "__main__":
    main()
