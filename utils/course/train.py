"""Fine-tunes or aligns a model outside of the notebooks, in one process or several: labs train.

The profile (LAB_PROFILE) says on what and for how long, as in Labs 2 and 3, and the batch stays the same however
many processes share it. The model goes to out/<profile>/models, to be loaded by load_model().
"""

import copy
import os
import sys

from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list
from torch import distributed

from utils import checkpoints, dialogues, prompts, reward, rl, rollouts, training
from utils.course import sharding
from utils.models import load_model
from utils.profile import choose_device, start


def fine_tune(profile, model, tokenizer, seed: int, accelerator=None, sharded: bool = False):
    """Lab 2's full fine-tuning: (model, run)."""
    train, validation = (prompts.fit_window(tokenizer, dialogues.load_split(profile.dialogues, split))
                         for split in ("train", "validation"))
    run = training.fine_tune(
        model, tokenizer, training.summary_pairs(train, profile.train_examples, seed), profile.full, seed=seed,
        dtype=profile.dtype, validation=training.summary_pairs(validation, profile.validation_examples),
        folder=profile.checkpoints, accelerator=accelerator, sharding=sharding if sharded else None,
        label="fine-tuning")
    return model, run


def align(profile, base, tokenizer, seed: int, accelerator=None):
    """Lab 3's PPO on its starting policy, its reward and its prompts: (policy, run). Each process trains the same
    reward model; the first one's weights and samples count, for on a GPU no two trainings are equal."""
    train = prompts.fit_window(tokenizer, dialogues.load_split(profile.heated, "train", ["summary_civil"]))
    preferences = prompts.fit_window(tokenizer, dialogues.load_pairs(profile.preferences, "train"))
    start_policy = copy.deepcopy(base)
    training.fine_tune(start_policy, tokenizer, training.summary_pairs(train, profile.policy_examples, seed),
                       profile.full, seed=seed, dtype=profile.dtype, folder=profile.checkpoints,
                       accelerator=accelerator, label="starting policy")
    heated, civil = prompts.practice_prompts(preferences, train, profile.heated_prompts, profile.civil_prompts)
    classifier, words, _ = reward.reward_model(profile, preferences, seed)
    _, samples = rollouts.sampled_kl(start_policy, start_policy, tokenizer, heated[:profile.reward_samples],
                                     dtype=profile.dtype, max_new_tokens=profile.max_new_tokens, seed=seed)
    if accelerator:
        broadcast([p.data for p in classifier.parameters()])
        broadcast_object_list(samples)
    score = reward.standardised(reward.scorer(classifier, words, profile.reward_label, dtype=profile.dtype), samples,
                                cap=profile.reward_cap)
    policy = rl.trainable_copy(start_policy)
    run = rl.align(policy, tokenizer, heated + civil, score, {"max_new_tokens": profile.max_new_tokens, **profile.ppo},
                   seed=seed, dtype=profile.dtype, folder=profile.checkpoints, label="PPO", accelerator=accelerator)
    return policy, run


def train(task: str, *, seed: int = 1, sharded: bool = False) -> None:
    """Trains by task, "fine-tune" or "align", and saves the model; prints where it is. Under torchrun all
    processes call it, and the first one prints."""
    several = distributed.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1  # batch systems set it, too
    if several and choose_device()[0].type == "mps":
        os.environ["LAB_DEVICE"] = "cpu"  # several processes cannot share an Apple GPU
    accelerator = Accelerator(cpu=choose_device()[0].type == "cpu") if several else None  # takes a GPU of its own
    if several and not accelerator.is_main_process:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")
    profile = start(seed=seed)
    profile.checkpoints /= task
    model, tokenizer = load_model(profile.model, profile.device)
    if task == "fine-tune":
        model, run = fine_tune(profile, model, tokenizer, seed, accelerator, sharded and several)
        result = f"{run.examples_per_second:.0f} examples/s, loss {run.losses[-1][1]:.3f} nats per token"
    else:
        model, run = align(profile, model, tokenizer, seed, accelerator)
        result = f"reward {run.history[0]['reward']:.2f} to {run.history[-1]['reward']:.2f}"
    folder = profile.out / "models" / task
    sharding.save_whole(model, folder, tokenizer)
    if not several or accelerator.is_main_process:
        checkpoints.clear(profile.checkpoints)
    count = accelerator.num_processes if several else 1
    print(f"{count} process(es), {run.seconds:.0f} s, {result}; the model is in {folder}")
    if distributed.is_initialized():
        distributed.destroy_process_group()
