"""transformers' Auto classes: which of them loads the model of a task, and the entries of lt25's own models.

As with flash-linear-attention's models, importing the module makes the entries.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto import modeling_auto

from lt25.models import HGRNConfig, HGRNForCausalLM, HGRNForCTC, HGRNForSequenceClassification, HGRNModel
from lt25.models.families import find
from lt25.tasks import TASKS

transformers.AutoConfig.register(HGRNConfig.model_type, HGRNConfig, exist_ok=True)
modeling_auto.AutoModel.register(HGRNConfig, HGRNModel, exist_ok=True)
modeling_auto.AutoModelForCausalLM.register(HGRNConfig, HGRNForCausalLM, exist_ok=True)
modeling_auto.AutoModelForCTC.register(HGRNConfig, HGRNForCTC, exist_ok=True)
modeling_auto.AutoModelForSequenceClassification.register(HGRNConfig, HGRNForSequenceClassification, exist_ok=True)


def auto_class(task: str) -> Any:
    """Return the class of transformers that builds and loads the models of a task."""
    return getattr(transformers, TASKS[task].auto_model)


def make_config(fields: Mapping[str, Any]) -> transformers.PreTrainedConfig:
    """Return the configuration that a model's ``config.json`` has the fields of, whatever the family.

    Raises:
        UserError: if its model type is none that `lt25.models.families` knows.
    """
    others = dict(fields)
    model_type = others.pop("model_type")
    find(model_type).load()
    return transformers.AutoConfig.for_model(model_type, **others)


def read_config(folder: Path) -> transformers.PreTrainedConfig:
    """Return the configuration of a model's folder, whatever the family.

    Raises:
        UserError: if its model type is none that `lt25.models.families` knows.
    """
    find(json.loads((folder / "config.json").read_text()).get("model_type")).load()
    return transformers.AutoConfig.from_pretrained(folder)
