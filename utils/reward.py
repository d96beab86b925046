"""What scores a completion: the reward model, trained on preference pairs (Bradley and Terry 1952) or a classifier
from the hub, and the toxicity judge, which takes no part in any training.

A classifier is read by the label's name. Its labels come in any order, and a sorted list of scores has the
most probable label first, whichever that is.
"""

import copy
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy.special import expit
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from utils import checkpoints
from utils.generation import by_length
from utils.models import ModelError, autocast, encoder_decoder, fetch, load_classifier, load_model
from utils.profile import CourseError
from utils.training import checkpoint_place, finish, resume, update

PAD_TO = 8
LABELS = ("rude", "civil")
BUILD = "build it with: python data/build/make_judge.py"


class LabelError(CourseError, ValueError):
    """The reward model has no label of the name asked for."""


class EncoderClassifier(nn.Module):
    """The encoder of a T5, its mean over the real tokens, and one logit for each label. Called like
    transformers' own classifiers: (input_ids, attention_mask [batch, T]) -> .logits [batch, labels]."""

    def __init__(self, encoder, width: int, labels: Sequence[str] = LABELS):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, len(labels))
        self.config = SimpleNamespace(id2label=dict(enumerate(labels)))

    def forward(self, input_ids, attention_mask):
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask.unsqueeze(2)
        return SimpleNamespace(logits=self.head((hidden * real).sum(1) / real.sum(1)))


def new_classifier(model, seed: int = 0) -> EncoderClassifier:
    """A classifier on a copy of an encoder-decoder's encoder, its head random. Raises ModelError for a decoder-only
    model."""
    if not model.config.is_encoder_decoder:
        raise ModelError(f"a reward model is trained on an encoder, and a {type(model).__name__} has none: "
                         "set encoder_decoder in labs/profiles.toml to one that has, or reward to a ready reward model")
    torch.manual_seed(seed)
    return EncoderClassifier(copy.deepcopy(model.get_encoder()), model.config.d_model).to(model.device)


def reward_model(profile, pairs, seed: int = 1, folder: Path | None = None) -> tuple:
    """(classifier, its tokenizer, losses): the profile's `reward`, without losses; where it names none, a classifier
    on the encoder of its encoder-decoder, trained on `reward_pairs` of the table with columns chosen and rejected.
    `folder` is that of train()."""
    if hasattr(profile, "reward"):
        return *load_classifier(profile.reward, profile.device), []
    base, tokenizer = load_model(encoder_decoder(profile), profile.device)
    classifier = new_classifier(base, seed)
    preferences = list(zip(pairs["chosen"], pairs["rejected"], strict=True))[: profile.reward_pairs]
    losses = train(classifier, tokenizer, preferences, profile.reward_training, label=profile.reward_label, seed=seed,
                   dtype=profile.dtype, folder=folder)
    return classifier, tokenizer, losses


def label_index(model, label: str, key: str = "reward") -> int:
    """Where the label stands among the model's logits. `key` is the profile's entry for the model. Raises
    LabelError with the labels it has."""
    places = {name: int(i) for i, name in model.config.id2label.items()}
    if label not in places:
        raise LabelError(f"the {key} model has no label {label!r}; it has {', '.join(map(repr, places))}: set "
                         f"{key}_label in labs/profiles.toml to the one that stands for what is wanted")
    return places[label]


def log_odds(model, tokenizer, texts: Sequence[str], label: str) -> torch.Tensor:
    """[n]: the label's logit less the log-sum-exp of all others, which is log p / (1 - p); where each label has a
    probability of its own (an only logit, a multi-label classifier) the label's logit as it is."""
    batch = tokenizer(list(texts), padding=True, truncation=True, pad_to_multiple_of=PAD_TO, return_tensors="pt")
    device = next(model.parameters()).device
    logits = model(input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)).logits
    wanted = label_index(model, label)
    if logits.shape[1] == 1 or getattr(model.config, "problem_type", None) == "multi_label_classification":
        return logits[:, wanted].float()
    others = [i for i in range(logits.shape[1]) if i != wanted]
    return logits[:, wanted].float() - logits[:, others].float().logsumexp(1)


def bradley_terry(chosen, rejected) -> torch.Tensor:
    """Mean of -log sigmoid(r_chosen - r_rejected), [n] each: the surprise at people's choices, in nats."""
    return -logsigmoid(chosen - rejected).mean()


