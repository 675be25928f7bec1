"""The table of model families says what is so."""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from lt25.config.key import OPTIONAL, check, resolve
from lt25.errors import UserError
from lt25.models import HGRNConfig, families
from lt25.models.auto import auto_class, try_model
from lt25.models.families import FAMILIES, find
from lt25.tasks import TASKS

ROOT = Path(__file__).parents[2]
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 50}
FURTHER = {
    "hgrn2": {"expand_ratio": 16},
    "gated_deltanet": {"num_heads": 2, "head_dim": 16},
    "mamba2": {"head_dim": 16},
    "rwkv7": {"head_dim": 16},
    "samba": {"attn": {"layers": [1], "num_heads": 4}},
    "llama": {"num_attention_heads": 4},
}
BUILT = [
    (name, task)
    for name, family in FAMILIES.items()
    for task in family.tasks
    if task in ("classification", "speech_recognition", "language_modeling")
]


def model(name: str, task: str, **fields):
    find(name).load()
    if name == "lt25_hgrn" and task != "language_modeling":
        fields["input_size"] = 3
    config = AutoConfig.for_model(name, **SIZES, **FURTHER.get(name, {}), **fields)
    with torch.device("meta"):
        return auto_class(task).from_config(config)


@pytest.mark.parametrize(("name", "task"), BUILT)
def test_the_names_are_those_of_the_model(name, task):
    family, built = find(name), model(name, task)
    auto = TASKS[task].auto_model
    layers = built.get_submodule(family.layers)
    assert len(layers) == 2 and layers is built.base_model.layers
    children = [module for module in built.base_model.children() if any(True for _ in module.parameters())]
    assert children[0] is built.get_submodule(family.inputs[auto])
    assert children[-1] is built.get_submodule(family.norm)
    assert list(built.children())[-1] is built.get_submodule(family.heads[auto])
    if task == "language_modeling":
        assert built.get_input_embeddings() is built.get_submodule(family.inputs[auto])
        assert built.get_output_embeddings() is built.get_submodule(family.heads[auto])


@pytest.mark.parametrize("name", FAMILIES)
def test_tied_weights(name):
    family = find(name)
    for fields in ({}, {"tie_word_embeddings": True}, {"tie_word_embeddings": False}):
        built = model(name, "language_modeling", **fields)
        tied = built.get_output_embeddings().weight is built.get_input_embeddings().weight
        assert family.tied(fields) == tied


@pytest.mark.parametrize("name", FAMILIES)
def test_the_keys_are_those_of_the_config_class(name):
    """Each key is taken as it is, and its default is the class's."""
    family = find(name)
    family.load()
    keys = family.model_keys()
    given = resolve({}, keys)
    check(given, keys, "defaults")
    stated, filled = AutoConfig.for_model(name, **copy.deepcopy(given)), AutoConfig.for_model(name)
    assert json.loads(stated.to_json_string()) == json.loads(filled.to_json_string())
    assert all(key.identity or name == "use_cache" for name, key in keys.items())


def test_every_field_of_the_own_configuration_is_a_key():
    keys = find("lt25_hgrn").model_keys()
    fields = {field.name: field.default for field in dataclasses.fields(HGRNConfig)}
    own = list(vars(HGRNConfig)["__annotations__"])
    assert set(own) | {"num_labels"} == set(keys)
    assert {name: fields[name] for name in own} == {name: keys[name].default for name in own}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"droput": 0.5}, "droput: unknown key: did you mean dropout?"),
        ({"dropout": "high"}, 'dropout: found "high", expected a number'),
        ({"dropout": 1.5}, "dropout: found 1.5, expected less than 1"),
        ({"hidden_size": -3}, "hidden_size: found -3, expected at least 1"),
        ({"subsampling": 3}, "subsampling: found 3, allowed: 1, 2, 4"),
        ({"pooling": "max"}, 'pooling: found "max", allowed: mean, last, attention'),
    ],
    ids=str,
)
def test_wrong_keys_of_a_model(values, message):
    with pytest.raises(UserError) as error:
        check(values, find("lt25_hgrn").model_keys(), "x.yaml")
    assert message in str(error.value)


