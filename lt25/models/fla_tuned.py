"""Configurations of flash-linear-attention's kernels, so that a first step does not wait for Triton's autotuner.

`tuned/` has a file for each kind of GPU, named after its compute capability, which `benchmarks/tuned.py` writes from what the
autotuner has found there. They are for the sizes of `config/models/*_340m.json`: a kernel of another size, or on another GPU, is
tuned when it is first called.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from triton.runtime.autotuner import Autotuner, Config

TUNED = Path(__file__).parent / "tuned"


def use_tuned() -> None:
    """Tell the autotuners of FLA's kernels what is the fastest on the GPU at hand, as far as it is known."""
    if torch.cuda.is_available():
        file = TUNED / "sm{}{}.json".format(*torch.cuda.get_device_capability())
        if file.is_file():
            hand_over(json.loads(file.read_text()), tuners())


def hand_over(known: dict[str, list[dict[str, Any]]], found: Iterator[Autotuner]) -> None:
    """Enter configurations where autotuners look for what they have found themselves.

    Args:
        known: of each kernel by name, the keys (sizes and dtypes that it is tuned for) and the configuration for each. Of two
            kernels with one name, that takes a configuration which has it among its own.
        found: autotuners.
    """
    for tuner in found:
        for entry in known.get(tuner.base_fn.__name__, ()):
            config = next((one for one in tuner.configs if describe(one) == entry["config"]), None)
            if config is not None:
                tuner.cache[tuple(entry["key"])] = config


def describe(config: Config) -> dict[str, Any]:
    """Return what a configuration says, as the files have it."""
    return {key: getattr(config, key) for key in ("kwargs", "num_warps", "num_ctas", "num_stages", "maxnreg")}


def tuners() -> Iterator[Autotuner]:
    """Yield the autotuners of FLA's modules that are imported."""
    for name, module in list(sys.modules.items()):
        if name.startswith("fla."):
            for kernel in list(vars(module).values()):
                # Decorators stand around each other.
                while kernel is not None and not isinstance(kernel, Autotuner):
                    kernel = getattr(kernel, "fn", None) if type(kernel).__module__.startswith("triton.") else None
                if kernel is not None:
                    yield kernel