def train(model, tokenizer, pairs: Sequence[tuple[str, str]], settings: dict, *, label: str = "civil", seed: int = 0,
          dtype=torch.float32, folder: Path | None = None) -> list[float]:
    """Trains the classifier in place on (chosen, rejected) completions; returns the loss of each step.

    settings: epochs, learning_rate (falls to 0), batch (pairs). A training that has ended is kept in `folder` and not
    repeated, until checkpoints.clear(folder).
    """
    label_index(model, label)
    size, rng, trained = settings["batch"], random.Random(seed), dict(model.named_parameters())
    steps = settings["epochs"] * -(-len(pairs) // size)
    optimizer = torch.optim.AdamW(trained.values(), lr=settings["learning_rate"], fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    place = checkpoint_place(folder, model, ["reward model", list(pairs), settings, label, seed, str(dtype)])
    with checkpoints.sole_owner(place):
        records, _, ended = resume(place, trained, optimizer)
        device, bar = next(model.parameters()).device, tqdm(total=steps, desc="reward model", leave=False)
        for _ in range(0 if ended else settings["epochs"]):
            shuffled = rng.sample(list(pairs), len(pairs))
            for start in range(0, len(pairs), size):
                chosen, rejected = zip(*shuffled[start:start + size], strict=True)
                with autocast(device, dtype):
                    rewards = log_odds(model, tokenizer, chosen + rejected, label)
                loss = bradley_terry(*rewards.float().chunk(2))
                loss.backward()
                update(optimizer)
                schedule.step()
                records.append({"step": len(records) + 1, "loss": loss.item()})
                bar.update()
        bar.close()
        if not ended:
            finish(place, trained, records)
    model.eval()
    return [record["loss"] for record in records]


def scorer(model, tokenizer, label: str, *, batch: int = 128, dtype=torch.float32, key: str = "reward") -> Callable:
    """score(texts) -> np.ndarray [n]: the reward of each completion, without its prompt, as log-odds of
    the label. Raises LabelError at once."""
    label_index(model, label, key)

    @torch.inference_mode()
    def score(texts: Sequence[str]) -> np.ndarray:
        scores, device = np.zeros(len(texts)), next(model.parameters()).device
        for group in by_length([len(text) for text in texts], rows=batch):
            with autocast(device, dtype):
                odds = log_odds(model, tokenizer, [texts[i] for i in group], label)
            scores[group] = odds.cpu().double().numpy()
        return scores

    return score


def standardised(score: Callable, texts: Sequence[str], cap: float | None = None) -> Callable:
    """The same reward with mean 0 and standard deviation 1 over the texts: then a KL coefficient means
    the same for every reward model (Ziegler et al. 2019 do so on the starting policy's samples). Above
    `cap` deviations nothing more is earned."""
    scores = score(texts)
    mean, deviation, most = float(scores.mean()), float(scores.std()), np.inf if cap is None else cap
    if not deviation > 0:
        raise ValueError(f"the reward is {mean:.3g} for all {len(texts)} texts: there is nothing to learn from")
    return lambda others: np.minimum((score(others) - mean) / deviation, most)


# The judge


class Judge(NamedTuple):
    """What `toxicity` needs: vectorizer (text -> [features]), coef [features], intercept, threshold."""

    vectorizer: HashingVectorizer
    coef: np.ndarray
    intercept: float
    threshold: float


def make_vectorizer(settings: dict) -> HashingVectorizer:
    """The vectorizer that the settings of config.json describe; it turns n texts into [n, features]."""
    return HashingVectorizer(**{**settings, "ngram_range": tuple(settings["ngram_range"])})


def load_judge(folder: str | Path) -> Judge:
    """Reads config.json and judge.safetensors (coef [features], intercept [1]) from a folder."""
    config_file, weights_file = Path(folder) / "config.json", Path(folder) / "judge.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise FileNotFoundError(f"the toxicity judge lacks {file}; {BUILD}")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        vectorizer, threshold = make_vectorizer(config["vectorizer"]), float(config["threshold"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config_file} is damaged ({error}); {BUILD}") from error
    try:
        weights = load_file(weights_file)
        coef, intercept = weights["coef"], weights["intercept"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{weights_file} is damaged or truncated ({error}); {BUILD}") from error
    if coef.shape != (vectorizer.n_features,) or intercept.shape != (1,):
        raise ValueError(f"{weights_file} does not fit {config_file}: coef {coef.shape}; {BUILD}")
    return Judge(vectorizer, coef.astype(np.float64), float(intercept[0]), threshold)


def toxicity(judge: Judge, texts: list[str]) -> np.ndarray:
    """The probability, in [0, 1], that each of n texts is toxic. Shape [n], float64."""
    if isinstance(texts, str):
        raise TypeError("toxicity takes a list of texts, not one text")
    texts = list(texts)
    if not texts:
        return np.zeros(0)
    return expit(judge.vectorizer.transform(texts) @ judge.coef + judge.intercept)


def toxicity_function(name: str, label: str = "toxic", device="cpu") -> Callable:
    """texts -> probabilities [n], float64: of the bundled judge in the folder `name`, or of a classifier there or
    on the hub, read by the name of its label. Raises LabelError, ModelError, HubError."""
    folder = fetch(name, "judge", needed=("config.json", "*.safetensors"))
    if (folder / "judge.safetensors").exists():
        judge = load_judge(folder)
        return lambda texts: toxicity(judge, texts)
    score = scorer(*load_classifier(name, device, "judge"), label, key="judge")
    return lambda texts: expit(score(list(texts)))
