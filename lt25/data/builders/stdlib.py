"""The source of the running Python's standard library, file by file.

Left out: tests, installed packages, and the ``_sysconfigdata`` and ``config-*`` files, which are written when Python is
built and name the machine that built it.
"""

import platform
import shutil
import sysconfig
from pathlib import Path

_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__", "lib-dynload"}


def build(folder: Path, options: dict) -> str:
    """Copy the source into ``folder``. Returns the revision: implementation and version of Python."""
    library = Path(sysconfig.get_path("stdlib"))
    for source in sorted(library.rglob("*.py")):
        path = source.relative_to(library)
        if _SKIPPED_FOLDERS.intersection(path.parts[:-1]) or path.parts[0].startswith(("_sysconfigdata", "config-")):
            continue
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return f"{platform.python_implementation()} {platform.python_version()}"
