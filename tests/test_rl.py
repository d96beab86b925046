"""Alignment: what a token earns, what the first step may and may not do, stopping, going on, and learning."""

import copy
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from scipy import stats
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from utils import dialogues, models, rl, rollouts, training
from utils.generation import Draw, generate, next_token_logits
from utils.profile import ROOT

SETTINGS = {"steps": 4, "batch": 8, "rows": 4, "learning_rate": 1e-2, "max_new_tokens": 6, "checkpoint_every": 2}
LORA = LoraConfig(r=8, lora_alpha=16, target_modules=["q", "k", "v", "o", "wi_0", "wo"], task_type="SEQ_2_SEQ_LM")
PROMPTS = [f"w{i} w{i + 1}" + " w3" * (i % 5) for i in range(5, 30)]


def words():
    """A tokenizer of 50 tokens: pad, end, unknown and the words w3 to w49."""
    ids = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, 50)}}
    by_words = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    by_words.pre_tokenizer = pre_tokenizers.Whitespace()
    by_words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=by_words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
                                   model_max_length=64)


tokenizer = pytest.fixture(words, scope="module")


def small(seed: int = 0):
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", dropout_rate=0.1, decoder_start_token_id=0, initializer_factor=0.5))
    return model.eval()


def adapted(seed: int = 0):
    """A policy whose adapter has been trained already: with the adapter off it is another one."""
    base = small(seed)
    base.shared.weight.data *= 4  # logits large enough for an adapter to concentrate
    model = models.add_adapter(base, LORA)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    return model


KINDS = pytest.mark.parametrize("make", [small, adapted], ids=["full", "lora"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def likes(word: str):
    """Score: the share of the word among six."""
    return lambda texts: np.array([text.split().count(word) / 6 for text in texts])


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def plain(history):
    return [{k: v for k, v in r.items() if k not in ("seconds", "rollout", "scoring", "update")} for r in history]


def sampled(model, tokenizer, n: int = 8, new: int = 6):
    ids = [row["input_ids"] for row in training.encode(tokenizer, [(p, "") for p in PROMPTS[:n]])]
    torch.manual_seed(1)
    return rollouts.rollout(model, tokenizer, ids, max_new_tokens=new)


# Completions and their log-probabilities


def test_a_completion_ends_with_its_end_token_and_the_mask_with_it(tokenizer):
    assert rollouts.through_end([5, 1, 7, 1], [1]) == [5, 1] and rollouts.through_end([5, 7], [1]) == [5, 7]
    assert rollouts.through_end([1, 0, 0], [1]) == [1]
    rows = [{"input_ids": [4, 1], "labels": [5, 6, 1]}, {"input_ids": [4, 4, 1], "labels": [5, 6, 7, 8]}]
    batch = training.collate(rows)
    mask = rollouts.token_scores(small(), None, batch)[2]
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]]
    drawn, _ = sampled(small(), tokenizer, n=25)
    assert max(len(row["labels"]) for row in drawn) == 6, "the start token is no part of the completion"
    assert all(1 not in row["labels"][:-1] for row in drawn) and any(row["labels"][-1] == 1 for row in drawn)


def test_texts_are_completions_without_prompt_or_special_tokens(tokenizer):
    seen = []

    def score(texts):
        seen.extend(texts)
        return np.zeros(len(texts))

    rl.align(small(), tokenizer, ["w40 w41 w42 w43 w44"] * 8, score, {**SETTINGS, "steps": 1})
    assert len(seen) == 9 and not any("w40 w41 w42" in text or "<" in text for text in seen)


@KINDS
def test_log_probabilities_are_those_of_transformers(tokenizer, make):
    model = make()
    batch = tokenizer(PROMPTS[:6], padding=True, return_tensors="pt")
    torch.manual_seed(0)
    out = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=True, top_k=0,
                         max_new_tokens=6, return_dict_in_generate=True, output_scores=True)
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    theirs = core.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    rows = [{"input_ids": ids, "labels": rollouts.through_end(row, [1])} for ids, row in zip(
        tokenizer(PROMPTS[:6])["input_ids"], out.sequences[:, 1:].tolist(), strict=True)]
    logp, _, mask = rollouts.score_all(model, None, rollouts.row_batches(model, tokenizer, rows, 4))
    for i, row in enumerate(rows):
        n = len(row["labels"])
        assert mask[i].sum() == n and torch.allclose(logp[i, :n], theirs[i, :n], rtol=0, atol=1e-5)


