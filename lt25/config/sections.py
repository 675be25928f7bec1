"""The sections of an experiment file, of a dataset file and of config/config.yaml, key by key.

``JOB`` has torchtitan 0.2.2's sections, with its names and types; a default differs from torchtitan's where its meaning says so.
A key's `identity` says whether it decides where training arrives, apart from rounding. What torchtitan has and an experiment may
not set is in ``HIDDEN``, with the reason; what has another name elsewhere, in ``SYNONYMS``. A test compares all of it with
torchtitan's dataclasses.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from lt25.config.key import OPTIONAL, REQUIRED, Key, Section, identity

_POSITIVE = {"minimum": 1}
_NOT_NEGATIVE = {"minimum": 0}
_FRACTION = {"minimum": 0, "maximum": 1}
_TEXT = {"minLength": 1}
_TEXTS = {"items": {"type": "string", "minLength": 1}}
_INSIDE = r"^(?![/~])(?!(.*/)?\.\.(/|$))"
_FOLDER = {"pattern": f"{_INSIDE}.", "$comment": "a folder inside the run's, without `..`"}

SCHEDULES = (
    "1F1B",
    "Interleaved1F1B",
)
"""torch's schedules of a pipeline that are tested; the interleaved one has two stages a process."""

TRAINING: Section = {
    # torchtitan has a default for the steps. They are not part of the identity, because a run of more steps goes on from one of
    # fewer: the trainer records the path.
    "steps": Key("integer", REQUIRED, "how many steps to train", False, _POSITIVE),
    # What the two batch sizes come to is part of the identity, as one number: `lt25.training.run` works it out.
    "local_batch_size": Key("integer", 8, "examples of a process in one pass through the model", False, _POSITIVE),
    "global_batch_size": Key(
        "integer",
        -1,
        "examples of all processes in a step, reached by gradient accumulation; -1: `local_batch_size` times the processes",
        False,
        {"minimum": -1, "not": {"const": 0}, "description": "a multiple of local_batch_size, or -1"},
    ),
    "batch_seconds": Key(
        ("number", "string", "null"),
        None,
        "seconds of audio of a process in one pass, padding counted: a recogniser's utterances of like length, as many as fill "
        "them, `local_batch_size` at most, one at least; `auto`: what fits into the GPU's memory, found before the first step; "
        "none: `local_batch_size` utterances; torchtitan has no such key",
        True,
        {"exclusiveMinimum": 0, "pattern": "^auto$", "$comment": "seconds, or auto"},
    ),
    "seq_len": Key("integer", 2048, "tokens of a language model's window", True, _POSITIVE),
    "varlen": Key(
        ("boolean", "null"),
        None,
        "the documents of a window are sequences of their own; false: one is read on from another; none: as the model's "
        "family can",
        True,
    ),
    "context_len": Key(
        ("integer", "null"),
        None,
        "the most tokens of such a sequence; a longer document goes on in the next one; none: as many as a window has",
        True,
        _POSITIVE,
    ),
    "max_norm": Key("number", 1.0, "the norm that gradients are clipped to", True, {"exclusiveMinimum": 0}),
    "mixed_precision_param": Key(
        "string", "bfloat16", "type of weights and activations in the model", True, {"enum": ["bfloat16", "float32"]}
    ),
    "mixed_precision_reduce": Key(
        "string", "float32", "type in which FSDP2 sums gradients", True, {"enum": ["float32"]}
    ),
    "dtype": Key(
        "string",
        "float32",
        "type in which weights and the optimizer's state are kept",
        True,
        {"enum": ["bfloat16", "float32"]},
    ),
    "cuda_graphs": Key(
        "boolean",
        True,
        "on a GPU, record a step once for each shape of its batch and replay it; torchtitan has no such key",
        False,
    ),
    "fused_loss": Key(
        "boolean",
        True,
        "compute a language model's head and loss together, for some tokens at a time, so that logits never lie whole in memory; "
        "the same numbers, up to rounding; torchtitan has no such key",
        False,
    ),
    "float8": Key(
        ("string", "null"),
        None,
        "products of the layers in float8, by one of torchao's recipes; none: in `mixed_precision_param`; needs a GPU of compute "
        "capability 8.9 or later and the package torchao, and gains speed with `compile.enable`; torchtitan has it elsewhere",
        True,
        {"enum": ["tensorwise", "rowwise", "rowwise_with_gw_hp"]},
    ),
    "z_loss": Key(
        "number",
        0.0,
        "so many times the squared logarithm of the softmax's denominator is added to a language model's loss in training, "
        "usually 1e-4: logits stay small; the recorded training loss includes it; torchtitan has no such key",
        True,
        _NOT_NEGATIVE,
    ),
    "label_smoothing": Key(
        "number",
        0.0,
        "part of the probability that a classifier is to spread over all classes, not to give to the right one alone, usually "
        "0.1; the recorded training loss includes it; torchtitan has no such key",
        True,
        {"minimum": 0, "exclusiveMaximum": 1},
    ),
    "intermediate_ctc": Key(
        "number",
        0.0,
        "weight of a second CTC loss, of the logits of a speech recogniser's middle layer, against that of the last, usually "
        "0.3; the recorded training loss is both; torchtitan has no such key",
        True,
        {"minimum": 0, "exclusiveMaximum": 1},
    ),
    "enable_cpu_offload": Key("boolean", False, "keep weights and optimizer in the CPU's memory (FSDP2)", False),
    "gc_freq": Key("integer", 50, "steps between two collections of Python's garbage", False, _POSITIVE),
    "gc_debug": Key("boolean", False, "collect garbage at every step and warn of what holds GPU memory", False),
    "dataloader": Key(
        "object",
        {},
        "how batches are read",
        False,
        keys={
            "num_workers": Key(
                "integer", 0, "processes that read; 0: none, a thread reads ahead", False, _NOT_NEGATIVE
            ),
            "persistent_workers": Key("boolean", False, "keep these processes between epochs", False),
            "pin_memory": Key("boolean", False, "put batches into pinned memory", False),
            "prefetch_factor": Key(
                ("integer", "null"), None, "batches that each process reads ahead; none: 2", False, _POSITIVE
            ),
        },
    ),
}

