"""Models and tokenizers, from a folder or the hub: safetensors only, no remote code; peft's adapters around them.

What the hub holds is fetched once as a snapshot, and loaded from that folder. Left to themselves the libraries ask
the hub even for what is cached, and try again for 23 s where it refuses, for minutes where it is silent.
"""

import copy
import json
import os
import queue
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import torch
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.activations import NewGELUActivation
from transformers.utils import logging

from utils.profile import DISK_FAULTS, CourseError, models_folder

# The hub

PATIENCE = 8  # seconds that the hub has for its first answer, the look-up of its name included
TOKENIZERS = ("tokenizer.json", "spiece.model", "tokenizer.model", "merges.txt", "vocab.txt")  # any of them will do
NEEDED = ("config.json", "|".join(TOKENIZERS), "*.safetensors")  # of a model
ROBERTAS = {"camembert", "data2vec-text", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
            "xlm-roberta-xl", "xmod"}
ROOM = 128  # positions of a decoder-only model that stay free for the completion, a quarter of them at most
SPLITS = ("train.csv", "validation.csv", "test.csv")  # of a data set
WEIGHTS = "*.safetensors"  # fetched last: where they are, all is there. No pickles, no code
FILES = {"model": ["*.json", "*.model", "*.txt", "*.jinja"], "dataset": ["*.csv"]}


class HubError(CourseError, RuntimeError):
    """Something cannot be fetched from the hub; the message says what, why and what to do."""


def fetch(name: str, key: str = "model", needed: tuple[str, ...] = NEEDED) -> Path:
    """The folder of a model or data set: `name` itself where it is one, else its snapshot in the hub's
    cache, downloaded where one of the `needed` files (patterns, alternatives with |) is not there yet; weights only
    where they are among these.

    `name` may end in @ and a revision (branch, tag, commit; "main" by default). `key` is the
    profile's entry: "dialogues" is a data set, the others are models. Raises HubError within 10 s
    where the hub does not answer.
    """
    if Path(name).is_dir():
        return Path(name)
    what, kind = on_the_hub(name, key)
    if (folder := cached(name, key)) and complete(folder, needed):
        return folder
    with hub_errors(what, key):
        within(PATIENCE, lambda: HfApi().repo_info(**what, timeout=PATIENCE))
        folder = Path(snapshot_download(**what, allow_patterns=FILES[kind]))
        return Path(snapshot_download(**what, allow_patterns=[WEIGHTS])) if WEIGHTS in needed else folder


def on_the_hub(name: str, key: str) -> tuple[dict, str]:
    """(repository, its kind and the revision, as the hub's client takes them; "model" or "dataset")."""
    repo, _, revision = name.partition("@")
    kind = "dataset" if key == "dialogues" else "model"
    return {"repo_id": repo, "repo_type": kind, "revision": revision or constants.DEFAULT_REVISION}, kind


