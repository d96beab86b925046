"""The bundled world can be made again: pretraining stops and resumes without a trace."""

import pytest
import torch
from safetensors.torch import load_file

import corpus
import episodes
import grammar
import pretrain


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    corpus.write_shard((0, 7, 600, str(corpus.MODEL), str(out)))
    return out


def test_a_resumed_pretraining_equals_an_uninterrupted_one(small_corpus, tmp_path, monkeypatch):
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    monkeypatch.setattr(pretrain, "SHAPE", shape)
    monkeypatch.setattr(pretrain, "BUCKETS", {768: 4})

    def train(name, steps, total=6):
        monkeypatch.setattr(pretrain, "rate", lambda step, _, peak: peak * (total - step) / total)
        pretrain.main(["--corpus", str(small_corpus), "--out", str(tmp_path / name), "--steps", str(steps),
                       "--save-every", "3"])
        return load_file(tmp_path / name / "state.safetensors")

    whole = train("whole", 6)
    train("parts", 3)
    parts = train("parts", 6)
    assert set(whole) == set(parts) and all(torch.equal(whole[k], parts[k]) for k in whole)
    assert not torch.equal(whole["w.shared.weight"], pretrain.new_model(range(8192), 0, shape).shared.weight)


def test_every_batch_is_used_once_and_fits_its_bucket(small_corpus):
    read = pretrain.read_corpus(small_corpus)
    buckets = dict.fromkeys(pretrain.BUCKETS, 1)
    batches = pretrain.plan(read["prompt_lengths"], 0, buckets)
    assert sorted(i for _, rows in batches for i in rows) == list(range(600))
    assert all(read["prompt_lengths"][rows].max() <= edge for edge, rows in batches)
    again = pretrain.plan(read["prompt_lengths"], 0, buckets)
    assert all(a == b and (x == y).all() for (a, x), (b, y) in zip(batches, again, strict=True))


def test_labels_are_padded_with_minus_100_and_the_mask_hides_pads(small_corpus):
    read = pretrain.read_corpus(small_corpus)
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
        kind, prompt, answer = episodes.episode(world, rng, frozenset(), rng.choice(["headline", "reference", "style"]))
        if prompt.count("Summary:") == 1:
            assert kind == "headline" and len(answer.split()) < 12
        else:
            assert kind != "headline"
