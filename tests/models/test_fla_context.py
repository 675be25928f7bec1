"""Texts that several processes share give what flash-linear-attention's models compute of whole ones, and their gradients."""

import subprocess
import sys

import pytest
import torch

from tests import tiny
from tests.ops.shared import PACKED

FAMILIES = ("gated_deltanet", "rwkv7")


def _run(folder, ranks, **settings):
    command = [sys.executable, "-m", "tests.models.shared_fla"]
    environment = tiny.environment(**settings)
    arguments = [[*command, str(rank), str(ranks), str(folder)] for rank in range(ranks)]
    assert tiny.wait_for_all(subprocess.Popen(each, cwd=tiny.REPOSITORY, env=environment) for each in arguments)
    return torch.load(folder / "found")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    return _run(tmp_path_factory.mktemp("shared"), 4, TRITON_INTERPRET="1", TORCH_COMPILE_DISABLE="1")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    return _run(tmp_path_factory.mktemp("shared"), 2, CUDA_VISIBLE_DEVICES="0,1", **tiny.EXACT_PRODUCTS)


def _compare(found, expected):
    assert found.keys() == expected.keys()
    for name, whole in expected.items():
        # What rounding leaves of gradients that pass a norm, RWKV7's of `k_k`, is the most: 6e-5.
        assert (found[name] - whole).abs().max() <= 3e-4 * whole.abs().max(), name


@pytest.mark.slow
@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("family", FAMILIES)
def test_four_processes_compute_what_one_does(interpreted, family, packed):
    """Minutes, by Triton's interpreter."""
    found, expected = interpreted
    _compare(found[family, packed], expected[family, packed])


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("family", FAMILIES)
def test_two_gpus_compute_what_one_does(compiled, family, packed):
    found, expected = compiled
    _compare(found[family, packed], expected[family, packed])
