"""What a profile asks for, looked up before anything is computed: its entries, disk and memory.

Entries are looked at without their weights. Disk and memory follow from the model's size by arithmetic: they say
whether it is worth beginning, not what a lab takes, which README's table has as measured.
"""

import json
import shutil
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import torch
from huggingface_hub import constants

from utils import dialogues, models, prompts, reward, tasks
from utils.profile import CourseError, ProfileError, existing_parent, space_fault

READ = {0: ("model", "encoder_decoder", "dialogues", "tasks"), 1: ("model", "dialogues", "tasks"),
        2: ("model", "dialogues", "tasks"),
        3: ("model", "encoder_decoder", "heated", "preferences", "judge", "reward")}  # a lab's entries
FOLDERS = ("dialogues", "heated", "preferences", "tasks")  # entries that read() reads
GB = 2**30


def find_faults(profile) -> list[str]:
    """Everything about the profile that would stop one of the labs, one line each. Reads what is on this machine, and
    prints what is left out of it or shortened; takes seconds, and may take as long again for each entry on the hub."""
    faults, looked = [], {}
    for entry in dict.fromkeys(entry for entries in READ.values() for entry in entries):
        try:
            looked[entry] = look(profile, entry)
        except CourseError as error:
            faults.append(str(error))
    for entry, (_, coming) in looked.items():
        try:
            if not coming:
                read(profile, entry, tuple(READ), tokenizer(profile) if "model" in looked else None)
        except CourseError as error:
            faults.append(str(error))
    if "model" in looked:
        faults += size_faults(profile, looked, tuple(READ))
    return list(dict.fromkeys(faults))


def require(profile, lab: int) -> None:
    """A lab's own look. Raises the CourseError that it would come to later; prints where disk or memory may be too
    small, which is an estimate."""
    looked = {entry: look(profile, entry) for entry in READ[lab]}
    with redirect_stdout(None):  # the lab's own reading says what is left out
        for entry, (_, coming) in looked.items():
            if not coming:
                read(profile, entry, (lab,))
    for fault in size_faults(profile, looked, (lab,)):
        print(fault)


def tell(profile, labs: Sequence[int]) -> None:
    """Prints what the labs will leave out or shorten of the folders that the profile names. Raises what read() does."""
    entries = dict.fromkeys(entry for lab in labs for entry in READ.get(lab, ()) if entry in FOLDERS)
    for entry in entries:
        if Path(getattr(profile, entry)).is_dir():
            read(profile, entry, labs, tokenizer(profile))


def tokenizer(profile):
    """The model's tokenizer, None where the model is not on this machine."""
    return models.load_tokenizer(profile.model) if Path(profile.model).is_dir() else None


# Entries


def look(profile, entry: str) -> tuple[dict[str, int], int]:
    """({file: bytes}, bytes to download) of what the profile names. Raises the CourseError that a lab would end with
    when it comes to it: DataError, ModelError, LabelError, HubError, ProfileError."""
    name = models.encoder_decoder(profile) if entry == "encoder_decoder" else getattr(profile, entry, "")
    if not name:
        return {}, 0
    if entry in ("tasks", "preferences"):
        if not Path(name).is_dir():
            raise ProfileError(f"profile {profile.name}: {entry} = {name!r} is no folder: correct it in "
                               "labs/profiles.toml")
        return {}, 0
    if entry in ("dialogues", "heated"):
        files, coming = models.list_files(name, "dialogues")
        for file in models.SPLITS:
            if file not in {there.lower() for there in files}:
                raise dialogues.DataError(f"{name} has no {file}; it holds: {', '.join(sorted(files)) or 'nothing'}")
        return files, coming
    key = "model" if entry == "encoder_decoder" else entry
    files, coming = models.list_files(name, key)
    models.require_safetensors(files, name, key)
    if "judge.safetensors" in files:
        return files, coming
    if not files.keys() & set(models.TOKENIZERS):
        raise models.ModelError(f"{name} has no tokenizer, none of {', '.join(models.TOKENIZERS)}: set {key} in "
                                "labs/profiles.toml to a model that has one")
    config = read_config(name, key)
    if key != "model":
        labels = SimpleNamespace(config=SimpleNamespace(id2label=config.get("id2label", {})))
        reward.label_index(labels, getattr(profile, f"{key}_label"), key)
    return files, coming


def read(profile, entry: str, labs: Sequence[int], tokenizer=None) -> None:
    """Reads dialogues, heated, preferences or tasks as the labs do, and counts the rows that they ask for; with the
    tokenizer it prints which dialogues are shortened. Raises DataError, PromptTooLong."""
    if entry not in FOLDERS:
        return
    name = getattr(profile, entry)
    if entry == "tasks":
        wanted = [(task, split) for task in tasks.TASKS for split in ("train", "test")]
        for task, split in [*wanted, *([("labels", "test")] if 1 in labs else [])]:
            tasks.load_task(task, split, name)
        return
    for split, least in rows_asked_for(profile, entry, labs).items():
        if entry == "preferences":
            table = dialogues.load_pairs(name, split)
        else:
            table = dialogues.load_split(name, split, ["summary_civil"] if entry == "heated" else ())
        if len(table) < least:
            raise dialogues.DataError(f"{name} has {len(table)} dialogues in {split}.csv, and profile {profile.name} "
                                      f"asks for {least}: lower its numbers of examples, or add rows")
        if tokenizer:
            prompts.fit_window(tokenizer, table)


