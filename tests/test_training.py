"""Supervised training: what a batch holds, what the loss counts, stopping and going on, adapters."""

import copy
import errno
import json
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig

from utils import adapters, checkpoints, dialogues, memory, training
from utils.dialogues import DataError
from utils.generation import generate
from utils.models import count_parameters
from utils.profile import ROOT
from utils.prompts import PromptTooLong

SETTINGS = {"epochs": 1, "learning_rate": 1e-3, "batch": 8}
LORA = LoraConfig(r=2, lora_alpha=4, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")


@pytest.fixture(scope="module")
def pairs():
    return training.summary_pairs(dialogues.load_split(str(ROOT / "data" / "dialogues"), "train"), 24, seed=5)


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def small(seed: int = 0):
    """A random T5 of a few thousand weights that shares the bundled tokenizer."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    return T5ForConditionalGeneration(T5Config(
        vocab_size=8192, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, decoder_start_token_id=0))


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


def test_the_loss_is_that_of_transformers_and_pads_do_not_change_it(tiny, pairs):
    model, tokenizer = tiny
    rows = training.encode(tokenizer, pairs[:6])
    batch = training.collate(rows)
    with torch.no_grad():
        theirs = model(**batch)
        ours = training.token_loss(theirs, batch["labels"])
        wider = training.collate(rows, prompt_width=192, answer_width=96)
        padded = training.token_loss(model(**wider), wider["labels"])
    assert torch.allclose(ours, theirs.loss, atol=1e-5) and torch.allclose(ours, padded, atol=1e-5)
    assert training.mean_loss(model, tokenizer, pairs[:6]) == pytest.approx(float(ours), abs=1e-5)


def test_accumulated_batches_train_like_one_large_batch(tiny, pairs):
    whole, parts, settings = copy.deepcopy(tiny[0]), copy.deepcopy(tiny[0]), {**SETTINGS, "learning_rate": 1e-4}
    one = training.fine_tune(whole, tiny[1], pairs[:8], settings)
    four = training.fine_tune(parts, tiny[1], pairs[:8], {**settings, "batch": 2, "accumulate": 4})
    assert one.steps == four.steps == 1 and one.losses[0][1] == pytest.approx(four.losses[0][1], rel=1e-3)
    moved, apart = weights(whole) - weights(tiny[0]), weights(whole) - weights(parts)
    assert moved.abs().max() > 5e-5 and apart.norm() < 0.1 * moved.norm()


def test_learning_rate_zero_moves_nothing_and_the_base_model_is_never_touched(tiny, pairs):
    model, before = copy.deepcopy(tiny[0]), weights(tiny[0]).clone()
    training.fine_tune(model, tiny[1], pairs, {**SETTINGS, "learning_rate": 0.0})
    assert torch.equal(weights(model), before)
    adapted = adapters.add_adapter(tiny[0], LORA)
    run = training.fine_tune(adapted, tiny[1], pairs, SETTINGS)
    assert torch.equal(weights(tiny[0]), before) and not adapted.training
    assert run.losses and run.examples_per_second > 0


def test_a_model_trained_in_bf16_computes_in_fp32_again(tiny, pairs):
    model = small()
    training.fine_tune(model, tiny[1], pairs[:8], SETTINGS, dtype=torch.bfloat16)
    batch, again = training.collate(training.encode(tiny[1], pairs[:4])), small(1)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, again.eval()(**batch).logits), "autocast was left around the model"


def test_the_best_check_is_kept_and_checkpoints_are_removed(pairs, tiny, tmp_path):
    """Measured on what the model says by itself, training on something else is best broken off early."""
    model, asked = copy.deepcopy(tiny[0]), [prompt for prompt, _ in pairs[:8]]
    own = list(zip(asked, generate(tiny[0], tiny[1], asked), strict=True))
    run = training.fine_tune(model, tiny[1], pairs, {"epochs": 2, "learning_rate": 1e-3, "batch": 8, "checks": 3},
                             validation=own, folder=tmp_path)
    losses = [loss for _, loss in run.validation]
    assert len(losses) == 3 and losses[0] < losses[-1] - 0.5, "training should lead away from its own words"
    assert training.mean_loss(model, tiny[1], own) == pytest.approx(min(losses), rel=1e-3)
    assert not list(tmp_path.iterdir())


KILLED = """
import sys, torch
sys.path.insert(0, "tests")
from test_training import small, weights
from utils import dialogues, models, training
tokenizer = models.load_tokenizer("data/models/tiny")
pairs = training.summary_pairs(dialogues.load_split("data/dialogues", "train"), 160, seed=1)
model = small()
run = training.fine_tune(model, tokenizer, pairs, {"epochs": 5, "learning_rate": 1e-2, "batch": 8}, seed=3,
                         validation=pairs[:8], folder=sys.argv[1])
print("RESULT", float(weights(model).double().abs().sum()), run.validation[-1], len(run.validation))
"""


def test_a_killed_training_goes_on_and_ends_the_same(tmp_path):
    def begin(folder):
        return subprocess.Popen([sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def result(process):
        out, err = process.communicate(timeout=300)
        return next((line for line in out.split("\n") if line.startswith("RESULT")), out + err)

    victim = begin(tmp_path / "a")
    deadline = time.time() + 120
    while not list(tmp_path.glob("a/*/checkpoint-*/trainer_state.json")) and time.time() < deadline:
        time.sleep(0.02)
    victim.kill()
    assert result(victim).startswith("RESULT") is False, "it was to be killed before its end"
    left = sorted(tmp_path.glob("a/*/checkpoint-*"))
    assert left, "no checkpoint was there to go on from"
    resumed, whole = result(begin(tmp_path / "a")), result(begin(tmp_path / "b"))
    assert resumed == whole and whole.startswith("RESULT") and whole.endswith(" 5")


def test_a_training_that_is_under_way_is_not_begun_twice(pairs, tiny, tmp_path):
    settings, refused = {"epochs": 1, "learning_rate": 1e-3, "batch": 8}, []

    def collator(rows):
        with pytest.raises(RuntimeError, match="another process is at this same training .*stop it"):
            training.fine_tune(small(), tiny[1], pairs[:16], settings, folder=tmp_path)
        refused.append(len(rows))
        return training.collate(rows)

    training.fine_tune(small(), tiny[1], pairs[:16], settings, folder=tmp_path, collator=collator)
    assert refused == [8, 8]


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(self):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(checkpoints.FileLock, "acquire", refuse)
    with checkpoints.alone_in(tmp_path / "a"):
        assert (tmp_path / "a").is_dir()


def test_a_half_written_checkpoint_is_named_and_skipped(pairs, tiny, tmp_path, capsys):
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    rows = training.encode(tiny[1], pairs)
    trainer = Seq2SeqTrainer(small(), Seq2SeqTrainingArguments(
        str(tmp_path), save_strategy="epoch", num_train_epochs=2, report_to="none", use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False), train_dataset=rows, data_collator=training.collate)
    trainer.train()
    older, newer = sorted(tmp_path.glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    assert checkpoints.last_checkpoint(tmp_path) == newer
    for file in ("model.safetensors", "optimizer.pt", "trainer_state.json"):
        whole = (newer / file).read_bytes()
        (newer / file).write_bytes(whole[: len(whole) // 2])
        assert checkpoints.last_checkpoint(tmp_path) == older
        assert f"{newer} is half-written" in capsys.readouterr().err
        (newer / file).write_bytes(whole)
    (newer / "scheduler.pt").unlink()
    assert checkpoints.last_checkpoint(tmp_path) == older and checkpoints.last_checkpoint(tmp_path / "none") is None


def test_a_checkpoint_of_another_training_is_not_taken_up(pairs, tiny):
    rows = training.encode(tiny[1], pairs)
    one = checkpoints.fingerprint(small(), rows, SETTINGS, 0)
    assert one == checkpoints.fingerprint(small(), rows, SETTINGS, 0)
    others = [(small(1), rows, SETTINGS, 0), (small(), rows[1:], SETTINGS, 0), (small(), rows, SETTINGS, 1),
              (small(), rows, {**SETTINGS, "batch": 4}, 0)]
    assert one not in {checkpoints.fingerprint(*other) for other in others}


def test_unusable_data_are_clear_errors(tiny):
    table = pd.DataFrame({"id": ["a", "b"], "dialogue": ["#Person1#: Hi.", "#Person1#: No."], "summary": ["x", " "]})
    with pytest.raises(DataError, match="3 training dialogues asked for, 2 there"):
        training.summary_pairs(table, 3)
    with pytest.raises(DataError, match=r"empty summary \(id 'b'\)"):
        training.summary_pairs(table, 1)
    with pytest.raises(DataError, match="nothing to train on"):
        training.fine_tune(small(), tiny[1], [], SETTINGS)
    with pytest.raises(PromptTooLong, match="training prompt 1 has"):
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
    adapted = adapters.add_adapter(base, LORA)
    training.fine_tune(adapted, tokenizer, pairs, {**SETTINGS, "learning_rate": 1e-2, "epochs": 2}, dtype=dtype)
    batch = training.collate(training.encode(tokenizer, pairs[:4]))
    with torch.no_grad():
        on, joined, plain = (m(**batch).logits for m in (adapted, adapters.merged(adapted), base))
        with adapted.disable_adapter():
            off = adapted(**batch).logits
    assert torch.equal(off, plain) and not torch.allclose(on, plain, atol=0.1)
    assert torch.allclose(on, joined, atol=1e-3)
    trained = count_parameters(adapted, trainable=True)
    assert trained == sum(p.numel() for n, p in adapted.named_parameters() if "lora" in n)
    assert adapters.trainable_percent(adapted) == pytest.approx(100 * trained / (count_parameters(base) + trained))
    assert adapters.kilobytes_on_disk(adapted) == pytest.approx(4 * trained / 1000, rel=0.2)
    with pytest.raises(AttributeError):
        adapters.merged(adapters.add_adapter(base, PromptTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=2)))


@pytest.mark.parametrize("adapt", [False, True])
def test_a_step_holds_what_the_formula_says(tiny, pairs, adapt):
    model = adapters.add_adapter(tiny[0], LORA) if adapt else copy.deepcopy(tiny[0])
    found = memory.of_a_step(model, tiny[1], pairs[:4])
    n, trained = count_parameters(model), count_parameters(model, trainable=True)
    assert found["weights"] == pytest.approx(4 * n / 2**20, abs=0.02)
    assert found["gradients"] == pytest.approx(4 * trained / 2**20, abs=0.02)
    assert found["optimizer"] == pytest.approx(8 * trained / 2**20, abs=0.02)
    assert 1 < found["saved"] < found["peak"]
    assert found["peak"] >= found["weights"] + found["gradients"] + found["optimizer"]


def test_the_peak_of_a_step_counts_the_moments_that_later_steps_find(tiny, pairs):
    full, adapted = (memory.of_a_step(m, tiny[1], pairs[:4])
                     for m in (copy.deepcopy(tiny[0]), adapters.add_adapter(tiny[0], LORA)))
    spared = sum(full[part] - adapted[part] for part in ("optimizer", "saved"))
    assert full["peak"] - adapted["peak"] > 0.9 * spared > 40


@pytest.mark.parametrize("lab", sorted(p.name for p in (ROOT / "labs").glob("02_*.ipynb")))
def test_lab_2_claims_no_gain_where_nothing_was_learned(lab, tmp_path, monkeypatch):
    """The whole notebook at learning rate 0 and small sizes: every gain must vanish."""
    import tomllib

    import nbformat
    from nbclient import NotebookClient

    table = tomllib.loads((ROOT / "labs" / "profiles.toml").read_text(encoding="utf-8"))["tiny"]
    still = {k: {**v, "learning_rate": 0.0, "epochs": 1} for k, v in table.items() if isinstance(v, dict)}
    table |= still | {"train_examples": 32, "validation_examples": 16, "test_dialogues": 40, "forgetting_items": 10,
                      "data_curve": [16, 24, 48], "mistake_examples": 24, "ranks": [1, 8], "rehearsed": 4,
                      "seeds": [1, 2], "sweep_examples": 16}
    lines = ["[still]"]
    for key, value in table.items():
        inline = ", ".join(f"{k} = {json.dumps(v)}" for k, v in value.items()) if isinstance(value, dict) else ""
        lines.append(f"{key} = {{ {inline} }}" if inline else f"{key} = {json.dumps(value)}")
    (tmp_path / "profiles.toml").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("LAB_PROFILES", str(tmp_path / "profiles.toml"))
    monkeypatch.setenv("LAB_PROFILE", "still")
    monkeypatch.setenv("LAB_OUT", str(tmp_path / "out"))
    notebook = nbformat.read(ROOT / "labs" / lab, 4)
    place = {"metadata": {"path": str(ROOT / "labs")}}
    NotebookClient(notebook, timeout=300, allow_errors=True, resources=place).execute()
    errors = [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert errors and {e.ename for e in errors} <= {"AssertionError"}, [e.evalue for e in errors]
    claims = {c["claim"]: c for c in json.loads(
        (tmp_path / "out" / "still" / "claims" / "02.json").read_text(encoding="utf-8"))}
    for name in ("full_ft_gain_rouge1", "lora_minus_full_rouge1", "full_ft_forgetting_points",
                 "multitask_forgetting_points", "pads_in_loss_cost_rouge1"):
        assert claims[name]["low"] == claims[name]["value"] == claims[name]["high"] == 0, claims[name]
