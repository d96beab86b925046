"""The training and alignment of decoder-only models beside TRL's, on the same model and examples.

TRL is no dependency of the labs: python -m pip install trl, and make test-all runs this."""

import copy

import pytest
import torch
from test_decoder_only import PAIRS, save
from torch.nn.functional import logsigmoid

from utils import models, rl, rollouts, training

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.slow
REJECTED = ["no", "no good at all", "never", "not this one"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(model, tokenizer) without a chat template, so that both libraries read the same text."""
    return models.load_model(save("gpt2", tmp_path_factory.mktemp("gpt2")))


def common(folder, **settings) -> dict:
    return {"output_dir": str(folder), "per_device_train_batch_size": 4, "report_to": [], "use_cpu": True, "seed": 0,
            "learning_rate": 1e-2, "max_steps": 1, "lr_scheduler_type": "constant", "disable_tqdm": True, "bf16": False,
            "gradient_checkpointing": False, "save_strategy": "no", **settings}


def dataset(**columns):
    from datasets import Dataset

    return Dataset.from_dict(columns)


def test_a_supervised_step_is_the_sft_trainers(loaded, tmp_path):
    model, tokenizer = loaded
    theirs, ours = copy.deepcopy(model), copy.deepcopy(model)
    rows = dataset(prompt=[p for p, _ in PAIRS], completion=[f" {text}" for _, text in PAIRS])
    trainer = trl.SFTTrainer(theirs, trl.SFTConfig(**common(tmp_path, completion_only_loss=True, packing=False)),
                             train_dataset=rows, processing_class=copy.copy(tokenizer))
    trainer.train()
    run = training.fine_tune(ours, tokenizer, PAIRS, {"epochs": 1, "learning_rate": 1e-2, "batch": 4})
    assert run.losses[0][1] == pytest.approx(trainer.state.log_history[-1]["train_loss"], abs=1e-5)
    others = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        if not name.endswith("c_attn.bias"):  # the keys' bias has no gradient but rounding
            assert torch.allclose(p, others[name].to(p), atol=1e-5), name
    assert not torch.equal(next(ours.parameters()), next(model.parameters()))


def test_the_dpo_loss_is_the_dpo_trainers(loaded, tmp_path):
    model, tokenizer = loaded
    policy = copy.deepcopy(model)
    with torch.no_grad():
        for p in policy.parameters():
            p += 0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    rows = dataset(prompt=[p for p, _ in PAIRS], chosen=[f" {text}" for _, text in PAIRS],
                   rejected=[f" {text}" for text in REJECTED])
    trainer = trl.DPOTrainer(copy.deepcopy(policy), ref_model=copy.deepcopy(model), train_dataset=rows,
                             args=trl.DPOConfig(**common(tmp_path, beta=0.3)), processing_class=copy.copy(tokenizer))
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model.eval(), next(iter(trainer.get_train_dataloader())))
        sides = training.encode(tokenizer, [*PAIRS, *((p, text) for (p, _), text in zip(PAIRS, REJECTED, strict=True))])
        batch = training.model_batch(policy, tokenizer, sides)
        (logp, _, mask), (ref_logp, _, _) = (rollouts.token_scores(m, None, batch) for m in (policy, model))
    ours = -logsigmoid(0.3 * rl.dpo_margin(logp, ref_logp, mask)).mean()
    assert ours != pytest.approx(0.6931, abs=1e-3), "policy and reference differ"
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


def test_the_advantages_are_the_rloo_trainers(loaded, tmp_path):
    model, tokenizer = loaded
    rewarded, found = [], []

    def reward(completions, **_):
        rewarded.extend(float(len(text)) for text in completions)
        return rewarded[-len(completions):]

    class Watched(trl.RLOOTrainer):
        def _compute_loss(self, model, inputs):
            found.append(inputs["advantages"].clone())
            return super()._compute_loss(model, inputs)

    settings = common(tmp_path, num_generations=2, max_completion_length=6, beta=0.0, normalize_advantages=False)
    trainer = Watched(copy.deepcopy(model), reward_funcs=reward, args=trl.RLOOConfig(**settings),
                      train_dataset=dataset(prompt=[p for p, _ in PAIRS]), processing_class=copy.copy(tokenizer))
    trainer.train()
    ours = rl.leave_one_out(torch.tensor(rewarded), 2)
    assert len(set(rewarded)) > 1
    assert torch.allclose(ours.sort().values, torch.cat(found).float().sort().values, atol=1e-5)