def cached(name: str, key: str) -> Path | None:
    """The snapshot in the hub's cache, though it may be half of one; None where there is none. Raises HubError for a
    name that the hub could not have."""
    what, kind = on_the_hub(name, key)
    if Path(name).is_absolute():
        brought = Path(name).parent == models_folder()
        raise HubError(f"there is no folder {name}: " + (f"labs get {Path(name).name} brings it" if brought else
                                                         f"correct {key} in labs/profiles.toml"))
    try:
        return Path(snapshot_download(**what, allow_patterns=[*FILES[kind], WEIGHTS], local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except ValueError as error:
        raise HubError(f"{name!r} is neither a folder nor a name on the hub: {error}") from None


def complete(folder: Path, needed: tuple[str, ...] = NEEDED) -> bool:
    """Whether a file is there for each of the needed patterns, and of weights in several files every one."""
    if not all(any(any(folder.glob(pattern)) for pattern in patterns.split("|")) for patterns in needed):
        return False
    shards = {shard for index in folder.glob("*.safetensors.index.json")
              for shard in json.loads(index.read_text("utf-8"))["weight_map"].values()}
    return WEIGHTS not in needed or all((folder / shard).exists() for shard in shards)


@contextmanager
def hub_errors(what: dict, key: str) -> Iterator[None]:
    """Says in one line what is wrong where the hub's client raises anything: HubError."""
    repo, kind, revision = what["repo_id"], what["repo_type"], what["revision"]
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("the profile's network = false, or HF_HUB_OFFLINE, forbids a connection")
        yield
    except RevisionNotFoundError:
        raise HubError(f"{repo} has no revision {revision!r}: correct {key}_revision in labs/profiles.toml") from None
    except RepositoryNotFoundError:
        raise HubError(f"{constants.ENDPOINT} has no {kind} {repo}, or asks for a login (hf auth login): correct "
                       f"{key} in labs/profiles.toml") from None
    except Exception as error:  # whichever of the libraries underneath
        if getattr(error, "errno", None) in DISK_FAULTS:
            raise HubError(f"{repo} cannot be stored in {constants.HF_HUB_CACHE}: {os.strerror(error.errno)}; set "
                           "HF_HOME to a folder of yours on a disk with room") from None
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        profile = os.environ.get("LAB_PROFILE") or "tiny"
        raise HubError(f"profile {profile}: cannot fetch the {kind} {repo} (revision {revision}) from "
                       f"{constants.ENDPOINT}: {reason}. Two ways out: LAB_PROFILE=tiny, which needs no network, or "
                       f"HF_HOME=<a cache that holds it> (now {constants.HF_HOME})") from None


def list_files(name: str, key: str = "model") -> tuple[dict[str, int], int]:
    """({file: its bytes}, bytes that are still to be downloaded) of a model or data set: of the folder, of the
    snapshot in the cache where all of it is there, else of what the hub holds. Raises HubError."""
    folder = Path(name) if Path(name).is_dir() else cached(name, key)
    here = {p.name: p.stat().st_size for p in folder.glob("*.*")} if folder else {}
    if Path(name).is_dir():
        return here, 0
    what, kind = on_the_hub(name, key)
    if folder and complete(folder, NEEDED if kind == "model" else SPLITS):
        return here, 0
    with hub_errors(what, key):
        info = within(PATIENCE, lambda: HfApi().repo_info(**what, files_metadata=True, timeout=PATIENCE))
    files = {file.rfilename: file.size or 0 for file in info.siblings}
    wanted = [*FILES[kind], WEIGHTS]
    return files, sum(n for file, n in files.items() if file not in here and any(fnmatch(file, w) for w in wanted))


def within(seconds: float, call):
    """The call's result. Raises what it raises, and TimeoutError when time is up; the call is then left
    behind in its thread, since nothing stops a look-up of a name."""
    answer = queue.SimpleQueue()

    def work():
        try:
            answer.put((call(), None))
        except Exception as error:
            answer.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = answer.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
    if error:
        raise error
    return result


# Models


class ModelError(CourseError, RuntimeError):
    """A model or tokenizer cannot be loaded; the message says what is wrong and what to do."""


def load_tokenizer(name: str, key: str = "model"):
    """The tokenizer of a model directory or hub name. Raises ModelError, HubError."""
    folder = fetch(name, key)
    if not any((folder / file).exists() for file in TOKENIZERS):
        raise ModelError(f"{folder} has no tokenizer (tokenizer.json or spiece.model): copy it from where the "
                         "model was trained, or save it there with tokenizer.save_pretrained()")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a damaged tokenizer.json is a plain Exception
        raise ModelError(f"no tokenizer can be loaded from {name!r}: {_first_line(error)}") from error


def load_model(name: str, device: torch.device | str = "cpu", *, attention: str | None = None):
    """(model, tokenizer) of an encoder-decoder or a decoder-only model, weights in fp32, in evaluation mode on the
    device.

    `name` is a model directory or a hub name, which may end in @ and a revision. Computation in bf16 is
    autocast's business. attention is "eager" (which gives attention maps and trains a small encoder-decoder faster
    on CPU) or "sdpa", by default what suits model and device. Raises ModelError for a model of neither kind, a missing
    tokenizer, missing or damaged weights; HubError.
    """
    tokenizer, kind = load_tokenizer(name), _kind(name)
    small = kind is AutoModelForSeq2SeqLM and torch.device(device).type == "cpu"
    model = _load_weights(kind, name, attn_implementation=attention or ("eager" if small else "sdpa"))
    untie(model)
    model.generation_config = token_ids_alone(model.generation_config, model.config)
    tokenizer.padding_side = "right"
    if kind is AutoModelForCausalLM:
        prepare_decoder_only(model, tokenizer, name)
    fuse_activations(model)
    return model.to(device).eval(), tokenizer


def _kind(name: str):
    """The Auto class of the model's kind, as its configuration tells. Raises ModelError, HubError."""
    folder = fetch(name, needed=("config.json",))
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} has no config.json: it is not a model directory")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder / 'config.json'} describes no model that can be loaded: {_first_line(error)}"
                         ) from error
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in config.architectures or ()):
        return AutoModelForCausalLM
    raise ModelError(f"{name} is a {', '.join(config.architectures or [config.model_type])}: the labs take a model "
                     "that writes, an encoder-decoder (such as T5) or a decoder-only one (…ForCausalLM)")


def encoder_decoder(profile) -> str:
    """The profile's model where it is an encoder-decoder, else the one that its `encoder_decoder` names. Raises
    ModelError, HubError."""
    return profile.model if _kind(profile.model) is AutoModelForSeq2SeqLM else profile.encoder_decoder


