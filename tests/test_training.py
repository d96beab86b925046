"""Supervised training: what a batch holds, what the loss counts, stopping and going on, adapters."""

import contextlib
import copy
import errno
import json
import math
import os
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from peft import LoraConfig, PromptTuningConfig
from transformers import (
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    get_linear_schedule_with_warmup,
)

from utils import checkpoints, dialogues, models, probes, training
from utils.dialogues import DataError
from utils.models import count_parameters
from utils.profile import ROOT, load_profile
from utils.prompts import PromptTooLong

SETTINGS = {"epochs": 1, "learning_rate": 1e-3, "batch": 8}
LORA = LoraConfig(r=2, lora_alpha=4, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")


@pytest.fixture(scope="module")
def pairs():
    return training.summary_pairs(dialogues.load_split(str(ROOT / "data" / "dialogues"), "train"), 24, seed=5)


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def small(seed: int = 0, dropout: float = 0.0):
    """A random T5 of a few thousand weights that shares the bundled tokenizer."""
    torch.manual_seed(seed)
    return T5ForConditionalGeneration(T5Config(
        vocab_size=8192, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", dropout_rate=dropout, decoder_start_token_id=0))


class Stopped(Exception):
    pass


def collator(seen: list, stop: int | None = None, **options):
    """A collator that notes the size of each batch in `seen` and breaks the training off at batch `stop`. A row alone
    is what a training is known by, and no batch."""
    def collate(rows):
        seen.extend([len(rows)] if len(rows) > 1 else [])
        if len(seen) == stop:
            raise Stopped
        return training.collate(rows, **options)
    return collate


def test_a_batch_hides_its_padding(tiny, pairs):
    rows = training.encode(tiny[1], pairs[:5])
    batch = training.collate(rows)
    assert batch["input_ids"].shape[1] % 16 == 0 and batch["labels"].shape[1] % 8 == 0
    for i, row in enumerate(rows):
        n, m = len(row["input_ids"]), len(row["labels"])
        assert batch["input_ids"][i, :n].tolist() == row["input_ids"] and row["labels"][-1] == tiny[1].eos_token_id
        assert batch["attention_mask"][i].sum() == n and (batch["labels"][i, m:] == -100).all()
        assert batch["decoder_input_ids"][i, :m].tolist() == [0, *row["labels"][:-1]]
    wrong = training.collate(rows, pad_label=0, mask=False, prompt_width=256, answer_width=96)
    with pytest.raises(ValueError, match="raise fixed_widths"):
        training.collate(rows, prompt_width=32)
    assert wrong["labels"].shape == (5, 96) and (wrong["labels"] != -100).all() and wrong["attention_mask"].all()


def test_rows_of_like_length_share_a_step_and_each_is_used_once_per_epoch(tiny):
    table = dialogues.load_split(str(ROOT / "data" / "dialogues"), "train")
    rows = training.encode(tiny[1], training.summary_pairs(table, 150, seed=2))
    steps = training.step_orders(rows, 8, 2, seed=0)
    epochs = [sum(steps[:19], []), sum(steps[19:], [])]
    assert [len(step) for step in steps] == ([8] * 18 + [6]) * 2 and epochs[0] != epochs[1]
    assert all(sorted(order) == list(range(150)) for order in epochs)
    lengths = np.array([len(row["labels"]) for row in rows])
    assert np.mean([lengths[step].std() for step in steps]) < lengths.std() / 2
    assert training.step_orders(rows, 8, 2, seed=0) == steps != training.step_orders(rows, 8, 2, seed=1)


def test_the_loss_is_that_of_transformers_and_pads_do_not_change_it(tiny, pairs):
    model, tokenizer = tiny
    rows = training.encode(tokenizer, pairs[:6])
    batch = training.collate(rows)
    with torch.no_grad():
        theirs = model(**batch)
        ours = training.token_loss(theirs.logits, batch["labels"])
        wider = training.collate(rows, prompt_width=192, answer_width=96)
        padded = training.token_loss(model(**wider).logits, wider["labels"])
    assert torch.allclose(ours, theirs.loss, atol=1e-5) and torch.allclose(ours, padded, atol=1e-5)
    assert training.mean_loss(model, tokenizer, pairs[:6]) == pytest.approx(float(ours), abs=1e-5)


def test_accumulated_batches_train_like_one_large_batch(tiny, pairs):
    one, four, settings = copy.deepcopy(tiny[0]), copy.deepcopy(tiny[0]), {**SETTINGS, "learning_rate": 1e-4}
    runs = [training.fine_tune(one, tiny[1], pairs[:8], settings),
            training.fine_tune(four, tiny[1], pairs[:8], {**settings, "batch": 2, "accumulate": 4})]
    assert runs[0].steps == runs[1].steps == 1
    assert runs[0].losses[0][1] == pytest.approx(runs[1].losses[0][1], rel=1e-5)
    step, difference = weights(one) - weights(tiny[0]), weights(one) - weights(four)
    assert step.abs().max() > 5e-5 and difference.norm() < 0.1 * step.norm()


def test_learning_rate_zero_moves_nothing_and_the_base_model_is_never_touched(tiny, pairs):
    model, before = copy.deepcopy(tiny[0]), weights(tiny[0]).clone()
    training.fine_tune(model, tiny[1], pairs, {**SETTINGS, "learning_rate": 0.0})
    assert torch.equal(weights(model), before)
    adapted = models.add_adapter(tiny[0], LORA)
    run = training.fine_tune(adapted, tiny[1], pairs, SETTINGS)
    assert torch.equal(weights(tiny[0]), before) and not adapted.training
    assert run.losses and run.examples_per_second > 0


def test_gradients_that_something_else_left_take_no_part(tiny, pairs):
    clean, stale = small(), small()
    for p in stale.parameters():
        p.grad = torch.ones_like(p)
    for model in (clean, stale):
        training.fine_tune(model, tiny[1], pairs[:8], SETTINGS)
    assert torch.equal(weights(clean), weights(stale)) and not torch.equal(weights(clean), weights(small()))


def test_a_model_trained_in_bf16_computes_in_fp32_again(tiny, pairs):
    model = small()
    training.fine_tune(model, tiny[1], pairs[:8], SETTINGS, dtype=torch.bfloat16)
    batch, again = training.collate(training.encode(tiny[1], pairs[:4])), small(1)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, again.eval()(**batch).logits), "autocast was left around the model"


@pytest.mark.parametrize("stop", [None, 5], ids=["in one go", "resumed after the best check"])
def test_the_weights_of_the_lowest_check_are_kept_and_nothing_is_trained_twice(pairs, tiny, tmp_path, stop):
    """A model that knows its answers unlearns them when it is trained on others: the first check is the best."""
    model, prompts = small(), [prompt for prompt, _ in pairs]
    known, others = ([(prompt, answer) for prompt in prompts] for answer in ("Yes, of course.", "No."))
    training.fine_tune(model, tiny[1], known, {"epochs": 6, "learning_rate": 1e-2, "batch": 8})
    settings, again = {"epochs": 2, "learning_rate": 3e-2, "batch": 8, "checks": 3}, copy.deepcopy(model)
    if stop:
        with pytest.raises(Stopped):
            training.fine_tune(model, tiny[1], others, settings, validation=known, folder=tmp_path,
                               collator=collator([], stop))
    seen = []
    run = training.fine_tune(again, tiny[1], others, settings, validation=known, folder=tmp_path,
                             collator=collator(seen))
    losses = [loss for _, loss in run.validation]
    assert [step for step, _ in run.validation] == [2, 4, 6] and len(seen) == (2 if stop else 6)
    assert losses[0] < min(losses[1:]) - 0.5, "training should lead away from the known answers"
    assert training.mean_loss(again, tiny[1], known) == pytest.approx(losses[0], rel=1e-5)
    assert sorted(p.name for p in tmp_path.glob("*/*")) in (["end"], ["end", "lock"])  # some systems keep locks
    if not stop:  # begun once more, from the same weights: nothing is computed, all is there
        seen.clear()
        repeated = training.fine_tune(model, tiny[1], others, settings, validation=known, folder=tmp_path,
                                      collator=collator(seen))
        assert seen == [] and torch.equal(weights(model), weights(again)) and repeated == run
    checkpoints.clear(tmp_path)
    assert not list(tmp_path.iterdir())


KILLED = """
import hashlib, json, os, sys
sys.path.insert(0, "tests")
from test_training import small, training, weights
from utils import checkpoints, dialogues, models
folder, place = sys.argv[1:]
tokenizer = models.load_tokenizer("data/models/tiny")
pairs = training.summary_pairs(dialogues.load_split("data/dialogues", "train"), 40, seed=1)
batches, rename, renamed = [], os.replace, []

def collator(rows):
    batches.extend([len(rows)] if len(rows) > 1 else [])
    if place == "batch" and len(batches) == 12:
        os._exit(9)
    return training.collate(rows)

def replace(*names):
    renamed.append(names)
    if place == "checkpoint" and len(renamed) == 2:
        os._exit(9)
    rename(*names)

checkpoints.os.replace = replace
for where in (folder, None):
    model = small(dropout=0.1)
    run = training.fine_tune(model, tokenizer, pairs, {"epochs": 5, "learning_rate": 1e-2, "batch": 8}, seed=3,
                             validation=pairs[:8], folder=where, collator=collator)
    digest = hashlib.sha256(weights(model).numpy().tobytes()).hexdigest()
    print(json.dumps([digest, run.losses, run.validation, len(batches)]))
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_the_same(tmp_path):
    """Killed while it writes its second checkpoint, and again between two later ones: no handler runs at either."""
    def run(place):
        ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), place], capture_output=True, text=True,
                               cwd=ROOT, timeout=300)
        assert ended.returncode == (9 if place else 0), ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines()], sorted(p.name for p in tmp_path.glob("*/s*"))

    assert run("checkpoint") == ([], ["step-000005", "step-000010.part"])
    assert run("batch") == ([], ["step-000010", "step-000015"]), "it went on from step 5 and was killed in step 17"
    (resumed, uninterrupted), left = run("")
    assert resumed[:3] == uninterrupted[:3] and len(resumed[1]) == 25 and len(resumed[2]) == 5
    assert (resumed[3], uninterrupted[3], left) == (10, 35, [])


def test_a_training_that_is_under_way_is_not_begun_twice(pairs, tiny, tmp_path):
    refused = []

    def collator(rows):
        if len(rows) > 1:  # a batch
            with pytest.raises(RuntimeError, match="another process is at this same training .*stop it"):
                training.fine_tune(small(), tiny[1], pairs[:16], SETTINGS, folder=tmp_path)
            checkpoints.clear(tmp_path)
            refused.append(len(list(tmp_path.iterdir())))
        return training.collate(rows)

    training.fine_tune(small(), tiny[1], pairs[:16], SETTINGS, folder=tmp_path, collator=collator)
    assert refused == [1, 1], "what is under way is not cleared away"


def test_what_nobody_has_touched_for_a_week_is_removed(pairs, tiny, tmp_path):
    def begin(seed):
        training.fine_tune(small(), tiny[1], pairs[:8], SETTINGS, folder=tmp_path, seed=seed)
        return {p.name for p in tmp_path.iterdir()}

    [old] = begin(1)
    os.utime(tmp_path / old, (time.time() - checkpoints.STALE + 60,) * 2)
    both = begin(2)
    assert len(both) == 2
    os.utime(tmp_path / old, (time.time() - checkpoints.STALE - 60,) * 2)
    (tmp_path / "another thing").mkdir()
    os.utime(tmp_path / "another thing", (0, 0))
    assert begin(3) >= both - {old} | {"another thing"} and not (tmp_path / old).exists()


def test_a_disk_that_fills_while_a_checkpoint_is_written(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise checkpoints.SafetensorError("I/O error: No space left on device")

    checkpoints.save(tmp_path, {"w": torch.ones(1)}, [{}])
    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(checkpoints.TrainingError, match="cannot be written to .*No space left.*LAB_CHECKPOINTS"):
        checkpoints.save(tmp_path, {"w": torch.ones(1)}, [{}, {}])
    assert len(checkpoints.load_latest(tmp_path)[1]) == 1, "the checkpoint before it stays"
    checkpoints.finish(tmp_path, {"w": torch.ones(1)}, [{}, {}])
    assert "would be repeated" in capsys.readouterr().err, "a training that has ended is not lost for want of room"
    assert len(checkpoints.load_latest(tmp_path)[1]) == 1


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(self):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(checkpoints.FileLock, "acquire", refuse)
    with checkpoints.sole_owner(tmp_path / ("a" * 16)):
        assert (tmp_path / ("a" * 16)).is_dir()
    checkpoints.clear(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_half_written_checkpoint_is_named_and_skipped(tmp_path, capsys):
    assert checkpoints.load_latest(tmp_path) == checkpoints.load_latest(None) == ({}, [], False)
    for n in (1, 2, 3):
        checkpoints.save(tmp_path, {"w": torch.full((3,), float(n))}, [{"step": i} for i in range(n)])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000003"], "the latest two are kept"
    newest = tmp_path / "step-000003"
    for file in ("state.safetensors", "records.json"):
        complete = (newest / file).read_bytes()
        for content in (complete[: len(complete) // 2], b""):
            (newest / file).write_bytes(content)
            tensors, records, ended = checkpoints.load_latest(tmp_path)
            assert tensors["w"].tolist() == [2.0] * 3 and len(records) == 2 and not ended
            assert f"{newest} is damaged" in capsys.readouterr().err
        (newest / file).write_bytes(complete)
    (newest / "records.json").unlink()
    assert len(checkpoints.load_latest(tmp_path)[1]) == 2


@pytest.mark.parametrize("other", [
    {"data": slice(1, None)}, {"data": slice(None, None, -1)}, {"validation": 5}, {"seed": 2}, {"label": "y"},
    {"dtype": torch.bfloat16}, {"model": 1}, {"dropout": 0.1}, {"mask": False}, {"learning_rate": 1e-2},
    {"checks": 3}], ids=str)
def test_a_checkpoint_of_another_training_is_not_taken_up(pairs, tiny, tmp_path, other):
    """Whatever decides how a training ends is part of its checkpoints' identity."""
    def batches(stop=None, model=0, data=slice(None), validation=4, seed=1, label="x", dtype=torch.float32,
                dropout=0.0, mask=True, **settings):
        seen = []
        with pytest.raises(Stopped) if stop else contextlib.nullcontext():
            training.fine_tune(small(model, dropout), tiny[1], pairs[:16][data], {**SETTINGS, "epochs": 2, **settings},
                               seed=seed, dtype=dtype, label=label, folder=tmp_path, validation=pairs[:validation],
                               collator=collator(seen, stop, mask=mask))
        return len(seen)

    batches(stop=4)
    assert [p.name for p in tmp_path.glob("*/step-*")] == ["step-000002"]
    assert batches(**other) == 4, "another training went on from this checkpoint"
    assert batches() == 2, "the same training should go on from its third step"
    assert batches() == batches(**other) == 0, "a training that has ended is not repeated"


def test_it_is_the_training_of_transformers(pairs, tiny, tmp_path):
    """Seq2SeqTrainer on the same batches, with a loss that is the mean over the step's tokens, ends at the same
    weights: one schedule, one clipping, one optimizer."""
    rows, ours, theirs, losses = training.encode(tiny[1], pairs), small(), small(), []
    run = training.fine_tune(ours, tiny[1], pairs, {"epochs": 5, "learning_rate": 1e-2, "batch": 3, "accumulate": 2},
                             seed=7)
    parts = [[rows[i] for i in part] for step in training.step_orders(rows, 6, 5, 7) for part in (step[:3], step[3:])]

    def mean_loss(outputs, labels, num_items_in_batch):
        total = torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), reduction="sum")
        losses.append((total / num_items_in_batch).item())
        return total / num_items_in_batch

    arguments = Seq2SeqTrainingArguments(
        str(tmp_path), num_train_epochs=1, per_device_train_batch_size=1, gradient_accumulation_steps=2,
        learning_rate=1e-2, warmup_steps=2, optim="adamw_torch", use_cpu=True, save_strategy="no",
        train_sampling_strategy="sequential", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        label_names=["labels"])
    Seq2SeqTrainer(theirs, arguments, train_dataset=parts, data_collator=lambda items: training.collate(items[0]),
                   compute_loss_func=mean_loss).train()
    assert [loss for _, loss in run.losses] == pytest.approx(np.reshape(losses, (20, 2)).sum(1).tolist(), abs=1e-5)
    assert (weights(ours) - weights(theirs)).abs().max() < 1e-5 and run.losses[-1][1] < run.losses[0][1] - 1