def test_the_bundled_model_agrees_with_transformers_too(tiny):
    """Their scores go in as fp64: their own softmax in fp32, over a strided dimension, is off by more than 1e-5."""
    model, tokenizer = tiny
    table = dialogues.load_split(str(ROOT / "data" / "dialogues"), "validation")
    ids = [r["input_ids"] for r in training.encode(tokenizer, training.summary_pairs(table, 3))]
    batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    torch.manual_seed(0)
    out = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], do_sample=True, top_k=0,
                         max_new_tokens=12, return_dict_in_generate=True, output_scores=True)
    scores = tuple(step.double() for step in out.scores)
    theirs = model.compute_transition_scores(out.sequences, scores, normalize_logits=True)
    rows = [{"input_ids": prompt, "labels": rollouts.through_end(row, [1])}
            for prompt, row in zip(ids, out.sequences[:, 1:].tolist(), strict=True)]
    logp, values, _ = rollouts.score_all(model, rl.value_head(model), rollouts.row_batches(model, tokenizer, rows, 3))
    assert not values.any(), "the values begin at zero"
    for i, row in enumerate(rows):
        n = len(row["labels"])
        assert torch.allclose(logp[i, :n], theirs[i, :n].float(), rtol=0, atol=1e-5)


def loss_of(model, head, batch, scores, ref_logp, old_logp):
    """The PPO loss of one batch, put together as align() does, with its rewards and KL."""
    logp, values, mask = rollouts.token_scores(model, head, batch)
    rewards = rl.token_rewards(scores, old_logp, ref_logp, mask, 0.1)
    advantages, returns = rl.gae(rewards, values.detach(), mask)
    advantages = rl.whiten(advantages, mask)
    loss = rl.policy_loss(logp, old_logp, advantages, mask)
    loss = loss + rl.value_loss(values, values.detach() + 0.1, returns, mask)
    return loss.sum() / mask.sum(), rewards.sum(), sum(rollouts.kl_terms(logp, ref_logp, mask).values()).sum()


def test_nothing_after_the_end_counts(tokenizer):
    model, head = small(), rl.value_head(small())
    torch.nn.init.normal_(head.weight)
    rows = [{"input_ids": [9, 8, 1], "labels": [5, 6, 1]}, {"input_ids": [9, 1], "labels": [5, 6, 7, 8, 9, 3, 4, 1]}]
    batch = training.collate(rows)
    scores, after = torch.tensor([1.0, -1.0]), batch["labels"] == training.IGNORED
    noise = torch.randn(batch["labels"].shape)
    _, _, mask = rollouts.token_scores(model, head, batch)
    ref, old = noise - 3, noise - 2.9
    plain = loss_of(model, head, batch, scores, ref, old)
    changed = {**batch, "decoder_input_ids": batch["decoder_input_ids"].clone()}
    changed["decoder_input_ids"][0, 4:] = torch.tensor([11, 12, 13, 14])
    changed["input_ids"] = torch.where(batch["attention_mask"] == 0, 17, batch["input_ids"])
    other = loss_of(model, head, changed, scores, ref + 9.0 * after, old - 7.0 * after)
    for a, b in zip(plain, other, strict=True):
        assert torch.allclose(a, b, atol=1e-6), "pads or tokens after the end took part"
    logp, values, _ = rollouts.token_scores(model, head, batch)
    for part in (rl.token_rewards(scores, logp, ref, mask, 0.1), *rl.gae(ref * mask, values, mask),
                 rl.policy_loss(logp, old, torch.ones_like(logp), mask), rl.whiten(noise, mask),
                 rl.value_loss(values, values, torch.ones_like(values), mask)):
        assert not part[after].any()
    wider = {k: torch.nn.functional.pad(v, (0, 8), value=training.IGNORED if k == "labels" else 0)
             for k, v in batch.items()}
    more = torch.nn.functional.pad(noise, (0, 8), value=5.0)
    for a, b in zip(plain, loss_of(model, head, wider, scores, more - 3, more - 2.9), strict=True):
        assert torch.allclose(a, b, atol=1e-6), "wider padding changed the loss"


# The parts of the loss