OPTIMIZER: Section = {
    "name": Key(
        "string",
        "AdamW",
        "the optimizer; `Muon` for the matrices of the layers, with AdamW for all other parameters: its steps are as large as "
        "AdamW's, so that `lr` and `weight_decay` are those of AdamW too; torchtitan has no Muon",
        True,
        {"enum": ["Adam", "AdamW", "Muon"]},
    ),
    "lr": Key("number", 8e-4, "the highest learning rate", True, {"exclusiveMinimum": 0}),
    "beta1": Key(
        "number", 0.9, "decay of the running mean of gradients, a step", True, {"minimum": 0, "exclusiveMaximum": 1}
    ),
    "beta2": Key(
        "number", 0.95, "decay of the running mean of their squares", True, {"minimum": 0, "exclusiveMaximum": 1}
    ),
    "eps": Key("number", 1e-8, "added to the root of that mean", True, {"exclusiveMinimum": 0}),
    "weight_decay": Key(
        "number", 0.1, "part of a weight that a step takes away, times the learning rate", True, _NOT_NEGATIVE
    ),
    "gate_lr": Key(
        ("number", "null"),
        None,
        "the highest learning rate of forget gates' weights and of their lower bounds; none: `lr`; torchtitan has no such key",
        True,
        {"exclusiveMinimum": 0},
    ),
    "gate_weight_decay": Key(
        ("number", "null"),
        None,
        "the weight decay of the same; none: `weight_decay`; torchtitan has no such key",
        True,
        _NOT_NEGATIVE,
    ),
    "ema_decay": Key(
        "number",
        0.0,
        "decay of a running mean of the weights, a step, such as 0.999; the mean is what is validated and exported; 0: none; "
        "torchtitan has no such key",
        True,
        {"minimum": 0, "exclusiveMaximum": 1},
    ),
}

LR_SCHEDULER: Section = {
    "warmup_steps": Key("integer", 200, "steps in which the learning rate rises from zero", True, _NOT_NEGATIVE),
    "total_steps": Key(
        ("integer", "null"), None, "steps that the schedule is made for; none: `training.steps`", True, _POSITIVE
    ),
    "decay_ratio": Key(
        ("number", "null"),
        None,
        "part of the steps at the end in which the rate falls, constant before; none: it falls from the warm-up on",
        True,
        _FRACTION,
    ),
    "decay_type": Key("string", "linear", "shape of the fall", True, {"enum": ["linear", "sqrt", "cosine"]}),
    "min_lr_factor": Key("number", 0.0, "the last learning rate, as a part of `lr`", True, _FRACTION),
}