def test_the_learning_rate_rises_for_a_tenth_of_the_steps_and_falls_to_zero(pairs, tiny, monkeypatch):
    rates, update = [], training.update

    def watch(optimizer, **options):
        rates.append(optimizer.param_groups[0]["lr"])
        return update(optimizer, **options)

    monkeypatch.setattr(training, "update", watch)
    training.fine_tune(small(), tiny[1], pairs, {"epochs": 7, "learning_rate": 0.1, "batch": 8})
    schedule = get_linear_schedule_with_warmup(torch.optim.SGD(small().parameters(), lr=1.0), 2, 21).lr_lambdas[0]
    assert rates == pytest.approx([0.1 * schedule(step) for step in range(21)])
    assert rates[:3] == pytest.approx([0, 0.05, 0.1]) and rates[-1] == pytest.approx(0.1 / 19)


def test_an_update_clips_the_gradient_and_moves_nothing_where_it_is_no_number():
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for limit, expected in ((1.0, [0.4, 1.2]), (10.0, [-2.6, -2.8])):
        weight.grad = torch.tensor([3.0, 4.0])
        assert training.update(optimizer, limit=limit) == pytest.approx(5)
        assert weight.tolist() == pytest.approx(expected) and weight.grad is None
    for number in (math.inf, math.nan):
        weight.grad = torch.tensor([number, 4.0])
        assert not math.isfinite(training.update(optimizer))
        assert weight.tolist() == pytest.approx([-2.6, -2.8]) and weight.grad is None