def test_the_score_is_earned_by_the_last_token_and_kl_is_paid_by_every_one():
    mask = torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 1]])
    logp, ref = torch.full((2, 4), -1.0), torch.full((2, 4), -1.5)
    rewards = rl.token_rewards(torch.tensor([2.0, -3.0]), logp, ref, mask, 0.1)
    assert torch.allclose(rewards, torch.tensor([[-0.05, -0.05, 1.95, 0], [-0.05, -0.05, -0.05, -3.05]]))
    kl = rollouts.kl_terms(logp, ref, mask)
    assert kl["k1"].tolist() == [1.5, 2.0]
    assert torch.allclose(kl["k3"], torch.tensor([3.0, 4.0]) * (math.exp(-0.5) - 0.5))


def test_the_estimators_of_kl_agree_with_the_sum_over_the_vocabulary():
    torch.manual_seed(0)
    p, q = torch.randn(30).log_softmax(0), (torch.randn(30) / 2).log_softmax(0)
    draws = torch.multinomial(p.exp(), 200_000, replacement=True)
    kl = rollouts.kl_terms(p[draws][:, None], q[draws][:, None], torch.ones(len(draws), 1))
    exact = float((p.exp() * (p - q)).sum())
    assert float(kl["k1"].mean()) == pytest.approx(exact, rel=0.02)
    assert float(kl["k3"].mean()) == pytest.approx(exact, rel=0.02) and kl["k3"].min() >= 0


@pytest.mark.parametrize("gamma, lam", [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.9, 0.0)])
def test_gae_is_the_direct_sum(gamma, lam):
    torch.manual_seed(0)
    rewards, values = torch.randn(3, 7, dtype=torch.double), torch.randn(3, 7, dtype=torch.double)
    lengths = (7, 4, 1)
    mask = torch.tensor([[1.0] * n + [0.0] * (7 - n) for n in lengths], dtype=torch.double)
    advantages, returns = rl.gae(rewards, values, mask, gamma, lam)
    assert not advantages[mask == 0].any() and not returns[mask == 0].any()
    for b, n in enumerate(lengths):
        v = [*values[b, :n].tolist(), 0.0]
        deltas = [float(rewards[b, t]) + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            slow = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n))
            assert float(advantages[b, t]) == pytest.approx(slow) and float(returns[b, t]) == pytest.approx(slow + v[t])


def test_baselines_and_whitening():
    rewards = torch.tensor([1.0, 3.0, 5.0, 0.0, 0.0, 6.0])
    assert rl.leave_one_out(rewards, 3).tolist() == [-3.0, 0.0, 3.0, -3.0, -3.0, 6.0]
    x, mask = torch.randn(4, 9) * 3 + 5, (torch.rand(4, 9) > 0.4).float()
    white = rl.whiten(x, mask)
    assert white[mask > 0].mean().abs() < 1e-5 and white[mask > 0].var(correction=0) == pytest.approx(1, abs=1e-4)


def test_the_ratio_is_clipped_where_that_makes_the_loss_larger():
    new, mask = torch.log(torch.tensor([[2.0, 2.0, 0.5, 0.5, 1.1]])), torch.ones(1, 5)
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0, 1.0]])
    loss = rl.policy_loss(new, torch.zeros(1, 5), advantages, mask, clip=0.2)
    assert torch.allclose(loss, torch.tensor([[-1.2, 2.0, -0.5, 0.8, -1.1]]))
    values, old, returns = torch.tensor([[1.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]])
    assert rl.value_loss(values, old, returns, torch.ones(1, 1), 9.0) == 0
    assert rl.value_loss(values, old, returns, torch.ones(1, 1), 0.2) == pytest.approx(0.32)


@KINDS
def test_a_rewarded_completion_becomes_more_probable(tokenizer, make):
    model = make()
    rows, _ = sampled(model, tokenizer)
    batch = training.collate(rows)
    old, _, mask = rollouts.token_scores(model, None, batch)
    advantages = torch.zeros_like(old)
    advantages[2], advantages[5] = 1.0, -1.0
    rl.policy_loss(old, old.detach(), advantages, mask).sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 1e-4 * p.grad
    change = ((rollouts.token_scores(model, None, batch)[0] - old) * mask).sum(1)
    assert change[2] > 0 > change[5]


def test_draws_follow_the_distribution():
    scores = torch.tensor([[0.0, 2.0, -torch.inf, 1.0, -1.0]]).expand(40_000, -1)
    torch.manual_seed(0)
    drawn = Draw()(None, scores)
    assert ((drawn == 0).sum(1) == 1).all(), "all but one token become impossible"
    shares = (drawn == 0).float().mean(0)
    assert shares[2] == 0 and torch.allclose(shares, scores[0].softmax(0), atol=0.01)


