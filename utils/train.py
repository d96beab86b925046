"""Fine-tunes or aligns a model outside of the notebooks, in one process or several:

    python -m utils.train fine-tune
    torchrun --nproc_per_node 8 -m utils.train fine-tune --sharded

The profile (LAB_PROFILE) says on what and for how long, as in Labs 2 and 3, and the batch stays the same
however many processes share it. The model goes to out/<profile>/models, to be loaded by load_model().
"""

import argparse
import copy
import os
import sys

import pandas as pd
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast, broadcast_object_list
from torch import distributed

from utils import dialogues, prompts, reward, rivals, rl, training
from utils.models import load_model
from utils.profile import choose_device, start
from utils.sharding import save_whole


def fine_tune(profile, model, tokenizer, seed: int, sharded: bool):
    """Lab 2's full fine-tuning: (model, run)."""
    train, validation = (dialogues.load_split(profile.dialogues, split) for split in ("train", "validation"))
    for table in (train, validation):
        table["dialogue"] = prompts.shorten(tokenizer, table["dialogue"])
    run = training.fine_tune(
        model, tokenizer, training.summary_pairs(train, profile.train_examples, seed), profile.full, seed=seed,
        dtype=profile.dtype, validation=training.summary_pairs(validation, profile.validation_examples),
        folder=profile.checkpoints, sharded=sharded, label="fine-tuning")
    return model, run


def align(profile, base, tokenizer, seed: int):
    """Lab 3's PPO on its starting policy, its reward and its prompts: (model, run)."""
    train, started = dialogues.load_split(profile.heated, "train"), copy.deepcopy(base)
    training.fine_tune(started, tokenizer, training.summary_pairs(train, profile.policy_examples, seed), profile.full,
                       seed=seed, dtype=profile.dtype, folder=profile.checkpoints, label="starting policy")
    preferences = pd.read_csv(f"{profile.preferences}/train.csv", keep_default_na=False)
    heated = preferences["dialogue"][: profile.heated_prompts]
    civil = train["dialogue"][train["summary_civil"] == ""][: profile.civil_prompts]
    practice = [prompts.summary_prompt(dialogue) for dialogue in [*heated, *civil]]
    score = reward_of(profile, base, started, tokenizer, preferences, practice[: min(192, len(heated))], seed)

    policy = copy.deepcopy(started).requires_grad_(False)  # without what several processes hung on its weights
    policy.decoder.block.requires_grad_(True)
    run = rl.align(policy, tokenizer, practice, score, {"max_new_tokens": profile.max_new_tokens, **profile.ppo},
                   seed=seed, dtype=profile.dtype, folder=profile.checkpoints, label="PPO",
                   accelerator=Accelerator(cpu=profile.device.type == "cpu"))
    return policy, run


def reward_of(profile, base, started, tokenizer, preferences, prompts: list[str], seed: int):
    """The reward model's score, standardised on what the starting policy answers. Each process trains the same
    one; the first one's weights and answers count, for on a GPU no two trainings are equal."""
    if hasattr(profile, "reward"):
        classifier, words = reward.load_classifier(profile.reward, profile.device)
    else:
        classifier, words = reward.new_classifier(base, seed), tokenizer
        pairs = list(zip(preferences["chosen"], preferences["rejected"], strict=True))
        reward.train(classifier, words, pairs, profile.reward_training, label=profile.reward_label, seed=seed,
                     dtype=profile.dtype)
        broadcast([p.data for p in classifier.parameters()])
    _, drawn = rivals.sampled_kl(started, started, tokenizer, prompts, dtype=profile.dtype,
                                 max_new_tokens=profile.max_new_tokens, seed=seed)
    score = reward.scorer(classifier, words, profile.reward_label, dtype=profile.dtype)
    return reward.standardised(score, broadcast_object_list(drawn), cap=profile.reward_cap)


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(prog="python -m utils.train", description=__doc__.split("\n")[0].rstrip(":"))
    parser.add_argument("task", choices=("fine-tune", "align"))
    parser.add_argument("--sharded", action="store_true", help="each process holds a share of the weights (FSDP2)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    if given.sharded and given.task == "align":
        parser.error("--sharded is for fine-tune: alignment generates, with whole weights in each process")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and choose_device()[0].type == "mps":
        os.environ["LAB_DEVICE"] = "cpu"  # several processes cannot share an Apple GPU
    process = PartialState(cpu=choose_device()[0].type == "cpu")  # takes this process's own GPU
    if not process.is_main_process:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    profile = start(seed=given.seed)
    model, tokenizer = load_model(profile.model, profile.device)
    if given.task == "fine-tune":
        model, run = fine_tune(profile, model, tokenizer, given.seed, given.sharded)
        result = f"{run.examples_per_second:.0f} examples/s, loss {run.losses[-1][1]:.3f} nats a token"
    else:
        model, run = align(profile, model, tokenizer, given.seed)
        result = f"reward {run.history[0]['reward']:.2f} to {run.history[-1]['reward']:.2f}"
    folder = profile.out / "models" / given.task
    save_whole(model, folder, tokenizer)
    print(f"{process.num_processes} process(es), {run.seconds:.0f} s, {result}; the model is in {folder}")
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
