"""Batches on their way to the device, while the device computes."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import Full, Queue
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = dict[str, Tensor]
Read = TypeVar("Read")
Placed = TypeVar("Placed")

# Batches that are ready on the device, and batches whose work is queued there.
AHEAD = 2


def prefetch(batches: Iterator[Read], place: Callable[[Read], Placed], depth: int = AHEAD) -> Iterator[Placed]:
    """Read and place batches in a thread, up to ``depth`` before they are asked for.

    Raises:
        Exception: whatever reading or placing a batch raised, in its place.
    """
    queue: Queue[tuple[Any, BaseException | None]] = Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[Any, BaseException | None]) -> None:
        while not stopped.is_set():
            try:
                return queue.put(item, timeout=0.1)
            except Full:
                continue

    def read() -> None:
        try:
            for batch in batches:
                put((place(batch), None))
                if stopped.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    reader = threading.Thread(target=read, name="batches", daemon=True)
    reader.start()
    try:
        while True:
            placed, error = queue.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield placed
    finally:
        stopped.set()
        reader.join()


def to_cuda(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Bring batches to a GPU on a stream of their own, from pinned memory, ahead of the work on them.

    The host is held back only when it is more than `AHEAD` batches ahead of the GPU.
    """
    torch.cuda.set_device(device)
    stream, under_way = torch.cuda.Stream(device), deque[Any]()

    def place(batch: Batch) -> tuple[Batch, Any]:
        with torch.cuda.stream(stream):
            placed = {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in batch.items()}
            return placed, stream.record_event()

    for batch, there in prefetch(batches, place):
        current = torch.cuda.current_stream(device)
        current.wait_event(there)
        for tensor in batch.values():
            tensor.record_stream(current)
        yield batch
        under_way.append(current.record_event())
        if len(under_way) > AHEAD:
            under_way.popleft().synchronize()
