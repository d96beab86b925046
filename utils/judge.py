"""The toxicity judge: a bag of character n-grams and one weight each, built by data/build/judge.py."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from sklearn.feature_extraction.text import HashingVectorizer

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
