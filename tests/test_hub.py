"""Models and data from the hub: fetched once, then from the cache; each fault is one clear error in time."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pandas as pd
import pytest
import standin
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from utils import dialogues, models, needs, profile, reward, training

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
    """The stand-in's repositories, and of the model a revision without weights and one with weights in many files."""
    folder = tmp_path_factory.mktemp("hub")
    repos = standin.snapshots(folder)
    bare, shards = standin.model_snapshot(folder / "bare"), standin.model_snapshot(folder / "shards")
    (bare / "model.safetensors").unlink()
    model, _ = models.load_model(str(shards))
    (shards / "model.safetensors").unlink()
    model.save_pretrained(shards, max_shard_size="9MB")
    repos[f"models/{standin.MODEL}"] |= {"old": bare, "shards": shards}
    return repos


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


def test_shards_that_are_missing_are_fetched_and_not_overlooked(here, repos):
    with standin.hub(repos) as (address, seen):
        here(address)
        folder = models.fetch(f"{standin.MODEL}@shards")
        assert len(names := sorted(p.name for p in folder.glob("*.safetensors"))) > 2
        assert models.complete(folder) and models.list_files(f"{standin.MODEL}@shards")[1] == 0
        (folder / names[1]).unlink()
        assert models.list_files(f"{standin.MODEL}@shards")[1] > 10**6, "what is missing is to be downloaded"
        models.load_model(f"{standin.MODEL}@shards")
        assert (folder / names[1]).exists()


def test_weights_come_last(here, repos, monkeypatch):
    """Where a download was cut off in the middle of them, nothing else is missing that would not be missed."""
    order, download = [], models.snapshot_download

    def note(**options):
        order.extend([] if options.get("local_files_only") else [options["allow_patterns"]])
        return download(**options)

    monkeypatch.setattr(models, "snapshot_download", note)
    with standin.hub(repos) as (address, _):
        here(address)
        models.fetch(standin.REWARD, "reward")
        assert order == [models.FILES["model"], [models.WEIGHTS]]
        order.clear()
        models.fetch(standin.JUDGE, "judge", needed=("config.json",))
        assert order == [models.FILES["model"]]


def test_the_stand_ins_are_what_the_hub_holds_and_the_profile_pins_it(repos):
    full = profile.profile_table("flan-t5-base", profile.read_profiles())
    for repo, (sha, files) in standin.REAL.items():
        assert sorted(p.name for p in repos[repo]["main"].iterdir()) == sorted(files.split()), repo
        if repo != f"models/{standin.PICKLE_ONLY}":
            [key] = [key for key, value in full.items() if value == repo.partition("/")[2]]
            assert full[f"{key}_revision"] == sha
    texts = pd.read_csv(repos[f"datasets/{standin.DIALOGUES}"]["main"] / "test.csv")["dialogue"].str.split().str.len()
    assert 600 < texts.max() < 1200 and 0.005 < (texts > 400).mean() < 0.05, "a tail as DialogSum's"


def test_a_classifier_cuts_at_its_window_whatever_its_tokenizer_knows(repos):
    folder = str(repos[f"models/{standin.REWARD}"]["main"])
    assert models.load_tokenizer(folder).model_max_length > 10**9, "this tokenizer does not know"
    model, tokenizer = models.load_classifier(folder)
    assert tokenizer.model_max_length == 512
    score = reward.scorer(model, tokenizer, "nothate")
    assert score(["good morning, " * 400, "good morning"]).shape == (2,)  # positions beyond 514 would be an error
    judged = reward.toxicity_function(str(repos[f"models/{standin.JUDGE}"]["main"]), "toxic")
    pairs = dialogues.load_pairs(str(profile.ROOT / "data" / "preferences"), "test")[:50]
    toxic = judged(list(pairs["rejected"])).mean() - judged(list(pairs["chosen"])).mean()
    bert = {"max_position_embeddings": 512, "model_type": "bert", "pad_token_id": 0}
    assert toxic > 0.3 and models.positions(bert) == 512


