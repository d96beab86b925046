"""Decoder-only models: what they read, what counts in the loss, what they write, and that they can be aligned.

Three architectures at random weights: Llama (rotary positions, tied head, chat template), Qwen (a head of its own, a
chat template without system turns) and GPT-2 (learned positions, no template, no pad token).
"""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from utils import dialogues, models, prompts, reward, rl, rollouts, training
from utils.generation import continue_with, generate, next_token_logits
from utils.profile import ROOT

TEMPLATE = ("{% for turn in messages %}<|start|>{{ turn.role }}\n{{ turn.content }}<|end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}")
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turns') }}{% endif %}" + TEMPLATE
KINDS = {"llama": TEMPLATE, "qwen": REFUSES, "gpt2": ""}
PROMPTS = ["one two three", "four", "five six seven eight nine ten eleven", "twelve thirteen"]
PAIRS = [(f"{p}\nSummary:", s) for p, s in zip(PROMPTS, ["a first line", "b", "the third of them is longer", "d e"],
                                               strict=True)]
SETTINGS = {"steps": 3, "batch": 8, "rows": 4, "learning_rate": 1e-2, "max_new_tokens": 6}


def tokenizer_of(kind: str):
    bpe = ByteLevelBPETokenizer()
    text = [*dialogues.load_split(str(ROOT / "data" / "dialogues"), "validation")["dialogue"][:50]]
    bpe.train_from_iterator(text, vocab_size=400, special_tokens=["<|end|>", "<|start|>", "<|pad|>"],
                            show_progress=False)
    made = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|end|>",
                                   additional_special_tokens=["<|start|>"],
                                   **({} if kind == "gpt2" else {"pad_token": "<|pad|>"}))
    made.chat_template = KINDS[kind] or None
    return made


def random_model(kind: str, positions: int = 256):
    torch.manual_seed(0)
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=positions,
                                           eos_token_id=0, bos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0,
                                           attn_pdrop=0.0))
    else:
        config, architecture = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen": (Qwen2Config, Qwen2ForCausalLM)}[kind]
        model = architecture(config(
            vocab_size=400, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=positions, eos_token_id=0, bos_token_id=None,
            pad_token_id=2, tie_word_embeddings=kind == "llama"))
    for p in model.parameters():
        p.data = p.data * (4 if p.dim() > 1 else 1)  # far from a uniform distribution
    return model


def save(kind: str, folder, **options):
    random_model(kind, **options).save_pretrained(folder)
    tokenizer_of(kind).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=KINDS)
def loaded(request, tmp_path_factory):
    """(kind, model, tokenizer), the latter two as load_model() gives them."""
    return request.param, *models.load_model(save(request.param, tmp_path_factory.mktemp(request.param)))


def test_prompts_are_padded_on_the_left_and_leave_room(loaded):
    _, model, tokenizer = loaded
    assert not model.config.is_encoder_decoder and tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id is not None and tokenizer.model_max_length == 256 - 64
    assert model.generation_config.eos_token_id == [0]


def test_a_prompt_goes_through_the_chat_template(loaded):
    kind, _, tokenizer = loaded
    read = tokenizer.decode(prompts.prompt_ids(tokenizer, "one two"))
    assert read == ("one two" if kind == "gpt2" else "<|start|>user\none two<|end|>\n<|start|>assistant\n")
    [ids] = prompts.encode_prompts(tokenizer, ["one two"])
    assert prompts.count_tokens(tokenizer, "one two") == len(ids)


def test_the_completion_is_what_follows_the_prompt(loaded):
    kind, _, tokenizer = loaded
    ids = prompts.completion_ids(tokenizer, "tell:", "one two")
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]) == (" one two" if kind == "gpt2" else "one two")


def test_shots_can_be_turns(loaded):
    kind, _, tokenizer = loaded
    turns = prompts.chat_prompt("query", [("first", "its summary")], instruction="Say.")
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    if kind == "gpt2":
        with pytest.raises(prompts.PromptError, match="no chat template"):
            prompts.prompt_ids(tokenizer, turns)
    else:
        read = tokenizer.decode(prompts.prompt_ids(tokenizer, turns))
        assert "assistant\nits summary<|end|>" in read and read.endswith("query\nSummary:<|end|>\n<|start|>assistant\n")


def test_a_template_that_refuses_a_system_turn_is_told(loaded):
    kind, _, tokenizer = loaded
    turns = prompts.chat_prompt("query", system="Be brief.")
    if kind == "qwen":
        with pytest.raises(prompts.PromptError, match="refuses a conversation of the roles system, user: no system"):
            prompts.prompt_ids(tokenizer, turns)
    elif kind == "llama":
        assert "system\nBe brief." in tokenizer.decode(prompts.prompt_ids(tokenizer, turns))


