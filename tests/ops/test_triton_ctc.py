"""The CTC kernels for CUDA where there is no CUDA."""

from pathlib import Path

from tests.alone import run_alone


def test_kernels_in_tritons_interpreter():
    run_alone(Path(__file__).with_name("interpreted_ctc.py"))