# These, and `checkpoint.keep`, count where validation decides on the model: see `training_identity`.
VALIDATION: Section = {
    "freq": Key("integer", 0, "steps between two validations in training; 0: none", True, _NOT_NEGATIVE),
    "steps": Key(
        "integer",
        -1,
        "a validation takes as many examples as this many training steps, always the same; -1: all of the split; in torchtitan "
        "it counts batches",
        True,
        {"minimum": -1, "not": {"const": 0}, "description": "as many examples as so many steps take, or -1 for all"},
    ),
    "patience": Key(
        "integer",
        0,
        "validations without improvement after which training stops; 0: it never does",
        True,
        _NOT_NEGATIVE,
    ),
}

CHECKPOINT: Section = {
    "enable": Key("boolean", True, "write checkpoints; torchtitan's default is false", False),
    "interval": Key("integer", 500, "steps between two checkpoints", False, _POSITIVE),
    "keep_latest_k": Key(
        "integer",
        10,
        "checkpoints that are kept; 0: all",
        False,
        {"minimum": 0, "not": {"const": 1}, "description": "0 keeps all; 1 would delete the last whole one"},
    ),
    "keep": Key(
        "string",
        "latest",
        "`best`: the checkpoint with the best validation metric is kept too, and is what is exported; torchtitan has no "
        "such key",
        True,
        {"enum": ["latest", "best"]},
    ),
    # Of a run that is trained, another number is exported without training again.
    "average": Key(
        "integer",
        1,
        "so many checkpoints are exported as one, the mean of their weights: the last, and those of the last multiples of "
        "`interval` before it; torchtitan has no such key",
        False,
        _POSITIVE,
    ),
    "load_step": Key(
        "integer", -1, "the checkpoint that training goes on from; -1: the newest", False, {"minimum": -1}
    ),
    "async_mode": Key(
        "string",
        "disabled",
        "write checkpoints beside the training",
        False,
        {"enum": ["disabled", "async", "async_with_pinned_mem"]},
    ),
    # A resumed run that starts with an empty optimizer arrives elsewhere.
    "exclude_from_loading": Key(
        "array",
        [],
        "parts of a checkpoint that are not read",
        True,
        {"items": {"enum": ["optimizer", "lr_scheduler", "dataloader", "train_state"]}, "uniqueItems": True},
    ),
    "enable_first_step_checkpoint": Key("boolean", False, "write a checkpoint after the first step", False),
}

PARALLELISM: Section = {
    "data_parallel_replicate_degree": Key(
        "integer", 1, "copies of the model (DDP; with shards, HSDP)", False, _POSITIVE
    ),
    "data_parallel_shard_degree": Key(
        "integer",
        -1,
        "processes that a copy is sharded over (FSDP2); -1: all that are left, or 1 without other degrees if the model fits",
        False,
        {"minimum": -1, "not": {"const": 0}, "description": "1 for no shards, -1 for all processes that are left"},
    ),
    "fsdp_reshard_after_forward": Key(
        "string",
        "default",
        "whether FSDP2 gives gathered weights back after the forward pass",
        False,
        {"enum": ["default", "always", "never"]},
    ),
    "tensor_parallel_degree": Key("integer", 1, "processes that share each layer", False, _POSITIVE),
    "disable_loss_parallel": Key("boolean", False, "with tensor parallelism, gather the logits for the loss", False),
    "enable_async_tensor_parallel": Key("boolean", False, "torchtitan's; not offered, docs/scaling.md says why", False),
    "pipeline_parallel_degree": Key("integer", 1, "processes that the layers are shared out to", False, _POSITIVE),
    "pipeline_parallel_schedule": Key(
        "string", "1F1B", "in which order parts of a batch pass", False, {"enum": list(SCHEDULES)}
    ),
    "context_parallel_degree": Key("integer", 1, "processes that share each sequence", False, _POSITIVE),
}

