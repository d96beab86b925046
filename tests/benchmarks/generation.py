"""How to compute in bf16 when generating: a bf16 copy of the model (what utils.generation does) or
autocast over fp32 weights, and fp32 throughout. Run by hand; prints seconds and ratios of one run.

    python tests/benchmarks/generation.py
"""

import statistics
import time

import torch

from utils import dialogues, prompts
from utils.generation import PAD_TO, by_length, in_dtype
from utils.models import load_model
from utils.profile import load_profile, tune_allocator

ROUNDS, PROMPTS, TOKENS = 3, 96, 40


def main():
    tune_allocator()
    profile = load_profile("tiny")
    model, tokenizer = load_model(profile.model)
    train = dialogues.load_split(profile.dialogues, "train")
    examples = list(zip(train["dialogue"], train["summary"], strict=True))
    test = dialogues.group(dialogues.load_split(profile.dialogues, "test"))[:PROMPTS]
    asked = [prompts.summary_prompt(d["dialogue"], prompts.draw_shots(examples, 3, i)) for i, d in enumerate(test)]
    ids = [tokenizer(p)["input_ids"] for p in asked]

    def seconds(which, cast: bool) -> float:
        started = time.perf_counter()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=cast):
            for group in by_length([len(i) for i in ids], tokens=profile.batch_tokens):
                batch = tokenizer.pad({"input_ids": [ids[i] for i in group]}, pad_to_multiple_of=PAD_TO,
                                      return_tensors="pt")
                which.generate(**batch, max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
        return time.perf_counter() - started

    ways = {"bf16 copy": (in_dtype(model, torch.bfloat16), False), "autocast": (model, True), "fp32": (model, False)}
    times = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):  # the first round warms up
        for name, way in ways.items():
            times[name].append(seconds(*way))
    base = statistics.median(times["bf16 copy"][1:])
    for name, taken in times.items():
        print(f"{name:10} {statistics.median(taken[1:]):.2f} s, {statistics.median(taken[1:]) / base:.2f} × bf16 copy")


if __name__ == "__main__":
    main()
