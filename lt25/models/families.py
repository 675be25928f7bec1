"""The model families: for each `model_type` where it comes from, what stands where in it, and what it can do here.

What an experiment may name as its model is in `FAMILIES`, and what is not in there is refused. A project's own family is entered
by `register`, from a module that config.yaml names under ``plugins``. Nothing here imports torch.
"""

import ast
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from lt25.compiling import keep_kernels
from lt25.config.key import OPTIONAL, Key, Section, suggestion
from lt25.errors import UserError
from lt25.models import meshes
from lt25.tasks import TASKS

_CLASSIFIER, _CTC, _LM = "AutoModelForSequenceClassification", "AutoModelForCTC", "AutoModelForCausalLM"

ABILITIES = {
    "meta init": "built without memory, it gets the weights of an ordinary construction",
    "one step": "training changes the weights, and all stay numbers",
    "resume": "from a checkpoint, training arrives where it would have arrived",
    "export": "the exported folder holds the checkpoint's weights",
    "reload": "the exported model's logits are those of the weights trained",
    "generate": "token by token it says what it says of the whole text",
    "varlen": "packed texts do not read each other",
}
"""What is tested of every family, in tests/models/test_architectures.py: the columns of the README's table."""


@dataclass(frozen=True)
class Family:
    """One family. Names of modules are those in the model that an Auto class builds, "model.layers".

    Attributes:
        model_type: as a config.json writes it.
        source: the package that it comes from, as one would look for it.
        heads: Auto class of transformers -> name of the module that makes the outputs; the family serves the tasks whose Auto
            class is among them.
        inputs: Auto class -> name of the module that takes the inputs, an embedding unless the inputs are numbers.
        layers: name of the list of layers.
        norm: name of the norm after the last layer.
        module: what to import so that transformers' Auto classes know the family; None for transformers' own.
        config: the module of its config class, from whose source `model_keys` reads; None if the family says nothing.
        keys: the keys of its ``model`` section, where they are not read from ``config``.
        lacks: which of `ABILITIES` it does not have -> why. Without "varlen" a model is trained on windows in which one document
            is read after the other.
        graphs: True if a training step does nothing but what a CUDA graph can record; on a GPU it then is.
        linear_head: True if a language model's logits are its base model's last hidden state times the head's weight and nothing
            else, so that head and loss can be computed together.
        intermediate: True if a speech recogniser gives the logits of its middle layer too, where it is asked for them by
            ``output_intermediate_logits``.
        state: True if forward hands on what it remembers (`past_key_values`), so that a text can be read in pieces.
        window: key of the ``model`` section that says how many steps its attention is made for; None for what reads on for ever.
        gates: what the names of the parameters of forget gates end in, which may have a learning rate of their own.
        parallelism: those of `lt25.models.meshes.KINDS` that give the numbers of a single device.
        crosses_layers: tensors that a layer takes from others beside the residual stream: cut into stages without these, a
            model computes something else, and says nothing.
        devices: types of device that it trains on, "cpu" or "cuda"; Triton's interpreter makes a CPU one for any.
        requires: package without which it cannot be built, as imported; None for none beside lt25's own.
        serves: key of the ``model`` section -> the Auto classes whose models it means something to, if not to all.
        needs: key of the ``model`` section -> the key without which it does nothing.
        overruled: key of the ``model`` section -> the key beside which it does nothing.
        complaint: of resolved ``model`` keys and a task, what makes them impossible together, or None.
    """

    model_type: str
    source: str
    heads: Mapping[str, str]
    inputs: Mapping[str, str]
    layers: str = "model.layers"
    norm: str = "model.norm"
    module: str | None = None
    config: str | None = None
    keys: Section | None = None
    lacks: Mapping[str, str] = field(default_factory=dict)
    graphs: bool = True
    linear_head: bool = False
    intermediate: bool = False
    state: bool = True
    window: str | None = None
    gates: tuple[str, ...] = ()
    parallelism: tuple[str, ...] = ("data",)
    crosses_layers: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")
    requires: str | None = None
    serves: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"num_labels": (_CLASSIFIER,)})
    needs: Mapping[str, str] = field(default_factory=dict)
    overruled: Mapping[str, str] = field(default_factory=dict)
    complaint: Callable[[Mapping[str, Any], str], str | None] = field(default=lambda model, task: None)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it has a model for."""
        return tuple(name for name, task in TASKS.items() if task.auto_model in self.heads)

    @property
    def cu_seqlens(self) -> bool:
        """Whether forward takes the boundaries of packed sequences, so that none of them reads another."""
        return "varlen" not in self.lacks

    @property
    def package(self) -> str | None:
        """The package of the plugin that it comes from; None for the families of this module."""
        return None if self.module is None or self.module.startswith("lt25.") else self.module.partition(".")[0]

    def load(self) -> None:
        """Make transformers' Auto classes know the family.

        Raises:
            UserError: if there is no such module.
        """
        if self.module is not None:
            keep_kernels()  # Triton asks for it when a kernel is defined
            try:
                import_module(self.module)
            except ModuleNotFoundError as error:
                if error.name is None or not f"{self.module}.".startswith(f"{error.name}."):
                    raise
                raise UserError(
                    f"model.model_type: found {self.model_type}, whose module {self.module} is not there: correct `module` of "
                    "its Family"
                ) from error

    def tied(self, model: Mapping[str, Any]) -> bool:
        """Tell from the keys of a ``model`` section whether a language model's output layer is its embedding."""
        key = (self.model_keys() or {}).get("tie_word_embeddings")
        return bool(model.get("tie_word_embeddings", key is not None and key.default is True))

    def model_keys(self) -> Section | None:
        """Return the keys of an experiment's ``model`` section; None for a family of which nothing is known."""
        return _read_keys(self.config, self.source) if self.keys is None and self.config is not None else self.keys


