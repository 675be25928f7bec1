"""Operators on sequences that several processes share, beside one process on the whole: what the processes of a test compute."""

import os
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from lt25.ops import hgrn_mix, hgrn_scan, short_conv

TIME, CHANNELS = 24, 6
# On a GPU, sequences of several segments of time.
SCALE = 128
PACKED = {
    "one sequence": [0, TIME],
    "across every border": [0, 1, 22, TIME],
    "at the borders": [0, 6, 12, 18, TIME],
    "inside": [0, 3, 3, 7, 8, 9, 15, 15, 21, TIME, TIME],
}


class Case(NamedTuple):
    operator: str
    dtype: torch.dtype = torch.float32
    bidirectional: bool = False
    packed: str | None = None
    masked: bool = False

    @property
    def name(self) -> str:
        return f"{self.operator} {self.dtype} {self.bidirectional} {self.packed} {self.masked}"


CASES = [
    *(Case("mix", torch.float64, ways, packed) for ways in (False, True) for packed in PACKED),
    *(Case("mix", torch.float32, ways, None, masked) for ways in (False, True) for masked in (False, True)),
    *(Case("scan", torch.float64, ways, packed) for ways in (False, True) for packed in (None, "inside")),
    Case("scan", torch.float32, True, "across every border"),
    Case("mix", torch.float32, True, "inside"),
    Case("conv", torch.float32, True, "inside"),
    *(Case("conv", torch.float64, ways, packed) for ways in (False, True) for packed in PACKED),
    *(Case("conv", torch.float32, ways, None, masked) for ways in (False, True) for masked in (False, True)),
    *(Case("turned conv", torch.float64, False, packed) for packed in PACKED),
    Case("turned conv", torch.float32, masked=True),
]


def operator(case: Case, device: str, scale: int) -> tuple[Callable[..., Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Return a function of shared tensors, these by name, and others by name, of which each process has the whole."""
    generator = torch.Generator().manual_seed(0)
    batch, time = 2 if case.packed is None else 1, TIME * scale

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, case.dtype)

    bounds = None if case.packed is None else torch.tensor(PACKED[case.packed], device=device) * scale
    options = {"cu_seqlens": bounds}
    if case.operator == "scan":
        shared = {"x": normal(batch, time, CHANNELS), "log_f": normal(batch, time, CHANNELS).sigmoid().log() / 3}
        return (
            lambda x, log_f, group: hgrn_scan(x, log_f, reverse=case.bidirectional, group=group, **options)[0],
            shared,
            {},
        )
    options["bidirectional"] = case.bidirectional
    shared = {"ifg": normal(batch, time, 3 * CHANNELS)}
    # Steps of padding at the end of one sequence and at the beginning of the other.
    mask = torch.ones(batch, time, dtype=torch.bool, device=device)
    if case.masked:
        mask[0, -8:] = mask[1, :5] = False
        shared["mask"] = mask
    if case.operator in ("conv", "turned conv"):
        options["reverse"] = case.operator == "turned conv"
        return (
            lambda ifg, weight, group, mask=None: short_conv(ifg, weight, mask, group=group, **options),
            shared,
            {"weight": normal(2 * CHANNELS, 4)},
        )
    # Gates near one, so that the state lives long enough to cross several parts.
    shared["ifg"][..., CHANNELS : 2 * CHANNELS] += 2
    whole = {"weight": normal(CHANNELS), "bound": normal(CHANNELS).sigmoid(), "out": normal(5, CHANNELS)}
    return (
        lambda ifg, weight, bound, out, group, mask=None: hgrn_mix(
            ifg, weight, 1e-5, bound, mask, out_weight=out, group=group, **options
        )[0],
        shared,
        whole,
    )


def results(case: Case, group: dist.ProcessGroup | None, device: str = "cpu", scale: int = 1) -> dict[str, Tensor]:
    """Return output and gradients of a case of ``scale`` times `TIME` steps, computed by a group or by this process alone."""
    function, shared, whole = operator(case, device, scale)
    rank, ranks = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))
    shared = {name: tensor.chunk(ranks, 1)[rank].clone() for name, tensor in shared.items()}
    leaves = {name: tensor for name, tensor in {**shared, **whole}.items() if tensor.is_floating_point()}
    for leaf in leaves.values():
        leaf.requires_grad_()
    output = function(**shared, **whole, group=group)
    weights = torch.randn(
        *output.shape[:1], output.shape[1] * ranks, output.shape[2], generator=torch.Generator().manual_seed(1)
    )
    (output * weights.to(output).chunk(ranks, 1)[rank]).sum().backward()
    found = {"output": output.detach()}
    for name, leaf in leaves.items():
        found[name] = leaf.grad
        if group is not None and name in whole:
            dist.all_reduce(found[name], group=group)
    return {name: tensor if name in whole else _all(tensor, ranks, group) for name, tensor in found.items()}


def _all(part: Tensor, ranks: int, group: dist.ProcessGroup | None) -> Tensor:
    if group is None:
        return part
    parts = [torch.empty_like(part) for _ in range(ranks)]
    dist.all_gather(parts, part.contiguous(), group=group)
    return torch.cat(parts, 1)


def run(rank: int, ranks: int, meeting: str, file: str) -> None:
    """Be one process of several: compute every case on all of them, and on the first two, and save what the first one finds."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks)
    pair = dist.new_group([0, 1])
    found = {}
    for case in CASES:
        found[case.name, ranks] = results(case, dist.group.WORLD)
        if rank < 2:
            found[case.name, 2] = results(case, pair)
    if rank == 0:
        torch.save(found, file)
    dist.destroy_process_group()


def run_on_gpu(rank: int, ranks: int, meeting: str, file: str) -> None:
    """Be the process of one GPU of several, like `run`."""
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", init_method=meeting, rank=rank, world_size=ranks)
    found = {case.name: results(case, dist.group.WORLD, "cuda", SCALE) for case in CASES if case.dtype == torch.float32}
    if rank == 0:
        torch.save(found, file)
    dist.destroy_process_group()
