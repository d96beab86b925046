"""Models and tokenizers from a directory or the hub: safetensors only, no remote code."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.activations import NewGELUActivation
from transformers.utils import logging

from utils.hub import fetch


class ModelError(RuntimeError):
    """A model or tokenizer cannot be loaded; the message says what is wrong and what to do."""


def load_tokenizer(name: str):
    """The tokenizer of a model directory or hub name. Raises ModelError, HubError."""
    folder = fetch(name)
    if not any((folder / f).exists() for f in ("tokenizer.json", "spiece.model")):
        raise ModelError(f"{folder} has no tokenizer (tokenizer.json or spiece.model): copy it from where the "
                         "model was trained, or save it there with tokenizer.save_pretrained()")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"no tokenizer can be loaded from {name!r}: {_first_line(error)}") from error


def load_model(name: str, device: torch.device | str = "cpu", *, attention: str | None = None):
    """(model, tokenizer) of an encoder-decoder, weights in fp32, in evaluation mode on the device.

    `name` is a model directory or a hub name, which may end in @ and a revision. Computation in bf16 is
    autocast's business (see utils.generation). attention is "eager" (which gives attention maps and
    trains a small model faster on CPU) or "sdpa", by default what suits the device. Raises ModelError
    for a missing tokenizer, missing or damaged weights; HubError.
    """
    attention = attention or ("eager" if torch.device(device).type == "cpu" else "sdpa")
    folder, tokenizer = fetch(name), load_tokenizer(name)
    require_safetensors(folder, name)
    logging.disable_progress_bar()
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} has no config.json: it is not a model directory")
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a head of the checkpoint's own is no news, see untie
    try:
        model, found = AutoModelForSeq2SeqLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, attn_implementation=attention,
            output_loading_info=True)
    except SafetensorError as error:
        raise ModelError(f"the weights in {name!r} are damaged or cut short ({_first_line(error)}): "
                         "fetch model.safetensors again (git checkout, or empty the hub cache)") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"no safetensors weights can be loaded from {name!r}: {_first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    if found["missing_keys"]:
        raise ModelError(f"the weights in {name!r} lack {', '.join(sorted(found['missing_keys'])[:3])}: they are "
                         "another model's, or cut short")
    untie(model)
    # A saved max_length would fight with max_new_tokens in every generate() call.
    model.generation_config.max_length = None
    fuse_activations(model)
    return model.to(device).eval(), tokenizer


def require_safetensors(folder: Path, name: str, key: str = "model") -> None:
    """Raises ModelError where the folder of a model, fetched under `name`, holds no safetensors. `key` is
    the profile's entry."""
    if any(folder.glob("*.safetensors")):
        return
    if Path(name).is_dir():
        raise ModelError(f"no safetensors weights in {name!r}: save the model there with model.save_pretrained()")
    raise ModelError(f"{name} has no safetensors weights on the hub, and other formats are not loaded: set "
                     f"{key}_revision in labs/profiles.toml to a revision that has them, or {key} to another model")


def untie(model) -> None:
    """Lets a T5 keep its own lm_head (FLAN-T5 has one). transformers 5 loads it, yet goes on calling it
    tied, and every later tie_weights() would put the input embeddings in its place."""
    if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False


def fuse_activations(model) -> None:
    """Puts torch's one-kernel tanh GELU where transformers computes the same in eight (5 % of a step on CPU)."""
    for module in model.modules():
        if isinstance(getattr(module, "act", None), NewGELUActivation):
            module.act = torch.nn.GELU(approximate="tanh")


def count_parameters(model, trainable: bool = False) -> int:
    """Number of weights, shared ones once; with trainable only those that a gradient reaches."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
