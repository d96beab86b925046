"""Samples per second of a PPO step (rollout, scoring, update), ours beside the last TRL that could align a T5.

    python -m pip install --no-deps --target out/trl trl==0.11.4 tyro shtab docstring-parser rich typeguard
    PYTHONPATH=out/trl python tests/benchmarks/alignment.py [--steps 4] [--rounds 2] [--train all]

Both start from the bundled model after 400 summaries, with the same prompts, batch of 64, two passes and at most 48
new tokens, train the decoder's blocks as Lab 3 does (or all weights), and score with a model of the policy's own
encoder. TRL runs as its examples do: fp32, its own batches, generation through its trainer. Each way runs in a
process of its own, round after round; medians are compared. The first step, in which kernels are made, does not count.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time

BATCH, ROWS, NEW = 64, 32, 48
PARTS = ("rollout", "scoring", "update")


def setup(device, trained):
    from utils import dialogues, prompts, reward, training
    from utils.models import load_model
    from utils.profile import load_profile

    profile = load_profile("tiny")
    policy, tokenizer = load_model(profile.model, device)
    table = dialogues.load_split(profile.dialogues, "train")
    queries = [prompts.summary_prompt(d) for d in table["dialogue"][:512]]
    training.fine_tune(policy, tokenizer, training.summary_pairs(table, 400, seed=1), profile.full)
    if trained == "decoder":
        policy.requires_grad_(False)
        policy.decoder.block.requires_grad_(True)
    return policy, tokenizer, queries, reward.new_classifier(policy)


def ours(steps: int, trained: str) -> list[dict]:
    from utils import reward, rl
    from utils.profile import choose_device, tune_allocator

    tune_allocator()
    device, dtype, _ = choose_device()
    policy, tokenizer, queries, classifier = setup(device, trained)
    score = reward.scorer(classifier, tokenizer, "civil", dtype=dtype)
    settings = {"steps": steps, "batch": BATCH, "rows": ROWS, "passes": 2, "learning_rate": 1e-5, "max_new_tokens": NEW}
    return rl.align(policy, tokenizer, queries, score, settings, dtype=dtype).history


def trl(steps: int, trained: str) -> list[dict]:
    import torch
    from trl import AutoModelForSeq2SeqLMWithValueHead, PPOConfig, PPOTrainer

    from utils import reward
    from utils.profile import choose_device

    policy, tokenizer, queries, classifier = setup(choose_device()[0], trained)
    score = reward.scorer(classifier, tokenizer, "civil")
    config = PPOConfig(learning_rate=1e-5, batch_size=BATCH, mini_batch_size=ROWS, gradient_accumulation_steps=2,
                       ppo_epochs=2, adap_kl_ctrl=False)
    models = [AutoModelForSeq2SeqLMWithValueHead(copy.deepcopy(policy)) for _ in range(2)]
    for model in models:
        model.is_peft_model = False
    trainer = PPOTrainer(config, *models, tokenizer)
    records = []
    for step in range(steps):
        clock = [time.perf_counter()]
        asked = queries[step * BATCH % 448:][:BATCH]
        ids = [tokenizer(q, return_tensors="pt")["input_ids"][0].to(policy.device) for q in asked]
        completions = trainer.generate(ids, batch_size=ROWS, do_sample=True, top_k=0, top_p=1.0, max_new_tokens=NEW,
                                pad_token_id=tokenizer.pad_token_id)
        clock.append(time.perf_counter())
        texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
        rewards = torch.tensor(score(texts), dtype=torch.float32)
        clock.append(time.perf_counter())
        trainer.step(ids, completions, list(rewards))
        clock.append(time.perf_counter())
        parts = dict(zip(PARTS, (b - a for a, b in zip(clock, clock[1:], strict=False)), strict=True))
        records.append({**parts, "seconds": clock[-1] - clock[0]})
    return records


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--train", choices=["decoder", "all"], default="decoder")
    parser.add_argument("--way", choices=["ours", "trl"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        records = {"ours": ours, "trl": trl}[args.way](args.steps + 1, args.train)[1:]
        return print(json.dumps([{k: r[k] for k in (*PARTS, "seconds")} for r in records]))
    records_of = {"ours": [], "trl": []}
    for _ in range(args.rounds):
        for way, records in records_of.items():
            out = subprocess.run([sys.executable, __file__, "--way", way, "--train", args.train,
                                  "--steps", str(args.steps)], check=True,
                                 stdout=subprocess.PIPE, text=True).stdout
            records += json.loads(out.strip().split("\n")[-1])
    speed = {way: BATCH / statistics.median(r["seconds"] for r in records) for way, records in records_of.items()}
    for way, records in records_of.items():
        parts = ", ".join(f"{p} {statistics.median(r[p] for r in records):.2f} s" for p in PARTS)
        print(f"{way:5} {speed[way]:5.1f} samples/s ({parts}); ours is {speed['ours'] / speed[way]:.1f} times as fast")


if __name__ == "__main__":
    main()