ACTIVATION_CHECKPOINT: Section = {
    "mode": Key(
        "string",
        "none",
        "what the backward pass computes again to save memory: `none`, layers or operations (`selective`), every layer (`full`), "
        "or what a compiler chooses (`memory_budget`); torchtitan's default is `selective`",
        False,
        {"enum": ["selective", "full", "memory_budget", "none"]},
    ),
    "selective_ac_option": Key(
        "string",
        "2",
        "with `selective`: every n-th layer, or `op`: all but products and what mixes over time",
        False,
        {"pattern": "^([1-9][0-9]*|op)$", "$comment": "a whole number in quotes, or `op`"},
    ),
    "per_op_sac_force_recompute_mm_shapes_by_fqns": Key(
        "array", ["moe.router.gate"], "with `op`: modules whose products are always computed again", False, _TEXTS
    ),
    "early_stop": Key("boolean", False, "stop when all that is needed has been computed again", False),
    "memory_budget": Key("number", 0.5, "with `memory_budget`: the part of the memory to use", False, _FRACTION),
    "visualize_memory_budget_pareto": Key("boolean", False, "draw time against memory for all budgets", False),
    # Otherwise dropout draws other numbers in the second computation, and gradients differ.
    "preserve_rng_state": Key("boolean", True, "draw the same random numbers the second time", True),
    "determinism_check": Key(
        "string", "default", "how the two computations are compared", False, {"enum": ["default", "none"]}
    ),
    "debug": Key("boolean", False, "log what is computed again", False),
}

COMPILE: Section = {
    "enable": Key("boolean", False, "compile the model with `torch.compile`, layer by layer; the same numbers", False),
    "components": Key(
        "array",
        ["model", "loss"],
        "what is compiled",
        False,
        {"items": {"enum": ["model", "loss"]}, "uniqueItems": True, "minItems": 1},
    ),
    "backend": Key(
        "string", "inductor", "what compiles", False, {"enum": ["inductor", "cudagraphs", "aot_eager", "eager"]}
    ),
}

METRICS: Section = {
    "log_freq": Key("integer", 10, "steps between two records", False, _POSITIVE),
    "log_layer_norms": Key(
        "boolean",
        False,
        "record the norms of the gradients and of the weights of each layer in TensorBoard; torchtitan has no such key",
        False,
    ),
    "enable_tensorboard": Key("boolean", True, "write TensorBoard files; torchtitan's default is false", False),
    "disable_color_printing": Key("boolean", True, "log without colours; torchtitan's default is false", False),
    "save_tb_folder": Key("string", "tb", "folder of the TensorBoard files, in the run's", False, _FOLDER),
    "save_for_all_ranks": Key("boolean", False, "every process writes them, not the first alone", False),
    "enable_wandb": Key("boolean", False, "send metrics to Weights & Biases", False),
}

PROFILING: Section = {
    "enable_profiling": Key("boolean", False, "write traces of torch's profiler", False),
    "save_traces_folder": Key("string", "profile_traces", "folder of the traces, in the run's", False, _FOLDER),
    "profile_freq": Key("integer", 10, "steps between two traces", False, _POSITIVE),
    "profiler_active": Key("integer", 1, "steps of a trace", False, _POSITIVE),
    "profiler_warmup": Key("integer", 3, "steps before a trace in which the profiler warms up", False, _NOT_NEGATIVE),
    "enable_memory_snapshot": Key("boolean", False, "write snapshots of the GPU's memory", False),
    "save_memory_snapshot_folder": Key(
        "string", "memory_snapshot", "folder of the snapshots, in the run's", False, _FOLDER
    ),
}

COMM: Section = {
    "init_timeout_seconds": Key(
        "integer", 300, "how long processes wait for each other up to the first step", False, _POSITIVE
    ),
    "train_timeout_seconds": Key("integer", 100, "how long they wait afterwards", False, _POSITIVE),
    "trace_buf_size": Key(
        "integer", 20000, "communications that the flight recorder keeps; 0: none", False, _NOT_NEGATIVE
    ),
    "save_traces_folder": Key("string", "comm_traces", "folder of its records, in the run's", False, _FOLDER),
    "save_traces_file_prefix": Key(
        "string", "rank_", "how their names begin", False, {"pattern": "^[^/]+$", "$comment": "no `/`"}
    ),
}

DEBUG: Section = {
    "seed": Key(
        "integer",
        0,
        "of initial weights, order of examples and dropout; torchtitan's default is none",
        True,
        {"minimum": 0, "maximum": 2**63 - 1},
    ),
    # Another algorithm rounds differently, and arrives at the same place apart from that.
    "deterministic": Key("boolean", False, "the same numbers bit for bit, perhaps slower", False),
    "deterministic_warn_only": Key("boolean", False, "where that cannot be had, warn instead of stopping", False),
}

