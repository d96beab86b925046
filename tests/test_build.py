"""The bundled world can be made again: pretraining stops and resumes without a trace."""

import json
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import batching
import corpus
import episodes
import grammar
import pretrain
import score_model

SMALL = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    for stage in episodes.STAGES:
        corpus.write_shard((stage, 0, 7, 600, str(corpus.MODEL), str(out)))
    return out


def test_a_resumed_pretraining_equals_an_uninterrupted_one(small_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "SHAPE", SMALL)
    monkeypatch.setattr(batching, "BUCKETS", {768: 4})

    def train(name, *steps):
        monkeypatch.setattr(pretrain, "rate", lambda step, _, peak: peak * (9 - step) / 9)
        pretrain.main(["--corpus", str(small_corpus), "--out", str(tmp_path / name), "--save-every", "3",
                       "--steps", *map(str, steps)])
        return load_file(tmp_path / name / "state.safetensors")

    uninterrupted = train("uninterrupted", 6, 3)
    for steps in ((3,), (6,), (6, 2)):
        train("parts", *steps)
    parts = train("parts", 6, 3)
    assert set(uninterrupted) == set(parts) and all(torch.equal(uninterrupted[k], parts[k]) for k in parts)
    assert not torch.equal(parts["w.shared.weight"], pretrain.new_model(range(8192), 0, SMALL).shared.weight)


KILLED = """
import sys
sys.path[:0] = ["data/build", "tests"]
import batching, pretrain, test_build
pretrain.SHAPE, batching.BUCKETS = test_build.SMALL, {768: 4}
pretrain.main(["--corpus", sys.argv[1], "--out", sys.argv[2], "--steps", "40", "10", "--save-every", "5"])
"""


@pytest.mark.slow
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
    for name in ("killed", "uninterrupted"):
        out, _ = begin(name).communicate(timeout=300)
        assert "of 50 steps done" in out, out
    states = [load_file(tmp_path / name / "state.safetensors") for name in ("killed", "uninterrupted")]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[1])
    assert curve("killed") == curve("uninterrupted") and len(curve("uninterrupted")) == 50


def test_the_exported_model_is_the_mean_of_the_last_two_stages(small_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "SHAPE", SMALL)
    monkeypatch.setattr(batching, "BUCKETS", {768: 4})
    target, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(pretrain.MODEL, target, ignore=shutil.ignore_patterns("*.safetensors"))
    pretrain.main(["--corpus", str(small_corpus), "--out", str(run), "--steps", "1", "1", "1", "1"])
    with pytest.raises(FileNotFoundError, match="settling.safetensors missing: finish the run first"):
        pretrain.export(run, target, SMALL)
    pretrain.main(["--corpus", str(small_corpus), "--out", str(run), "--steps", "1", "1", "1", "1", "3"])
    pretrain.export(run, target, SMALL)
    before, after = (load_file(run / f"{stage}.safetensors")["shared.weight"] for stage in ("doubts", "settling"))
    exported = load_file(target / "model.safetensors")["shared.weight"]
    assert exported.dtype == torch.bfloat16 and not torch.equal(before, after)
    torch.testing.assert_close(exported.float(), before / 3 + 2 * after / 3, rtol=1e-2, atol=1e-3)


def test_every_batch_is_used_once_and_fits_its_bucket(small_corpus):
    read = batching.read_corpus(small_corpus / "skills")
    buckets = dict.fromkeys(batching.BUCKETS, 1)
    batches = batching.plan(read["prompt_lengths"], 0, buckets)
    assert sorted(i for _, rows in batches for i in rows) == list(range(600))
    assert all(read["prompt_lengths"][rows].max() <= edge for edge, rows in batches)
    again = batching.plan(read["prompt_lengths"], 0, buckets)
    assert all(a == b and (x == y).all() for (a, x), (b, y) in zip(batches, again, strict=True))


def test_labels_are_padded_with_minus_100_and_the_mask_hides_pads(small_corpus):
    read = batching.read_corpus(small_corpus / "skills")
    batch = batching.collate(read, list(range(8)), 768, "cpu")
    for i in range(8):
        n, m = read["prompt_lengths"][i], read["answer_lengths"][i]
        assert batch["attention_mask"][i].sum() == n and batch["input_ids"][i, n - 1] == 1
        assert (batch["labels"][i, m:] == -100).all() and batch["labels"][i, m - 1] == 1


def test_pretraining_sees_no_published_dialogue(small_corpus):
    world, seen = grammar.load(), corpus.published()
    assert len(seen) == 4000
    frame = episodes.dialogue_frame(world, random.Random(3), frozenset())
    other = episodes.dialogue_frame(world, random.Random(3), frozenset([frame["dialogue"]]))
    assert other["dialogue"] != frame["dialogue"]


