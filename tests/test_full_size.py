"""Every lab under the full-size profile: model, dialogues, reward model and judge come from a hub on loopback.

The stand-ins are small; sizes are cut by values of a profile like the full-size one, and by nothing else.
"""

import json
from pathlib import Path

import pytest
import standin
from test_labs import LABS, run_and_check

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
SHORT = {
    "like": "flan-t5-base", "shots": [0, 1, 2], "test_dialogues": 240, "task_items": 20, "samples": 4,
    "sampled_dialogues": 8, "max_new_tokens": 48,
    "train_examples": 500, "validation_examples": 20, "seeds": [1], "data_curve": [125, 250, 375],
    "mistake_examples": 250, "fixed_widths": [160, 72], "forgetting_items": 30, "rehearsed": 10, "sweep_examples": 60,
    "ranks": [1, 16], "full": {"epochs": 1, "learning_rate": 5e-4, "checks": 2}, "lora": {"epochs": 1, "checks": 2},
    "ia3": {"epochs": 1}, "prompt_tuning": {"epochs": 1},
    "policy_examples": 500, "heated_prompts": 256, "civil_prompts": 64, "reward_samples": 48, "kl_sweep": [],
    "best_of": [1, 8], "ppo": {"steps": 10, "batch": 48, "learning_rate": 5e-4},
    "rloo": {"steps": 10, "batch": 48, "learning_rate": 5e-4}, "dpo": {"steps": 12, "batch": 24, "learning_rate": 3e-4},
    "kl_prompts": 16, "kl_every": 4, "kl_samples": 1, "examples_shown": 1,
    "head_dialogues": 48, "random_heads": 2, "ablation_dialogues": 100, "ablated_heads": 3, "decoded_dialogues": 5,
    "timed_tokens": [8, 64], "timed_rounds": 2, "recall_steps": 300, "timed_lengths": [16, 64], "encoder_steps": 20,
    "decoder_dialogues": 500, "decoder_steps": 100, "summary_examples": 125}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """(address, a file with the shipped profiles and [short])."""
    folder = tmp_path_factory.mktemp("hub")
    shipped = (ROOT / "labs" / "profiles.toml").read_text("utf-8")
    lines = [f"{key} = {toml(value)}" for key, value in SHORT.items()]
    (folder / "profiles.toml").write_text("\n".join([shipped, "[short]", *lines]), "utf-8")
    with standin.hub(standin.snapshots(folder)) as (address, _):
        yield address, folder / "profiles.toml"


def toml(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_the_same_cells_run_on_a_model_from_the_hub(path, hub, tmp_path):
    address, profiles = hub
    run_and_check(path, tmp_path, "short", checked=False, seconds=10**6, LAB_PROFILES=str(profiles),
                  HF_ENDPOINT=address, HF_HOME=str(tmp_path / "cache"))
    assert list((tmp_path / "cache").rglob("model.safetensors")), "the model came from somewhere else"