FAMILIES: dict[str, Family] = {}
"""Every family by its model type."""


def register(family: Family) -> None:
    """Add a family, or replace the one of the same model type."""
    FAMILIES[family.model_type] = family


def find(model_type: str) -> Family:
    """Return the family of a model type.

    Raises:
        UserError: if there is none.
    """
    if model_type not in FAMILIES:
        hint = suggestion(model_type, FAMILIES, "README.md")
        own = (
            ""
            if hint.startswith("did you mean")
            else "; for one of your own name it in `plugins` of config/config.yaml"
        )
        raise UserError(f"found {model_type}, no such model type: {hint}{own}")
    return FAMILIES[model_type]


def window_of(config: Any) -> int | None:
    """Return how many steps a model's attention is made for, by its config; None for one that reads on, or is not known."""
    family = FAMILIES.get(config.model_type)
    return getattr(config, family.window) if family is not None and family.window else None


def same_weights(model_type: str, other: str) -> bool:
    """Tell whether a model of one type can start from one of the other: they have the same weights, and compute the same."""
    return model_type == other or {model_type, other} == {"hgrn", "lt25_hgrn"}


def check(model: Mapping[str, Any], task: str, parallelism: Mapping[str, Any], device: str, where: str = "") -> None:
    """Refuse what a family cannot do here.

    Args:
        model: the ``model`` section, or a config.json: ``model_type`` and more.
        task: the task's name.
        parallelism: the ``parallelism`` section; degrees that it lacks are 1.
        device: the type of device that is to train, "cpu" or "cuda".
        where: the file, for the message.

    Raises:
        UserError: for the first thing that is not possible.
    """
    if reason := refusal(model, task, parallelism, device):
        raise UserError(f"{where}: {reason}" if where else reason)


def refusal(model: Mapping[str, Any], task: str, parallelism: Mapping[str, Any], device: str) -> str | None:
    """Return in one line why `check` refuses, or None if it does not; the arguments are the same."""
    family = find(model["model_type"])
    found = f"model.model_type: found {family.model_type}"
    others = ", ".join(name for name, other in FAMILIES.items() if task in other.tasks)
    if task not in family.tasks:
        return f"{found}, which has no model for {task}: use {others}"
    if family.requires and importlib.util.find_spec(family.requires) is None:
        return f"{found}, which cannot be built without the package {family.requires.replace('_', '-')}: install it"
    if reason := meshes.refusal(family, parallelism) or _not_shared_out(family, model, task, parallelism):
        return reason
    if device not in family.devices and os.environ.get("TRITON_INTERPRET") != "1":
        return f"{found} on a CPU, but its kernels need a GPU: train it where there is one, or use lt25_hgrn"
    if idle := _idle_key(family, model, task):
        return idle
    return family.complaint(model, task)