def test_keys_of_another_package_are_read_from_its_source():
    keys = find("gla").model_keys()
    assert keys["expand_k"].type == ("number",) and keys["expand_k"].default == 0.5
    assert keys["num_kv_heads"].type == ("integer", "null") and keys["num_kv_heads"].default is None
    assert find("samba").model_keys()["attn"].default is OPTIONAL, "what the class computes is left to it"
    with pytest.raises(UserError, match="did you mean hidden_size"):
        check({"hiden_size": 3}, keys, "x.yaml")
    with pytest.raises(UserError, match="at least 1"):
        check({"num_heads": 0}, keys, "x.yaml")


def test_an_unknown_type_is_one_line():
    with pytest.raises(UserError, match=r"^found glaa, no such model type: did you mean gla\? README.md shows all"):
        find("glaa")
    with pytest.raises(
        UserError, match=r"README.md shows all \d+; for one of your own name it in `plugins` of config/config"
    ):
        find("stick_breaking")


@pytest.mark.parametrize(
    ("fields", "task", "parallelism", "device", "message"),
    [
        (
            {"model_type": "gla"},
            "classification",
            {},
            "cuda",
            "gla, which has no model for classification: use lt25_hgrn",
        ),
        ({"model_type": "gla"}, "language_modeling", {}, "cpu", "its kernels need a GPU"),
        ({"model_type": "lt25_hgrn", "bidirectional": True}, "language_modeling", {}, "cpu", "reads in one direction"),
        ({"model_type": "lt25_hgrn", "input_size": 3}, "language_modeling", {}, "cpu", "a language model reads tokens"),
        (
            {"model_type": "lt25_hgrn", "hidden_size": 5, "bidirectional": True},
            "classification",
            {},
            "cpu",
            "even number of channels",
        ),
        *(
            (
                {"model_type": "retnet"},
                "language_modeling",
                {f"{kind}_parallel_degree": 2},
                "cuda",
                f"{kind}_parallel_degree: found 2, but retnet has data, pipeline parallelism only: use 1",
            )
            for kind in ("tensor", "context")
        ),
        (
            {"model_type": "rwkv7", "hidden_size": 64, "value_dim": 128},
            "language_modeling",
            {"pipeline_parallel_degree": 2},
            "cuda",
            "pipeline_parallel_degree: found 2, but model.value_dim 128 is not model.hidden_size",
        ),
        (
            {"model_type": "lt25_hgrn"},
            "language_modeling",
            {"data_parallel_replicate_degree": 2, "data_parallel_shard_degree": 1, "tensor_parallel_degree": 2},
            "cpu",
            "found DDP and TP together, not tested: use data_parallel_replicate_degree 1 and data_parallel_shard_degree 2",
        ),
        (
            {"model_type": "lt25_hgrn"},
            "language_modeling",
            {
                "data_parallel_replicate_degree": 2,
                "data_parallel_shard_degree": -1,
                "pipeline_parallel_degree": 2,
                "context_parallel_degree": 2,
            },
            "cpu",
            "found DDP and PP and CP together, not tested: use data_parallel_replicate_degree 1",
        ),
        (
            {"model_type": "lt25_hgrn"},
            "language_modeling",
            {
                "data_parallel_shard_degree": 2,
                "tensor_parallel_degree": 2,
                "pipeline_parallel_degree": 2,
                "context_parallel_degree": 2,
            },
            "cpu",
            "found FSDP and TP and PP and CP together, not tested: docs/scaling.md shows what is",
        ),
        (
            {"model_type": "lt25_hgrn", "tie_word_embeddings": True},
            "language_modeling",
            {"pipeline_parallel_degree": 2},
            "cpu",
            "pipeline_parallel_degree: found 2, but with model.tie_word_embeddings the first and the last stage would share",
        ),
        (
            {"model_type": "llama", "num_attention_heads": 6},
            "language_modeling",
            {"tensor_parallel_degree": 4},
            "cpu",
            "tensor_parallel_degree: found 4, which does not divide model.num_attention_heads, 6: change one",
        ),
        (
            {"model_type": "hgrn2", "hidden_size": 384},
            "language_modeling",
            {"tensor_parallel_degree": 2},
            "cuda",
            "found 2, which does not divide model.hidden_size / model.expand_ratio, 3",
        ),
        (
            {"model_type": "mamba2", "hidden_size": 96},
            "language_modeling",
            {"tensor_parallel_degree": 2},
            "cuda",
            "found 2, which does not divide model.expand * model.hidden_size / model.head_dim, 3",
        ),
        (
            {"model_type": "mamba2", "hidden_size": 256, "n_groups": 3},
            "language_modeling",
            {"tensor_parallel_degree": 2},
            "cuda",
            "found 2, which does not divide model.n_groups, 3",
        ),
        (
            {"model_type": "transformer", "num_kv_heads": 1},
            "language_modeling",
            {"tensor_parallel_degree": 2},
            "cuda",
            "found 2, which does not divide model.num_kv_heads, 1",
        ),
        (
            {"model_type": "llama", "attention_bias": True},
            "language_modeling",
            {"tensor_parallel_degree": 2},
            "cpu",
            "found 2, but the bias of model.attention_bias cannot be shared out",
        ),
        (
            {"model_type": "lt25_hgrn", "bidirectional": True},
            "classification",
            {"tensor_parallel_degree": 3},
            "cpu",
            "found 3, but with model.bidirectional half of the ranks read from the end",
        ),
        (
            {"model_type": "lt25_hgrn", "bidirectional": True, "hidden_size": 66},
            "classification",
            {"tensor_parallel_degree": 4},
            "cpu",
            "found 4, which does not divide the 66 recurrent channels",
        ),
        (
            {"model_type": "lt25_hgrn", "num_hidden_layers": 3},
            "language_modeling",
            {"pipeline_parallel_degree": 4},
            "cpu",
            "found 4, with 1F1B 4 stages, but model.num_hidden_layers is 3",
        ),
        (
            {"model_type": "lt25_hgrn", "num_hidden_layers": 3},
            "classification",
            {"pipeline_parallel_degree": 2, "pipeline_parallel_schedule": "Interleaved1F1B"},
            "cpu",
            "found 2, with Interleaved1F1B 4 stages, but model.num_hidden_layers is 3",
        ),
        (
            {"model_type": "llama", "attention_dropout": 0.1},
            "language_modeling",
            {"context_parallel_degree": 2},
            "cpu",
            "found 2, but not with model.attention_dropout",
        ),
        (
            {"model_type": "lt25_hgrn", "stochastic_depth": 0.1},
            "classification",
            {"tensor_parallel_degree": 2},
            "cpu",
            "tensor_parallel_degree: found 2, but with model.stochastic_depth its ranks",
        ),
        (
            {"model_type": "lt25_hgrn", "norm": "layer"},
            "classification",
            {"pipeline_parallel_degree": 2},
            "cpu",
            "pipeline_parallel_degree: found 2, but model.norm layer is tested with whole layers only: use 1, or rms there",
        ),
        (
            {"model_type": "lt25_hgrn", "norm_position": "post"},
            "language_modeling",
            {},
            "cpu",
            "model.norm_position: found post, which has no effect on language_modeling",
        ),
        (
            {"model_type": "llama"},
            "language_modeling",
            {"enable_async_tensor_parallel": True},
            "cpu",
            "enable_async_tensor_parallel: found true",
        ),
    ],
    ids=str,
)
def test_what_a_family_cannot_do_is_refused_in_one_line(fields, task, parallelism, device, message):
    with pytest.raises(UserError) as error:
        families.check(fields, task, parallelism, device, "x.yaml")
    assert message in str(error.value) and "\n" not in str(error.value) and str(error.value).startswith("x.yaml: ")


