"""What lt25 adds to flash-linear-attention: on a CPU, and on a GPU that is there."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch


def test_on_a_cpu():
    """In a process of its own: once Triton interprets kernels, it does not compile them in the same process."""
    tests = Path(__file__).with_name("interpreted_fla.py")
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(tests))
    result = subprocess.run(command, cwd=tests.parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("keys", "values"), [(64, 128), (256, 512)])
def test_gradients_of_the_gated_delta_rule_on_a_gpu(keys, values):
    import lt25.models.fla  # noqa: F401  (hands FLA the functions that it lacks)
    from tests.models import delta_rule

    errors = delta_rule.errors("cuda", torch.bfloat16, steps=500, heads=3, keys=keys, values=values)
    assert max(errors.values()) < 2e-2, errors