def test_the_loss_is_transformers_own(loaded):
    _, model, tokenizer = loaded
    batch = training.model_batch(model, tokenizer, training.encode(tokenizer, PAIRS))
    with torch.no_grad():
        theirs = model(**batch).loss
        logits, labels, _ = training.predict(model, batch)
    assert torch.allclose(training.token_loss(logits, labels), theirs, atol=1e-5)
    assert training.mean_loss(model, tokenizer, PAIRS, batch=2) == pytest.approx(theirs.item(), abs=1e-5)
    counted = (batch["labels"] != training.IGNORED).sum()
    assert counted == sum(len(row["labels"]) for row in training.encode(tokenizer, PAIRS)), "completions alone"


def test_padding_changes_nothing(loaded):
    _, model, tokenizer = loaded
    rows = training.encode(tokenizer, PAIRS)
    with torch.no_grad():
        logp, _, mask = rollouts.token_scores(model, None, training.model_batch(model, tokenizer, rows))
        for i, row in enumerate(rows):
            for widths in ({}, {"prompt_width": 64, "answer_width": 32}):
                alone = rollouts.token_scores(model, None, training.model_batch(model, tokenizer, [row], **widths))[0]
                n = len(row["labels"])
                assert mask[i].sum() == n and torch.allclose(logp[i, :n], alone[0, :n], atol=1e-5)
            exact = torch.tensor([row["input_ids"] + row["labels"]])  # no pads, and no position but transformers' own
            by_hand = model(exact).logits[0, len(row["input_ids"]) - 1:-1].log_softmax(-1)
            assert torch.allclose(by_hand.gather(1, exact[0, -n:, None])[:, 0], logp[i, :n], atol=1e-5)
    asked = [prompt for prompt, _ in PAIRS]
    together = generate(model, tokenizer, asked, max_new_tokens=8)
    assert together == [generate(model, tokenizer, [p], max_new_tokens=8)[0] for p in asked]
    assert any(together) and not any(p in text for p, text in zip(asked, together, strict=True))


def test_log_probabilities_are_those_of_generation(loaded):
    _, model, tokenizer = loaded
    ids = prompts.encode_prompts(tokenizer, [PAIRS[0][0]] * 3)
    torch.manual_seed(1)
    out = model.generate(torch.tensor(ids), max_new_tokens=6, do_sample=True, top_k=0, output_scores=True,
                         return_dict_in_generate=True)
    theirs = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    rows = [{"input_ids": p, "labels": rollouts.through_end(s, [tokenizer.eos_token_id])}
            for p, s in zip(ids, out.sequences[:, len(ids[0]):].tolist(), strict=True)]
    with torch.no_grad():
        ours, _, mask = rollouts.token_scores(model, None, training.model_batch(model, tokenizer, rows))
    for i, row in enumerate(rows):
        n = len(row["labels"])
        assert torch.allclose(ours[i, :n], theirs[i, :n], atol=1e-5) and mask[i].sum() == n


def test_the_next_token_follows_prompt_and_completion(loaded):
    _, model, tokenizer = loaded
    prompt = PAIRS[2][0]
    logits = next_token_logits(model, tokenizer, prompt)
    [[first]] = continue_with(model, tokenizer, [prompt], 1)[0].tolist()
    assert logits.shape == (400,) and logits.argmax() == first
    ids = prompts.prompt_ids(tokenizer, prompt) + prompts.completion_ids(tokenizer, prompt, "one two")[:-1]
    with torch.no_grad():
        assert torch.allclose(next_token_logits(model, tokenizer, prompt, "one two"),
                              model(torch.tensor([ids])).logits[0, -1], atol=1e-5)


def test_each_prompt_has_its_samples(loaded):
    _, model, tokenizer = loaded
    ids = prompts.encode_prompts(tokenizer, [prompt for prompt, _ in PAIRS])
    uniform = torch.rand(5, 8)
    rows, texts = rollouts.rollout(model, tokenizer, ids, max_new_tokens=5, samples=2, uniform=uniform)
    assert [row["input_ids"] for row in rows] == [i for i in ids for _ in range(2)] and len(texts) == 8
    again = [rollouts.rollout(model, tokenizer, ids[i:i + 1], max_new_tokens=5, samples=2,
                              uniform=uniform[:, 2 * i:2 * i + 2])[0] for i in range(4)]
    assert [row["labels"] for row in rows] == [row["labels"] for two in again for row in two], "the batch matters not"


def test_fine_tuning_teaches_the_completion(loaded):
    _, model, tokenizer = loaded
    trained, before = copy.deepcopy(model), training.mean_loss(model, tokenizer, PAIRS)
    run = training.fine_tune(trained, tokenizer, PAIRS, {"epochs": 60, "learning_rate": 1e-2, "batch": 4})
    assert run.losses[0][1] == pytest.approx(before, abs=1e-4)
    assert training.mean_loss(trained, tokenizer, PAIRS) < 0.1
    texts = generate(trained, tokenizer, [prompt for prompt, _ in PAIRS], max_new_tokens=24)
    assert texts == [completion for _, completion in PAIRS], "it ends where the completion ends"


