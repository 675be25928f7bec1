"""The choice between replicas and shards, and the sums of the gradients of replicas."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lt25.training import parallelize
from lt25.training.job_config import JobConfig as Added
from lt25.training.parallelize import GradientSum, choose_data_parallel
from lt25.training.precision import LowPrecision
from lt25.training.spec import ModelArgs, TaskModel
from tests.tiny import MODEL


def job(**degrees):
    from torchtitan.config import ConfigManager, JobConfig

    made = ConfigManager._merge_configs(JobConfig, Added)()
    for name, degree in degrees.items():
        setattr(made.parallelism, name, degree)
    return made


def degrees(made):
    return made.parallelism.data_parallel_replicate_degree, made.parallelism.data_parallel_shard_degree


@pytest.mark.parametrize(
    ("parameters", "chosen", "said"),
    [
        (300, (2, 1), "2 processes: replicated (DDP): 4.8 GB of state fits in 10 GB each"),
        (320, (1, 2), "2 processes: sharded (FSDP2): 5.1 GB of state is more than half of the 10 GB each"),
    ],
)
def test_a_model_is_replicated_where_it_fits(monkeypatch, parameters, chosen, said):
    monkeypatch.setattr(parallelize, "_device_memory", lambda: 10**10)
    made = job()
    assert choose_data_parallel(made, 2, lambda: parameters * 10**6) == said
    assert degrees(made) == chosen


@pytest.mark.parametrize(
    "given",
    [
        {"data_parallel_shard_degree": 2},
        {"data_parallel_replicate_degree": 2},
        {"tensor_parallel_degree": 2},
    ],
)
def test_what_is_given_is_kept(given):
    made, as_given = job(**given), degrees(job(**given))
    assert choose_data_parallel(made, 2, lambda: pytest.fail("nothing is to be chosen")) is None
    assert degrees(made) == as_given


def test_one_process_has_no_choice():
    assert choose_data_parallel(job(), 1, lambda: pytest.fail("nothing is to be chosen")) is None


@pytest.fixture
def group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "full"},
        {"mode": "selective", "selective_ac_option": "2"},
        {"mode": "selective", "selective_ac_option": "op"},
        {"mode": "memory_budget", "memory_budget": 0.3},
    ],
    ids=["full", "layers", "operators", "memory budget"],
)
def test_what_is_computed_again_gives_the_same_gradients(settings, monkeypatch):
    made, tokens = job(), torch.arange(1, 9)[None]
    labels, ends = tokens.roll(-1), torch.tensor([0, 5, 8])
    for name, value in settings.items():
        setattr(made.activation_checkpoint, name, value)
    compiled = settings["mode"] == "memory_budget"
    # To generate code takes long, and what is computed again is decided before. A compiled layer draws other random numbers.
    made.compile.enable, made.compile.backend = compiled, "aot_eager_decomp_partition"
    config = {**MODEL, "vocab_size": 11, "dropout": 0.0 if compiled else 0.1}
    parallel = SimpleNamespace(dp_shard=1, fsdp_enabled=False, tp_enabled=False, cp_enabled=False, pp_enabled=False)
    gradients, saved = [], []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = TaskModel(ModelArgs(task="language_modeling", config=json.dumps(config)))
        if checkpointed:
            parallelize.parallelize(model, parallel, made)
        kept = []
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.numel()) or x, lambda x: x):
            loss = model(tokens, labels=labels, cu_seqlens=ends)
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        saved.append(sum(kept))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert saved[1] < saved[0]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)
        self.unused = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.last(self.norm(self.first(x)))


@pytest.mark.parametrize("half", [False, True], ids=["float32", "with copies in bfloat16"])
@pytest.mark.parametrize("bucket", [1, 20, 10**6])
def test_sums_over_one_process_are_its_gradients(group, half, bucket):
    torch.manual_seed(0)
    model, inputs = Model(), torch.randn(3, 2, 5)

    def gradients(summed):
        model.zero_grad()
        for number, x in enumerate(inputs, 1):
            with low_precision, summed if number == len(inputs) else nullcontext():
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    loss = model(x).float().square().sum()
                loss.backward()
        return [
            parameter.grad if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()
        ]

    low_precision = LowPrecision(model, torch.bfloat16) if half else nullcontext()
    expected = gradients(nullcontext())
    sums = GradientSum(model.parameters(), group, low_precision.copy_of if half else None, bucket)
    assert len(sums.buckets) == {1: 7, 20: 4, 10**6: 1}[bucket]
    for _ in range(2):
        found = gradients(sums)
        assert expected[0] is found[0] is None
        for one, other in zip(expected[1:], found[1:], strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=0)


def test_small_layers_are_gathered_together(monkeypatch):
    monkeypatch.setattr(parallelize, "UNIT", 20)
    layers = [nn.Linear(size, 1, bias=False) for size in (8, 8, 8, 30, 8)]
    assert parallelize._units(layers) == [layers[:3], layers[3:4], layers[4:]]
