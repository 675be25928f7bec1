"""The JSON schema of torchtitan's job sections, made from torchtitan's own dataclasses and what lt25 adds to them.

``python -m lt25.training.schema`` writes ``workflow/schemas/torchtitan.schema.json``, so that an experiment file is
checked without importing torch; a test keeps the two in step.
"""

import dataclasses
import json
import types
import typing
from typing import Any

from torchtitan.config import ConfigManager, JobConfig

from lt25.experiment import SECTIONS, project_root
from lt25.training.job_config import JobConfig as Added

# Bounds that torchtitan checks late, with an assertion, or not at all.
BOUNDS: dict[tuple[str, str], dict[str, Any]] = {
    ("training", "steps"): {"minimum": 1},
    ("training", "local_batch_size"): {"minimum": 1},
    ("training", "seq_len"): {"minimum": 1},
    ("training", "gc_freq"): {"minimum": 1},
    ("training", "max_norm"): {"exclusiveMinimum": 0},
    ("optimizer", "lr"): {"exclusiveMinimum": 0},
    ("optimizer", "name"): {"enum": ["Adam", "AdamW"]},
    ("lr_scheduler", "warmup_steps"): {"minimum": 0},
    ("lr_scheduler", "decay_ratio"): {"minimum": 0, "maximum": 1},
    ("lr_scheduler", "min_lr_factor"): {"minimum": 0, "maximum": 1},
    ("checkpoint", "interval"): {"minimum": 1},
    ("checkpoint", "keep_latest_k"): {
        "minimum": 0,
        "not": {"const": 1},
        "description": "0 keeps all; 1 would delete the last whole one",
    },
    ("checkpoint", "load_step"): {"minimum": -1},
    ("metrics", "log_freq"): {"minimum": 1},
}

# Keys that lt25 sets itself, or that name what lt25 has its own key for, or what it does not do.
HIDDEN = {
    "training": {"dataset", "dataset_path"},
    # Only fused optimizers can leave out a step without asking the host.
    "optimizer": {"implementation", "early_step_in_backward"},
    "checkpoint": {
        "folder",
        "enable_ft_dataloader_checkpoints",
        "create_seed_checkpoint",
        "initial_load_path",
        "initial_load_model_only",
        "initial_load_in_hf",
        "initial_load_in_hf_quantized",
        "last_save_in_hf",
        "last_save_model_only",
        "export_dtype",
        "load_only",
    },
}


def build() -> dict[str, Any]:
    """Return the schema: ``$defs`` has one closed object for each section of `lt25.experiment.SECTIONS`."""
    sections = typing.get_type_hints(ConfigManager._merge_configs(JobConfig, Added))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Written by `python -m lt25.training.schema` from torchtitan's dataclasses.",
        "$defs": {name: _object(sections[name], name) for name in SECTIONS},
    }


def _object(cls: type, section: str) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    properties = {
        field.name: {**_type(hints[field.name]), **BOUNDS.get((section, field.name), {})}
        for field in dataclasses.fields(cls)
        if field.name not in HIDDEN.get(section, ())
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _type(hint: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _object(hint, hint.__name__)
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin in (typing.Union, types.UnionType):
        kinds = [_type(arg)["type"] for arg in args]
        return {"type": "number" if set(kinds) == {"number", "integer"} else kinds}
    if origin is list:
        return {"type": "array", "items": _type(args[0])}
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return {"type": names[hint]}


def main() -> None:
    path = project_root() / "workflow" / "schemas" / "torchtitan.schema.json"
    path.write_text(json.dumps(build(), indent=1) + "\n")


if __name__ == "__main__":
    main()
