"""Which device trains: a GPU with NCCL where there is one, otherwise the CPU with gloo.

torchtitan 0.2.2 asks torch for an accelerator once, when `torchtitan.tools.utils` is imported, and calls about ten functions
of the module it is given. Importing this module first answers "cpu" on a machine without one.
"""

import os
import platform
import resource
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import psutil
import torch

from lt25.memory import keep_freed_memory

DEVICE_TYPE = "cuda" if torch.cuda.is_available() else "cpu"


class CpuDevice:
    """The functions of ``torch.cuda`` that torchtitan calls, for a CPU: its memory is the process's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def get_device_name(self, device: Any = None) -> str:
        return platform.processor() or platform.machine()

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        return SimpleNamespace(total_memory=psutil.virtual_memory().total, name=self.get_device_name())

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"active_bytes.all.peak": peak, "reserved_bytes.all.peak": peak, "num_alloc_retries": 0, "num_ooms": 0}

    def set_device(self, device: Any) -> None: ...

    def current_device(self) -> int:
        return 0

    def reset_peak_memory_stats(self, device: Any = None) -> None: ...

    def empty_cache(self) -> None: ...


def device_name() -> str:
    """Return what the run's record should call the device: the GPU's name, or the CPU's and its thread count."""
    if DEVICE_TYPE == "cuda":
        return torch.cuda.get_device_name()
    return f"{_cpu_model()}, {torch.get_num_threads()} threads"


def _cpu_model() -> str:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _import_libraries() -> None:
    """Import torchtitan and transformers without what is never used here, which would take longer than all the rest.

    These are, of torchtitan, Hugging Face datasets for its validation, and attention, which it hands to `torch.compile` when
    imported; of transformers, scipy for losses of object detection and scikit-learn for assisted generation.
    """
    validation = ModuleType("torchtitan.hf_datasets.text_datasets")
    validation.build_text_validation_dataloader = None
    with ExitStack() as patches:
        patches.enter_context(patch("torch.compile", lambda function, **_: function))
        if DEVICE_TYPE == "cpu":
            patches.enter_context(patch("torch._utils._get_available_device_type", return_value="cpu"))
            patches.enter_context(patch("torch._utils._get_device_module", return_value=CpuDevice()))
        loaded = sys.modules.setdefault(validation.__name__, validation)
        import torchtitan.train  # noqa: F401

        if loaded is validation:
            del sys.modules[validation.__name__]
    with (
        patch("transformers.utils.is_scipy_available", return_value=False),
        patch("transformers.utils.is_sklearn_available", return_value=False),
    ):
        import transformers.generation.candidate_generator
        import transformers.modeling_utils  # noqa: F401


def _open_gpu() -> None:
    """Open this rank's GPU and load the library of matrix products, which take seconds that imports need not wait for."""
    # Whatever is wrong with the GPU, the trainer meets it too, and says so.
    with suppress(RuntimeError):
        one = torch.ones(16, 16, dtype=torch.bfloat16, device=f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
        one @ one


# Triton's own default; inductor would choose another one in the middle of a run that compiles layers.
os.environ.setdefault("TRITON_CACHE_DIR", str(Path(os.environ.get("TRITON_HOME", Path.home()), ".triton", "cache")))
keep_freed_memory()
if DEVICE_TYPE == "cuda":
    threading.Thread(target=_open_gpu, name="gpu").start()
_import_libraries()
