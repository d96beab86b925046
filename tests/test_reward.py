"""The reward model: read by label name, whatever the order; trained on pairs; and the judge beside it."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from utils import models, reward
from utils.profile import ROOT

TEXTS = ["#Person1# calls #Person2# a dozy dolt.", "#Person2# agrees to wait until Monday.", "#Person1# leaves."]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder as the hub has them: a small random classifier of four labels, and the bundled tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    transformers.BertForSequenceClassification(transformers.BertConfig(
        vocab_size=8192, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        id2label={0: "hate", 1: "nothate", 2: "spam", 3: "toxic"}, initializer_range=0.5)).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(ROOT / "data" / "models" / "tiny").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pairs():
    def read(split):
        table = pd.read_csv(ROOT / "data" / "preferences" / f"{split}.csv")
        return list(zip(table["chosen"], table["rejected"], strict=True))

    return {split: read(split) for split in ("train", "test")}


def turned(model, order):
    """The same classifier with its labels in another order."""
    model = copy.deepcopy(model)
    head = model.head if hasattr(model, "head") else model.classifier
    head.weight.data, head.bias.data = head.weight.data[order], head.bias.data[order]
    names = [model.config.id2label[i] for i in order]
    model.config.id2label = dict(enumerate(names))
    return model


def test_the_order_of_the_labels_changes_nothing(tiny, hub):
    home = reward.new_classifier(tiny[0])
    assert home.config.id2label == {0: "rude", 1: "civil"}
    model, tokenizer = models.load_classifier(hub)
    for plain, tok, order, label in ((home, tiny[1], [1, 0], "civil"), (model, tokenizer, [3, 1, 0, 2], "nothate"),
                                     (model, tokenizer, [1, 0, 2, 3], "nothate")):
        scores = [reward.scorer(m, tok, label)(TEXTS) for m in (plain, turned(plain, order))]
        assert np.abs(scores[0]).min() > 1e-3 and np.allclose(*scores, atol=1e-6)
    both = [reward.scorer(home, tiny[1], label)(TEXTS) for label in ("civil", "rude")]
    assert np.allclose(both[0], -both[1], atol=1e-6), "of two labels one's log-odds are the other's, negated"


def test_training_follows_the_name_too(tiny, pairs):
    for order in ([0, 1], [1, 0]):
        model = turned(reward.new_classifier(tiny[0]), order)
        losses = reward.train(model, tiny[1], pairs["train"][:8], {"epochs": 6, "learning_rate": 1e-3, "batch": 8})
        score = reward.scorer(model, tiny[1], "civil")
        chosen, rejected = (score(side) for side in zip(*pairs["train"][:8], strict=True))
        assert (chosen > rejected).all() and losses[-1] < losses[0] / 2 and not model.training
        with torch.no_grad():
            logits = model(**tiny[1]([pairs["train"][0][0]], return_tensors="pt")).logits[0]
        assert model.config.id2label[int(logits.argmax())] == "civil"


def test_a_missing_label_is_a_clear_error(tiny, hub):
    model, tokenizer = models.load_classifier(hub)
    with pytest.raises(reward.LabelError, match="no label 'civil'; it has 'hate', 'nothate', 'spam', 'toxic': set"):
        reward.scorer(model, tokenizer, "civil")
    with pytest.raises(reward.LabelError, match="no label 'nothate'; it has 'rude', 'civil'"):
        reward.train(reward.new_classifier(tiny[0]), tiny[1], [("a", "b")], {}, label="nothate")


def test_the_reward_is_log_odds(hub):
    model, tokenizer = models.load_classifier(hub)
    with torch.no_grad():
        p = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.softmax(1)[:, 1].double().numpy()
    assert np.allclose(reward.scorer(model, tokenizer, "nothate")(TEXTS), np.log(p / (1 - p)), atol=1e-5)


def test_an_only_output_is_the_reward(tiny, hub):
    model, tokenizer = models.load_classifier(hub)
    model.classifier, model.config.id2label = torch.nn.Linear(16, 1), {0: "LABEL_0"}
    scores = reward.scorer(model, tokenizer, "LABEL_0")(TEXTS)
    assert np.isfinite(scores).all() and np.ptp(scores) > 0


def test_a_text_scores_the_same_alone_and_in_any_batch(tiny):
    score = reward.scorer(reward.new_classifier(tiny[0]), tiny[1], "civil", batch=2)
    assert score([]).shape == (0,)
    together, alone = score(TEXTS), np.concatenate([score([text]) for text in TEXTS])
    assert together.shape == (3,) and np.allclose(together, alone, atol=1e-5), "pads take part in the mean"
    assert np.allclose(score(TEXTS[::-1])[::-1], together, atol=1e-5)


def test_the_loss_is_bradley_terry():
    chosen, rejected = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0])
    expected = -np.mean([np.log(1 / (1 + np.exp(-1.0))), np.log(1 / (1 + np.exp(3.0)))])
    assert float(reward.bradley_terry(chosen, rejected)) == pytest.approx(expected)


def test_it_learns_the_preferences_from_a_few_hundred_pairs(tiny, pairs):
    base, model = torch.cat([p.detach().flatten() for p in tiny[0].parameters()]), reward.new_classifier(tiny[0])
    reward.train(model, tiny[1], pairs["train"][:240], {"epochs": 1, "learning_rate": 1e-3, "batch": 16})
    score = reward.scorer(model, tiny[1], "civil")
    chosen, rejected = (score(side) for side in zip(*pairs["test"][:200], strict=True))
    assert np.mean(chosen > rejected) > 0.85
    assert torch.equal(base, torch.cat([p.detach().flatten() for p in tiny[0].parameters()])), "the policy was trained"


def test_the_reward_is_the_profiles_or_trained_on_its_pairs(tiny, hub):
    table = pd.DataFrame({"chosen": ["a", "b", "c", "d"], "rejected": ["w", "x", "y", "z"]})
    profile = SimpleNamespace(reward=hub, device="cpu")
    model, tokenizer, losses = reward.reward_model(profile, table)
    assert losses == [] and reward.scorer(model, tokenizer, "nothate")(TEXTS).shape == (3,)
    profile = SimpleNamespace(model=str(ROOT / "data" / "models" / "tiny"), device="cpu", reward_pairs=2,
                              reward_training={"epochs": 4, "learning_rate": 1e-3, "batch": 2}, reward_label="civil",
                              dtype=torch.float32)
    model, tokenizer, losses = reward.reward_model(profile, table)
    assert len(losses) == 4 and losses[-1] < losses[0], "one batch of the first two pairs"
    assert tokenizer.get_vocab() == tiny[1].get_vocab()


def test_rewards_are_standardised_on_given_texts():
    def score(texts):
        return np.array([float(len(text)) for text in texts])

    standard = reward.standardised(score, ["a", "bbb", "ccccc"])
    assert standard(["bbb"])[0] == pytest.approx(0) and standard(["a", "bbb", "ccccc"]).std() == pytest.approx(1)
    capped = reward.standardised(score, ["a", "bbb", "ccccc"], cap=0.5)
    assert capped(["ccccc", "d" * 99]).tolist() == [0.5, 0.5] and capped(["a"]) == standard(["a"])
    with pytest.raises(ValueError, match="the reward is 1 for all 2 texts"):
        reward.standardised(score, ["a", "b"])


def test_judges_of_both_kinds_are_called_alike(root, hub):
    bundled = reward.toxicity_function(str(root / "data" / "models" / "judge"))(TEXTS)
    assert bundled[0] > 0.5 > bundled[1:].max()
    other = reward.toxicity_function(hub, "toxic")(TEXTS)
    model, tokenizer = models.load_classifier(hub)
    assert np.allclose(other, 1 / (1 + np.exp(-reward.scorer(model, tokenizer, "toxic")(TEXTS))), atol=1e-4)
    with pytest.raises(reward.LabelError, match="the judge model has no label 'insult'; it has 'hate', .*judge_label"):
        reward.toxicity_function(hub, "insult")


@pytest.mark.parametrize("problem, labels", [
    ("single_label_classification", 4), ("multi_label_classification", 4), ("multi_label_classification", 2),
    (None, 4), (None, 2), (None, 1)])
def test_a_classifier_says_what_the_pipeline_of_transformers_says(hub, problem, labels, tmp_path):
    """Of a multi-label classifier, or with an only label, each has a probability of its own; else they share one."""
    model, tokenizer = models.load_classifier(hub)
    model.classifier = torch.nn.Linear(16, labels)
    model.config.id2label = {i: ("toxic", "hate", "spam", "other")[i] for i in range(labels)}
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}
    model.config.problem_type = problem
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    classify = transformers.pipeline("text-classification", str(tmp_path), top_k=None, device="cpu")
    theirs = [{row["label"]: row["score"] for row in rows}["toxic"] for rows in classify(TEXTS)]
    assert np.ptp(theirs) > 1e-3
    assert reward.toxicity_function(str(tmp_path), "toxic")(TEXTS) == pytest.approx(theirs, abs=1e-5)
    log_odds = reward.scorer(*models.load_classifier(str(tmp_path)), "toxic")(TEXTS)
    assert log_odds == pytest.approx(np.log(theirs) - np.log1p(-np.array(theirs)), abs=1e-4)


def test_a_classifier_is_checked_as_a_model_is(hub, tmp_path):
    model, tokenizer = models.load_classifier(hub)
    tokenizer.save_pretrained(tmp_path)
    model.bert.save_pretrained(tmp_path)  # without its head
    with pytest.raises(models.ModelError, match="lack classifier.bias, classifier.weight: they are another model's"):
        models.load_classifier(str(tmp_path), key="judge")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(models.ModelError, match="no safetensors weights"):
        models.load_classifier(str(tmp_path), key="judge")
