"""The bundled world can be made again: pretraining stops and resumes without a trace."""

import json
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

import corpus
import episodes
import grammar
import pretrain

SMALL = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    for stage in episodes.STAGES:
        corpus.write_shard((stage, 0, 7, 600, str(corpus.MODEL), str(out)))
    return out


def test_a_resumed_pretraining_equals_an_uninterrupted_one(small_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "SHAPE", SMALL)
    monkeypatch.setattr(pretrain, "BUCKETS", {768: 4})

    def train(name, *steps):
        monkeypatch.setattr(pretrain, "rate", lambda step, _, peak: peak * (9 - step) / 9)
        pretrain.main(["--corpus", str(small_corpus), "--out", str(tmp_path / name), "--save-every", "3",
                       "--steps", *map(str, steps)])
        return load_file(tmp_path / name / "state.safetensors")

    whole = train("whole", 6, 3)
    for steps in ((3,), (6,), (6, 2)):
        train("parts", *steps)
    parts = train("parts", 6, 3)
    assert set(whole) == set(parts) and all(torch.equal(whole[k], parts[k]) for k in whole)
    assert not torch.equal(whole["w.shared.weight"], pretrain.new_model(range(8192), 0, SMALL).shared.weight)


KILLED = """
import sys
sys.path[:0] = ["data/build", "tests"]
import pretrain, test_build
pretrain.SHAPE, pretrain.BUCKETS = test_build.SMALL, {768: 4}
pretrain.main(["--corpus", sys.argv[1], "--out", sys.argv[2], "--steps", "40", "10", "--save-every", "5"])
"""


def test_pretraining_that_was_killed_repeats_the_same_loss_curve(small_corpus, tmp_path):
    def begin(name):
        return subprocess.Popen([sys.executable, "-c", KILLED, str(small_corpus), str(tmp_path / name)], text=True,
                                cwd=grammar.HERE.parents[1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def curve(name):
        lines = (tmp_path / name / "log.jsonl").read_text("utf-8").splitlines()
        return {row["step"]: row["loss"] for row in map(json.loads, lines)}

    victim, deadline = begin("killed"), time.time() + 120
    while not (tmp_path / "killed" / "state.safetensors").exists() and time.time() < deadline:
        time.sleep(0.02)
    victim.kill()
    victim.communicate()
    assert 5 <= max(curve("killed")) < 50, "it was to be killed on the way"
    for name in ("killed", "whole"):
        out, _ = begin(name).communicate(timeout=300)
        assert "of 50 steps done" in out, out
    states = [load_file(tmp_path / name / "state.safetensors") for name in ("killed", "whole")]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[1])
    assert curve("killed") == curve("whole") and len(curve("whole")) == 50


def test_every_batch_is_used_once_and_fits_its_bucket(small_corpus):
    read = pretrain.read_corpus(small_corpus / "skills")
    buckets = dict.fromkeys(pretrain.BUCKETS, 1)
    batches = pretrain.plan(read["prompt_lengths"], 0, buckets)
    assert sorted(i for _, rows in batches for i in rows) == list(range(600))
    assert all(read["prompt_lengths"][rows].max() <= edge for edge, rows in batches)
    again = pretrain.plan(read["prompt_lengths"], 0, buckets)
    assert all(a == b and (x == y).all() for (a, x), (b, y) in zip(batches, again, strict=True))


def test_labels_are_padded_with_minus_100_and_the_mask_hides_pads(small_corpus):
    read = pretrain.read_corpus(small_corpus / "skills")
    batch = pretrain.collate(read, list(range(8)), 768, "cpu")
    for i in range(8):
        n, m = read["prompt_lengths"][i], read["answer_lengths"][i]
        assert batch["attention_mask"][i].sum() == n and batch["input_ids"][i, n - 1] == 1
        assert (batch["labels"][i, m:] == -100).all() and batch["labels"][i, m - 1] == 1


def test_pretraining_sees_no_published_dialogue(small_corpus):
    import random

    world, seen = grammar.load(), corpus.published()
    assert len(seen) == 4000
    frame = episodes.dialogue_frame(world, random.Random(3), frozenset())
    other = episodes.dialogue_frame(world, random.Random(3), frozenset([frame["dialogue"]]))
    assert other["dialogue"] != frame["dialogue"]


def test_the_reference_style_never_follows_a_bare_instruction():
    import random

    world, rng = grammar.load(), random.Random(5)
    for _ in range(300):
        kind, prompt, answer = episodes.episode(
            world, rng, frozenset(), rng.choice(["skills", "styles"]), rng.choice(["headline", "reference", "style"]))
        if prompt.count("Summary:") == 1:
            assert kind == "headline" and len(answer.split()) < 12
        else:
            assert kind != "headline"
