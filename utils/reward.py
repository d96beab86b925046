"""A reward model: trained on preference pairs (Bradley and Terry 1952), or a classifier from the hub; one interface.

The reward is read by the label's name. A classifier's labels come in any order, and a sorted list of
scores has the most probable label first, whichever that is.
"""

import copy
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from utils.hub import fetch
from utils.models import require_safetensors

PAD_TO = 8
LABELS = ("rude", "civil")


class LabelError(ValueError):
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
        seen = attention_mask.unsqueeze(2)
        return SimpleNamespace(logits=self.head((hidden * seen).sum(1) / seen.sum(1)))


def new_classifier(model, seed: int = 0) -> EncoderClassifier:
    """A classifier on a copy of an encoder-decoder's encoder, its head random."""
    torch.manual_seed(seed)
    return EncoderClassifier(copy.deepcopy(model.get_encoder()), model.config.d_model).to(model.device)


def load_classifier(name: str, device="cpu"):
    """(model, tokenizer) of a sequence classifier, from a folder or the hub. Raises ModelError, HubError."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = fetch(name, "reward")
    require_safetensors(folder, name, "reward")
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def label_index(model, label: str) -> int:
    """Where the label stands among the model's logits. Raises LabelError with the labels it has."""
    places = {name: int(i) for i, name in model.config.id2label.items()}
    if label not in places:
        raise LabelError(f"the reward model has no label {label!r}; it has {', '.join(map(repr, places))}: set "
                         "reward_label in labs/profiles.toml to the one that stands for what is wanted")
    return places[label]


def log_odds(model, tokenizer, texts: Sequence[str], label: str) -> torch.Tensor:
    """[n]: the label's logit less the log-sum-exp of all others, which is log p / (1 - p); an only logit as it is."""
    batch = tokenizer(list(texts), padding=True, truncation=True, pad_to_multiple_of=PAD_TO, return_tensors="pt")
    device = next(model.parameters()).device
    logits = model(input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)).logits
    wanted = label_index(model, label)
    if logits.shape[1] == 1:  # a reward model with a single output: that is the reward
        return logits[:, 0].float()
    others = [i for i in range(logits.shape[1]) if i != wanted]
    return logits[:, wanted].float() - logits[:, others].float().logsumexp(1)


def bradley_terry(chosen, rejected) -> torch.Tensor:
    """Mean of -log sigmoid(r_chosen - r_rejected), [n] each: the surprise at people's choices, in nats."""
    return -logsigmoid(chosen - rejected).mean()


def train(model, tokenizer, pairs: Sequence[tuple[str, str]], settings: dict, *, label: str = "civil", seed: int = 0,
          dtype=torch.float32) -> list[float]:
    """Trains the classifier in place on (chosen, rejected) completions; returns the loss of each step.

    settings: epochs, learning_rate (falls to 0), batch (pairs).
    """
    label_index(model, label)
    size, rng, losses = settings["batch"], random.Random(seed), []
    steps = settings["epochs"] * -(-len(pairs) // size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["learning_rate"], fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    device, bar = next(model.parameters()).device, tqdm(total=steps, desc="reward model", leave=False)
    for _ in range(settings["epochs"]):
        shuffled = rng.sample(list(pairs), len(pairs))
        for start in range(0, len(pairs), size):
            chosen, rejected = zip(*shuffled[start:start + size], strict=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                rewards = log_odds(model, tokenizer, chosen + rejected, label)
            loss = bradley_terry(*rewards.float().chunk(2))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            bar.update()
    bar.close()
    model.eval()
    return losses


def scorer(model, tokenizer, label: str, *, batch: int = 128, dtype=torch.float32) -> Callable:
    """score(texts) -> np.ndarray [n]: the reward of each completion, without its prompt, as log-odds of
    the label. Raises LabelError at once."""
    label_index(model, label)

    @torch.inference_mode()
    def score(texts: Sequence[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out, device = np.zeros(len(texts)), next(model.parameters()).device
        for part in (order[i:i + batch] for i in range(0, len(order), batch)):
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                out[part] = log_odds(model, tokenizer, [texts[i] for i in part], label).cpu().double().numpy()
        return out

    return score


def standardised(score: Callable, texts: Sequence[str], cap: float | None = None) -> Callable:
    """The same reward with mean 0 and standard deviation 1 over the texts: then a KL coefficient means
    the same for every reward model (Ziegler et al. 2019 do so on the starting policy's samples). Above
    `cap` deviations nothing more is earned."""
    known = score(texts)
    mean, deviation, most = float(known.mean()), float(known.std()), np.inf if cap is None else cap
    if not deviation > 0:
        raise ValueError(f"the reward is {mean:.3g} for all {len(texts)} texts: there is nothing to learn from")
    return lambda others: np.minimum((score(others) - mean) / deviation, most)
