"""Which device trains: a GPU with NCCL where there is one, otherwise the CPU with gloo."""

import platform
from pathlib import Path
from typing import Any

import torch

DEVICE_TYPE = "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """Return what the run's record should call the device: the GPU's name, or the CPU's and its thread count."""
    if DEVICE_TYPE == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{_cpu_model()}, {threads} {'thread' if threads == 1 else 'threads'}"


def machine(processes: int) -> dict[str, Any]:
    """Return what rounding depends on, beside the job: ``device``, ``processes`` and, on a CPU, ``threads`` of each."""
    if DEVICE_TYPE == "cuda":
        return {"device": torch.cuda.get_device_name(), "processes": processes}
    return {"device": _cpu_model(), "processes": processes, "threads": torch.get_num_threads()}


def _cpu_model() -> str:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
