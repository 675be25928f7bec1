"""flash-linear-attention's families, which importing this enters into transformers' Auto classes.

Where the package flash-attn is not installed, FLA's attention layers cannot be built. They then get those of
`lt25.models.attention` in its place, which compute the same by torch's own kernels. Where it is known how kernels are fastest,
they are launched so (`lt25.models.fla_tuned`); what is not known is tuned quickly.
"""

import torch

# They put into FLA what it lacks, or computes in more passes.
import lt25.models.fla_attention
import lt25.models.fla_chunks
import lt25.models.fla_hopper
import lt25.models.fla_mamba
import lt25.models.fla_mamba2  # noqa: F401
from lt25.compiling import tune_quickly
from lt25.models import fla_gla, fla_maps, fla_rotary, fla_rows
from lt25.models.fla_tuned import use_tuned


def give_back() -> None:
    """Let FLA compute itself what it computes in more passes, for whoever compares with it."""
    for part in (fla_rows, fla_rotary, fla_maps, fla_gla):
        part.give_back()


if torch.cuda.is_available():
    tune_quickly()
use_tuned()