def prepare_decoder_only(model, tokenizer, name: str) -> None:
    """Prompts are padded on the left, so that completions begin in one column; the end token is the pad token where
    there is none; the window for prompts leaves room for a completion. Raises ModelError without an end token."""
    if tokenizer.eos_token is None:
        raise ModelError(f"the tokenizer of {name!r} has no end token: set eos_token in its tokenizer_config.json, or "
                         "no completion would ever end")
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    positions = getattr(model.config, "max_position_embeddings", None) or 2048
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions - min(ROOM, positions // 4))
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    model.generation_config.eos_token_id = sorted({tokenizer.eos_token_id, *ends} - {None})
    model.generation_config.pad_token_id = tokenizer.pad_token_id


def load_classifier(name: str, device: torch.device | str = "cpu", key: str = "reward"):
    """(model, tokenizer) of a sequence classifier in fp32, in evaluation mode on the device. `key` is the
    profile's entry, "reward" or "judge". Longer texts are cut at its window. Raises ModelError, HubError."""
    tokenizer = load_tokenizer(name, key)
    model = _load_weights(AutoModelForSequenceClassification, name, key)
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions(model.config.to_dict()))
    return model.to(device).eval(), tokenizer


def positions(config: dict) -> int:
    """The most tokens that a model's table of positions holds, as its configuration has it, whatever its tokenizer
    knows of it; a very large number where it has no such table (T5). RoBERTa and its kin begin to count after their
    pad token: of 514 places 512 are left."""
    most = config.get("max_position_embeddings") or 10**9
    return most - (config.get("pad_token_id") or 0) - 1 if config.get("model_type") in ROBERTAS else most


def _load_weights(kind, name: str, key: str = "model", **options):
    """A model of the kind (an Auto class) with nothing missing. Raises ModelError, HubError."""
    folder = fetch(name, key)
    require_safetensors([path.name for path in folder.iterdir()], name, key)
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a head of the checkpoint's own is no news, see untie
    try:
        model, report = kind.from_pretrained(folder, use_safetensors=True, trust_remote_code=False,
                                             dtype=torch.float32, output_loading_info=True, **options)
    except SafetensorError as error:
        raise ModelError(f"the weights in {name!r} are damaged or cut short ({_first_line(error)}): "
                         "fetch model.safetensors again (git checkout, or empty the hub cache)") from error
    except (OSError, ValueError, ImportError) as error:  # ImportError: weights quantised by a library that is missing
        raise ModelError(f"no safetensors weights can be loaded from {name!r}: {_first_line(error)}") from error
    finally:
        logging.set_verbosity(verbosity)
    if report["missing_keys"]:
        raise ModelError(f"the weights in {name!r} lack {', '.join(sorted(report['missing_keys'])[:3])}: they are "
                         "another model's, or cut short")
    return model


def require_safetensors(files: Iterable[str], name: str, key: str = "model") -> None:
    """Raises ModelError where there is none among the files of a model, known as `name`. `key` is the profile's
    entry."""
    if any(fnmatch(file, WEIGHTS) for file in files):
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


def token_ids_alone(settings: GenerationConfig, config) -> GenerationConfig:
    """The special tokens of a checkpoint's generation settings, else of its configuration, and nothing else: beams, a
    least length or a temperature that came with it would make "greedy" and "sampled" mean something else."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    ids = {name: getattr(settings, name) for name in names}
    return GenerationConfig(**{name: getattr(config, name, None) if i is None else i for name, i in ids.items()})


def fuse_activations(model) -> None:
    """Puts torch's one-kernel tanh GELU where transformers computes the same in eight (5 % of a step on CPU)."""
    for module in model.modules():
        if isinstance(getattr(module, "act", None), NewGELUActivation):
            module.act = torch.nn.GELU(approximate="tanh")


def autocast(device, dtype: torch.dtype):
    """A context that computes in bf16 where the dtype asks for it, from weights that stay in fp32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def count_parameters(model, trainable: bool = False) -> int:
    """Number of weights, shared ones once; with trainable only those that a gradient reaches."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


# Adapters


def add_adapter(model, config: PeftConfig) -> PeftModel:
    """A copy of the model with a new adapter around it; the model itself stays as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers renames
        return get_peft_model(copy.deepcopy(model), config)


def merge_adapter(model: PeftModel):
    """A plain model with the adapter's update added into a copy of the weights. Raises
    AttributeError for adapters that are no weight update (prompt tuning and its kin)."""
    return copy.deepcopy(model).merge_and_unload()


def trainable_percent(model) -> float:
    """Weights that a gradient reaches, in percent of all (as peft's print_trainable_parameters)."""
    return 100 * count_parameters(model, trainable=True) / count_parameters(model)


def kilobytes_on_disk(model) -> float:
    """Size of the saved weights: the adapter's alone, or the whole model's."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sum(f.stat().st_size for f in Path(folder).glob("*.safetensors")) / 1000


def task_type(model) -> str:
    """What peft calls the model's kind."""
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"
