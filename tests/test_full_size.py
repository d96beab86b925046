"""Every lab under the full-size profile: model, dialogues, reward model and judge come from a hub on loopback.

The stand-ins are small; sizes are cut by values of the profile, and by nothing else.
"""

import json
import tomllib
from pathlib import Path

import pytest
import standin
from test_labs import LABS, code_cells, nbval

ROOT = Path(__file__).resolve().parent.parent
FROM_THE_HUB = ("network", "model", "dialogues", "reward", "judge", "reward_label", "judge_label", "ablated_heads")
SHORT = {
    "shots": [0, 1, 2], "test_dialogues": 240, "task_items": 20, "samples": 4, "sampled_dialogues": 8,
    "train_examples": 500, "validation_examples": 20, "seeds": [1], "data_curve": [125, 250, 375],
    "mistake_examples": 250, "forgetting_items": 30, "rehearsed": 10, "sweep_examples": 60, "ranks": [1, 8],
    "full": {"epochs": 1, "learning_rate": 5e-4, "batch": 16, "checks": 2},
    "policy_examples": 500, "heated_prompts": 256, "civil_prompts": 64, "pushed": {}, "kl_sweep": [], "best_of": [1, 8],
    "ppo": {"steps": 10, "batch": 48, "passes": 2, "learning_rate": 5e-4, "kl": 0.04, "rows": 24},
    "rloo": {"steps": 10, "batch": 48, "samples": 4, "passes": 1, "learning_rate": 5e-4, "kl": 0.04, "rows": 24},
    "dpo": {"steps": 12, "batch": 24, "learning_rate": 3e-4, "beta": 0.1, "rows": 24},
    "kl_prompts": 16, "examples_shown": 1,
    "head_dialogues": 48, "random_heads": 2, "ablation_dialogues": 100, "ablated_heads": 3, "decoded_dialogues": 5,
    "timed_tokens": [8, 64], "timed_rounds": 2, "recall_steps": 300, "timed_lengths": [16, 64], "encoder_steps": 20,
    "decoder_dialogues": 500, "decoder_steps": 100, "summary_examples": 125}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """(address, a file with the shortened profile)."""
    folder = tmp_path_factory.mktemp("hub")
    tables = tomllib.loads((ROOT / "labs" / "profiles.toml").read_text("utf-8"))
    full, tiny = tables["flan-t5-base"], tables["tiny"]
    assert full.keys() - tiny.keys() == {"reward"}, "each lab must find its values under both profiles"
    values = {**tiny, **{key: full[key] for key in FROM_THE_HUB}, **SHORT}
    lines = [f"{key} = {toml(value)}" for key, value in values.items()]
    (folder / "profiles.toml").write_text("\n".join(["[flan-t5-base]", *lines]), "utf-8")
    repos = {f"models/{full['model']}": standin.model_snapshot(folder / "model"),
             f"datasets/{full['dialogues']}": standin.dialogues_snapshot(folder / "dialogues"),
             f"models/{full['reward']}": standin.classifier_snapshot(folder / "reward", ("nothate", "hate")),
             f"models/{full['judge']}": standin.classifier_snapshot(folder / "judge", ("non-toxic", "toxic"))}
    with standin.hub({name: {"main": where} for name, where in repos.items()}) as (address, _):
        yield address, folder / "profiles.toml"


def toml(value) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_the_same_cells_run_on_a_model_from_the_hub(path, hub, tmp_path):
    address, profiles = hub
    passed, bad, output = nbval(path, tmp_path, checked=False, LAB_PROFILE="flan-t5-base", LAB_PROFILES=str(profiles),
                                HF_ENDPOINT=address, HF_HOME=str(tmp_path / "cache"))
    assert bad == 0 and passed == len(code_cells(path)), output[-4000:]
    claims = json.loads((tmp_path / "out" / "flan-t5-base" / "claims" / f"{path.name[:2]}.json").read_text("utf-8"))
    assert claims and all(c["low"] <= c["value"] <= c["high"] and c["control"] for c in claims)
    assert list((tmp_path / "cache").rglob("model.safetensors")), "the model came from somewhere else"
    assert not (tmp_path / "connections.txt").exists()
