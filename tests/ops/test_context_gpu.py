"""Sequences that two GPUs share give the outputs and the gradients of one GPU, by Triton's kernels and NCCL."""

import pytest
import torch
import torch.multiprocessing as mp

from tests.ops import shared

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")]

CASES = [case for case in shared.CASES if case.dtype == torch.float32]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    mp.spawn(shared.run_on_gpu, (2, f"file://{folder}/meet", str(folder / "found")), nprocs=2)
    return torch.load(folder / "found", map_location="cuda")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_gpus_give_the_numbers_of_one(found, case):
    for name, whole in shared.results(case, None, "cuda", shared.SCALE).items():
        assert (found[case.name][name] - whole).abs().max() <= 3e-5 * whole.abs().max(), name
