"""What a pipeline keeps between steps; that it computes what one process does is in `test_meshes.py`."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from lt25.errors import UserError
from lt25.training.losses import IGNORE
from lt25.training.pipeline import Pipeline, Stage, of_one_length


@pytest.fixture
def pipeline(tmp_path):
    """One of a single stage."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    part: Any = nn.Module()
    part.stage = Stage(0, 0, seed=0, subsampling=1, dtype=torch.float32, carries=None)
    part.hf = SimpleNamespace(config=SimpleNamespace(hidden_size=4))
    job: Any = SimpleNamespace(parallelism=SimpleNamespace(pipeline_parallel_schedule="1F1B"))
    group: Any = dist.group.WORLD
    yield Pipeline({0: part}, 1, job, group, torch.device("cpu"), torch.float32)
    dist.destroy_process_group()


def test_micro_batches_of_tokens_get_one_length():
    short, long = ({"input": torch.ones(2, length), "labels": torch.ones(2, length)} for length in (2, 3))
    padded, same = of_one_length([short, long])
    assert same is long
    assert padded["input"].tolist() == [[1, 1, 0]] * 2
    assert padded["labels"].tolist() == [[1, 1, IGNORE]] * 2


def test_what_happens_in_a_stage_is_what_the_step_raises(pipeline):
    def fail(x: torch.Tensor) -> None:
        raise UserError("model.key: a line for the user")

    pipeline.parts[0].forward = fail
    with pytest.raises(UserError, match=r"^model\.key: a line for the user$"):
        pipeline.step([{"input": torch.zeros(2, 8)}] * 2, torch.tensor(4))


def test_buffers_of_a_shape_that_has_gone_are_given_back_at_once(pipeline):
    """Training collects no garbage by itself, and each batch of speech may have another length."""
    gc.disable()
    try:
        pipeline._fit([{"input": torch.zeros(2, 8)}] * 3)
        first = weakref.ref(pipeline.schedule)
        pipeline._fit([{"input": torch.zeros(2, 8)}] * 3)
        assert pipeline.schedule is first()
        pipeline._fit([{"input": torch.zeros(2, 9)}] * 3)
        assert first() is None
    finally:
        gc.enable()
