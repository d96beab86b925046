"""The reward model: read by label name, whatever the order; trained in seconds; and the judge beside it."""

import copy
import time

import numpy as np
import pandas as pd
import pytest
import torch

from utils import judge, reward
from utils.profile import ROOT

TEXTS = ["#Person1# calls #Person2# a dozy dolt.", "#Person2# agrees to wait until Monday.", "#Person1# leaves."]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder as the hub has them: a small random classifier of four labels, and the bundled tokenizer."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("classifier")
    BertForSequenceClassification(BertConfig(
        vocab_size=8192, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        id2label={0: "hate", 1: "nothate", 2: "spam", 3: "toxic"}, initializer_range=0.5)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ROOT / "data" / "models" / "tiny").save_pretrained(folder)
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
    model, tokenizer = reward.load_classifier(hub)
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
    model, tokenizer = reward.load_classifier(hub)
    with pytest.raises(reward.LabelError, match="no label 'civil'; it has 'hate', 'nothate', 'spam', 'toxic': set"):
        reward.scorer(model, tokenizer, "civil")
    with pytest.raises(reward.LabelError, match="no label 'nothate'; it has 'rude', 'civil'"):
        reward.train(reward.new_classifier(tiny[0]), tiny[1], [("a", "b")], {}, label="nothate")


def test_the_reward_is_log_odds(hub):
    model, tokenizer = reward.load_classifier(hub)
    with torch.no_grad():
        p = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.softmax(1)[:, 1].double().numpy()
    assert np.allclose(reward.scorer(model, tokenizer, "nothate")(TEXTS), np.log(p / (1 - p)), atol=1e-5)


def test_an_only_output_is_the_reward(tiny, hub):
    model, tokenizer = reward.load_classifier(hub)
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


def test_it_learns_the_preferences_in_seconds(tiny, pairs):
    base = torch.cat([p.detach().flatten() for p in tiny[0].parameters()])
    model, began = reward.new_classifier(tiny[0]), time.perf_counter()
    reward.train(model, tiny[1], pairs["train"][:600], {"epochs": 1, "learning_rate": 1e-3, "batch": 32})
    seconds = time.perf_counter() - began
    score = reward.scorer(model, tiny[1], "civil")
    chosen, rejected = (score(side) for side in zip(*pairs["test"], strict=True))
    assert np.mean(chosen > rejected) > 0.85 and seconds < 120
    assert torch.equal(base, torch.cat([p.detach().flatten() for p in tiny[0].parameters()])), "the policy was trained"


def test_rewards_are_standardised_on_given_texts():
    def score(texts):
        return np.array([float(len(text)) for text in texts])

    made = reward.standardised(score, ["a", "bbb", "ccccc"])
    assert made(["bbb"])[0] == pytest.approx(0) and made(["a", "bbb", "ccccc"]).std() == pytest.approx(1)
    capped = reward.standardised(score, ["a", "bbb", "ccccc"], cap=0.5)
    assert capped(["ccccc", "d" * 99]).tolist() == [0.5, 0.5] and capped(["a"]) == made(["a"])
    with pytest.raises(ValueError, match="the reward is 1 for all 2 texts"):
        reward.standardised(score, ["a", "b"])


def test_judges_of_both_kinds_are_called_alike(root, hub):
    bundled = judge.toxicity_function(str(root / "data" / "models" / "judge"))(TEXTS)
    assert bundled[0] > 0.5 > bundled[1:].max()
    other = judge.toxicity_function(hub, "toxic")(TEXTS)
    model, tokenizer = reward.load_classifier(hub)
    assert np.allclose(other, 1 / (1 + np.exp(-reward.scorer(model, tokenizer, "toxic")(TEXTS))), atol=1e-4)
    with pytest.raises(ValueError, match="no label 'insult'; it has hate, nothate"):
        judge.toxicity_function(hub, "insult")