def test_a_package_is_asked_for(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", dict(FAMILIES))
    for package, there in (("not_there", False), ("torch", True)):
        families.register(dataclasses.replace(find("lt25_hgrn"), model_type="own", requires=package))
        reason = families.refusal({"model_type": "own"}, "language_modeling", {}, "cpu")
        assert reason is None if there else "without the package not-there: install it" in reason


def test_what_works_is_let_through():
    for task in ("classification", "speech_recognition", "language_modeling"):
        families.check({"model_type": "lt25_hgrn"}, task, {"data_parallel_shard_degree": 8}, "cpu")
    families.check({"model_type": "gla"}, "language_modeling", {"tensor_parallel_degree": 1}, "cuda")
    rwkv7 = {"model_type": "rwkv7", "hidden_size": 64, "value_dim": [64, 64]}
    families.check(rwkv7, "language_modeling", {"pipeline_parallel_degree": 2}, "cuda")


def test_a_family_of_a_project(monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", dict(FAMILIES))
    own = families.Family("mine", "my project", {"AutoModelForCausalLM": "head"}, {"AutoModelForCausalLM": "tokens"})
    families.register(own)
    assert find("mine") is own and own.model_keys() is None and "language_modeling" in own.tasks
    families.check({"model_type": "mine", "anything": 1}, "language_modeling", {}, "cpu")
    assert "`mine` | my project |" in families.table()


def test_nothing_heavy_is_imported_for_the_table():
    code = (
        "import sys; sys.argv[0] = 'lt25'; from lt25.models import families\n"
        "keys = [family.model_keys() for family in families.FAMILIES.values()]\n"
        "print([name for name in ('torch', 'transformers', 'fla') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "models").glob("*.json")), ids=lambda path: path.stem)
def test_the_configs_that_come_along_name_known_keys(path):
    fields = json.loads(path.read_text())
    keys = find(fields.pop("model_type")).model_keys()
    fields.pop("architectures")
    check(fields, keys, str(path))


# With a vocabulary of 32,000.
PARAMETERS = {
    "delta_net_1b": 1_365_677_056,
    "delta_net_340m": 374_362_112,
    "delta_net_tiny": 4_229_248,
    "gated_deltanet_10m": 35_230_884,
    "gated_deltanet_1b": 1_387_348_732,
    "gated_deltanet_340m": 512_272_124,
    "gated_deltanet_tiny": 4_229_000,
    "gla_10m": 35_273_472,
    "gla_1.3b": 1_365_514_240,
    "gla_340m": 374_475_776,
    "gla_7b": 6_741_635_072,
    "gla_tiny": 4_230_592,
    "gsa_1b": 1_376_880_640,
    "gsa_340m": 380_158_976,
    "gsa_tiny": 4_231_616,
    "hgrn2_1.3b": 1_364_396_032,
    "hgrn2_340m": 373_916_672,
    "hgrn2_tiny": 4_227_648,
    "hgrn_1.3b": 1_364_396_032,
    "hgrn_340m": 373_916_672,
    "hgrn_lm_10m": 35_220_864,
    "hgrn_lm_340m": 373_916_672,
    "hgrn_lm_tiny": 10_825_984,
    "hgrn_tiny": 4_227_648,
    "mamba2_1b": 1_371_839_488,
    "mamba2_340m": 382_387_712,
    "mamba2_tiny": 4_152_368,
    "mamba_1b": 1_400_276_992,
    "mamba_340m": 385_565_696,
    "mamba_tiny": 4_155_328,
    "retnet_340m": 380_171_264,
    "retnet_tiny": 4_260_288,
    "rwkv7_340m": 382_086_144,
    "rwkv7_tiny": 4_206_144,
    "samba_1b": 1_403_935_488,
    "samba_tiny": 4_240_576,
    "transformer_10m": 35_197_824,
    "transformer_1b": 1_364_297_728,
    "transformer_340m": 373_867_520,
    "transformer_7b": 7_241_732_096,
    "transformer_tiny": 4_219_200,
}


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "config" / "models").glob("*.json")))
def test_parameters_of_the_configs_that_come_along(name):
    fields = json.loads((ROOT / "config" / "models" / f"{name}.json").read_text())
    if fields["architectures"][0].endswith("ForCausalLM"):
        kind = fields.pop("model_type")
        find(kind).load()
        with torch.device("meta"):
            built = auto_class("language_modeling").from_config(AutoConfig.for_model(kind, vocab_size=32000, **fields))
        assert sum(parameter.numel() for parameter in built.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(("name", "millions"), [("gla_340m", 374), ("mamba_340m", 386), ("gated_deltanet_340m", 512)])
def test_published_shapes_have_as_many_parameters_as_the_document_says(name, millions):
    fields = json.loads((ROOT / f"config/models/{name}.json").read_text())
    shapes = try_model({**fields, "vocab_size": 32000}, "language_modeling").values()
    assert sum(shape.numel() for shape in shapes) / 1e6 == pytest.approx(millions, abs=0.6)
    assert f" {millions} " in (ROOT / "docs/training.md").read_text()
