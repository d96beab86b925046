"""The small modules the notebooks call: right results, and one clear error for each bad input."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from rouge_score import rouge_scorer

from utils import claims, dialogues, generation, metrics, models, profile, prompts

ROW = "id,dialogue,summary,topic\n"


def test_unknown_profile_lists_the_known_ones(monkeypatch):
    monkeypatch.setenv("LAB_PROFILE", "huge")
    with pytest.raises(profile.UnknownProfile, match="'huge'.*flan-t5-base.* tiny"):
        profile.load_profile()


def test_device_has_a_reason_and_never_fp16():
    device, dtype, why = profile.choose_device()
    assert dtype in (torch.float32, torch.bfloat16) and len(why) > 10 and device.type in ("cpu", "cuda", "mps")


def test_start_goes_offline_even_after_the_imports():
    code = ("import datasets, evaluate, huggingface_hub as h; from utils.profile import start; start(); "
            "assert h.constants.HF_HUB_OFFLINE and evaluate.config.HF_EVALUATE_OFFLINE; "
            "print(datasets.config.HF_HUB_OFFLINE); from utils.profile import set_offline; set_offline(False); "
            "import os; assert not h.constants.HF_HUB_OFFLINE and 'HF_HUB_OFFLINE' not in os.environ")
    plain = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=plain)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("profile tiny · ") and done.stdout.endswith("True\n")


@pytest.mark.parametrize("content, message", [
    ("", "is empty"),
    (ROW, "no rows"),
    ("id,dialogue,topic\n1,hello,x\n", "lacks the column summary; it has id, dialogue, topic"),
    (ROW + "1,#Person1#: Hi, there,greets,chat\n", "more fields than its header"),
    (ROW + "7, ,s,t\n", "empty dialogue in data row 1 .id '7'."),
    (b"id,dialogue,summary,topic\n1,ok,ok,ok\n2,caf\xe9,s,t\n", r"not valid UTF-8 at byte \d+ \(line 3\)"),
])
def test_bad_csv_gives_one_clear_error(tmp_path, content, message):
    path = tmp_path / "train.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(dialogues.DataError, match=message) as error:
        dialogues.load_split(str(tmp_path), "train")
    assert str(path) in str(error.value)


def test_results_go_to_one_folder_wherever_a_notebook_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAB_CHECKPOINTS", raising=False)
    monkeypatch.setenv("LAB_OUT", "results")
    found = profile.load_profile("tiny")
    assert (found.out, found.checkpoints) == (tmp_path / "results/tiny", tmp_path / "results/tiny/checkpoints")


def test_missing_split_names_what_is_there(tmp_path):
    (tmp_path / "train.csv").write_text(ROW + "1,a,b,c\n")
    with pytest.raises(dialogues.DataError, match="test.csv does not exist; the folder holds: train.csv"):
        dialogues.load_split(str(tmp_path), "test")


def test_group_collects_references(tmp_path):
    (tmp_path / "test.csv").write_text(ROW + "t_1,d,one,x\nt_2,d,two,x\nu_1,e,three,y\n")
    grouped = dialogues.group(dialogues.load_split(str(tmp_path), "test"))
    assert [d["references"] for d in grouped] == [["one", "two"], ["three"]]
    assert dialogues.lead("a\nb\nc\nd") == "a\nb\nc"


@pytest.fixture
def copied(root, tmp_path):
    return shutil.copytree(root / "data" / "models" / "tiny", tmp_path / "model")


def test_truncated_weights(copied):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(models.ModelError, match="damaged or cut short.*fetch model.safetensors again"):
        models.load_model(str(copied))


def test_missing_tokenizer_and_weights(copied):
    (copied / "model.safetensors").unlink()
    with pytest.raises(models.ModelError, match="no safetensors weights"):
        models.load_model(str(copied))
    (copied / "tokenizer.json").unlink()
    with pytest.raises(models.ModelError, match="has no tokenizer"):
        models.load_model(str(copied))


def test_the_bundled_model_is_what_the_labs_expect(root, tiny):
    model, tokenizer = tiny
    folder = root / "data" / "models" / "tiny"
    assert type(model).__name__ == "T5ForConditionalGeneration" and model.config.is_gated_act
    assert (folder / "model.safetensors").stat().st_size <= 16 * 2**20
    assert not [f for f in folder.rglob("*") if f.suffix in {".bin", ".pt", ".pkl"}]
    assert 512 <= tokenizer.model_max_length <= 768
    assert not model.training and next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("text", ["", " a  b ", "\n\n\tx\n", "#Person1#: Hi!\n#Person2#: 14:30?",
                                  "Zörg 東京 — déjà ▁ {x}", "don't\r\nstop ", "<b>&amp;</b>", "\u2028\x00\U0001f600"])
def test_any_text_round_trips(tiny, text):
    tokenizer = tiny[1]
    ids = tokenizer(text)["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_prompt_shape():
    assert prompts.build("Do.", "q", [("a", "b")]) == "Do.\n\na\nAnswer: b\n\nq\nAnswer:"


def test_shots_are_drawn_once_each_and_shuffling_moves_every_answer():
    examples = [(f"q{i}", f"a{i}") for i in range(9)]
    for k in (1, 2, 3, 5):
        plain = prompts.draw_shots(examples, k, seed=4)
        mixed = prompts.draw_shots(examples, k, seed=4, shuffle_answers=True)
        assert len(set(plain)) == k and all(x[1:] == y[1:] for x, y in plain)
        assert [x for x, _ in mixed] == [x for x, _ in plain] and all(x[1:] != y[1:] for x, y in mixed)
        if k > 1:
            assert {y for _, y in mixed} == {y for _, y in plain}
    with pytest.raises(ValueError, match="10 shots asked for, 9 examples there"):
        prompts.draw_shots(examples, 10, 0)


def test_a_prompt_longer_than_the_window_is_reported(tiny):
    model, tokenizer = tiny
    long = prompts.summary_prompt("#Person1#: word\n" * 400)
    for call in (lambda: prompts.check_window(tokenizer, long),
                 lambda: generation.generate(model, tokenizer, ["short", long])):
        with pytest.raises(prompts.PromptTooLong, match=f"window {tokenizer.model_max_length}"):
            call()
    with pytest.raises(prompts.PromptTooLong):
        prompts.fit_shots(tokenizer, long, [])


def test_fit_shots_keeps_the_query_and_as_many_shots_as_fit(tiny):
    tokenizer = tiny[1]
    shots = [("#Person1#: word word word\n" * 10, "s")] * 8
    text, kept = prompts.fit_shots(tokenizer, "the query", shots, window=300)
    assert 0 < kept < 8 and text.endswith("the query\nSummary:")
    assert prompts.count_tokens(tokenizer, text) <= 300
    assert prompts.count_tokens(tokenizer, prompts.summary_prompt("the query", shots[:kept + 1])) > 300


def test_generation_is_in_order_and_does_not_depend_on_the_batch(tiny):
    model, tokenizer = tiny
    asked = [prompts.build("Is the review positive or negative?", "I loved it."),
             prompts.build("List the people and places.", "Anna met Peter in Paris before the train to Lisbon left."),
             prompts.build("Translate English to French.", "The cat is in the kitchen today.")]
    together = generation.generate(model, tokenizer, asked, max_new_tokens=12)
    alone = [generation.generate(model, tokenizer, [p], max_new_tokens=12)[0] for p in asked]
    assert together == alone and len(set(alone)) == 3
    sampled = [generation.generate(model, tokenizer, asked, seed=3, do_sample=True, num_return_sequences=2)
               for _ in range(2)]
    assert sampled[0] == sampled[1] and len(sampled[0]) == 6


def test_several_samples_stay_with_their_prompt(tiny):
    model, tokenizer = tiny
    asked = [prompts.build("Is the review positive or negative?", t) for t in ("x " * 60, "y")]
    texts = generation.generate(model, tokenizer, asked, do_sample=True, num_return_sequences=3, temperature=1e-3,
                                max_new_tokens=4)
    greedy = generation.generate(model, tokenizer, asked, max_new_tokens=4)
    assert texts == [greedy[0]] * 3 + [greedy[1]] * 3


def test_next_token_logits_equal_a_plain_forward_pass(tiny):
    model, tokenizer = tiny
    logits = generation.next_token_logits(model, tokenizer, "Say hi.", "Hello")
    start = [0, *tokenizer("Hello", add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        plain = model(**tokenizer("Say hi.", return_tensors="pt"), decoder_input_ids=torch.tensor([start])).logits
    assert torch.allclose(logits, plain[0, -1], atol=1e-5)


def test_rouge_equals_rouge_score_averaged_over_references():
    texts, references = ["the cat sat", "a dog"], [["the cat sat down", "cats sit"], ["a big dog"]]
    ours = metrics.rouge(texts, references)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    for kind, values in ours.items():
        slow = [100 * np.mean([scorer.score(r, t)[kind].fmeasure for r in refs])
                for t, refs in zip(texts, references, strict=True)]
        assert np.allclose(values, slow)
    with pytest.raises(ValueError, match="2 predictions but 1"):
        metrics.rouge(texts, references[:1])


def test_rouge_scores_every_row():
    texts = [f"word{i} said" for i in range(25)]
    scores = metrics.rouge1(texts, [[t if i % 2 else "other words"] for i, t in enumerate(texts)])
    assert scores.shape == (25,) and scores.tolist() == [100.0 * (i % 2) for i in range(25)]


def test_reference_ceiling_leaves_each_reference_out():
    assert np.allclose(metrics.reference_ceiling([["a b", "a b"], ["a b", "c d"]]), [100, 0])


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        mean, low, high = metrics.interval(rng.normal(3, 1, 100), seed=i, resamples=400)
        assert low <= mean <= high
        hits += low <= 3 <= high
    assert 180 <= hits <= 199


def test_a_share_has_an_interval_even_where_all_are_right():
    assert metrics.share([True] * 50) == pytest.approx((100, 92.9, 100), abs=0.05)
    percent, low, high = metrics.share(np.arange(40) < 10)
    assert percent == 25 and 10 < low < 20 and 35 < high < 45


def test_interval_over_runs_is_wider_where_runs_disagree():
    rng = np.random.default_rng(1)
    base = rng.normal(0, 1, 300)
    agree, differ = np.stack([base] * 3), np.stack([base - 2, base, base + 2])
    width = [m[2] - m[1] for m in (metrics.interval(agree, resamples=300), metrics.interval(differ, resamples=300))]
    assert width[1] > 3 * width[0]
    assert metrics.interval(np.ones(5)) == (1, 1, 1)


def test_diversity_and_repetition():
    assert metrics.distinct(["a b c", "a b c"]) == 0.5
    assert metrics.repetition("a b c d") == 0 and metrics.repetition("a b a b a b") == 0.5
    assert metrics.loops("x y z x y z x y z") and not metrics.loops("x y z x y z")


def test_a_claim_is_written_once_and_whole(tmp_path):
    where = type("P", (), {"out": tmp_path})
    for value in (1.0, (2.0, 1.5, 2.5)):
        claims.claim(where, 1, "gain", value, n=5, unit="points", control="none")
    rows = json.loads((tmp_path / "claims" / "01.json").read_text())
    assert [tuple(rows[0])] == [claims.FIELDS] and len(rows) == 1 and rows[0]["low"] == 1.5
    with pytest.raises(ValueError, match="gain of lab 1 is not a finite number"):
        claims.claim(where, 1, "gain", float("nan"), n=5, unit="points", control="none")
    assert json.loads((tmp_path / "claims" / "01.json").read_text()) == rows
def test_long_dialogues_lose_their_last_turns_and_it_is_said(tiny, capsys):
    tokenizer = tiny[1]
    long = "\n".join(f"#Person{i % 2 + 1}#: This is turn number {i}." for i in range(60))
    short, kept = prompts.shorten(tokenizer, ["#Person1#: Hi.", long], window=200)
    assert short == "#Person1#: Hi." and long.startswith(kept) and kept.count("\n") > 5
    n = prompts.count_tokens(tokenizer, prompts.summary_prompt(kept))
    assert 180 < n <= 200 and "1 of 2 dialogues pass the window of 200 tokens" in capsys.readouterr().out
    with pytest.raises(prompts.PromptTooLong):
        prompts.shorten(tokenizer, ["word " * 300], window=200)


def test_texts_are_cut_to_a_common_mean_length():
    texts = ["a b c d e f", "a b", "a b c d"]
    assert metrics.cut_to_mean_length(texts, 3) == ["a b c", "a b", "a b c"]
    assert metrics.cut_to_mean_length(texts, 4) == texts and metrics.cut_to_mean_length(texts, 0) == ["", "", ""]