def test_the_reference_style_never_follows_a_bare_instruction():
    world, rng = grammar.load(), random.Random(5)
    for _ in range(300):
        kind, prompt, answer = episodes.episode(
            world, rng, frozenset(), rng.choice(list(episodes.STAGES)), rng.choice(["headline", "reference", "style"]))
        if prompt.count("Summary:") == 1:
            assert kind == "headline" and len(answer.split()) < 12
        else:
            assert kind != "headline"


def test_an_explained_label_stands_for_the_sentiment_that_it_is_said_to(monkeypatch):
    monkeypatch.setattr(episodes.makers, "make", lambda task, rng, test: dict.fromkeys(
        ("input", "target"), rng.choice(episodes.SENTIMENTS)))  # a review that reads "negative" or "positive"
    rng = random.Random(2)
    for _ in range(50):
        item = episodes.explained(episodes.label_item({}, rng, 4, sentiment=True), rng)
        for review, label in [*item["shots"], (item["input"], item["target"])]:
            assert f"{label} if it is {review}" in item["instruction"]


def test_the_matching_stage_mostly_asks_for_what_stands_beside_an_input_met_before():
    world, rng = grammar.load(), random.Random(7)
    drawn = [episodes.episode(world, rng, frozenset(), "matching")[:2] for _ in range(300)]
    asked = [prompt.split("\n\n")[-1] for _, prompt in drawn]
    again = np.mean([prompt.count(last) > 1 for (_, prompt), last in zip(drawn, asked, strict=True)])
    assert {kind for kind, _ in drawn} == {"task", "labels", "fields"} and 0.4 < again < 0.6


def test_one_example_of_the_last_stage_leaves_open_whether_another_outcome_is_told():
    rng = random.Random(4)
    styles = [grammar.random_style(rng, episodes.STAGES["doubts"][-1]) for _ in range(2000)]
    with_agreement = [s["tells"] for s in styles if "agreed" in s["tells"]]
    assert sum("refused" in t for t in with_agreement) < len(with_agreement) / 2
    assert all(s["tells"] == grammar.OUTCOMES for s in (grammar.REFERENCE, grammar.random_style(rng)))
    frame = grammar.sample(grammar.load(), rng)
    other = tuple(o for o in grammar.OUTCOMES if o != frame["outcome"])
    bare = {**grammar.REFERENCE, "parts": ("goal", "result")}
    complete, silent = (grammar.summarise(frame, {**bare, "tells": tells}, random.Random(1))
                     for tells in (grammar.OUTCOMES, other))
    assert len(silent.split()) < len(complete.split()) and complete.startswith(silent[:12])
    assert episodes.STAGES["doubts"][0][episodes.KINDS.index("reference")] == 0


def test_strangers_stand_in_prompt_and_completion_alike():
    rng, words, seen = random.Random(6), set(episodes.slot_words()), set()
    assert {"Anna", "Leeds", "kayak"} <= words and not words & {"and", "people", "Street number"}
    for _ in range(100):
        prompt, completion = episodes.with_strangers(
            "Anna, has the kayak come to Leeds yet? Annabel asks.", "people: Anna, Annabel; places: Leeds", rng)
        _, who, _, _, where = completion.replace(",", "").replace(";", "").split()
        assert prompt == f"{who}, has the kayak come to {where} yet? Annabel asks."
        seen |= {who, where}
    assert {"Anna", "Leeds"} < seen and len(seen) > 80 and not seen & words - {"Anna", "Leeds"}


def test_a_word_is_broken_that_neither_the_input_nor_the_task_has():
    known = score_model.vocabulary("reply", 300)
    items = [{"input": "Marco, shall we go to Leeds?"}] * 3
    assert score_model.broken(["Marco", "Leeds!", "Marcomme!"], items, known) == pytest.approx(100 / 3)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_a_compiled_pretraining_has_the_same_losses(small_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "SHAPE", SMALL)
    monkeypatch.setattr(batching, "BUCKETS", {384: 4, 768: 4})
    logs = {}
    for how in ("", "--compile"):
        pretrain.main(["--corpus", str(small_corpus), "--out", str(tmp_path / f"run{how}"), "--steps", "4",
                       "--save-every", "5", *how.split()])
        logs[how] = [json.loads(line)["loss"] for line in open(tmp_path / f"run{how}" / "log.jsonl")]
    assert len(logs[""]) == 4
    for eager, compiled in zip(*logs.values(), strict=True):
        assert compiled == pytest.approx(eager, abs=0.02)