def by_rollout(model, tokenizer, prompt, count):
    return rollouts.rollout(model, tokenizer, tokenizer([prompt])["input_ids"], max_new_tokens=1, samples=count)[1]


def by_generate(model, tokenizer, prompt, count):
    return generate(model, tokenizer, [prompt], max_new_tokens=1, do_sample=True, num_return_sequences=count)


def by_best_of_n(model, tokenizer, prompt, count):
    texts = []
    rollouts.best_of_n(model, tokenizer, [prompt], lambda drawn: texts.extend(drawn) or np.zeros(len(drawn)), [count],
                       max_new_tokens=1)
    return texts


@pytest.mark.parametrize("sample", [by_rollout, by_generate, by_best_of_n])
def test_samples_come_from_the_whole_distribution(tokenizer, sample):
    """Whatever a checkpoint's generation config says of temperature and of the tail; 8000 draws of one token."""
    model, prompt = small(), PROMPTS[0]
    model.shared.weight.data *= 2
    p = next_token_logits(model, tokenizer, prompt).softmax(-1).double().numpy()
    model.generation_config.update(do_sample=True, temperature=0.7, top_k=40, top_p=0.9)
    torch.manual_seed(0)
    texts = sample(model, tokenizer, prompt, 8000)
    words = [tokenizer.decode([i], skip_special_tokens=True) for i in range(50)]  # "" for each of the special ones
    expected = {word: 8000 * sum(p[i] for i in range(50) if words[i] == word) for word in words}
    frequent = [word for word in expected if expected[word] >= 5]
    counts = np.array([[texts.count(word), expected[word]] for word in frequent])
    counts = np.vstack([counts, 8000 - counts.sum(0)])
    assert len(frequent) > 40 and max(p) > 0.05 and set(texts) <= set(words)
    assert stats.chisquare(*counts.T).pvalue > 0.001


def test_encoders_outputs_are_kept_for_models_with_the_same_encoder(tokenizer):
    policy, others, reads, encoded = small(), small(), [], {}
    others.shared, others.encoder, others.decoder.block = policy.shared, policy.encoder, small(1).decoder.block
    policy.encoder.register_forward_hook(lambda *_: reads.append(1))
    options = {"max_new_tokens": 6, "batch_tokens": 320, "do_sample": True, "num_return_sequences": 2, "seed": 1}
    plain = [generate(model, tokenizer, PROMPTS, **options) for model in (policy, others)]
    assert plain[0] != plain[1] and len(reads) == 10, "five batches of each"
    assert [generate(model, tokenizer, PROMPTS, encoded=encoded, **options) for model in (policy, others)] == plain
    assert len(reads) == 15


# The loop


@KINDS
@DTYPES
@pytest.mark.parametrize("method", ["ppo", "rloo"])
def test_the_first_step_starts_at_the_reference_which_never_moves(tokenizer, make, dtype, method):
    policy = make()
    before, trained = weights(policy).clone(), {n for n, p in policy.named_parameters() if p.requires_grad}
    run = rl.align(policy, tokenizer, PROMPTS, lambda texts: np.array([len(text) / 10 for text in texts]),
                   {**SETTINGS, "samples": 2 if method == "rloo" else 1}, method=method, dtype=dtype)
    assert run.history[0]["kl"] == run.history[0]["kl_k3"] == 0.0, "KL before the first update must be exactly 0"
    assert all(record["ratio_first"] == 1.0 for record in run.history), "old and new log-probabilities differ"
    assert run.history[-1]["ratio_max"] > 1 and run.history[-1]["kl"] != 0
    assert torch.equal(weights(run.reference), before), "the reference moved"
    assert not any(p.requires_grad for p in run.reference.parameters())
    moved = {n for n, p, q in zip((n for n, _ in policy.named_parameters()), policy.parameters(),
                                  run.reference.parameters(), strict=True) if not torch.equal(p, q)}
    assert moved and moved <= trained and not policy.training


