"""A folder that is there whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lt25.errors import UserError


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target``; when the block succeeds it takes the place of ``target``, else it goes.

    Raises:
        UserError: if the disk is full.
    """
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
