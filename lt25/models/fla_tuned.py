"""Configurations of flash-linear-attention's kernels, so that a first step does not wait for its autotuner.

`tuned/` has a folder for each kind of GPU, named after its compute capability, in FLA's own form; `benchmarks/tuned.py` writes it
from what the autotuner has found there. They are for the sizes of `config/models/*_340m.json`: a kernel of another size, or on
another GPU, is tuned when it is first called. FLA's environment variables FLA_CONFIG_DIR and FLA_CACHE_MODE come first.
"""

import os
from pathlib import Path

import torch
from fla.ops.utils import cache

TUNED = Path(__file__).parent / "tuned"


def use_tuned() -> None:
    """Let FLA look up its kernels in the folder of the GPU at hand, if there is one."""
    if not torch.cuda.is_available() or "FLA_CACHE_MODE" in os.environ:
        return
    folder = TUNED / "sm{}{}".format(*torch.cuda.get_device_capability())
    if folder.is_dir():
        os.environ.setdefault("FLA_CONFIG_DIR", str(folder))
        cache.FLA_CACHE_MODE = cache.FlaCacheMode.STRICT