def test_a_loss_that_is_no_number_stops_with_step_and_checkpoint(pairs, tiny, tmp_path):
    model, seen = small(), []

    def collator(rows):
        seen.append(len(rows))
        if len(seen) == 6:  # the fifth batch: a row alone comes before them
            model.shared.weight.data[:] = math.nan
        return training.collate(rows)

    with pytest.raises(FloatingPointError, match=(
            "x: the loss is nan, the gradient nan in step 4; last good checkpoint: .*step-000003$")):
        training.fine_tune(model, tiny[1], pairs, {**SETTINGS, "epochs": 2}, folder=tmp_path, collator=collator,
                           label="x")
    [place] = tmp_path.glob("*/")
    tensors, records, _ = checkpoints.load_latest(place)
    assert len(records) == 3 and all(torch.isfinite(tensor).all() for tensor in tensors.values())
    with pytest.raises(FloatingPointError, match="training: the loss is .* in step 0; last good checkpoint: none$"):
        training.fine_tune(model, tiny[1], pairs, SETTINGS)


def test_unusable_data_are_clear_errors(tiny):
    table = pd.DataFrame({"id": ["a", "b"], "dialogue": ["#Person1#: Hi.", "#Person1#: No."], "summary": ["x", " "]})
    with pytest.raises(DataError, match="3 training dialogues asked for, 2 there"):
        training.summary_pairs(table, 3)
    with pytest.raises(DataError, match=r"empty summary \(id 'b'\)"):
        training.summary_pairs(table, 1)
    with pytest.raises(DataError, match="nothing to train on"):
        training.fine_tune(small(), tiny[1], [], SETTINGS)
    with pytest.raises(PromptTooLong, match="prompt 1 of 2 has"):
        training.encode(tiny[1], [("a", "b"), ("word " * 900, "b")])


