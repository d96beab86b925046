"""The toxicity judge: a bag of character n-grams and one weight each, built by data/build/judge.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from sklearn.feature_extraction.text import HashingVectorizer

from utils.hub import fetch
from utils.models import require_safetensors

BUILD = "build it with: python data/build/judge.py"


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
    score = judge.vectorizer.transform(texts) @ judge.coef + judge.intercept
    return 0.5 * (1 + np.tanh(score / 2))  # the logistic function, safe from overflow


def toxicity_function(name: str, label: str = "toxic", device="cpu") -> Callable:
    """texts -> probabilities [n], float64: of the bundled judge in the folder `name`, or of a
    classifier there or on the hub, read by the name of its label. Raises ValueError, ModelError, HubError."""
    folder = fetch(name, "judge", needed=("config.json", "*.safetensors"))
    if (folder / "judge.safetensors").exists():
        judge = load_judge(folder)
        return lambda texts: toxicity(judge, texts)
    from transformers import pipeline

    require_safetensors(folder, name, "judge")
    classify = pipeline("text-classification", model=str(folder), device=device, top_k=None,
                        trust_remote_code=False, model_kwargs={"use_safetensors": True})
    known = list(classify.model.config.id2label.values())
    if label not in known:
        raise ValueError(f"the judge {name} has no label {label!r}; it has {', '.join(known)}: set judge_label in "
                         "labs/profiles.toml")
    return lambda texts: np.array([next(s["score"] for s in scores if s["label"] == label)
                                   for scores in classify(list(texts), truncation=True, batch_size=64)])
