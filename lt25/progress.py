"""Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_SECONDS_BETWEEN_LINES = 10


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yield ``items`` while showing on standard error how many have gone by, of ``total`` if that is known."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track as rich_track

        yield from rich_track(items, what, total=total, console=Console(stderr=True), transient=True)
        return
    of = f" of {total}" if total else ""
    count, shown = 0, time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - shown > _SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            say(f"{what}: {count}{of}")
    say(f"{what}: {count} done")


def say(message: str) -> None:
    """Print one line on standard error, at once."""
    print(message, file=sys.stderr, flush=True)
