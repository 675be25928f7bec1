"""What lt25 adds to flash-linear-attention: on a CPU, and on a GPU that is there."""

from pathlib import Path

import pytest
import torch

from tests.alone import run_alone


def test_on_a_cpu():
    run_alone(Path(__file__).with_name("interpreted_fla.py"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("keys", "values"), [(64, 128), (256, 512)])
def test_gradients_of_the_gated_delta_rule_on_a_gpu(keys, values):
    import lt25.models.fla  # noqa: F401  (hands FLA the functions that it lacks)
    from tests.models import delta_rule

    errors = delta_rule.errors("cuda", torch.bfloat16, steps=500, heads=3, keys=keys, values=values)
    assert max(errors.values()) < 2e-2, errors
