"""transformers' Auto classes: which of them loads the model of a task, and the entries of lt25's own models.

As with flash-linear-attention's models, importing the module makes the entries.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.models.auto import modeling_auto

from lt25 import plugins
from lt25.errors import UserError
from lt25.models import HGRNConfig, HGRNForCausalLM, HGRNForCTC, HGRNForSequenceClassification, HGRNModel
from lt25.models.families import FAMILIES, Family, find
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
    family = find(model_type)
    family.load()
    if model_type not in transformers.CONFIG_MAPPING:
        raise UserError(_unregistered(family, "AutoConfig", repr(model_type)))
    return transformers.AutoConfig.for_model(model_type, **others)


def make_model(fields: Mapping[str, Any], task: str) -> transformers.PreTrainedModel:
    """Return a task's model with the weights that its family begins with, of torch's default dtype.

    Args:
        fields: of its ``config.json``; its ``dtype``, which says how a published model's weights are stored, is of no account.
        task: the task's name.

    Raises:
        UserError: if the family cannot make a model of these values; each says so with exceptions of its own.
    """
    with _refused(fields):
        config, auto = make_config(fields), auto_class(task)
        if type(config) not in auto._model_mapping:
            raise UserError(_unregistered(find(fields["model_type"]), auto.__name__, type(config).__name__))
        return auto.from_config(config, dtype=torch.get_default_dtype())


def _unregistered(family: Family, auto: str, key: str) -> str:
    return (
        f"model.model_type: found {family.model_type}, of which transformers' {auto} knows nothing: call "
        f"{auto}.register({key}, ...) in {family.module or 'its plugin'}"
    )


def try_model(fields: Mapping[str, Any], task: str) -> dict[str, torch.Size]:
    """Make a model without memory for its weights, and have it read two tokens if it is one of transformers' own.

    Args:
        fields: of its ``config.json``.
        task: the task's name.

    Returns:
        The shapes of its weights, by name.

    Raises:
        UserError: as `make_model`, or if the sizes that the model computes with do not fit.
    """
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(action="ignore"), torch.device("meta"), _refused(fields):
            model = make_model(fields, task)
            # Kernels of other packages do not run without a device.
            if find(fields["model_type"]).module is None and TASKS[task].main_input == "input_ids":
                model(torch.zeros(1, 2, dtype=torch.long))
            return {name: weight.shape for name, weight in model.named_parameters()}
    finally:
        transformers.logging.set_verbosity(verbosity)


@contextmanager
def _refused(fields: Mapping[str, Any]) -> Iterator[None]:
    """Say in one line what a family's own code raises of the values that it was given."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if fault := plugins.fault(error):
            raise UserError(fault) from error
        family, missing = fields["model_type"], error.args[0] if isinstance(error, KeyError) and error.args else None
        if key := next((key for key, value in fields.items() if missing is not None and value == missing), None):
            raise UserError(f"model.{key}: found {missing}, which {family} does not know: choose another") from error
        said = (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
        raise UserError(
            f"model: no {family} can be made with these values: {said}: change the keys that it is about"
        ) from error


def read_config(folder: Path, trust_remote_code: bool = False) -> transformers.PreTrainedConfig:
    """Return the configuration of a model's folder, whatever the family.

    Args:
        folder: has a config.json.
        trust_remote_code: whether a family that lt25 does not know may be read by Python of the folder's own.

    Raises:
        UserError: if the family is unknown, unless the folder's own code may be run.
    """
    if not (trust_remote_code and _is_foreign(folder)):
        find(str(_written(folder).get("model_type"))).load()
        trust_remote_code = False
    return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def refuse_foreign_code(folder: Path) -> None:
    """Refuse a model that can be read by Python of its folder's own only.

    Raises:
        UserError: for such a model.
    """
    if _is_foreign(folder):
        raise UserError(
            f"{folder}: the model {_written(folder).get('model_type')} brings Python of its own, which is not run unasked: "
            f"read it, and set evaluation.trust_remote_code to true"
        )


def load_model(task: str, model_dir: Path, device: torch.device, trust_remote_code: bool = False) -> torch.nn.Module:
    """The exported model of a task, in evaluation mode on `device`: float32 on a CPU, as saved on a GPU.

    Raises UserError if the folder holds no model of this task, or one that brings code which is not trusted.
    """
    transformers.utils.logging.disable_progress_bar()
    if not trust_remote_code:
        refuse_foreign_code(model_dir)
    try:
        model, loaded = auto_class(task).from_pretrained(
            model_dir,
            config=read_config(model_dir, trust_remote_code),
            trust_remote_code=trust_remote_code,
            dtype=torch.float32 if device.type == "cpu" else "auto",
            local_files_only=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, SafetensorError, UserError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{model_dir}: not a model for {task}: {reason}: check the experiment's task and export it again"
        ) from error
    # transformers fills what is missing with random numbers and only warns
    if missing := sorted(loaded["missing_keys"]):
        raise UserError(f"{model_dir}: {len(missing)} weights are missing, {missing[0]} first: export it again")
    return model.to(device).eval()


def _is_foreign(folder: Path) -> bool:
    try:
        written = _written(folder)
    except ValueError:
        return False  # whoever loads the model says that its config.json cannot be read
    return "auto_map" in written and written.get("model_type") not in FAMILIES


def _written(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))