HALVING: Section = {
    "rungs": Key(
        "array",
        REQUIRED,
        "steps, ascending, after each of which the settings with the highest validation loss stop",
        False,
        {"items": {"type": "integer", "minimum": 1}, "minItems": 1},
    ),
    "eta": Key("integer", 3, "one in so many settings goes on from a rung", False, {"minimum": 2}),
}
"""When the runs of a sweep stop early: successive halving."""

JOB: Mapping[str, Section] = {
    "training": TRAINING,
    "optimizer": OPTIMIZER,
    "lr_scheduler": LR_SCHEDULER,
    "validation": VALIDATION,
    "checkpoint": CHECKPOINT,
    "parallelism": PARALLELISM,
    "activation_checkpoint": ACTIVATION_CHECKPOINT,
    "compile": COMPILE,
    "metrics": METRICS,
    "profiling": PROFILING,
    "comm": COMM,
    "debug": DEBUG,
}
"""The sections of a training job that an experiment may set."""

_PREPARED = "the experiment's `dataset` says what is read"
_START = "`init_from` says what training starts from"
_EXPORT = "`lt25 export` writes the model"
_WHOLE = "the last checkpoint is whole, so that more steps can follow"
_BALANCED = "stages are balanced by parameters and operations"
_PARTS = "each process has one part of every sequence, and attention gathers the keys of others"
_MOE = "lt25 has no mixture of experts"
_FUSED = "a step with infinite gradients is skipped by the fused optimizer"

HIDDEN: Mapping[str, Mapping[str, str]] = {
    "training": {
        "dataset": _PREPARED,
        "dataset_path": _PREPARED,
        "skip_nan_inf": "a step whose gradients are not finite is always left out",
    },
    "optimizer": {"implementation": _FUSED, "early_step_in_backward": _FUSED, "fused": _FUSED},
    "validation": {
        "enable": "`freq` switches validation on",
        "dataset": _PREPARED,
        "dataset_path": _PREPARED,
        "local_batch_size": "it is `training.local_batch_size`",
        "seq_len": "it is `training.seq_len`",
        "dataloader": "it is `training.dataloader`",
    },
    "checkpoint": {
        "enable_ft_dataloader_checkpoints": "lt25 does not use torchft",
        "folder": "it is `checkpoints` in the run's folder",
        "initial_load_path": _START,
        "initial_load_model_only": _START,
        "initial_load_in_hf": _START,
        "initial_load_in_hf_quantized": _START,
        "last_save_model_only": _WHOLE,
        "model_weights_only": _WHOLE,
        "last_save_in_hf": _EXPORT,
        "export_dtype": _EXPORT,
        "create_seed_checkpoint": "initial weights are the same for any number of processes",
        "load_only": "a training that writes nothing has no result",
    },
    "parallelism": {
        "module_fqns_per_model_part": _BALANCED,
        "pipeline_parallel_first_stage_less_layers": _BALANCED,
        "pipeline_parallel_last_stage_less_layers": _BALANCED,
        "pipeline_parallel_layers_per_stage": _BALANCED,
        "pipeline_parallel_schedule_csv": "the schedules that are offered are tested",
        "pipeline_parallel_microbatch_size": "micro-batches are those of `training.local_batch_size`",
        "pipeline_parallel_expert_parallel_overlap": _MOE,
        "expert_parallel_degree": _MOE,
        "expert_tensor_parallel_degree": _MOE,
        "expert_parallel_comm_backend": _MOE,
        "context_parallel_load_balancer": _PARTS,
        "context_parallel_rotate_method": _PARTS,
    },
    "comm": {"mode": "dry runs and simulations train nothing"},
    "debug": {"moe_force_load_balance": _MOE},
}
"""What torchtitan or flame has and an experiment may not set: section, key, why."""

_PLUGINS = "plugins in config/config.yaml"
_FILES = "origin.files and splits in the dataset's file"

