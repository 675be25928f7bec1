"""How many seconds of audio a micro-batch holds where ``training.batch_seconds`` is `auto`: what fits into the GPU's memory.

Before the first step the longest utterance passes forwards and backwards, alone, twice, four times and so on, and each time the
peak of the memory is read. It is so much for each utterance and so much besides: what fits is known before anything fails.
The answer stands in the checkpoints, with the place in the data, and in ``train.json``: a run that goes on never searches again.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from lt25.compiling import compile_ahead
from lt25.cuda_graphs import CUDAGraphWrapper
from lt25.data.audio import HOP_SECONDS
from lt25.data.loader import StepBatches
from lt25.data.order import length_unit
from lt25.errors import UserError
from lt25.training.device import DEVICE_TYPE
from lt25.training.job_config import Job

ROOM = 0.8
"""The part of the free memory that is used: the rest is for what lies between blocks."""


def check(job: Job) -> None:
    """Refuse to search where there is no GPU.

    Raises:
        UserError: if a job asks for it.
    """
    if job.training.batch_seconds == "auto" and DEVICE_TYPE != "cuda":
        raise UserError(
            "training.batch_seconds: found auto, but only a GPU's memory is measured: use a number of seconds"
        )


def settle(trainer: Any) -> float:
    """Return the seconds of audio of a micro-batch, after a search if the checkpoint, or the lack of one, does not say it.

    Args:
        trainer: an `lt25.training.trainer.Trainer` before its first step; its loader holds so much from now on.

    Raises:
        UserError: if not even the longest utterance fits.
    """
    loader: StepBatches = trainer.dataloader
    if not loader.share.batch_steps:
        lengths: Any = loader.source.lengths
        unit, longest = length_unit(lengths), len(loader.longest()["input"])
        memory = memory_of(trainer)
        count = most_that_fit(memory, loader.share.local_batch_size)
        if count < 1:
            raise UserError(
                f"training.batch_seconds: auto: the longest utterance, {longest * HOP_SECONDS:.1f} s, does not fit into the "
                f"memory: lower prepare.max_seconds, or set activation_checkpoint.mode"
            )
        loader.hold(count * -(-longest // unit) * unit)
        if dist.get_rank() == 0:
            name, seconds = trainer.job_config.lt25.experiment, loader.share.batch_steps * HOP_SECONDS
            print(f"{name}: training.batch_seconds: {seconds:.1f} s of audio fit into the memory", flush=True)
    return loader.share.batch_steps * HOP_SECONDS


def most_that_fit(memory: Callable[[int], float], most: int) -> int:
    """Return how many utterances fit into memory, from 0 to ``most``.

    Args:
        memory: tells what so many need, as a part of what there is, infinity if it failed: as much more for each further one. It
            is asked for no number that is not expected to fit, but for 1.
        most: not more.
    """
    fewer, before, count = 0, memory(0), 1
    while True:
        needed = memory(count)
        if math.isinf(needed):
            return fewer
        each = max((needed - before) / (count - fewer), 1e-9)
        fitting = count + math.floor((1 - needed) / each)
        if count == most or 2 * count > fitting:
            return min(max(fitting, 0), most)
        fewer, before, count = count, needed, min(2 * count, most)


def memory_of(trainer: Any) -> Callable[[int], float]:
    """Return what tells which part of a GPU's memory a step with so many of the longest utterances needs, on any rank the most.

    What the optimizer will keep of each weight is counted, and a step that is recorded twice: its recording keeps its memory
    while a step of another shape, which is not recorded yet, has some of its own.
    """
    loader: StepBatches = trainer.dataloader
    longest, weights = loader.longest(), [weight for part in trainer.model_parts for weight in part.parameters()]
    mean = 4 if trainer.job_config.optimizer.ema_decay else 0
    local = (weight.to_local() if hasattr(weight, "to_local") else weight for weight in weights)
    held = torch.cuda.memory_allocated()
    later = sum(weight.numel() * (2 * weight.element_size() + mean) for weight in local if weight.requires_grad)
    room = ROOM * (torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())
    copies = 2 if isinstance(trainer.update, CUDAGraphWrapper) else 1

    def run(count: int) -> None:
        batch = {name: tensor.to(DEVICE_TYPE) for name, tensor in loader.repeated(longest, count).items()}
        batch = trainer.part(batch, "input") if trainer.part else batch
        trainer.forward_backward([batch] * trainer.gradient_accumulation_steps)

    def memory(count: int) -> float:
        torch.cuda.reset_peak_memory_stats()
        failed = False
        try:
            if count:
                run(count)
        except torch.OutOfMemoryError:
            failed = True
        trainer.optimizers.zero_grad()
        torch.cuda.empty_cache()
        needed = held + later + copies * (torch.cuda.max_memory_allocated() - held)
        part = torch.tensor(math.inf if failed else needed / room, device=DEVICE_TYPE)
        dist.all_reduce(part, op=dist.ReduceOp.MAX)
        torch.cuda.reset_peak_memory_stats()
        return part.item()

    compile_ahead(lambda: run(1))
    return memory
