"""A model built on the meta device gets the weights of an ordinary construction, whatever its family."""

import copy
import importlib.util

import pytest
import torch
import torch.distributed as dist
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from lt25.models.auto import auto_class, make_config
from lt25.models.families import FAMILIES, find
from lt25.models.initialise import initialise
from tests.models.tiny import family_fields

OURS = {"model_type": "lt25_hgrn", "use_short_conv": True, "dropout": 0.1}
KINDS = {
    "lt25_hgrn-lm": ("language_modeling", OURS),
    "lt25_hgrn-tied": ("language_modeling", {**OURS, "tie_word_embeddings": True}),
    "lt25_hgrn-ctc": ("speech_recognition", {**OURS, "input_size": 8, "subsampling": 4, "bidirectional": True}),
    "lt25_hgrn-classifier": ("classification", {**OURS, "input_size": 3, "num_labels": 5}),
    "lt25_hgrn-batch-norm": (
        "classification",
        {**OURS, "input_size": 3, "num_labels": 5, "norm": "batch", "pooling": "attention"},
    ),
    **{name: ("language_modeling", family_fields(name)) for name in FAMILIES if name != "lt25_hgrn"},
}


def build(kind: str):
    task, fields = KINDS[kind]
    config = make_config({**fields, "hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 50})
    return auto_class(task).from_config(config)


def from_meta(kind: str, change=lambda model: None):
    """Build a model on the meta device, change it, and give it memory of which every number is NaN."""
    with torch.device("meta"):
        model = build(kind)
    change(model)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.fill_(float("nan"))
    return model


def tensors(model):
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    return {name.replace("_checkpoint_wrapped_module.", ""): tensor.detach() for name, tensor in named}


def assert_alike(model, ordinary):
    found, expected = tensors(model), tensors(ordinary)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_that_of_an_ordinary_construction(kind):
    torch.manual_seed(7)
    ordinary = build(kind)
    model = from_meta(kind)
    torch.manual_seed(7)
    initialise(model)
    assert_alike(model, ordinary)
    # A plain attribute is moved by nobody, so it would still be on the meta device.
    for module in model.modules():
        assert not any(isinstance(value, torch.Tensor) and value.is_meta for value in vars(module).values())
    if ordinary.config.tie_word_embeddings:
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_wrapped_layers_are_found():
    def wrap(model):
        for name, layer in model.model.layers.named_children():
            model.model.layers.register_module(name, checkpoint_wrapper(layer))

    torch.manual_seed(7)
    ordinary = build("lt25_hgrn-ctc")
    model = from_meta("lt25_hgrn-ctc", wrap)
    torch.manual_seed(7)
    initialise(model)
    assert_alike(model, ordinary)


@pytest.fixture
def second_of_two():
    """A mesh of two ranks of which this process is the second; the first does not exist."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    yield init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["lt25_hgrn-lm", "rwkv7"])
def test_a_rank_gets_its_part_of_the_whole(kind, second_of_two):
    torch.manual_seed(7)
    ordinary = build(kind)

    def shard(model):
        for layer in model.base_model.layers:
            fully_shard(layer, mesh=second_of_two)
        fully_shard(model, mesh=second_of_two)

    model = from_meta(kind, shard)
    torch.manual_seed(7)
    initialise(model)
    for name, parameter in model.named_parameters():
        assert isinstance(parameter, DTensor)
        expected = ordinary.get_parameter(name).chunk(2)
        part = parameter.to_local()
        assert torch.equal(part, expected[1] if len(expected) == 2 else expected[0][:0]), name


def test_the_config_stays_as_it_is():
    model = from_meta("mamba2")
    before = copy.deepcopy(model.config)
    initialise(model)
    assert model.config.to_dict() == before.to_dict()


def test_rwkv7s_vectors_are_those_that_are_written_number_by_number():
    import fla.layers.rwkv7
    import fla.models.rwkv7.modeling_rwkv7

    find("rwkv7").load()
    for module, name, fields in (
        (fla.layers.rwkv7, "RWKV7Attention", {"head_dim": 16}),
        (fla.models.rwkv7.modeling_rwkv7, "RWKV7FeedForward", {}),
    ):
        spec = importlib.util.spec_from_file_location("as_written", module.__file__)
        as_written = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(as_written)
        for layer in (0, 2):
            made = []
            for owner in (module, as_written):
                torch.manual_seed(0)
                made.append(getattr(owner, name)(hidden_size=48, layer_idx=layer, num_hidden_layers=3, **fields))
            assert_alike(*made)
