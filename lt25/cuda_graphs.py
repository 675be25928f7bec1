"""CUDA graphs: what a function does on the GPU, recorded once for each combination of shapes and then replayed.

A recorded step costs the host one launch in place of hundreds, which is most of the time of a small model's step.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lt25.errors import UserError
from lt25.memory import no_collection

Batch = dict[str, Tensor]
Function = Callable[[list[Batch]], tuple[Tensor, ...]]

# Recordings share their memory, but each keeps inputs of its own and a second of recording.
MOST = 64


class CUDAGraphWrapper:
    """A function of batches on the GPU that is recorded and replayed.

    The first call with a combination of shapes runs the function, which compiles kernels and makes what is made lazily; the
    second records it; this and all further ones copy their batches to where the recorded work reads them, and replay it.
    Nothing of the function's Python runs in a replay: it must not depend on anything but the batches and tensors that stay
    where they are. Seeds of the default generator are read when a recording is replayed.

    Args:
        function: batches to tensors, which the next call overwrites.
        refusal: what the user is told of a function that cannot be recorded, before the reason.
        most: recordings to keep; further combinations of shapes run as they come.
        warm, record: run a function before it is recorded, and record it: it and its batches to (replay, tensors).
    """

    def __init__(
        self,
        function: Function,
        refusal: str = "this cannot be recorded as a CUDA graph",
        most: int = MOST,
        warm: Callable[[Function, list[Batch]], tuple[Tensor, ...]] | None = None,
        record: Callable[[Function, list[Batch]], tuple[Callable[[], None], tuple[Tensor, ...]]] | None = None,
    ) -> None:
        self.function, self.most = function, most
        self.warm, self.record = warm or _warm, record or _Recorder(refusal)
        self.seen: set[Any] = set()
        self.recorded: dict[Any, tuple[list[Batch], Callable[[], None], tuple[Tensor, ...]]] = {}

    def __call__(self, batches: list[Batch]) -> tuple[Tensor, ...]:
        shapes = tuple(tuple((name, tensor.shape, tensor.dtype) for name, tensor in batch.items()) for batch in batches)
        if shapes not in self.recorded:
            if len(self.recorded) == self.most:
                return self.function(batches)
            if shapes not in self.seen:
                self.seen.add(shapes)
                return self.warm(self.function, batches)
            own = [{name: tensor.clone() for name, tensor in batch.items()} for batch in batches]
            self.recorded[shapes] = (own, *self.record(self.function, own))
        own, replay, results = self.recorded[shapes]
        for kept, batch in zip(own, batches, strict=True):
            _copy(kept, batch)
        replay()
        return results

    def close(self) -> None:
        """Forget the recordings: processes part from each other only when no recording is left that talks to the others."""
        self.recorded.clear()


def _copy(kept: Batch, batch: Batch) -> None:
    """Write a batch into tensors of the same names, by one kernel for each type: mixed ones would be copied singly."""
    for dtype in {each.dtype for each in batch.values()}:
        names = [name for name, each in batch.items() if each.dtype == dtype]
        torch._foreach_copy_([kept[name] for name in names], [batch[name] for name in names])


def _warm(function: Function, batches: list[Batch]) -> tuple[Tensor, ...]:
    """Run a function on a stream other than the default one, as what is to be recorded must have been."""
    here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        results = function(batches)
    here.wait_stream(aside)
    return results


class _Recorder:
    """Records into graphs that share one pool of memory: they never run at the same time."""

    def __init__(self, refusal: str) -> None:
        self.refusal, self.pool = refusal, torch.cuda.graph_pool_handle()

    def __call__(self, function: Function, batches: list[Batch]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads go on meanwhile: batches are copied to the device, and NCCL is watched over. To free an older graph
            # would end the recording.
            with no_collection(), torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                results = function(batches)
        except RuntimeError as error:
            raise UserError(f"{self.refusal}: {str(error).splitlines()[0]}") from error
        return graph.replay, results
