"""What lt25 adds to flash-linear-attention: on a CPU, and on a GPU that is there."""

from pathlib import Path

import pytest
import torch

from tests.alone import run_alone


def test_on_a_cpu():
    run_alone(Path(__file__).with_name("interpreted_fla.py"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("delta_rule", "keys", "values"), [(True, 64, 128), (True, 192, 80), (True, 256, 512), (False, 128, 64)]
)
def test_gradients_of_recurrences_with_a_decay_on_a_gpu(delta_rule, keys, values):
    """The third has the heads of gated_deltanet_340m, the last is without the delta rule."""
    import lt25.models.fla  # noqa: F401  (hands FLA the functions that it lacks)
    from tests.models import decaying

    sizes = {"steps": 500, "heads": 3, "keys": keys, "values": values}
    errors = decaying.errors("cuda", torch.bfloat16, delta_rule, **sizes)
    assert max(errors.values()) < 2e-2, errors


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("logits", "heads", "keys", "values"), [(True, 4, 128, 256), (False, 8, 128, 128), (True, 2, 16, 32)]
)
def test_gated_linear_attention_on_a_gpu(logits, heads, keys, values):
    """The first two are the heads of gla_340m and hgrn2_340m."""
    import lt25.models.fla  # noqa: F401  (gives FLA's kernels their configurations)
    from tests.models import decaying

    sizes = {"steps": 500, "heads": heads, "keys": keys, "values": values}
    errors = decaying.errors_of_gla("cuda", torch.bfloat16, logits, **sizes)
    assert max(errors.values()) < 2e-2, errors
