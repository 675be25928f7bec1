"""The described sections against torchtitan's dataclasses, and what decides where training arrives."""

import dataclasses
import re
import types
import typing

import pytest

from lt25.config.key import REQUIRED, identity, resolve
from lt25.config.sections import (
    CONFIG,
    DATASET,
    EXPERIMENT,
    HIDDEN,
    JOB,
    MODEL,
    SCHEDULES,
    SET,
    SYNONYMS,
    training_identity,
)
from lt25.launch import DEGREES
from lt25.tasks import TASKS

# Where lt25's default is another than torchtitan's, and where its keys are lt25's own.
OTHER_DEFAULTS = {
    "training.steps": REQUIRED,
    "validation.freq": 0,
    "checkpoint.enable": True,
    "metrics.enable_tensorboard": True,
    "metrics.disable_color_printing": True,
    "activation_checkpoint.mode": "none",
    "debug.seed": 0,
}
OWN = {
    "training.cuda_graphs",
    "training.fused_loss",
    "training.float8",
    "training.z_loss",
    "training.label_smoothing",
    "training.intermediate_ctc",
    "training.batch_seconds",
    "training.varlen",
    "training.context_len",
    "optimizer.gate_lr",
    "optimizer.gate_weight_decay",
    "optimizer.ema_decay",
    "checkpoint.keep",
    "checkpoint.average",
    "metrics.log_layer_norms",
    "validation.patience",
}
# What flame has, and torchtitan has not.
FLAMES = {"training.skip_nan_inf", "optimizer.fused", "checkpoint.model_weights_only"}
KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def kinds(hint) -> set[str]:
    """The JSON types of a type hint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return {"object"}
    if origin is typing.Literal:
        return {KINDS[type(value)] for value in arguments}
    if origin in (typing.Union, types.UnionType):
        found = set().union(*map(kinds, arguments))
        return found - {"integer"} if "number" in found else found
    return {"array"} if origin is list else {KINDS[hint]}


def test_names_that_torch_and_torchtitan_know():
    from torch.distributed.pipelining.schedules import get_schedule_class
    from torch.utils.checkpoint import _allowed_determinism_checks_to_fns as checks
    from torchtitan.components import checkpoint

    for name in SCHEDULES:
        assert get_schedule_class(name)
    assert set(JOB["activation_checkpoint"]["determinism_check"].bounds["enum"]) == set(checks)
    parts = {checkpoint.OPTIMIZER, checkpoint.LR_SCHEDULER, checkpoint.DATALOADER, checkpoint.TRAIN_STATE}
    assert set(JOB["checkpoint"]["exclude_from_loading"].bounds["items"]["enum"]) == parts


def compare(keys, cls, prefix):
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hidden = HIDDEN.get(prefix, {})
    assert {f"{prefix}.{name}" for name in set(hidden) - set(fields)} <= FLAMES, (
        f"{prefix}: hidden, and not torchtitan's"
    )
    assert not set(hidden) & set(keys)
    own = {name for name in keys if f"{prefix}.{name}" in OWN}
    assert set(keys) - own == set(fields) - set(hidden), f"{prefix}: describe the key, or hide it with a reason"
    for name in set(keys) - own:
        key, field, hint = keys[name], fields[name], hints[name]
        default = field.default_factory() if field.default is dataclasses.MISSING else field.default
        expected = kinds(hint)
        if default is not None:
            # TOML has no null, so such a key cannot be set to it.
            expected -= {"null"}
        described = {key.type} if isinstance(key.type, str) else set(key.type)
        known = f"{prefix}.{name}"
        if known in ("debug.seed",):
            described |= {"null"}
        assert described == expected, known
        if dataclasses.is_dataclass(hint):
            compare(key.keys, hint, known)
            continue
        assert key.default == OTHER_DEFAULTS.get(known, default), known
        if typing.get_origin(hint) is typing.Literal:
            assert set(key.bounds["enum"]) == set(typing.get_args(hint)), known


@pytest.mark.parametrize("section", JOB)
def test_names_types_and_defaults_are_torchtitans(section):
    from torchtitan.config import JobConfig

    compare(JOB[section], typing.get_type_hints(JobConfig)[section], section)


def test_every_section_of_torchtitans_is_described_or_lt25s_own_business():
    from torchtitan.config import JobConfig

    # lt25 writes the first two and sets products in float8 by a key of its own; the others are features that it does not have.
    others = {"job", "model", "quantize", "experimental", "fault_tolerance", "memory_estimation"}
    assert {field.name for field in dataclasses.fields(JobConfig)} == {*JOB, *others}


def test_the_degrees_that_decide_on_processes_have_the_defaults_of_their_keys():
    described = {name: key.default for name, key in JOB["parallelism"].items() if name.endswith("_degree")}
    assert described == DEGREES


def test_torchtitan_reads_lt25s_own_keys_with_the_same_defaults():
    from torchtitan.config import ConfigManager, JobConfig

    from lt25.training.job_config import JobConfig as Added

    merged = ConfigManager._merge_configs(JobConfig, Added)()
    for name in (*OWN, "validation.freq"):
        section, key = name.split(".")
        assert getattr(getattr(merged, section), key) == JOB[section][key].default


def test_every_key_says_what_it_means_and_whether_it_decides():
    def walk(keys):
        for name, key in keys.items():
            assert key.meaning and "\n" not in key.meaning, name
            assert isinstance(key.identity, bool), name
            walk(key.keys or {})

    for section in JOB.values():
        walk(section)
    assert all(reason for hidden in HIDDEN.values() for reason in hidden.values())
    assert all(key in HIDDEN[section] for section, fixed in SET.items() for key in fixed)


def job(**changes):
    return {name: resolve({"steps": 10} | changes.get(name, {}), section) for name, section in JOB.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"lr": 1e-2}},
        {"lr_scheduler": {"decay_type": "cosine"}},
        {"training": {"max_norm": 2.0}},
        {"training": {"mixed_precision_param": "float32"}},
        {"debug": {"seed": 1}},
        {"validation": {"freq": 5, "patience": 2}},
        {"validation": {"freq": 5}, "checkpoint": {"keep": "best"}},
    ],
)
def test_what_shapes_the_weights_is_part_of_the_identity(changes):
    assert training_identity(job(**changes)) != training_identity(job())


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"steps": 20}},
        {"training": {"local_batch_size": 2, "global_batch_size": 8}},
        {"training": {"cuda_graphs": False, "gc_freq": 7, "dataloader": {"num_workers": 2}}},
        {"validation": {"freq": 5, "steps": 3}},
        {"checkpoint": {"interval": 7, "keep_latest_k": 0}},
        {"parallelism": {"data_parallel_shard_degree": 2}},
        {"activation_checkpoint": {"mode": "full"}, "compile": {"enable": True}},
        {"metrics": {"log_freq": 1}, "profiling": {"enable_profiling": True}, "comm": {"init_timeout_seconds": 5}},
        {"debug": {"deterministic": True}},
    ],
)
def test_speed_layout_and_record_are_not(changes):
    assert training_identity(job(**changes)) == training_identity(job())


def test_keys_and_sections_that_nobody_described_are_left_out():
    assert training_identity({**job(), "job": {"dump_folder": "x"}}) == training_identity(job())
    assert identity({"lr": 1.0, "extra": 2}, JOB["optimizer"]) == {"lr": 1.0}


def test_numbers_have_the_type_of_their_key():
    resolved = resolve({"steps": 10.0, "max_norm": 1}, JOB["training"])
    assert (resolved["steps"], resolved["max_norm"]) == (10, 1.0)
    assert isinstance(resolved["steps"], int) and isinstance(resolved["max_norm"], float)


def test_what_has_another_name_elsewhere_is_no_key_here_and_is_told_one_that_is():
    keys = {"model": MODEL, "prepare": TASKS["language_modeling"].prepare, **JOB}
    for synonym, name in SYNONYMS.items():
        section, key = synonym.split(".")
        assert key not in {**keys.get(section, {}), **HIDDEN.get(section, {})}, synonym
        # A sentence may name several, and the file that they are in.
        for one in re.findall(r"(?<!\S)[a-z0-9_]+\.[a-z0-9_]+(?!\S)", name.replace(",", "")):
            section, key = one.split(".")
            assert key in {**keys, "origin": DATASET["origin"].keys}[section], name
    assert SYNONYMS["training.data_probs"] in EXPERIMENT and SYNONYMS["model.custom_import"].split()[0] in CONFIG