def test_an_adapter_is_trained_and_switched_off(loaded):
    kind, model, tokenizer = loaded
    targets = ["c_attn"] if kind == "gpt2" else ["q_proj", "v_proj"]
    trained = models.add_adapter(model, LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM",
                                                   fan_in_fan_out=kind == "gpt2"))
    before = training.mean_loss(model, tokenizer, PAIRS)
    training.fine_tune(trained, tokenizer, PAIRS, {"epochs": 30, "learning_rate": 1e-2, "batch": 4})
    assert training.mean_loss(trained, tokenizer, PAIRS) < 0.9 * before
    with trained.disable_adapter():
        assert training.mean_loss(trained, tokenizer, PAIRS) == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("method, samples", [("ppo", 1), ("rloo", 2)])
def test_a_reward_is_learned(loaded, method, samples):
    _, model, tokenizer = loaded
    start = copy.deepcopy(model)
    training.fine_tune(start, tokenizer, [(p, text) for p, _ in PAIRS for text in ("yes", "no")],
                       {"epochs": 40, "learning_rate": 1e-2, "batch": 8})

    def score(texts):
        return np.array([float(text == "yes") for text in texts])

    policy = rl.trainable_copy(start)
    frozen = [name for name, p in policy.named_parameters() if not p.requires_grad]
    before = {name: p.clone() for name, p in policy.named_parameters()}
    run = rl.align(policy, tokenizer, [p for p, _ in PAIRS] * 8, score,
                   SETTINGS | {"samples": samples, "steps": 12, "batch": 32, "rows": 32, "passes": 4,
                               "learning_rate": 3e-3, "kl": 0.05}, method=method)
    assert run.history[0]["kl"] == 0 and all(record["ratio_first"] == 1 for record in run.history)
    assert run.history[0]["score"] < 0.65 < 0.72 < np.mean([record["score"] for record in run.history[-4:]])
    after = dict(policy.named_parameters())
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen), "the lower half stays"


def test_dpo_prefers_what_was_chosen(loaded):
    _, model, tokenizer = loaded
    policy = copy.deepcopy(model)
    triples = [(prompt, text, "no good") for prompt, text in PAIRS]
    run = rl.dpo(policy, tokenizer, triples, SETTINGS | {"steps": 10, "beta": 0.1, "learning_rate": 1e-3})
    assert run.history[0]["margin"] == 0 and run.history[-1]["loss"] < run.history[0]["loss"]
    assert run.history[-1]["accuracy"] == 1


def test_values_stand_beside_the_tokens(loaded):
    _, model, tokenizer = loaded
    head = rl.value_head(model)
    torch.nn.init.normal_(head.weight)
    rows = training.encode(tokenizer, PAIRS)
    with torch.no_grad():
        logp, values, mask = rollouts.token_scores(model, head, training.model_batch(model, tokenizer, rows))
        one = torch.tensor([rows[2]["input_ids"] + rows[2]["labels"]])
        hidden = model(one, output_hidden_states=True).hidden_states[-1][0, len(rows[2]["input_ids"]) - 1:-1]
    assert logp.shape == values.shape == mask.shape
    assert torch.allclose(values[2, :len(hidden)], head(hidden)[:, 0], atol=1e-4)


# What cannot be used is said in one line


def test_a_model_of_neither_kind_is_refused(tmp_path):
    BertForMaskedLM(BertConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                               intermediate_size=16)).save_pretrained(tmp_path)
    tokenizer_of("gpt2").save_pretrained(tmp_path)
    with pytest.raises(models.ModelError, match="is a BertForMaskedLM: the labs take"):
        models.load_model(str(tmp_path))


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    folder = save("llama", tmp_path)
    config = tmp_path / "tokenizer_config.json"
    settings = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps({k: v for k, v in settings.items() if k != "eos_token"}), "utf-8")
    with pytest.raises(models.ModelError, match="has no end token: set eos_token"):
        models.load_model(folder)


def test_a_context_shorter_than_the_dialogue_is_told(tmp_path):
    model, tokenizer = models.load_model(save("gpt2", tmp_path, positions=64))
    assert tokenizer.model_max_length == 48
    with pytest.raises(prompts.PromptTooLong, match="context window 48"):
        generate(model, tokenizer, ["word " * 60])
    with pytest.raises(prompts.PromptTooLong, match="the model has 64 positions"):
        generate(model, tokenizer, ["one two"], max_new_tokens=80)
    with pytest.raises(prompts.PromptTooLong, match="the model has 64 positions"):
        training.fine_tune(model, tokenizer, [("one", "word " * 60)], {"epochs": 1, "learning_rate": 1, "batch": 1})


def test_a_reward_model_needs_an_encoder(tmp_path):
    model, _ = models.load_model(save("llama", tmp_path))
    profile = SimpleNamespace(model=str(tmp_path), encoder_decoder="data/models/tiny")
    assert models.encoder_decoder(profile) == "data/models/tiny"
    with pytest.raises(models.ModelError, match="LlamaForCausalLM has none: set encoder_decoder"):
        reward.new_classifier(model)
