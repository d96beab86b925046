"""The small modules the notebooks call: right results, and one clear error for each bad input."""

import copy
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rouge_score import rouge_scorer
from scipy import stats

from utils import claims, dialogues, generation, metrics, models, profile, prompts, rollouts, tasks

ROW = "id,dialogue,summary,topic\n"


def test_device_has_a_reason_and_never_fp16():
    device, dtype, why = profile.choose_device()
    assert dtype in (torch.float32, torch.bfloat16) and device.type in ("cpu", "cuda", "mps")
    assert "bf16" in why or "fp32" in why


def test_start_goes_offline_even_after_the_imports():
    code = ("import datasets, evaluate, huggingface_hub as h; from utils.profile import start; start(); "
            "assert h.constants.HF_HUB_OFFLINE and evaluate.config.HF_EVALUATE_OFFLINE; "
            "print(datasets.config.HF_HUB_OFFLINE); from utils.profile import set_offline; set_offline(False); "
            "import os; assert not h.constants.HF_HUB_OFFLINE and 'HF_HUB_OFFLINE' not in os.environ")
    plain = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=plain)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("profile tiny · ") and ended.stdout.endswith("True\n")


@pytest.mark.parametrize("content, message", [
    ("", "is empty"),
    (ROW, "no rows"),
    ("id,dialogue,topic\n1,hello,x\n", "lacks the column summary; it has id, dialogue, topic"),
    (ROW + "1,#Person1#: Hi, there,greets,chat\n", "line 2: 5 fields where the header has 4: put"),
    (ROW + "7, ,s,t\n", "empty dialogue in data row 1 .id '7'."),
    (b"id,dialogue,summary,topic\n1,ok,ok,ok\n2,caf\xe9,s,t\n", r"line 3: byte \d+ is not UTF-8: save the file"),
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
    tiny = profile.load_profile("tiny")
    assert (tiny.out, tiny.checkpoints) == (tmp_path / "results/tiny", tmp_path / "results/tiny/checkpoints")


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


def test_each_example_is_drawn_as_shot_equally_often():
    examples = [(f"q{i}", "a") for i in range(6)]
    for k in (1, 3):
        drawn = [x for seed in range(1500) for x, _ in prompts.draw_shots(examples, k, seed)]
        assert stats.chisquare([drawn.count(x) for x, _ in examples]).pvalue > 0.001


def by_generate(model, tokenizer, prompt, count):
    return generation.generate(model, tokenizer, [prompt], max_new_tokens=1, do_sample=True, num_return_sequences=count)


def by_rollout(model, tokenizer, prompt, count):
    return rollouts.rollout(model, tokenizer, tokenizer([prompt])["input_ids"], max_new_tokens=1, samples=count)[1]


@pytest.mark.parametrize("sample", [by_generate, by_rollout])
def test_the_tail_of_a_vocabulary_of_thousands_is_drawn_too(tiny, sample):
    """transformers draws from the 50 likeliest tokens unless told otherwise; a small vocabulary would not show it."""
    model, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    model.get_output_embeddings().weight.data *= 0.2  # a flat distribution
    order = generation.next_token_logits(model, tokenizer, "Say hi.").softmax(-1).sort(descending=True)
    for first in (50, 1000):
        tail = float(order.values[first:].sum())
        assert 0.1 < tail < 0.99
    torch.manual_seed(0)
    head = {tokenizer.decode([i], skip_special_tokens=True).strip() for i in order.indices[:1000].tolist()}
    expected = sum(p for i, p in zip(order.indices.tolist(), order.values.tolist(), strict=True)
                   if tokenizer.decode([i], skip_special_tokens=True).strip() not in head)
    outside = np.mean([text not in head for text in sample(model, tokenizer, "Say hi.", 4000)])
    assert outside == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)


def test_each_step_of_a_completion_has_random_numbers_of_its_own():
    uniform, scores = torch.tensor([[0.05, 0.95], [0.95, 0.05]]), torch.zeros(2, 10)
    draw = generation.Draw(uniform)
    assert [(draw(None, scores) == 0).int().argmax(1).tolist() for _ in range(2)] == [[0, 9], [9, 0]]


def test_a_prompt_longer_than_the_window_is_reported(tiny):
    model, tokenizer = tiny
    long = prompts.summary_prompt("#Person1#: word\n" * 400)
    for call in (lambda: prompts.encode_prompts(tokenizer, [long]),
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


def test_an_encoder_that_has_read_the_prompts_is_not_asked_again(tiny):
    model, tokenizer = tiny
    asked = [prompts.build("Is the review positive or negative?", text) for text in ("I loved it.", "Never again!")]
    encoded, reads = {}, []
    hook = model.get_encoder().register_forward_hook(lambda *_: reads.append(1))
    try:
        texts = [generation.generate(model, tokenizer, asked, max_new_tokens=12, encoded=memory)
                 for memory in (None, encoded, encoded)]
    finally:
        hook.remove()
    assert texts[0] == texts[1] == texts[2] and len(reads) == 2 and len(encoded) == 1


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
    assert np.allclose(metrics.reference_ceiling([["a b", "a b", "c d"]]), [100 / 3]), "a mean, not the best"


def test_interval_covers_the_truth_about_95_times_in_100():
    """An interval of 90 % would cover it in about 0.89 of the draws, one of 99 % in 0.985."""
    rng, covered = np.random.default_rng(0), []
    for i in range(1500):
        mean, low, high = metrics.interval(rng.normal(3, 1, 200), seed=i, resamples=400)
        assert low <= mean <= high
        covered.append(low <= 3 <= high)
    assert 0.93 < np.mean(covered) < 0.965


def one_run(rng):
    scores = rng.normal(3, 1, 400)
    return scores, scores.std() / 20


def several_runs(rng):
    by_run, by_example = rng.normal(0, 0.3, 20), rng.normal(3, 1, 150)
    return by_run[:, None] + by_example, np.sqrt(by_run.var() / 20 + by_example.var() / 150)


def fall_in_one_run(rng):
    before, noise = rng.gamma(9, 1, 400), rng.normal(0, 1, 400)
    after = before / 2 + noise
    rest = after - before * after.mean() / before.mean()
    return (before, after), 100 * rest.std() / 20 / before.mean()


def fall_in_several_runs(rng):
    before, by_run, by_example = rng.gamma(9, 1, 150), rng.normal(0, 0.3, 20), rng.normal(0, 1, 150)
    after = before / 2 + by_run[:, None] + by_example
    rest = after - before * after.mean() / before.mean()
    return (before, after), 100 * np.sqrt(rest.mean(1).var() / 20 + rest.mean(0).var() / 150) / before.mean()


@pytest.mark.parametrize("draw", [one_run, several_runs, fall_in_one_run, fall_in_several_runs])
def test_bootstrap_intervals_are_those_of_95_percent(draw):
    """They reach 1.96 standard errors to either side; one of 90 % would reach 1.64, one of 99 % 2.58."""
    rng, reach = np.random.default_rng(0), []
    for seed in range(10):
        scores, error = draw(rng)
        mean, low, high = (metrics.relative_fall(*scores, seed=seed) if isinstance(scores, tuple) else
                           metrics.interval(scores, seed=seed))
        reach.append([(mean - low) / error, (high - mean) / error])
    assert np.mean(reach) == pytest.approx(1.96, rel=0.03)
    assert np.mean(reach, axis=0) == pytest.approx([1.96, 1.96], rel=0.1)


def test_runs_and_examples_are_drawn_anew_together():
    """What differs between runs is in the interval however many examples there are, and the other way round."""
    by_run, by_example = np.repeat([[0.0], [1.0]], 500, axis=1), np.repeat([[0.0, 1.0]], 500, axis=0)
    for scores in (by_run, by_example):
        assert metrics.interval(scores) == (0.5, 0, 1), "both draws may fall on the same run, or example, twice"
        assert metrics.relative_fall(np.ones_like(scores), scores) == (50, 0, 100)


def test_the_ends_are_percentiles_of_the_means_drawn_anew():
    """Of scores that are never negative neither is an end, and the longer arm points to the rare high ones."""
    mean, low, high = metrics.interval([0.0] * 30 + [1.0, 2.0, 50.0])
    assert 0 <= low and high - mean > 1.5 * (mean - low)


def test_an_interval_hardly_depends_on_its_seed():
    """2000 resamples leave an end a standard deviation of 0.06 standard errors, 200 would leave it 0.19."""
    scores = np.random.default_rng(0).normal(3, 1, 400)
    for compute, error in ((metrics.interval, 1 / 20),
                           (lambda s, seed: metrics.relative_fall(np.full(400, 6.0), s, seed=seed), 100 / 6 / 20)):
        ends = np.array([compute(scores, seed=seed)[1:] for seed in range(12)]) / error
        assert 0 < ends.std(axis=0).max() < 0.12


def test_a_share_has_the_exact_interval_also_where_all_are_right():
    assert metrics.share([True] * 50) == pytest.approx((100, 100 * 0.025 ** (1 / 50), 100))
    assert metrics.share([False] * 50) == pytest.approx((0, 0, 100 - 100 * 0.025 ** (1 / 50)))
    percent, low, high = metrics.share(np.arange(40) < 10)  # Clopper and Pearson by the quantiles of the beta
    assert percent == 25
    assert (low, high) == pytest.approx((100 * stats.beta.ppf(0.025, 10, 31), 100 * stats.beta.ppf(0.975, 11, 30)))


def test_where_nothing_varies_the_interval_has_no_width():
    before = np.random.default_rng(0).random(200)
    assert metrics.interval(np.ones(5)) == (1, 1, 1) and metrics.interval([2.5]) == (2.5, 2.5, 2.5)
    assert metrics.relative_fall(before, before) == (0.0, 0.0, 0.0)
    assert metrics.relative_fall(before, np.zeros(200)) == (100.0, 100.0, 100.0)
    value, low, high = metrics.relative_fall(before, np.stack([before / 4, before / 2]))
    assert low < value < high and value == pytest.approx(100 * (1 - 0.375))
    assert json.dumps(value), "a plain number"


def test_diversity_and_repetition():
    assert metrics.distinct(["a b a c"]) == 1 and metrics.distinct(["a b a c"], 1) == 0.75
    assert not metrics.loops("x y x y x y") and metrics.loops("x y x y x y x y")
    assert metrics.distinct(["a b c", "a b c"]) == 0.5
    assert metrics.repetition("a b c d") == 0 and metrics.repetition("a b a b a b") == 0.5
    assert metrics.loops("x y z x y z x y z") and not metrics.loops("x y z x y z")


def test_a_claim_is_written_once_and_replaced_by_name(tmp_path):
    where = SimpleNamespace(out=tmp_path)
    for value in (1.0, (2.0, 1.5, 2.5)):
        claims.claim(where, 1, "gain", value, n=5, unit="points", control="none")
    rows = json.loads((tmp_path / "claims" / "01.json").read_text())
    assert [tuple(rows[0])] == [claims.FIELDS] and len(rows) == 1 and rows[0]["low"] == 1.5
    for value, criterion, held in (((2.0, 1.5, 2.5), {"above": 0}, True), ((2.0, -0.5, 2.5), {"above": 0}, False),
                                   ((-2.0, -2.5, -1.5), {"below": 0}, True), (3.0, {"above": 1, "below": 2}, False),
                                   ((2.0, 0.0, 2.5), {"above": 0}, False), ((-2.0, -2.5, 0.0), {"below": 0}, False),
                                   (1.0, {"above": 1}, False), (3.0, {}, None)):
        claims.claim(where, 2, "held", value, n=5, unit="points", control="none", **criterion)
        [row] = claims.read_claims(tmp_path / "claims" / "02.json")
        assert row["held"] is held and bool(row["criterion"]) == bool(criterion)
    with pytest.raises(ValueError, match="gain of lab 1 is not a finite number"):
        claims.claim(where, 1, "gain", float("nan"), n=5, unit="points", control="none")
    assert json.loads((tmp_path / "claims" / "01.json").read_text()) == rows


def test_tasks_are_scored_as_their_functions_say():
    def scored(task, output, **item):
        return tasks.score(task, output, item)

    assert scored("qa", " The Mill. ", target="the mill") == 1 and scored("qa", "mill", target="the mill") == 0
    assert scored("reply", "Sure", accepted=["Yes", "sure!"]) == 1 and scored("reply", "No", accepted=["Yes"]) == 0
    target = "people: Anna, Tom; places: Rome"
    assert scored("entities", target, target=target) == 1
    assert scored("entities", "people: Anna; places: none", target=target) == 2 / 4  # 1 of 1 named, 1 of 3 wanted
    assert scored("entities", "people: Rome; places: Anna", target=target) == 0
    assert scored("code", "2 * 2", expected="4") == 1 and scored("code", "4.0", expected="4") == 0
    call = '{"name": "f", "n": 1}'
    assert scored("tool_call", '{"n": 1, "name": "f"}', target=call) == 1
    assert not any(scored("tool_call", text, target=call) for text in ('{"name": "f", "n": true}', "f(1)", "[1]"))


def test_texts_are_cut_to_a_common_mean_length():
    texts = ["a b c d e f", "a b", "a b c d"]
    assert metrics.cut_to_mean_length(texts, 3) == ["a b c", "a b", "a b c"]
    assert metrics.cut_to_mean_length(texts, 4) == texts and metrics.cut_to_mean_length(texts, 0) == ["", "", ""]