SYNONYMS: Mapping[str, str] = {
    "model.config": "model.base",
    "model.converters": "training.float8",
    "model.custom_import": _PLUGINS,
    "model.flavor": "model.base",
    "model.hf_assets_path": "prepare.tokenizer",
    "model.name": "model.model_type",
    "model.tokenizer_path": "prepare.tokenizer",
    "experimental.custom_import": _PLUGINS,
    "experimental.custom_model_path": _PLUGINS,
    "float8.recipe_name": "training.float8",
    "training.batch_size": "training.local_batch_size",
    "training.compile": "compile.enable",
    "training.data_dir": _FILES,
    "training.data_files": _FILES,
    "training.data_probs": "datasets",
    "training.dataset_name": _FILES,
    "training.dataset_split": _FILES,
    "training.gradient_accumulation_steps": "training.global_batch_size",
    "training.streaming": "origin.streamed in the dataset's file",
    "optimizer.min_lr_ratio": "lr_scheduler.min_lr_factor",
    "optimizer.scheduler": "lr_scheduler.decay_type and, for WSD, lr_scheduler.decay_ratio",
    "lr_scheduler.lr_min": "lr_scheduler.min_lr_factor",
    "lr_scheduler.min_lr_ratio": "lr_scheduler.min_lr_factor",
    "checkpoint.enable_checkpoint": "checkpoint.enable",
    "metrics.rank_0_only": "metrics.save_for_all_ranks",
}
"""Keys of flame's, and of torchtitan's before or after 0.2.2: what they are called here."""

SET: Mapping[str, Mapping[str, Any]] = {"checkpoint": {"folder": "checkpoints", "last_save_model_only": False}}
"""Hidden keys that lt25 gives a value of its own."""


def training_identity(job: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what decides where training arrives, of the sections that an experiment may set.

    Validation that only watches, and neither stops the training nor chooses the checkpoint, is left out.

    Args:
        job: a resolved job, section by section; keys and sections that are not in ``JOB`` are left out.

    Returns:
        The decisive keys and their values, section by section; not the steps, nor the two batch sizes.
    """
    decisive = {name: identity(job[name], section) for name, section in JOB.items() if name in job}
    if not decides_by_validation(job):
        decisive.pop("validation", None)
        decisive.get("checkpoint", {}).pop("keep", None)
    return {name: values for name, values in decisive.items() if values}


def decides_by_validation(job: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether validation stops the training early, or chooses the checkpoint that is exported."""
    return bool(job.get("validation", {}).get("patience")) or job.get("checkpoint", {}).get("keep") == "best"


EXPERIMENT: Section = {
    "task": Key(
        "string",
        REQUIRED,
        "what the model learns: `classification`, `speech_recognition`, `language_modeling`, `recall`",
        True,
    ),
    "dataset": Key("string", OPTIONAL, "the name of a file in config/datasets/, or a path", True, _TEXT),
    "datasets": Key(
        "array",
        OPTIONAL,
        "instead of `dataset` several, for a language model: `[{name: stdlib, probability: 0.7}, ...]`, and how often a window "
        "is of each; they are prepared together, in the folder of the first",
        True,
        {
            "minItems": 2,
            "items": {
                "type": "object",
                "required": ["name", "probability"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "probability": {"type": "number", "exclusiveMinimum": 0},
                },
            },
        },
    ),
    "prepare": Key("object", {}, "how the data is prepared; see docs/data.md", True),
    "augment": Key("object", {}, "what is done to training examples at random; see docs/data.md", True),
    "model": Key(
        "object",
        REQUIRED,
        "a Hugging Face config; `base` names a file that it starts from, of config/models/ or the config.json of a model",
        True,
    ),
    "init_from": Key(
        ("string", "null"),
        None,
        "another experiment, whose exported model training starts from; or, with a `/`, a model of the Hub or a folder",
        True,
        _TEXT,
    ),
    "evaluation": Key("object", {}, "how the model is evaluated; see docs/evaluation.md", False),
    "training": Key("object", REQUIRED, "the steps and what each computes", True, keys=TRAINING),
    "optimizer": Key("object", {}, "how weights follow gradients", True, keys=OPTIMIZER),
    "lr_scheduler": Key("object", {}, "the learning rate from step to step", True, keys=LR_SCHEDULER),
    **{
        name: Key("object", {}, meaning, True, keys=JOB[name])
        for name, meaning in {
            "validation": "held-out data during training",
            "checkpoint": "what is written on the way",
            "parallelism": "how processes share the work",
            "activation_checkpoint": "memory against time",
            "compile": "torch.compile",
            "metrics": "what is recorded",
            "profiling": "traces of time and memory",
            "comm": "how processes talk",
            "debug": "the seed, and reproducibility",
        }.items()
    },
    "halving": Key("object", OPTIONAL, "of a sweep: when the worse settings stop", False, keys=HALVING),
}
"""An experiment file. The keys of ``prepare``, ``augment`` and ``evaluation`` are the task's, those of ``model`` the family's."""

MODEL: Section = {
    "base": Key(
        "string",
        OPTIONAL,
        "a configuration that this one starts from, a JSON file relative to the project",
        True,
        _TEXT,
    ),
    "model_type": Key("string", REQUIRED, "the kind of model, as Hugging Face's config.json names it", True, _TEXT),
    "architectures": Key("array", OPTIONAL, "classes that the configuration was made for", False, _TEXTS),
    "transformers_version": Key("string", OPTIONAL, "what wrote the configuration", False),
    "dtype": Key(
        ("string", "null"),
        OPTIONAL,
        "type of the weights that lie beside it",
        False,
        {"pattern": "^(bfloat16|float(16|32|64))$", "$comment": "bfloat16, float16, float32 or float64"},
    ),
}
"""The keys of ``model`` that every family has."""

SPLITS = ("train", "validation", "test")
"""The splits that every dataset has."""

_SOURCE = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
    ]
}
_GLOB = {"type": "string", "pattern": f"{_INSIDE}.", "$comment": "a pattern inside the dataset's folder, without `..`"}
_GLOBS = {"anyOf": [_GLOB, {"type": "array", "minItems": 1, "items": _GLOB}]}
_HELD_OUT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["from"],
    "oneOf": [{"required": ["fraction"]}, {"required": ["groups"]}],
    "properties": {
        "from": {"enum": ["train"]},
        "fraction": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "groups": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": ["string", "integer"]}},
    },
}
_UTTERANCES: Section = {
    split: Key(
        "integer", OPTIONAL, f"espeak and connected_digits only: utterances of the {split} split", True, _POSITIVE
    )
    for split in SPLITS
}

