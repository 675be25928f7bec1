"""Clipping and Adam on the parts of sharded tensors, beside torchtitan's and torch's on the whole ones."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor


def make(mesh: object, name: str) -> tuple[list[nn.Parameter], list[nn.Parameter], torch.optim.Optimizer]:
    """Return parameters of three layouts, with gradients, the same ones whole, and the optimizer of the first."""
    from lt25.training import shards

    torch.manual_seed(0)
    whole = [nn.Parameter(torch.randn(size)) for size in ((5, 3), (8,), (4, 4))]
    layouts = ((Replicate(), Shard(0)), (Replicate(), Replicate()), None)
    parts = [
        nn.Parameter(
            parameter.detach().clone()
            if layout is None
            else distribute_tensor(parameter.detach().clone(), mesh, layout)
        )
        for parameter, layout in zip(whole, layouts, strict=True)
    ]
    return (
        parts,
        whole,
        shards.Adam(parts, lr=0.1, weight_decay=0.1, decoupled_weight_decay=name == "AdamW", fused=True),
    )


def run(rank: int, meeting: str) -> None:
    from torchtitan.distributed.utils import clip_grad_norm_ as whole_clip

    from lt25.training import torchtitan  # noqa: F401 before any other import of torchtitan
    from lt25.training.shards import clip_grad_norm_, local

    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (1, 2))
    for name in ("Adam", "AdamW"):
        parts, whole, optimizer = make(mesh, name)
        peer = getattr(torch.optim, name)(whole, lr=0.1, weight_decay=0.1, fused=True)
        for most in (1.0, 1e3):
            for part, parameter in zip(parts, whole, strict=True):
                parameter.grad = torch.randn_like(parameter)
                layout = isinstance(part, DTensor)
                part.grad = (
                    distribute_tensor(parameter.grad.clone(), mesh, part.placements)
                    if layout
                    else parameter.grad.clone()
                )
            norm = clip_grad_norm_(parts, most)
            torch.testing.assert_close(norm, whole_clip(whole, most, foreach=True))
            optimizer.step()
            peer.step()
            found = [part.full_tensor() if isinstance(part, DTensor) else part for part in parts]
            torch.testing.assert_close(found, [parameter.detach() for parameter in whole])
        moment = optimizer.state[parts[0]]["exp_avg"]
        assert isinstance(moment, DTensor) and moment.placements == parts[0].placements
        assert local([moment])[0].numel() == (9 if rank == 0 else 6)
    dist.destroy_process_group()


def test_parts_are_clipped_and_updated_as_the_whole_is(tmp_path: Path) -> None:
    mp.spawn(run, (f"file://{tmp_path}/meet",), nprocs=2)


def test_a_norm_of_plain_gradients_is_torchs_and_nan_is_kept() -> None:
    from lt25.training.shards import clip_grad_norm_

    parameter = nn.Parameter(torch.ones(4))
    parameter.grad = torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert clip_grad_norm_([parameter], 1.0).item() == 5
    torch.testing.assert_close(parameter.grad, torch.tensor([0.6, 0.0, 0.8, 0.0]))
    parameter.grad[0] = float("nan")
    assert clip_grad_norm_([parameter], 1.0).isnan()


@pytest.mark.parametrize("most", [0.5, 50.0])
def test_low_precision_gradients_have_a_norm_in_float32(most: float) -> None:
    from lt25.training.shards import clip_grad_norm_

    parameter = nn.Parameter(torch.ones(10_000, dtype=torch.bfloat16))
    parameter.grad = torch.ones_like(parameter)
    norm = clip_grad_norm_([parameter], most)
    assert norm.dtype == torch.float32
    torch.testing.assert_close(norm, torch.tensor(100.0), rtol=5e-3, atol=0)
