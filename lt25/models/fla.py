"""flash-linear-attention's families, which importing this enters into transformers' Auto classes.

What FLA lacks, or computes in more passes over memory, is put into it: attention without the package flash-attn, the selective
scan, kernels for Hopper GPUs, norms, MLPs, short convolutions, maps of one input, rotary embeddings, gates and RWKV-7's
mixtures, each by a module `fla_*`. Where it is known how kernels are fastest, they are launched so (`lt25.models.fla_tuned`);
what is not known is tuned quickly.
"""

import torch

from lt25.importing import compiling_when_called

with compiling_when_called():
    import fla.models  # noqa: F401

import lt25.models.fla_attention
import lt25.models.fla_chunks
import lt25.models.fla_hopper
import lt25.models.fla_mamba
import lt25.models.fla_mamba2  # noqa: F401
from lt25.compiling import tune_quickly
from lt25.models import fla_conv, fla_gla, fla_maps, fla_rotary, fla_rows, fla_rwkv7
from lt25.models.fla_tuned import use_tuned


def give_back() -> None:
    """Let FLA compute itself what it computes in more passes, for whoever compares with it.

    What it lacks stays, and so does what spares the host a wait: `fla_attention` and `fla_chunks`.
    """
    for part in (fla_conv, fla_rows, fla_rotary, fla_maps, fla_gla, fla_rwkv7):
        part.give_back()


if torch.cuda.is_available():
    tune_quickly()
use_tuned()