def test_out_of_memory_names_the_key_to_lower(tiny, pairs, monkeypatch):
    model = small()

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(MemoryError, match="with 8 examples in a batch: lower `batch`"):
        training.fine_tune(model, tiny[1], pairs, SETTINGS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_leaves_the_base_alone_merges_and_switches_off(tiny, pairs, dtype):
    base, tokenizer = tiny
    adapted, short = models.add_adapter(base, LORA), sorted(pairs, key=lambda pair: len(pair[0]))[:4]
    training.fine_tune(adapted, tokenizer, short, {"epochs": 2, "learning_rate": 3e-2, "batch": 2}, dtype=dtype)
    batch = training.collate(training.encode(tokenizer, short))
    with torch.no_grad():
        on, merged, plain = (m(**batch).logits for m in (adapted, models.merge_adapter(adapted), base))
        with adapted.disable_adapter():
            off = adapted(**batch).logits
    assert torch.equal(off, plain) and not torch.allclose(on, plain, atol=0.1)
    assert torch.allclose(on, merged, atol=1e-3)
    trained = count_parameters(adapted, trainable=True)
    assert trained == sum(p.numel() for n, p in adapted.named_parameters() if "lora" in n)
    assert models.trainable_percent(adapted) == pytest.approx(100 * trained / (count_parameters(base) + trained))
    assert models.kilobytes_on_disk(adapted) == pytest.approx(4 * trained / 1000, rel=0.2)
    with pytest.raises(AttributeError):
        models.merge_adapter(models.add_adapter(base, PromptTuningConfig(task_type="SEQ_2_SEQ_LM",
                                                                         num_virtual_tokens=2)))


@pytest.mark.parametrize("adapt", [False, True])
def test_a_step_holds_what_the_formula_says(tiny, pairs, adapt):
    model = models.add_adapter(tiny[0], LORA) if adapt else copy.deepcopy(tiny[0])
    memory = probes.step_memory(model, tiny[1], pairs[:4])
    n, trained = count_parameters(model), count_parameters(model, trainable=True)
    assert memory["weights"] == pytest.approx(4 * n / 2**20, abs=0.02)
    assert memory["gradients"] == pytest.approx(4 * trained / 2**20, abs=0.02)
    assert memory["optimizer"] == pytest.approx(8 * trained / 2**20, abs=0.02)
    assert 1 < memory["saved"] < memory["peak"]
    assert memory["peak"] >= memory["weights"] + memory["gradients"] + memory["optimizer"]


def test_the_peak_of_a_step_counts_the_moments_that_later_steps_find(tiny, pairs):
    full, adapted = (probes.step_memory(m, tiny[1], pairs[:4])
                     for m in (copy.deepcopy(tiny[0]), models.add_adapter(tiny[0], LORA)))
    spared = sum(full[part] - adapted[part] for part in ("optimizer", "saved"))
    assert full["peak"] - adapted["peak"] > 0.9 * spared > 40


STILL = """
[still]
like = "quick"
seeds = [1, 2]
train_examples = 32
data_curve = [16, 24, 48]
mistake_examples = 24
full = { learning_rate = 0.0 }
lora = { learning_rate = 0.0 }
ia3 = { learning_rate = 0.0 }
prompt_tuning = { learning_rate = 0.0 }
other_rates = { full = 0.0, lora = 0.0 }
"""


@pytest.mark.slow
def test_lab_2_claims_no_gain_where_nothing_was_learned(tmp_path, monkeypatch):
    """The notebook at learning rate 0 and small sizes: it runs to its end, and every gain vanishes."""
    (tmp_path / "profiles.toml").write_text(STILL, encoding="utf-8")
    for name, value in (("LAB_PROFILES", tmp_path / "profiles.toml"), ("LAB_PROFILE", "still"), ("LAB_OUT", tmp_path)):
        monkeypatch.setenv(name, str(value))
    [path] = (ROOT / "labs").glob("02_*.ipynb")
    NotebookClient(nbformat.read(path, 4), timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    rows = json.loads((tmp_path / "still" / "claims" / "02.json").read_text(encoding="utf-8"))
    by_name = {row["claim"]: row for row in rows}
    for name in ("full_ft_gain_rouge1", "lora_minus_full_rouge1", "full_ft_forgetting_points",
                 "multitask_forgetting_points", "pads_in_loss_cost_rouge1"):
        row = by_name[name]
        assert row["low"] == row["value"] == row["high"] == 0 and not row["held"], row


def test_the_small_batches_of_t4_are_the_steps_of_the_large_ones(pairs, tiny):
    """A step is the same, loss by loss and weight by weight, however many batches it is cut into."""
    large, small_ = (load_profile(name) for name in ("flan-t5-base", "t4"))
    ends = []
    for p in (large, small_):
        model, settings = small(), {**p.full, "epochs": 2, "checks": 1, "learning_rate": 1e-2}
        run = training.fine_tune(model, tiny[1], pairs * 3, settings, seed=4)
        ends.append((torch.tensor(run.losses), weights(model)))
    for name in ("full", "lora", "ia3", "prompt_tuning"):
        sizes = [getattr(p, name)["batch"] * getattr(p, name)["accumulate"] for p in (large, small_)]
        assert sizes[0] == sizes[1] == 32 and getattr(small_, name)["batch"] < getattr(large, name)["batch"]
    assert len(ends[0][0]) == 6 and torch.allclose(ends[0][0], ends[1][0], atol=1e-4)
    assert torch.allclose(ends[0][1], ends[1][1], atol=1e-4)
    assert not torch.allclose(ends[0][1], weights(small()), atol=1e-3), "nothing was trained"