def has_effect(model_type: str, key: str, task: str) -> bool:
    """Tell whether a key of the ``model`` section means something to a task's models of a type."""
    return TASKS[task].auto_model in find(model_type).serves.get(key, (TASKS[task].auto_model,))


# Numbers of heads, which tensor parallelism shares out.
_HEADS = ("num_heads", "num_kv_heads", "num_v_heads", "num_attention_heads", "num_key_value_heads")
# What gives a product a bias whose summands would be one for each rank.
_BIASES = ("attention_bias", "mlp_bias", "use_bias")


def _not_shared_out(family: Family, model: Mapping[str, Any], task: str, parallelism: Mapping[str, Any]) -> str | None:
    """Complain of the first key of a model that stands in the way of sharing it out."""
    whole = {key: described.default for key, described in (family.model_keys() or {}).items()}
    whole |= {key: value for key, value in model.items() if value is not None}
    for kind, complain in (("tensor", _not_by_tensor), ("pipeline", _not_in_stages), ("context", _not_in_parts)):
        if (degree := parallelism.get(f"{kind}_parallel_degree", 1)) > 1:
            found = f"parallelism.{kind}_parallel_degree: found {degree}"
            if reason := (kind != "context" and _not_cut(family, model, found)) or complain(
                family, whole, task, parallelism, found
            ):
                return reason
    return None


def _not_cut(family: Family, model: Mapping[str, Any], found: str) -> str | None:
    """Complain of what neither tensor nor pipeline parallelism has."""
    if model.get("attnres_block_size"):
        return f"{found}, but with model.attnres_block_size a layer reads all layers before it: use 1"
    keys = family.model_keys() or {}
    for key in ("norm", "norm_position", "pooling"):
        default = keys[key].default if key in keys else None
        if default and model.get(key, default) not in (default, "last"):
            return f"{found}, but model.{key} {model[key]} is tested with whole layers only: use 1, or {default} there"
    return None


def _not_by_tensor(
    family: Family, model: Mapping[str, Any], task: str, parallelism: Mapping[str, Any], found: str
) -> str | None:
    degree = parallelism["tensor_parallel_degree"]
    for key in ("tied_dropout", "stochastic_depth"):
        if model.get(key):
            return f"{found}, but with model.{key} its ranks, which have parts of a sequence, would draw apart: use 1"
    for key in _BIASES:
        if model.get(key):
            return f"{found}, but the bias of model.{key} cannot be shared out: use 1, or false there"
    for key, heads in _heads(family, model).items():
        if heads % degree:
            return f"{found}, which does not divide {key}, {heads}: change one"
    if model.get("bidirectional"):
        if degree % 2:
            return f"{found}, but with model.bidirectional half of the ranks read from the end: use an even number"
        if (channels := int(model["hidden_size"] * model.get("expand_ratio", 1))) % degree:
            return (
                f"{found}, which does not divide the {channels} recurrent channels of a bidirectional model: change one"
            )
    return None


def _heads(family: Family, model: Mapping[str, Any]) -> dict[str, int]:
    """Return what tensor parallelism shares out as a whole, by the keys that say how many there are of it."""
    heads = {f"model.{key}": model[key] for key in _HEADS if isinstance(model.get(key), int)}
    if family.model_type == "hgrn2" and not heads:
        heads["model.hidden_size / model.expand_ratio"] = model["hidden_size"] // model["expand_ratio"]
    if family.model_type == "mamba2":
        inner = int(model["expand"] * model["hidden_size"])
        heads["model.expand * model.hidden_size / model.head_dim"] = inner // model["head_dim"]
        # A single group all ranks compute.
        heads |= {"model.n_groups": model["n_groups"]} if model["n_groups"] > 1 else {}
    return heads