@DTYPES
def test_the_bundled_model_starts_exactly_at_its_reference(tiny, dtype):
    """Its size is where torch would choose another attention kernel for the pass with gradients."""
    policy, tokenizer = copy.deepcopy(tiny[0]), tiny[1]
    rows = training.encode(tokenizer, training.summary_pairs(
        dialogues.load_split(str(ROOT / "data" / "dialogues"), "validation"), 6))
    batches = rollouts.row_batches(policy, tokenizer, rows, 3)
    old, _, mask = rollouts.score_all(policy, None, batches, dtype)
    ref = rollouts.score_all(rl.frozen(policy), None, batches, dtype)[0]
    for places, batch in batches:
        new = rollouts.token_scores(policy, rl.value_head(policy), batch, dtype)[0]
        assert new.requires_grad and torch.equal(old[places, :new.shape[1]], new.detach())
    assert torch.equal(old, ref)
    assert rollouts.kl_terms(old, ref, mask)["k1"].abs().max() == 0


@KINDS
@pytest.mark.parametrize("method", ["ppo", "rloo"])
def test_the_policy_finds_the_best_answer(tokenizer, make, method):
    settings = {**SETTINGS, "steps": 60, "batch": 32, "rows": 32, "kl": 0.0,
                "learning_rate": 3e-2, "samples": 4 if method == "rloo" else 1, "passes": 2 if method == "ppo" else 1}
    policy = make()
    run = rl.align(policy, tokenizer, PROMPTS, likes("w7"), settings, method=method)
    greedy = generate(policy, tokenizer, PROMPTS, max_new_tokens=6)
    first, last = (np.mean([r["score"] for r in part]) for part in (run.history[:3], run.history[-5:]))
    assert first < 0.15 and last > (0.8 if make is small else 0.3)
    assert np.mean(likes("w7")(greedy)) > 0.9


def test_the_leash_holds(tokenizer):
    settings = {**SETTINGS, "steps": 30, "batch": 16, "rows": 16, "learning_rate": 1e-2}
    ends = [rl.align(small(), tokenizer, PROMPTS, likes("w7"), {**settings, "kl": kl}).history[-1] for kl in (0.0, 1.0)]
    assert ends[1]["kl"] < ends[0]["kl"] / 2 and ends[1]["score"] < ends[0]["score"]


@KINDS
def test_an_interrupted_run_goes_on_and_ends_the_same(tokenizer, make, tmp_path):
    settings = {**SETTINGS, "steps": 7}

    def stop(record):
        if record["step"] == 4:
            raise KeyboardInterrupt

    uninterrupted, victim, again = make(), make(), make()
    run = rl.align(uninterrupted, tokenizer, PROMPTS, likes("w7"), settings, seed=3)
    with pytest.raises(KeyboardInterrupt):
        rl.align(victim, tokenizer, PROMPTS, likes("w7"), settings, seed=3, folder=tmp_path, callback=stop)
    [place] = tmp_path.iterdir()
    assert [p.name for p in sorted(place.glob("step*"))] == ["step-000002", "step-000004"]
    steps = []
    resumed = rl.align(again, tokenizer, PROMPTS, likes("w7"), settings, seed=3, folder=tmp_path,
                       callback=lambda record: steps.append(record["step"]))
    assert steps == [4, 5, 6] and plain(resumed.history) == plain(run.history)
    assert torch.equal(weights(again), weights(uninterrupted)) and torch.equal(resumed.head.weight, run.head.weight)
    [kept] = tmp_path.glob("*/[!l]*")
    assert kept.name == "end"
    third, steps = make(), []
    repeated = rl.align(third, tokenizer, PROMPTS, likes("w7"), settings, seed=3, folder=tmp_path,
                        callback=steps.append)
    assert steps == [] and plain(repeated.history) == plain(run.history), "a run that has ended is not repeated"
    assert torch.equal(weights(third), weights(uninterrupted)) and torch.equal(repeated.head.weight, run.head.weight)


def test_a_run_that_is_under_way_is_not_begun_twice(tokenizer, tmp_path):
    def again(record):
        with pytest.raises(RuntimeError, match="another process is at this same training .*stop it"):
            rl.align(small(), tokenizer, PROMPTS, likes("w7"), SETTINGS, folder=tmp_path)

    run = rl.align(small(), tokenizer, PROMPTS, likes("w7"), SETTINGS, folder=tmp_path, callback=again)
    assert len(run.history) == SETTINGS["steps"]


