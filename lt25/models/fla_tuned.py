"""Configurations of flash-linear-attention's kernels that were found before, so that nobody waits until they are found again.

FLA compiles a kernel in up to 64 configurations when it is first called, and times them. A folder of `FOLDER` holds what won for
this version of FLA on GPUs of one compute capability, in FLA's own format, a file for each kernel; benchmarks/tuned.py writes it.
FLA takes a configuration for the very key (shapes and dtypes) that it was found for; for any other key it tunes as ever.
"""

import os
from importlib.metadata import version
from pathlib import Path

import torch
from fla.ops.utils import cache

FOLDER = Path(__file__).parent / "tuned" / f"fla_{version('fla-core')}"


def folder_of_gpu() -> Path:
    """Return the folder for the compute capability of this GPU. There need not be one."""
    return FOLDER / "sm_{}{}".format(*torch.cuda.get_device_capability())


# Who has set one of FLA's variables has configurations of his own.
if (
    torch.cuda.is_available()
    and not {"FLA_CACHE_MODE", "FLA_CONFIG_DIR"} & os.environ.keys()
    and folder_of_gpu().is_dir()
):
    os.environ["FLA_CONFIG_DIR"] = str(folder_of_gpu())
    cache.FLA_CACHE_MODE = cache.FlaCacheMode.STRICT
