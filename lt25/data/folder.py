"""A folder that is there whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from lt25.errors import UserError


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target``; when the block succeeds it takes the place of ``target``, else it goes.

    What a killed process left behind goes too.

    Raises:
        UserError: if the disk is full.
    """
    for left in target.parent.glob(f".{target.name}.partial-*"):
        pid = int(left.name.rpartition("-")[2])
        if pid == os.getpid() or not psutil.pid_exists(pid):
            shutil.rmtree(left, ignore_errors=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"{target}: the disk is full: make room there") from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