def _not_in_stages(
    family: Family, model: Mapping[str, Any], task: str, parallelism: Mapping[str, Any], found: str
) -> str | None:
    if TASKS[task].auto_model == _LM and family.tied(model):
        return (
            f"{found}, but with model.tie_word_embeddings the first and the last stage would share a weight: use 1, or false "
            "there"
        )
    widths = model.get("value_dim")
    widths = set(widths) if isinstance(widths, list) else {widths}
    if "v_first" in family.crosses_layers and widths - {None, OPTIONAL, model.get("hidden_size")}:
        return (
            f"{found}, but model.value_dim {model['value_dim']} is not model.hidden_size, the width of what stages hand on: "
            "use 1"
        )
    stages = meshes.stages(parallelism)
    layers = model.get("num_hidden_layers", stages)
    if stages > layers:
        schedule = parallelism.get("pipeline_parallel_schedule", "1F1B")
        return f"{found}, with {schedule} {stages} stages, but model.num_hidden_layers is {layers}: change one"
    return None


def _not_in_parts(
    family: Family, model: Mapping[str, Any], task: str, parallelism: Mapping[str, Any], found: str
) -> str | None:
    if model.get("attention_dropout"):
        return f"{found}, but not with model.attention_dropout: use 1, or 0 there"
    return None


def _idle_key(family: Family, model: Mapping[str, Any], task: str) -> str | None:
    """Complain of the first key that was given a value and means nothing to the task's models."""
    keys = family.model_keys() or {}
    for name, classes in family.serves.items():
        given = name in model and name in keys and model[name] != keys[name].default
        if given and TASKS[task].auto_model not in classes and name not in TASKS[task].decided:
            meant = ", ".join(other.name for other in TASKS.values() if other.auto_model in classes)
            return f"model.{name}: found {model[name]}, which has no effect on {task}, only on {meant}: remove the key"
    return None


