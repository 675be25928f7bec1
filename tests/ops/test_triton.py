"""The CUDA kernels where there is no CUDA."""

from pathlib import Path

import pytest

from tests.alone import run_alone


@pytest.mark.parametrize("way", ["interpreted", "compiled"])
def test_kernels(way):
    run_alone(Path(__file__).with_name(f"{way}.py"))
