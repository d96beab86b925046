"""Labs 1 to 3 on decoder-only chat models, by a profile alone: a random one from a folder, and the real SmolLM2."""

import pytest
from test_decoder_only import save
from test_full_size import toml
from test_labs import LABS, run_and_check

from utils.profile import ROOT

pytestmark = pytest.mark.slow
SMOLLM2 = ROOT / "out" / "models" / "smollm2"  # make smollm2
SHORT = {  # sizes alone
    "like": "smollm2", "test_dialogues": 12, "label_puzzles": 4, "shots": [0, 1], "task_items": 2,
    "sampled_dialogues": 2, "samples": 2, "train_examples": 16, "validation_examples": 2, "data_curve": [4, 8, 24],
    "mistake_examples": 8, "forgetting_items": 2, "rehearsed": 1, "sweep_examples": 8, "policy_examples": 24,
    "reward_pairs": 256, "heated_prompts": 16, "civil_prompts": 8, "reward_samples": 8, "kl_prompts": 4,
    "ppo": {"steps": 2, "batch": 8, "rows": 8}, "rloo": {"steps": 2, "batch": 8, "rows": 8},
    "dpo": {"steps": 2, "batch": 4, "rows": 8}, "kl_sweep": [], "best_of": [1, 2], "examples_shown": 1}
CHAT = LABS[1:]  # Lab 0 opens an encoder-decoder


def run(path, tmp_path, name: str, table: dict) -> None:
    lines = [f"{key} = {toml(value)}" for key, value in table.items()]
    shipped = (ROOT / "labs" / "profiles.toml").read_text("utf-8")
    (tmp_path / "profiles.toml").write_text("\n".join([shipped, f"[{name}]", *lines]), "utf-8")
    run_and_check(path, tmp_path, name, checked=False, LAB_PROFILES=str(tmp_path / "profiles.toml"))


@pytest.mark.parametrize("path", CHAT, ids=lambda p: p.stem)
def test_three_lines_bring_a_chat_model_of_ones_own(path, tmp_path):
    model = save("qwen", tmp_path / "model", positions=2048)
    run(path, tmp_path, "mine", {"like": "quick", "model": model, "lora_targets": ["q_proj", "v_proj"]})


@pytest.mark.skipif(not SMOLLM2.exists(), reason="make smollm2 brings the model")
@pytest.mark.parametrize("path", CHAT, ids=lambda p: p.stem)
def test_the_labs_run_on_a_real_chat_model(path, tmp_path):
    run(path, tmp_path, "short", SHORT | {"model": str(SMOLLM2)})
