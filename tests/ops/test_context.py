"""Sequences that 2 and 4 processes share give the outputs and the gradients of one process."""

import pytest
import torch
import torch.distributed as dist

from lt25.ops import hgrn_mix, hgrn_scan, short_conv
from lt25.ops.backends import kernels
from tests import tiny
from tests.ops import shared

PROCESSES = 4


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    # Kernels are compiled once, here.
    for dtype in (torch.float32, torch.float64):
        kernels("numba", "mix").summarise(torch.zeros(1, 1, 3, dtype=dtype), None, None, None, False)
    for case in shared.CASES:
        shared.results(case, None)
    shares = (PROCESSES, f"file://{folder}/meet", str(folder / "found"))
    ranks = [tiny.forked(shared.run, rank, *shares) for rank in range(PROCESSES)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert not any(process.exitcode for process in ranks)
    return torch.load(folder / "found")


@pytest.mark.parametrize("ranks", [2, PROCESSES])
@pytest.mark.parametrize("case", shared.CASES, ids=lambda case: case.name)
def test_shared_sequences_are_as_whole_ones(found, case, ranks):
    expected = shared.results(case, None)
    several = found[case.name, ranks]
    assert several.keys() == expected.keys()
    for name, whole in expected.items():
        size = whole.abs().max()
        limit = 1e-12 if case.dtype == torch.float64 else 1e-5
        assert (several[name] - whole).abs().max() <= limit * size, name


def test_what_a_group_cannot_do_is_refused(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        group, x = dist.group.WORLD, torch.zeros(1, 2, 4)
        with pytest.raises(ValueError, match="no state is given or returned"):
            hgrn_scan(x, x, output_final_state=True, group=group)
        with pytest.raises(ValueError, match="no state is given or returned"):
            hgrn_mix(torch.zeros(1, 2, 12), torch.ones(4), 1e-5, initial_state=torch.zeros(1, 4), group=group)
        with pytest.raises(ValueError, match="the reference backend takes no group"):
            hgrn_scan(x, x, group=group, backend="reference")
        with pytest.raises(ValueError, match="each process needs 3 steps at least, got 2"):
            short_conv(torch.zeros(1, 2, 12), torch.zeros(8, 4), group=group)
    finally:
        dist.destroy_process_group()