def table() -> str:
    """Return the README's table of what works, in Markdown: families of the same abilities share a row, reasons stand below."""
    rows: dict[tuple[str, ...], list[str]] = {}
    reasons = list(dict.fromkeys(reason for family in FAMILIES.values() for reason in family.lacks.values()))
    for family in FAMILIES.values():
        titles = ", ".join(TASKS[task].title.lower() for task in family.tasks)
        devices = " and ".join({"cpu": "CPU", "cuda": "GPU"}[device] for device in family.devices)
        needs = f" with {family.requires.replace('_', '-')}" if family.requires else ""
        cells = (
            f"no ({reasons.index(family.lacks[name]) + 1})" if name in family.lacks else "yes" for name in ABILITIES
        )
        row = (titles, devices + needs, ", ".join(family.parallelism), *cells)
        rows.setdefault((family.source, *row), []).append(f"`{family.model_type}`")
    columns = ("model type", "from", "tasks", "trains on", "parallelism", *ABILITIES)
    lines = [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    lines += [f"| {', '.join(names)} | {' | '.join(row)} |" for row, names in rows.items()]
    lines += ["", *(f"{number}. {reason}." for number, reason in enumerate(reasons, 1))] if reasons else []
    return "\n".join(lines)


_KINDS = {
    "bool": ("boolean",),
    "int": ("integer",),
    "float": ("number",),
    "str": ("string",),
    "list": ("array",),
    "tuple": ("array",),
    "dict": ("object",),
    "None": ("null",),
}
_ANYTHING = ("boolean", "number", "string", "array", "object", "null")
_TOKEN = {"minimum": 0}
_SIZE = {"minimum": 1}
_POSITIVE = {"exclusiveMinimum": 0}
_PROBABILITY = {"minimum": 0, "exclusiveMaximum": 1}
_LIMITS = {"min": "minimum", "max": "maximum"}


@cache
def _read_keys(module: str, source: str) -> Section:
    """Read a config class's keys from its source: its fields, or the arguments of its constructor.

    To import the module would import torch. An integer with a positive default is taken for a size, which is at least 1.

    Raises:
        UserError: if the package is not installed, or its module is not there, no Python or has no such class.
    """
    package, *inner = module.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"it comes with the package {source}, which is not installed: install it")
    file = Path(spec.origin).parent.joinpath(*inner).with_suffix(".py")
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise UserError(
            f"{file}: cannot be read ({error}): mend it, or correct `config` of the Family of {source}"
        ) from error
    config = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name.endswith("Config")), None)
    if config is None:
        raise UserError(f"{file}: no class ...Config, whose keys an experiment may set: correct `config` of the Family")
    init = next((node for node in config.body if getattr(node, "name", "") == "__init__"), None)
    if isinstance(init, ast.FunctionDef):
        arguments = init.args.args[1:]
        fields = zip(arguments, init.args.defaults, strict=True)
        found = {argument.arg: _key(argument.arg, argument.annotation, value) for argument, value in fields}
    else:
        found = {
            node.target.id: _key(node.target.id, node.annotation, node.value)
            for node in config.body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
    meaning = f"as in {source}'s {config.name}"
    return {name: Key(*key[:2], meaning, name != "use_cache", key[2]) for name, key in found.items()} | {
        "num_labels": Key("integer", OPTIONAL, "classes; the data decides it", True, _SIZE)
    }


def _key(
    name: str, annotation: ast.expr | None, value: ast.expr | None
) -> tuple[tuple[str, ...], Any, Mapping[str, Any]]:
    """Return types, default and bounds of one field."""
    bounds: dict[str, Any] = {}
    if isinstance(value, ast.Call):  # interval(min=0.0, max=1.0)(default=0.02), or float("inf")
        if isinstance(value.func, ast.Call):
            limits = {keyword.arg: ast.literal_eval(keyword.value) for keyword in value.func.keywords}
            bounds = {word: limits[short] for short, word in _LIMITS.items() if limits.get(short) is not None}
        value = next((keyword.value for keyword in value.keywords if keyword.arg == "default"), value)
    try:
        default = OPTIONAL if value is None else ast.literal_eval(value)
        default = list(default) if isinstance(default, tuple) else default
    except ValueError:  # a name or a call: the class itself must fill it in
        default = OPTIONAL
    kinds = _kinds(annotation)
    if default is not OPTIONAL:
        own = _KINDS[type(default).__name__ if default is not None else "None"]
        kinds = dict.fromkeys((*kinds, *(() if own == ("integer",) and "number" in kinds else own)))
    if name.endswith("_token_id"):
        bounds = _TOKEN
    elif "dropout" in name:
        bounds = _PROBABILITY
    elif "integer" in kinds and type(default) is int and default > 0:
        bounds = bounds or _SIZE
    return tuple(kinds), default, bounds


def _kinds(annotation: ast.expr | None) -> tuple[str, ...]:
    """Return JSON's types of an annotation; those of a name that is not Python's own are any."""
    match annotation:
        case None:
            return ()
        case ast.BinOp(left=left, right=right):
            return (*_kinds(left), *_kinds(right))
        case ast.Subscript(value=value):
            return _kinds(value)
        case ast.Constant(value=None):
            return _KINDS["None"]
        case ast.Name(id=name):
            return _KINDS.get(name, _ANYTHING)
    return _ANYTHING


_SPLIT = ("data", "tensor", "pipeline")
_ID = Key(("integer", "null"), None, "number of a token; the data decides it", True, _TOKEN)


def _hgrn_complaint(model: Mapping[str, Any], task: str) -> str | None:
    if TASKS[task].main_input == "input_ids":
        if model.get("bidirectional"):
            return "model.bidirectional: found true, but a language model reads in one direction: use false"
        if model.get("input_size") is not None:
            return f"model.input_size: found {model['input_size']}, but a language model reads tokens: leave it out"
    channels = int(model.get("hidden_size", 2048) * model.get("expand_ratio", 1))
    if not channels:
        return (
            f"model.expand_ratio: found {model['expand_ratio']}, which leaves none of {model['hidden_size']} recurrent "
            "channels: raise it"
        )
    if model.get("bidirectional") and channels % 2:
        return f"model.hidden_size: found {model['hidden_size']}, but bidirectional needs an even number of channels"
    return None


register(
    Family(
        "lt25_hgrn",
        "lt25",
        heads={_CLASSIFIER: "classifier", _CTC: "ctc_head", _LM: "lm_head"},
        inputs={_CLASSIFIER: "model.features", _CTC: "model.features", _LM: "model.embeddings"},
        serves={
            "subsampling": (_CLASSIFIER, _CTC),
            "position_embeddings": (_CLASSIFIER, _CTC),
            "tied_dropout": (_CLASSIFIER, _CTC),
            "stochastic_depth": (_CLASSIFIER, _CTC),
            "norm": (_CLASSIFIER,),
            "norm_position": (_CLASSIFIER,),
            "pooling": (_CLASSIFIER,),
            "num_labels": (_CLASSIFIER,),
            "hop_length": (_CTC,),
            "vocab_size": (_CTC, _LM),
            "tie_word_embeddings": (_LM,),
        },
        needs={"tied_dropout": "dropout", "conv_size": "use_short_conv"},
        overruled={"hidden_ratio": "intermediate_size"},
        module="lt25.models.auto",
        linear_head=True,
        intermediate=True,
        gates=("lower_bounds", "f_proj.weight", "f_conv1d.weight"),
        parallelism=(*_SPLIT, "context"),
        crosses_layers=("lower_bounds",),
        complaint=_hgrn_complaint,
        keys={
            "hidden_size": Key("integer", 2048, "width of the residual stream", True, _SIZE),
            "num_hidden_layers": Key("integer", 24, "layers", True, _SIZE),
            "expand_ratio": Key("number", 1, "recurrent channels per unit of width", True, _POSITIVE),
            "hidden_ratio": Key(
                ("number", "null"),
                4,
                "without `intermediate_size`, the gated MLP's width is 2/3 of this times `hidden_size`, rounded up to a "
                "multiple of 256; null: 4",
                True,
                _POSITIVE,
            ),
            "intermediate_size": Key(("integer", "null"), None, "width of the gated MLP", True, _SIZE),
            "use_short_conv": Key("boolean", False, "a depthwise causal convolution before the gates", True),
            "conv_size": Key("integer", 4, "steps that this convolution spans", True, _SIZE),
            "use_lower_bound": Key(
                "boolean",
                True,
                "forget gates have a learned lower bound that rises with depth (section 3.2 of the paper)",
                True,
            ),
            "bidirectional": Key(
                "boolean",
                False,
                "half of the recurrent channels read the sequence from its end, at no cost and without further "
                "parameters; not for language models",
                True,
            ),
            "dropout": Key(
                "number",
                0.0,
                "probability, on each branch before it joins the residual stream",
                True,
                _PROBABILITY,
            ),
            "tied_dropout": Key(
                "boolean",
                False,
                "dropout leaves out the same channels at all steps of a sequence",
                True,
            ),
            "stochastic_depth": Key(
                "number",
                0.0,
                "probability that the last layer's branches are left out of a sequence; that of the layers before it falls "
                "evenly with their depth",
                True,
                _PROBABILITY,
            ),
            "norm": Key(
                "string",
                "rms",
                "of a classifier, what scales the residual stream: each step by the root of its mean square (`rms`), or by its "
                "mean and deviation (`layer`), or each channel by its mean and deviation over a batch, padding left out "
                "(`batch`), of which an exported model has the averages over training. `batch` is for training by one process",
                True,
                {"enum": ["rms", "layer", "batch"]},
            ),
            "norm_position": Key(
                "string",
                "pre",
                "of a classifier, whether a norm stands before a branch (`pre`), or behind the sum of a branch and the residual "
                "stream, so that the stream itself is normalised (`post`)",
                True,
                {"enum": ["pre", "post"]},
            ),
            "norm_eps": Key(
                "number", 1e-6, "added to the mean square or the variance under the root of the norms", True, _POSITIVE
            ),
            "initializer_range": Key("number", 0.02, "standard deviation of initial weights", True, _POSITIVE),
            "vocab_size": Key(
                "integer", 32000, "tokens of a language model, classes of a CTC head; the data decides it", True, _SIZE
            ),
            "num_labels": Key("integer", OPTIONAL, "classes of a classifier; the data decides it", True, _SIZE),
            "tie_word_embeddings": Key("boolean", False, "a language model's output layer is its embedding", True),
            "use_cache": Key("boolean", True, "return the recurrent state when not training", False),
            "pad_token_id": _ID,
            "bos_token_id": _ID,
            "eos_token_id": Key(
                ("integer", "array", "null"), None, "number of a token, or several; the data decides it", True
            ),
            "input_size": Key(
                ("integer", "null"),
                None,
                "numbers in one step of feature input, null for tokens; the data decides it",
                True,
                _SIZE,
            ),
            "subsampling": Key(
                "integer",
                1,
                "steps of feature input to one step of the model, by strided convolutions",
                True,
                {"enum": [1, 2, 4, 8, 16]},
            ),
            "position_embeddings": Key(
                "integer",
                0,
                "steps of feature input that have a learned embedding of their place, for sequences of one length such as "
                "images; 0: none, a step's place is known by what came before it alone",
                True,
                {"minimum": 0},
            ),
            "hop_length": Key("integer", 160, "audio samples to one step of feature input", True, _SIZE),
            "pooling": Key(
                "string",
                "mean",
                "what a classifier reads: the mean over time (`mean`), the last step (`last`), or a mean with learned weights, "
                "by which some steps count for more than others (`attention`)",
                True,
                {"enum": ["mean", "last", "attention"]},
            ),
        },
    )
)


def _heads_complaint(model: Mapping[str, Any], task: str) -> str | None:
    width, heads, groups = model["hidden_size"], model["num_attention_heads"], model.get("num_key_value_heads")
    if not model.get("head_dim") and width % heads:
        return (
            f"model.hidden_size: found {width}, expected a multiple of model.num_attention_heads, {heads}: change one"
        )
    if (size := model.get("head_dim") or width // heads) % 2:
        return f"model.hidden_size: found {width}, which gives heads of {size}, expected an even number: change one"
    if groups and heads % groups:
        return f"model.num_key_value_heads: found {groups}, expected a divisor of model.num_attention_heads, {heads}: change one"
    return None


def _causal_lm(
    model_type: str,
    source: str,
    package: str,
    base: str = "model",
    embeddings: str = "embeddings",
    norm: str = "norm",
    **more,
) -> None:
    """Enter a language model of another package, which names its modules alike in all families but for these."""
    register(
        Family(
            model_type,
            source,
            heads={"AutoModelForCausalLM": "lm_head"},
            inputs={"AutoModelForCausalLM": f"{base}.{embeddings}"},
            layers=f"{base}.layers",
            norm=f"{base}.{norm}",
            config=f"{package}.models.{model_type}.configuration_{model_type}",
            linear_head=True,
            **more,
        )
    )


def _fla(model_type: str, **more: Any) -> None:
    # Their kernels ask the host for the lengths of packed sequences, which no recording can.
    options = {"module": "lt25.models.fla", "devices": ("cuda",), "graphs": False}
    _causal_lm(model_type, "flash-linear-attention", "fla", **options, **more)


_fla("hgrn", crosses_layers=("lower_bounds",), parallelism=_SPLIT)
_fla("hgrn2", crosses_layers=("lower_bounds",), parallelism=_SPLIT)
_fla("gla", parallelism=_SPLIT)
_fla("retnet", parallelism=("data", "pipeline"))
_fla("delta_net", parallelism=_SPLIT)
_fla("gated_deltanet", parallelism=(*_SPLIT, "context"))
_fla("gsa", parallelism=_SPLIT)
_fla("rwkv7", crosses_layers=("v_first",), parallelism=("data", "pipeline", "context"))
_fla("transformer", window="max_position_embeddings", parallelism=(*_SPLIT, "context"))
# Their kernels go on from a state by a single token only.
_MAMBA = {"base": "backbone", "norm": "norm_f", "state": False}
_MAMBA2 = "Mamba-2's layers take no boundaries of packed texts: a text reads on from the one before it in its window"
_fla("mamba", parallelism=("data", "pipeline"), **_MAMBA)
_fla("mamba2", lacks={"varlen": _MAMBA2}, parallelism=_SPLIT, **_MAMBA)
_fla("samba", parallelism=("data", "pipeline"), **_MAMBA)
_LLAMA = "transformers' attention takes boundaries only with flash-attn: a text reads on from the one before it in its window"
_causal_lm(
    "llama",
    "transformers",
    "transformers",
    embeddings="embed_tokens",
    lacks={"varlen": _LLAMA},
    window="max_position_embeddings",
    complaint=_heads_complaint,
    parallelism=(*_SPLIT, "context"),
)