def rows_asked_for(profile, entry: str, labs: Sequence[int]) -> dict[str, int]:
    """{split: the least number of rows} with which the labs can do as the profile says."""
    if entry == "preferences":
        return {"train": 1, "test": 1}
    if entry == "heated":
        return {"train": profile.policy_examples, "test": 1}
    train = {0: [profile.summary_examples], 1: [max(profile.shots)],
             2: [profile.train_examples, profile.sweep_examples, *profile.data_curve]}
    return {"train": max([1, *(n for lab in labs for n in train.get(lab, ()))]),
            "validation": profile.validation_examples if 2 in labs else 1, "test": 1}


def read_config(name: str, key: str = "model") -> dict:
    """A model's config.json. Raises ModelError, HubError."""
    path = models.fetch(name, key, needed=("config.json",)) / "config.json"
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise models.ModelError(f"{path} cannot be read ({error}): save the model again, or empty the hub's cache"
                                ) from None


# Disk and memory


def size_faults(profile, looked: dict, labs: tuple[int, ...]) -> list[str]:
    """Where disk or memory are too small for the labs, by the files that look() has found."""
    config = read_config(profile.model)
    half = str(config.get("dtype") or config.get("torch_dtype")) in ("bfloat16", "float16")
    model = sum(n for file, n in looked["model"][0].items() if file.endswith(".safetensors")) * (2 if half else 1)
    faults, coming = [], sum(coming for _, coming in looked.values())
    free = shutil.disk_usage(existing_parent(Path(constants.HF_HUB_CACHE))).free
    if coming > free:
        faults.append(f"{coming / GB:.1f} GB are to be fetched from the hub, and {free / GB:.1f} GB are free on the "
                      f"disk of {constants.HF_HUB_CACHE}: make room, or set HF_HOME to a folder on another disk")
    faults.append(space_fault(profile.checkpoints, max(checkpoint_bytes(profile, lab, model) for lab in labs)))
    here, needed = device_bytes(profile.device), {lab: memory_bytes(profile, lab, model, config) for lab in labs}
    short = [f"Lab {lab} about {bytes_ / GB:.1f} GB" for lab, bytes_ in needed.items() if bytes_ > here]
    if short:
        faults.append(f"profile {profile.name} needs more memory than there is on {profile.device}, "
                      f"{here / GB:.1f} GB: {', '.join(short)}. Take smaller batches (lower `batch`, raise "
                      "`accumulate`; lower `rows` and batch_tokens) or a smaller model")
    return [fault for fault in faults if fault]


def checkpoint_bytes(profile, lab: int, model: int) -> int:
    """What a lab's trainings leave on disk until it has ended, and the checkpoints of the one in progress: twice its
    weights, the best ones and Adam's two moments. `model` is the size of the weights in fp32."""
    seeds = len(profile.seeds)
    if lab == 2:  # full at two rates, the mistakes and the mixture; other amounts, both ends with one seed
        return (4 * seeds + (len(profile.data_curve) - 2) * seeds + 2 + 2 * 4) * model
    if lab == 3:  # the starting policy; half a model each: PPO with and without leash, RLOO, DPO, the sweep
        runs = (5 if profile.pushed else 4) * seeds + len(profile.kl_sweep)
        return model + runs * model // 2 + 2 * 3 * model
    return 0


def memory_bytes(profile, lab: int, model: int, config: dict) -> int:
    """The most that the steps of a lab hold at a time: copies of the weights in fp32, gradients, Adam's moments, and
    what a forward pass keeps for the backward pass. `model` is the size of the weights in fp32."""
    program = GB if torch.device(profile.device).type == "cpu" else 0
    if lab == 1:
        return program + 2 * model
    tuning = 8 * model + kept_bytes(profile, config, profile.full["batch"])  # base, old, new, best, 4 of Adam's
    if lab != 3:
        return program + tuning + (model if lab == 2 else 0)  # the adapted model that stays
    aligning = 7 * model + kept_bytes(profile, config, profile.ppo["rows"])  # 5 copies; half of one is trained
    return program + max(tuning, aligning) + model // 2  # the reward model


def kept_bytes(profile, config: dict, rows: int) -> int:
    """What a forward pass over prompts of fixed_widths and completions of max_new_tokens keeps (Korthikanti et al.
    2022), and the logits."""
    width = config.get("d_model") or config.get("hidden_size") or config.get("n_embd")
    layers = config.get("num_layers") or config.get("num_hidden_layers") or config.get("n_layer")
    heads = config.get("num_heads") or config.get("num_attention_heads") or config.get("n_head")
    prompt, answer = profile.fixed_widths[0], profile.max_new_tokens
    token = layers * (34 * width + 5 * heads * prompt) * (1 if profile.dtype == torch.bfloat16 else 2)
    return rows * (token * (prompt + 2 * answer) + 10 * answer * config["vocab_size"])


def device_bytes(device) -> int:
    """The memory of a CUDA device, else what this machine's programs can still have."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    import psutil

    return psutil.virtual_memory().available