def test_a_damaged_checkpoint_is_named_and_another_run_is_not_taken_up(tokenizer, tmp_path, capsys):
    def stop(record):
        if record["step"] == 4:
            raise KeyboardInterrupt

    def begin(seed=0, score=None, label="x", **changes):
        steps = []
        rl.align(small(), tokenizer, PROMPTS, score or likes("w7"), {**SETTINGS, "steps": 5, **changes}, seed=seed,
                 folder=tmp_path, label=label, callback=lambda r: steps.append(r["step"]))
        return steps

    def interrupt():
        with pytest.raises(KeyboardInterrupt):
            rl.align(small(), tokenizer, PROMPTS, likes("w7"), {**SETTINGS, "steps": 5}, folder=tmp_path, label="x",
                     callback=stop)

    interrupt()
    everything = [0, 1, 2, 3, 4]
    assert begin(seed=1) == begin(kl=0.3) == begin(score=lambda t: np.ones(len(t)) * 2) == everything
    state = next(tmp_path.glob("*/step-000004/state.safetensors"))
    state.write_bytes(state.read_bytes()[:100])
    assert begin() == [2, 3, 4]
    assert "step-000004 is damaged" in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_with_step_batch_and_checkpoint(tokenizer, tmp_path):
    policy, calls = small(), []

    def score(texts):
        calls.append(len(texts))
        return np.full(len(texts), np.nan if len(calls) == 5 else 0.5)  # the fourth batch

    with pytest.raises(FloatingPointError, match=(
            r"PPO, seed 1: the loss is nan \(pass 1, prompts \[\d+, .*\]\) in step 3; "
            r"last good checkpoint: .*step-000002")):
        rl.align(policy, tokenizer, PROMPTS, score, SETTINGS, folder=tmp_path, label="PPO, seed 1")
    assert torch.isfinite(weights(policy)).all() and list(tmp_path.glob("*/step-000002/state.safetensors"))
    with pytest.raises(FloatingPointError, match="in step 0; last good checkpoint: none"):
        rl.align(small(), tokenizer, PROMPTS, lambda texts: np.full(len(texts), np.inf), SETTINGS)


def test_a_gradient_that_is_no_number_stops_too(tokenizer, monkeypatch):
    monkeypatch.setattr(rl, "update", lambda *_, **__: math.inf)
    with pytest.raises(FloatingPointError, match="PPO: the gradient is inf in step 0; last good checkpoint: none"):
        rl.align(small(), tokenizer, PROMPTS, likes("w7"), SETTINGS, label="PPO")
    with pytest.raises(FloatingPointError, match="DPO: the gradient is inf in step 0; last good checkpoint: none"):
        rl.dpo(small(), tokenizer, [(PROMPTS[0], "w7", "w9")], {"steps": 2, "batch": 1, "learning_rate": 1e-2,
                                                                "beta": 0.1})


@KINDS
def test_a_frozen_encoder_reads_once_and_nothing_else_changes(tokenizer, monkeypatch, make):
    """Where the encoder is trained it must read anew in every pass."""
    rows, _ = sampled(small(), tokenizer)
    plain_batches = rollouts.row_batches(small(), tokenizer, rows, 4)
    assert rollouts.read_prompts_once(small(), plain_batches) is plain_batches
    ends = []
    for cached in (True, False):
        policy, reads = make(), []
        policy.get_encoder().requires_grad_(False)
        policy.get_encoder().register_forward_hook(lambda *given, reads=reads: reads.append(1))
        before = weights(policy.get_encoder())
        if not cached:
            monkeypatch.setattr(rl, "read_prompts_once", lambda policy, batches, dtype: batches)
        run = rl.align(policy, tokenizer, PROMPTS, lambda texts: np.array([len(t) / 9 for t in texts]), SETTINGS)
        assert torch.equal(weights(policy.get_encoder()), before)
        ends.append((weights(policy), plain(run.history), len(reads)))
    (once, history, reads), (anew, _, more_reads) = ends
    assert torch.allclose(once, anew, rtol=0, atol=1e-6) and not torch.equal(once, weights(make()))
    assert all(a == pytest.approx(b, abs=1e-5) for a, b in zip(history, ends[1][1], strict=True))
    assert all(record["ratio_first"] == 1 for record in history) and history[0]["kl"] == 0
    assert reads == SETTINGS["steps"] * 3 and more_reads == SETTINGS["steps"] * 9, "a rollout, two batches"


