"""peft's adapters on a copy of the model, and what they weigh."""

import copy
import tempfile
import warnings
from pathlib import Path

from peft import PeftConfig, PeftModel, get_peft_model

from utils.models import count_parameters


def add_adapter(model, config: PeftConfig) -> PeftModel:
    """A copy of the model with a new adapter around it; the model itself stays as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers renames
        return get_peft_model(copy.deepcopy(model), config)


def merged(model: PeftModel):
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
