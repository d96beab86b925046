"""Examples per second of three ways to fine-tune the same model on the same examples, in one run.

    python tests/benchmarks/training.py [--examples 512] [--rounds 2]

ours:     utils.training.fine_tune as in Lab 2 (few padded sizes, like lengths together, batch 16,
          bf16 where the CPU has it, eager attention, freed memory kept)
defaults: Seq2SeqTrainer left at its defaults (fp32, batch 8, sdpa), with transformers' own dynamic padding
public:   the public lab's recipe: everything padded to 512 tokens, fp32, batch 8
Each way runs in a process of its own, round after round; medians are compared.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time


def train(way: str, n: int) -> dict:
    import torch
    from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

    from utils import dialogues, training
    from utils.models import load_model
    from utils.profile import choose_device, load_profile, tune_allocator

    profile = load_profile("tiny")
    device, dtype, _ = choose_device()
    if way == "ours":
        tune_allocator()
    model, tokenizer = load_model(profile.model, device, attention=None if way == "ours" else "sdpa")
    tables = [dialogues.load_split(profile.dialogues, split) for split in ("train", "validation")]
    pairs, held_out = training.summary_pairs(tables[0], n, seed=1), training.summary_pairs(tables[1], 200)
    if way == "ours":
        seconds = training.fine_tune(model, tokenizer, pairs, profile.full | {"epochs": 1}, dtype=dtype).seconds
    else:
        rows = training.encode(tokenizer, pairs)
        collator = DataCollatorForSeq2Seq(tokenizer, model)
        if way == "public":
            def collator(batch):
                return training.collate(batch, prompt_width=512, answer_width=512, pad_label=0, mask=False)
        arguments = Seq2SeqTrainingArguments("out/unused", num_train_epochs=1, save_strategy="no", report_to="none",
                                             disable_tqdm=True, use_cpu=device.type == "cpu")
        trainer = Seq2SeqTrainer(model, arguments, train_dataset=rows, data_collator=collator)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    loss = training.mean_loss(model.eval(), tokenizer, held_out, dtype=torch.float32)
    return {"examples_per_second": n / seconds, "validation_loss": loss}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        return print(json.dumps(train(args.way, args.examples)))
    results_of = {"ours": [], "defaults": [], "public": []}
    for _ in range(args.rounds):
        for way, results in results_of.items():
            # The public recipe is slow: a quarter of the examples says as much about its speed.
            n = args.examples // 4 if way == "public" else args.examples
            out = subprocess.run([sys.executable, __file__, "--way", way, "--examples", str(n)], check=True,
                                 capture_output=True, text=True).stdout
            results.append(json.loads(out.strip().split("\n")[-1]))
    speed = {way: statistics.median(r["examples_per_second"] for r in results) for way, results in results_of.items()}
    for way, results in results_of.items():
        print(f"{way:9} {speed[way]:7.1f} examples/s, ours is {speed['ours'] / speed[way]:.1f} times as fast, "
              f"validation loss {results[0]['validation_loss']:.3f}")


if __name__ == "__main__":
    main()