@pytest.mark.parametrize("train", [
    lambda policy, tokenizer: rl.align(policy, tokenizer, PROMPTS, lambda texts: [len(text) for text in texts],
                                       {**SETTINGS, "steps": 1}),
    lambda policy, tokenizer: rl.dpo(policy, tokenizer, [(p, "w7 w7", "w9") for p in PROMPTS],
                                     {"steps": 1, "batch": 8, "learning_rate": 1e-2, "beta": 0.1})],
    ids=["align", "dpo"])
def test_gradients_that_something_else_left_take_no_part(tokenizer, train):
    clean, stale = small(), small()
    for p in stale.parameters():
        p.grad = torch.ones_like(p)
    for policy in (clean, stale):
        train(policy, tokenizer)
    assert torch.equal(weights(clean), weights(stale)) and not torch.equal(weights(clean), weights(small()))


def test_unusable_settings_are_clear_errors(tokenizer):
    for method, samples in (("grpo", 4), ("rloo", 1)):
        with pytest.raises(ValueError, match=f"method '{method}' with {samples} samples"):
            rl.align(small(), tokenizer, PROMPTS, likes("w7"), {**SETTINGS, "samples": samples}, method=method)


def test_a_callback_ends_the_run(tokenizer):
    run = rl.align(small(), tokenizer, PROMPTS, likes("w7"), SETTINGS, callback=lambda record: record["step"] == 1)
    assert len(run.history) == 2 and run.seconds == pytest.approx(sum(r["seconds"] for r in run.history))


PROCESSES = r"""
import json, pathlib, sys
sys.path.insert(0, "tests")
import test_rl as t
from accelerate import Accelerator
from safetensors.torch import save_file
from utils import rl
policy, accelerator, seen = t.small(), Accelerator(cpu=True), []
def score(texts):
    seen.append(len(texts))
    return t.likes("w7")(texts)
run = rl.align(policy, t.words(), t.PROMPTS, score, t.SETTINGS, seed=5, accelerator=accelerator)
place = pathlib.Path(sys.argv[1]) / str(accelerator.process_index)
save_file({"weights": t.weights(policy), "head": run.head.weight.detach()}, str(place) + ".safetensors")
place.write_text(json.dumps({"history": run.history, "seen": seen[1:]}))
"""


def test_two_processes_share_the_batch_and_train_as_one_would(tokenizer, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python",
         sys.executable, "-c", PROCESSES, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr[-3000:]
    reports = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(2)]
    ends = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    assert torch.equal(ends[0]["weights"], ends[1]["weights"])
    assert plain(reports[0]["history"]) == plain(reports[1]["history"])
    assert {*reports[0]["seen"], *reports[1]["seen"]} == {SETTINGS["batch"] // 2}, "each has its half of the batch"
    alone = small()
    run = rl.align(alone, tokenizer, PROMPTS, likes("w7"), SETTINGS, seed=5)
    assert (weights(alone) - weights(small())).abs().max() > 1e-4
    assert torch.allclose(ends[0]["weights"], weights(alone), rtol=0, atol=1e-5)
    assert torch.allclose(ends[0]["head"], run.head.weight, rtol=0, atol=1e-5)
    for two, one in zip(plain(reports[0]["history"]), plain(run.history), strict=True):
        assert two == pytest.approx(one, abs=1e-4, rel=1e-4)
    with pytest.raises(ValueError, match="1 prompts in a step cannot be shared among 2 processes: raise batch"):
        rl.align(small(), tokenizer, PROMPTS, likes("w7"), {**SETTINGS, "batch": 1},
                 accelerator=SimpleNamespace(process_index=0, num_processes=2))


def test_the_whole_batch_s_gradient_is_the_sum_of_its_parts(tokenizer):
    """What the rows at a time, and the processes, rely on."""
    model, grads = small(), []
    rows, _ = sampled(model, tokenizer)
    for size in (8, 3):
        model.zero_grad()
        for _, batch in rollouts.row_batches(model, tokenizer, rows, size):
            logp, _, mask = rollouts.token_scores(model, None, batch)
            (rl.policy_loss(logp, logp.detach(), torch.ones_like(logp), mask).sum() / 10).backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(*grads, atol=1e-5)


# What PPO is compared with


@KINDS
def test_dpo_starts_at_log_2_and_comes_to_prefer_the_chosen(tokenizer, make):
    triples = [(p, "w7 w7 w8", "w9 w10 w11 w12") for p in PROMPTS]
    policy = make()
    before = weights(policy).clone()
    settings = {"steps": 25, "batch": 8, "learning_rate": 1e-2, "beta": 0.3, "rows": 8}
    run = rl.dpo(policy, tokenizer, triples, settings)
    assert run.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-6) and run.history[0]["margin"] == 0.0
    assert run.history[-1]["accuracy"] == 1.0 and run.history[-1]["loss"] < 0.5
    assert torch.equal(weights(run.reference), before)
    logp, ref = torch.tensor([[-1.0, -1], [-3, -3]]), torch.tensor([[-2.0, -9], [-2, -2]])
    assert rl.dpo_margin(logp, ref, torch.tensor([[1.0, 0], [1, 1]])).tolist() == [1.0 - -2.0]