BAD = {  # what is changed of the profile, and the one line that is said
    "no repository": ({"model": "nobody/nothing"}, "has no model nobody/nothing, or asks for a login"),
    "no revision": ({"model": f"{standin.MODEL}@gone"}, "flan-t5-base has no revision 'gone': correct model_revision"),
    "no weights": ({"model": f"{standin.MODEL}@old"}, "@old has no safetensors weights on the hub.* model_revision"),
    "pickle only": ({"judge": standin.PICKLE_ONLY}, "toxic-comment-model has no safetensors weights on the hub, and "
                    "other formats are not loaded: set judge_revision in"),
    "no such label": ({"judge_label": "rude"}, "judge model has no label 'rude'; it has 'toxic', 'severe_toxic'"),
    "another label": ({"reward_label": "civil"}, "reward model has no label 'civil'; it has 'nothate', 'hate'"),
    "no split": ({"dialogues": "some/data"}, "some/data has no validation.csv; it holds: test.csv, train.csv"),
    "no folder": ({"tasks": "/no/such"}, "tasks = '/no/such' is no folder"),
    "no preferences": ({"preferences": "/no/such"}, "preferences = '/no/such' is no folder"),
    "memory": ({"memory": 2**28}, r"needs more memory than there is on cpu, 0.2 GB: Lab 0 about 1\.\d GB, .*`batch`"),
    "disk": ({"disk": 2**28}, r"only 256 MB are free on the disk of .*, and the labs may need \d+ MB there"),
    "disk of the cache": ({"disk": 2**20}, r"GB are to be fetched from the hub, and 0.0 GB are free on .*HF_HOME")}


@pytest.mark.parametrize("change, message", BAD.values(), ids=BAD)
def test_what_would_stop_a_lab_is_said_before_anything_runs(change, message, here, repos, monkeypatch, tmp_path):
    data = shutil.copytree(repos[f"datasets/{standin.DIALOGUES}"]["main"], tmp_path / "data")
    (data / "validation.csv").unlink()
    (data / "README.md").unlink()
    asked = profile.load_profile("flan-t5-base")
    asked.device, asked.dtype = torch.device("cpu"), torch.bfloat16
    with standin.hub({**repos, "datasets/some/data": {"main": data}}) as (address, seen):
        here(address)
        assert needs.find_faults(asked) == [], "nothing is wrong with the profile as it is"
        assert not [r for r in seen if r.startswith("GET") and ("safetensors" in r or ".bin" in r)]
        if "memory" in change:
            monkeypatch.setattr(needs, "device_bytes", lambda device: change["memory"])
        elif "disk" in change:
            monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=change["disk"]))
        else:
            vars(asked).update(change)
        faults = needs.find_faults(asked)
        assert [f for f in faults if re.search(message, f)] and not [f for f in faults if "\n" in f], faults
        assert len(faults) == (2 if "cache" in message or "fetched" in message else 1), faults


def test_a_lab_begins_with_what_it_needs_and_no_more(here, repos, monkeypatch, tmp_path, capsys):
    """Lab 3 stops at its judge before it trains anything; Lab 1 does not read it."""
    path = tmp_path / "profiles.toml"
    path.write_text(f'[x]\nlike = "flan-t5-base"\njudge = "{standin.PICKLE_ONLY}"\n')
    monkeypatch.setenv("LAB_PROFILES", str(path))
    monkeypatch.setenv("LAB_OUT", str(tmp_path))
    with standin.hub(repos) as (address, _):
        here(address)
        with pytest.raises(models.ModelError, match="toxic-comment-model has no safetensors"):
            profile.start(name="x", lab=3)
        assert profile.start(name="x", lab=1).checkpoints == tmp_path / "x" / "checkpoints" / "lab-01"
    monkeypatch.setattr(needs, "device_bytes", lambda device: 2**20)
    profile.start(name="tiny", lab=2)
    assert "profile tiny needs more memory than there is on" in capsys.readouterr().out


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