DATASET: Section = {
    "title": Key("string", REQUIRED, "a name for people, as the report shows it", False, _TEXT),
    "licence": Key("string", REQUIRED, "the licence of the data, or `unknown`", False, _TEXT),
    "homepage": Key(
        "string",
        "",
        "where to read about the dataset",
        False,
        {"pattern": "^(https?://\\S+)?$", "$comment": "an address, https://..."},
    ),
    "tasks": Key(
        "array",
        REQUIRED,
        "what the dataset can be used for: `classification`, `speech_recognition`, `language_modeling`, `recall`",
        False,
        {"items": {"type": "string"}, "minItems": 1},
    ),
    # A change of origin is acquired anew, and a new SOURCE.json makes everything that depends on it.
    "origin": Key(
        "object",
        REQUIRED,
        "one of `builder` (made on this machine), `hub` (owner/name on the Hugging Face Hub) or `path` (a folder)",
        False,
        {"oneOf": [{"required": ["builder"]}, {"required": ["hub"]}, {"required": ["path"]}]},
        {
            "builder": Key(
                "string",
                OPTIONAL,
                "a dataset made on this machine",
                False,
                {"enum": ["sklearn_digits", "espeak", "stdlib", "repeated_stdlib", "connected_digits", "recall"]},
            ),
            "kind": Key(
                "string",
                OPTIONAL,
                "recall, which needs it: `mqar` (values of keys), `copying` or `induction` (what followed a mark)",
                False,
                {"enum": ["mqar", "copying", "induction"]},
            ),
            "utterances": Key(
                "object",
                OPTIONAL,
                "espeak and connected_digits only: how many utterances each split has",
                False,
                keys=_UTTERANCES,
            ),
            "megabytes": Key("integer", OPTIONAL, "repeated_stdlib only: millions of bytes", False, _POSITIVE),
            "left_out": Key(
                "string",
                OPTIONAL,
                "connected_digits only: the speaker of the test split",
                False,
                {"enum": ["george", "jackson", "lucas", "nicolas"]},
            ),
            "synthetic": Key(
                "integer",
                OPTIONAL,
                "connected_digits only: so many utterances by the voices of espeak-ng are added to the train split",
                False,
                _POSITIVE,
            ),
            "hub": Key(
                "string",
                OPTIONAL,
                "owner/name on the Hugging Face Hub, or a name in a mirror",
                False,
                {
                    "pattern": "^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)?$",
                    "$comment": "owner/name, or a name alone",
                },
            ),
            "streamed": Key(
                "boolean",
                OPTIONAL,
                "hub only: files are read where they are and not copied; with `prepare.store: text`, as training goes",
                False,
            ),
            "revision": Key(
                "string", OPTIONAL, "a commit or a branch of the Hub's repository; none: the newest", False, _TEXT
            ),
            "path": Key("string", OPTIONAL, "a folder, absolute or relative to the project", False, _TEXT),
            "files": Key(
                "object",
                OPTIONAL,
                "a source split's name -> glob pattern(s) of its files, relative to the dataset's folder",
                False,
                {"minProperties": 1, "additionalProperties": _GLOBS},
            ),
        },
    ),
    "columns": Key(
        "object",
        REQUIRED,
        "role -> column: those that the task needs; `group`, `id`, `time` and, of speech, `start`, `end` or `duration` if there "
        "are such columns; `input` may be several, and a pattern (`t*`)",
        True,
        {"minProperties": 1, "additionalProperties": {"type": "string", "minLength": 1}},
    ),
    "encoding": Key(
        "string", "utf-8", "of text, CSV and JSON lines, as Python names it: `latin-1`, `cp1252`, `utf-16`", True, _TEXT
    ),
    "splits": Key(
        "object",
        REQUIRED,
        "`train`, `validation`, `test` -> the source's split, or a part held out, `{from: train, fraction: 0.1}`; of a column "
        "`group` also named ones, `{from: train, groups: [george]}`; and further test splits, `test-...`",
        True,
        {"$comment": "a further test split is named test- and letters, digits or -, as in test-other"},
        keys={
            "train": Key(("string", "array"), REQUIRED, "the source's split, or several", True, _SOURCE),
            "validation": Key(
                ("string", "array", "object"),
                {"from": "train", "fraction": 0.1},
                "the source's split, or a part held out of train",
                True,
                {"anyOf": [*_SOURCE["anyOf"], _HELD_OUT]},
            ),
            "test": Key(
                ("string", "array", "object"),
                REQUIRED,
                "the source's split, or a part held out of train",
                True,
                {"anyOf": [*_SOURCE["anyOf"], _HELD_OUT]},
            ),
        },
    ),
    "missing": Key(
        "string",
        "refuse",
        "what becomes of a series with a field that is empty, `null` or NaN: it cannot be used (`refuse`), or the value before "
        "it in its channel stands there, the mean at the beginning, and each channel gets another that says 1 where it was "
        "measured and 0 where not (`carry`)",
        True,
        {"enum": ["refuse", "carry"]},
    ),
    "labels": Key(
        ("array", "null"),
        None,
        "names of the classes, in the order of their numbers; none: as they stand in the data",
        True,
        {"items": {"type": "string"}, "minItems": 2, "uniqueItems": True},
    ),
}
"""A dataset file; `dataset_keys` adds its further test splits."""