def test_dpo_is_interrupted_goes_on_and_stops_at_nan(tokenizer, tmp_path):
    triples = [(p, "w7 w7 w8", "w9 w10") for p in PROMPTS]
    settings = {"steps": 5, "batch": 8, "learning_rate": 1e-2, "beta": 0.1, "checkpoint_every": 2}

    def stop(record):
        if record["step"] == 3:
            raise KeyboardInterrupt

    uninterrupted, victim, again = small(), small(), small()
    rl.dpo(uninterrupted, tokenizer, triples, settings)
    with pytest.raises(KeyboardInterrupt):
        rl.dpo(victim, tokenizer, triples, settings, folder=tmp_path, callback=stop)
    steps = []
    rl.dpo(again, tokenizer, triples, settings, folder=tmp_path, callback=lambda r: steps.append(r["step"]))
    assert steps == [4] and torch.equal(weights(again), weights(uninterrupted))
    third = small()
    rl.dpo(third, tokenizer, triples, settings, folder=tmp_path, callback=lambda r: steps.append(r["step"]))
    assert steps == [4] and torch.equal(weights(third), weights(uninterrupted))
    with pytest.raises(FloatingPointError, match=r"DPO: the loss is nan \(pairs \[\d+, .* in step 0"):
        rl.dpo(small(), tokenizer, triples, {**settings, "beta": math.nan})


def test_best_of_n_takes_the_best_of_the_first_n(tokenizer):
    score = likes("w7")
    best = rollouts.best_of_n(small(), tokenizer, PROMPTS, score, [1, 4, 16], max_new_tokens=6, seed=2)
    means = [best[n][1].mean() for n in (1, 4, 16)]
    assert means[0] < means[1] < means[2]
    for texts, scores in best.values():
        assert len(texts) == len(PROMPTS) and np.array_equal(score(texts), scores)
    alone = rollouts.best_of_n(small(), tokenizer, PROMPTS, score, [4, 16], max_new_tokens=6, seed=2)
    assert alone[4][0] == best[4][0]


def test_the_kl_of_best_of_n():
    assert rollouts.best_of_n_kl(1) == 0 and rollouts.best_of_n_kl(2) == pytest.approx(0.1931, abs=1e-4)
    assert rollouts.best_of_n_kl(16) == pytest.approx(1.8351, abs=1e-4)
    rng, n, m = np.random.default_rng(0), 4, 400_000  # the best of n uniform scores has density n u^(n-1)
    u = rng.random((m, n)).max(axis=1)
    assert np.mean(np.log(n * u ** (n - 1))) == pytest.approx(rollouts.best_of_n_kl(n), rel=0.02)


def test_sampled_kl_is_zero_for_the_reference_itself_and_right_for_another(tokenizer):
    policy, other = small(0), small(1)
    kl, texts = rollouts.sampled_kl(policy, rl.frozen(policy), tokenizer, PROMPTS, max_new_tokens=6, rows=4)
    assert kl.shape == (len(PROMPTS),) and not kl.any() and len(texts) == len(PROMPTS)
    kl, _ = rollouts.sampled_kl(policy, other, tokenizer, PROMPTS * 40, max_new_tokens=1, rows=100)
    with torch.no_grad():  # one token: the sum over the vocabulary is the truth
        batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
        p, q = (m(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
                  decoder_input_ids=torch.zeros(len(PROMPTS), 1, dtype=torch.long)).logits[:, 0].log_softmax(-1)
                for m in (policy, other))
    exact = float((p.exp() * (p - q)).sum(-1).mean())
    assert kl.mean() == pytest.approx(exact, abs=4 * kl.std() / math.sqrt(len(kl))) and exact > 0.04
