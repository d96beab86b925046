"""Models and data from the hub: fetched once, then from the cache; each fault is one clear error in time."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import standin
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from utils import dialogues, models, profile, training

LAB = """
from utils import dialogues
from utils.models import load_model
from utils.profile import start
profile = start()
model, tokenizer = load_model(profile.model, profile.device)
rows = sum(len(dialogues.load_split(profile.dialogues, s)) for s in ("train", "validation", "test"))
print("loaded", model.lm_head.weight.shape, rows)
"""


def run(code: str, home, **env):
    plain = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          env={**plain, "HF_HOME": str(home), "LAB_PROFILE": "flan-t5-base", **env})


@pytest.fixture(scope="module")
def repos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    bare = standin.model_snapshot(folder / "bare")
    (bare / "model.safetensors").unlink()
    return {f"models/{standin.MODEL}": {"main": standin.model_snapshot(folder / "model"), "old": bare},
            f"datasets/{standin.DIALOGUES}": {"main": standin.dialogues_snapshot(folder / "dialogues")}}


def test_the_first_run_fetches_and_the_second_is_offline_from_the_cache(repos, tmp_path):
    with standin.hub(repos) as (address, seen):
        first = run(LAB, tmp_path, HF_ENDPOINT=address)
        assert "loaded torch.Size([8192, 256])" in first.stdout, first.stderr
        assert not [r for r in seen if ".bin" in r], "a pickle was asked for"
        assert sum("GET" in r and "model.safetensors" in r for r in seen) == 1
    second = run(LAB, tmp_path, HF_ENDPOINT=address)
    assert second.stdout == first.stdout and second.stderr == "", second.stderr


def test_a_head_of_its_own_is_loaded_kept_and_saved(repos, tiny, tmp_path):
    folder = repos[f"models/{standin.MODEL}"]["main"]
    model, tokenizer = models.load_model(str(folder))
    bundled, ids = tiny[0], torch.arange(2, 40)[None]
    assert model.lm_head.weight is not model.shared.weight and not model.config.scale_decoder_outputs
    assert models.count_parameters(model) == models.count_parameters(bundled) + bundled.shared.weight.numel()
    with torch.no_grad():
        wanted = bundled(input_ids=ids, decoder_input_ids=ids).logits
        assert torch.allclose(model(input_ids=ids, decoder_input_ids=ids).logits, wanted, atol=1e-4)
        model.tie_weights()  # Trainer does so when it goes on from a checkpoint, peft when it merges
        model.save_pretrained(tmp_path / "saved")
        tokenizer.save_pretrained(tmp_path / "saved")
        again, _ = models.load_model(str(tmp_path / "saved"))
        assert torch.allclose(again(input_ids=ids, decoder_input_ids=ids).logits, wanted, atol=1e-4)


def test_training_and_merging_keep_the_head_apart(repos, tmp_path):
    model, tokenizer = models.load_model(str(repos[f"models/{standin.MODEL}"]["main"]))
    pairs = [("Say hi.", "Hi."), ("Say no.", "No, thanks.")]
    settings = {"epochs": 2, "learning_rate": 1e-3, "batch": 2, "checks": 2}
    training.fine_tune(model, tokenizer, pairs, settings, validation=pairs, folder=tmp_path)  # reloads its best
    head, shared = model.lm_head.weight, model.shared.weight
    assert head is not shared and not torch.allclose(head, shared * shared.shape[1] ** -0.5, atol=1e-6)
    joined = models.merge_adapter(models.add_adapter(model, LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=["q"])))
    assert torch.equal(joined.lm_head.weight, head) and torch.equal(joined.shared.weight, shared)


def test_weights_that_lack_a_layer_are_not_filled_up_at_random(repos, tmp_path):
    folder = shutil.copytree(repos[f"models/{standin.MODEL}"]["main"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["decoder.final_layer_norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(models.ModelError, match="lack decoder.final_layer_norm.weight"):
        models.load_model(str(folder))


def silent():
    server = socket.create_server(("127.0.0.1", 0))  # the system accepts, nobody ever answers
    return server, f"http://127.0.0.1:{server.getsockname()[1]}"


def refused():
    server, address = silent()
    server.close()
    return None, address


@pytest.mark.parametrize("fault, reason", [
    (refused, "refused"), (silent, "no answer within 2 s|timed out"),
    (lambda: (None, "http://no-such-hub.invalid"), "not known|resolution|getaddrinfo|nodename")],
    ids=["refused", "silent", "no such name"])
def test_each_network_fault_is_one_error_in_time(here, fault, reason, monkeypatch):
    monkeypatch.setattr(models, "PATIENCE", 2)
    server, address = fault()
    here(address)
    loads = [lambda: models.load_model(standin.MODEL)]
    if fault is not silent:
        loads += [lambda: dialogues.load_split(standin.DIALOGUES, "test"),
                  lambda: models.load_model(f"{standin.MODEL}@{'a' * 40}")]
    for what, load in zip((standin.MODEL, standin.DIALOGUES, standin.MODEL), loads, strict=False):
        with pytest.raises(models.HubError, match=reason) as error:
            load()
        text = str(error.value)
        assert "\n" not in text and error.value.__suppress_context__
        for part in ("profile flan-t5-base", what, address, "LAB_PROFILE=tiny", "HF_HOME"):
            assert part in text, text
    if server:
        server.close()


def test_a_name_server_that_never_answers_is_given_up_in_time(here, monkeypatch):
    monkeypatch.setattr(models, "PATIENCE", 1)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5))
    here("http://hub.example")
    with pytest.raises(models.HubError, match="no answer within 1 s"):
        models.load_model(standin.MODEL)


def test_a_revision_without_safetensors_names_its_key(here, repos):
    with standin.hub(repos) as (address, seen):
        here(address)
        with pytest.raises(models.ModelError, match="flan-t5-base@old has no safetensors.*model_revision"):
            models.load_model(f"{standin.MODEL}@old")
        for key in ("reward", "judge"):
            with pytest.raises(models.ModelError, match=f"flan-t5-base@old has no safetensors.* set {key}_revision in"):
                models.load_classifier(f"{standin.MODEL}@old", key=key)
        assert not [r for r in seen if ".bin" in r]
        with pytest.raises(models.HubError, match="no revision 'gone': correct dialogues_revision"):
            dialogues.load_split(f"{standin.DIALOGUES}@gone", "test")
        with pytest.raises(models.HubError, match="has no model nobody/nothing.*correct reward in"):
            models.fetch("nobody/nothing", "reward")


def test_a_pinned_commit_is_fetched_and_half_a_snapshot_is_completed(here, repos):
    sha = standin.commit(f"models/{standin.MODEL}", "main")
    with standin.hub(repos) as (address, seen):
        here(address)
        folder = models.fetch(f"{standin.MODEL}@{sha}")
        assert folder.name == sha and models.fetch(f"{standin.MODEL}@{sha}") == folder
        (folder / "model.safetensors").unlink()
        asked = len(seen)
        assert (models.fetch(f"{standin.MODEL}@{sha}") / "model.safetensors").exists() and len(seen) > asked


def test_a_cache_that_another_program_began_is_completed(here, repos):
    with standin.hub(repos) as (address, _):
        here(address)
        begun = huggingface_hub.hf_hub_download(standin.MODEL, "config.json")
        folder = models.fetch(standin.MODEL)
    assert folder == Path(begun).parent and {"config.json", "tokenizer.json", "model.safetensors"} <= {
        p.name for p in folder.iterdir()}
    assert models.fetch(standin.MODEL) == folder


def test_offline_says_so_and_a_path_that_is_not_there_is_no_name(here, monkeypatch):
    here("http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(models.HubError, match="forbids a connection"):
        models.fetch(standin.MODEL)
    with pytest.raises(models.HubError, match="neither a folder nor a name on the hub"):
        models.fetch("data/models/no/such")


def test_a_full_cache_disk_is_named(here, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    here("http://127.0.0.1:9")
    monkeypatch.setattr(models, "HfApi", full)
    with pytest.raises(models.HubError, match="cannot be stored in .*No space left on device; set HF_HOME"):
        models.fetch(standin.MODEL)


def test_revisions_are_pinned_in_the_profile(tmp_path):
    path = tmp_path / "profiles.toml"
    path.write_text('[x]\nmodel = "a/b"\nmodel_revision = "v1"\ndialogues = "c/d"\ntasks = "data/tasks"\n')
    read = profile.load_profile("x", path)
    assert (read.model, read.dialogues) == ("a/b@v1", "c/d") and read.tasks.endswith("tasks")


def test_no_code_from_the_hub_is_trusted(root):
    sources = [*(root / "utils").rglob("*.py"), *(root / "labs").glob("*.ipynb"), *(root / "data").rglob("*.py")]
    assert len(sources) > 30 and not [p for p in sources if "trust_remote" + "_code=True" in p.read_text("utf-8")]
    for path in (root / "utils").rglob("*.py"):  # left out, transformers would ask the learner
        code = path.read_text("utf-8")
        loads = re.findall(r"[.]from_pretrained\(|= pipeline\(", code)
        assert len(loads) == code.count("trust_remote_code=False"), path
    assert not re.search(r"\.(py|bin|pt|pth|pkl|ckpt|h5|msgpack)\b", str(models.FILES))
