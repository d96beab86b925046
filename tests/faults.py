"""Faults that would spoil a lab's results in silence, each planted in the running utils: a plugin of pytest.

`PYTHONPATH=tests python -m pytest -p faults --fault="sign of the KL" tests/test_rl.py` runs tests with one of them.
A fault replaces a function by one that calls it and then, or before, does the wrong thing.
"""

import functools
import sys
from contextlib import nullcontext

import torch

from utils import checkpoints, dialogues, generation, metrics, models, probes, prompts, reward, rl, rollouts, training


def option(**wrong):
    """A function called with these options, whatever its caller says."""
    return lambda function, *args, **options: function(*args, **{**options, **wrong})


def own_mean(batch_loss, model, batch, counted, dtype):
    """The mean over the batch's own tokens, where it is to be the batch's share of the mean over the step's tokens."""
    return batch_loss(model, batch, (batch["labels"] != training.IGNORED).sum(), dtype)


def without_a_copy(add_adapter, model, config):
    return models.get_peft_model(model, config)


def cut_short(encode_prompts, tokenizer, texts, window=None, **options):
    """Prompts cut at the window, where an error is due."""
    window = window or tokenizer.model_max_length
    return [tokenizer(text, verbose=False)["input_ids"][:window] for text in texts]


def batch_order(generate, model, tokenizer, asked, **options):
    """Completions in the order in which they were generated: the longest prompt first."""
    texts = generate(model, tokenizer, asked, **options)
    copies = len(texts) // len(asked)
    order = sorted(range(len(asked)), key=lambda i: len(tokenizer(asked[i])["input_ids"]), reverse=True)
    return [text for i in order for text in texts[i * copies:(i + 1) * copies]]


def five_likeliest(draw, self, ids, scores):
    fifth = scores.topk(min(5, scores.shape[-1])).values[:, -1:]
    return draw(self, ids, scores.masked_fill(scores < fifth, -torch.inf))


def ten_rows(rouge, predictions, references, *kinds):
    return rouge(predictions[:10], references[:10], *kinds)


def narrow(interval, *args, **options):
    """The interval of a normal distribution that holds 90 %, where 95 % are claimed."""
    mean, low, high = interval(*args, **options)
    return mean, mean - (mean - low) * 1.645 / 1.96, mean + (high - mean) * 1.645 / 1.96


def turned_kl(token_rewards, scores, logp, ref_logp, mask, beta):
    return token_rewards(scores, logp, ref_logp, mask, -beta)


def pads_as_tokens(kl_terms, logp, ref_logp, mask):
    return kl_terms(logp, ref_logp, torch.ones_like(mask))


def start_anew(load_latest, place):
    """Nothing where the latest checkpoint is damaged, though an older one is whole."""
    latest = sorted(place.glob("step-??????"))[-1:] if place else []
    tensors, records = load_latest(place)
    return (tensors, records) if latest and latest[0].name == f"step-{len(records):06d}" else ({}, [])


def last_weights(check, model, tokenizer, validation, records, trained, *rest):
    """The weights of the last check, where those of the best one are to be kept."""
    check(model, tokenizer, validation, records, trained, *rest)
    return {name: p.detach().clone() for name, p in trained.items()} if validation else {}


# name: (function, what takes its place, file of the tests that are to notice)
FAULTS = {
    "labels padded with 0": (training.collate, option(pad_label=0), "test_training.py"),
    "attention mask of ones": (training.collate, option(mask=False), "test_training.py"),
    "each batch's mean added up": (training.batch_loss, own_mean, "test_training.py"),
    "last weights instead of the best": (training.check, last_weights, "test_training.py"),
    "baseline trained in place": (models.add_adapter, without_a_copy, "test_training.py"),
    "every split read from test.csv": (
        dialogues.load_split, lambda load, source, split: load(source, "test"), "test_data.py"),
    "long prompts cut": (prompts.encode_prompts, cut_short, "test_utils.py"),
    "completions in another order": (generation.generate, batch_order, "test_utils.py"),
    "ROUGE of ten rows": (metrics.rouge, ten_rows, "test_utils.py"),
    "interval of 90 %": (metrics.interval, narrow, "test_utils.py"),
    "reward read at position 0": (reward.label_index, lambda index, *args: 0, "test_reward.py"),
    "sampler cut to five tokens": (generation.Draw.__call__, five_likeliest, "test_rl.py"),
    "sign of the KL": (rl.token_rewards, turned_kl, "test_rl.py"),
    "KL of what follows the end": (rollouts.kl_terms, pads_as_tokens, "test_rl.py"),
    "reference trained with the policy": (rl.frozen, lambda frozen, policy: policy.eval(), "test_rl.py"),
    "optimizer begun anew": (checkpoints.restore_optimizer, lambda *args: None, "test_rl.py"),
    "damage taken for no checkpoint": (checkpoints.load_latest, start_anew, "test_rl.py"),
    "heads that stay on": (
        probes.without_heads, lambda without, model, heads: nullcontext(model), "test_probes.py"),
}


def plant(name: str) -> None:
    """Puts the faulty function in place of the right one in every module and class of utils that holds it."""
    function, faulty, _ = FAULTS[name]

    @functools.wraps(function)
    def planted(*args, **options):
        return faulty(function, *args, **options)

    modules = [module for key, module in sys.modules.items() if key.partition(".")[0] == "utils"]
    classes = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    for owner in [*modules, *classes]:
        for key in [key for key, value in vars(owner).items() if value is function]:
            setattr(owner, key, planted)


def pytest_addoption(parser):
    parser.addoption("--fault", choices=list(FAULTS), help="run the tests with this fault planted in utils")


def pytest_configure(config):
    if config.getoption("--fault"):
        plant(config.getoption("--fault"))
