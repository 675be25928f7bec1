"""Work that threads share, and whose results come in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Done = TypeVar("Done")


def in_order(work: Callable[[Job], Done], jobs: Iterable[Job], threads: int, ahead: int) -> Iterator[Done]:
    """Yield what each job gives, in their order, while threads are at work on those that follow.

    Args:
        work: what is done to a job.
        jobs: taken as they are needed.
        threads: how many work at once.
        ahead: how many jobs, at the most, are begun or done before they are asked for.
    """
    with ThreadPoolExecutor(threads) as pool:
        under_way: deque[Future[Done]] = deque()
        try:
            for job in jobs:
                under_way.append(pool.submit(work, job))
                if len(under_way) > ahead:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