_FURTHER_TEST = re.compile("test-[A-Za-z0-9-]+")


def dataset_keys(splits: Iterable[Any]) -> Section:
    """Return the keys of a dataset file, `DATASET`, with those of the further test splits among names of splits."""
    keys = cast(Section, DATASET["splits"].keys)
    further = sorted(name for name in splits if isinstance(name, str) and _FURTHER_TEST.fullmatch(name))
    return {**DATASET, "splits": replace(DATASET["splits"], keys={**keys, **dict.fromkeys(further, keys["test"])})}


def in_order(splits: Iterable[str]) -> tuple[str, ...]:
    """Return `SPLITS` and the further test splits among names of splits, these by name."""
    return (*SPLITS, *sorted({*splits} - {*SPLITS}))


ORIGIN_OF: Mapping[str, tuple[str, ...]] = {
    "kind": ("recall",),
    "utterances": ("espeak", "connected_digits"),
    "megabytes": ("repeated_stdlib",),
    "left_out": ("connected_digits",),
    "synthetic": ("connected_digits",),
    "streamed": ("hub",),
    "revision": ("hub",),
    "files": ("hub", "path"),
}
"""A further key of ``origin`` -> the builders, or the kinds of origin, that it is for."""

CONFIG: Section = {
    "experiments": Key(
        "array", REQUIRED, "the experiments that the report shows", False, {"items": {"type": "string"}, "minItems": 1}
    ),
    "learning_curves": Key("boolean", False, "whether the report evaluates every kept checkpoint", False),
    "hub_mirror": Key(("string", "null"), None, "a folder laid out like the Hugging Face Hub", False),
    "plugins": Key("array", [], "Python of your own, loaded first: paths or module names", False, _TEXTS),
}
"""The project's config/config.yaml."""
