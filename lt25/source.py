"""Which state of the project's code a result is of."""

import subprocess
from pathlib import Path
from typing import Any


def revision(root: Path) -> dict[str, Any] | None:
    """Return the commit that a git repository is at, and whether files differ from it; None outside of one, or without git.

    Returns:
        ``{"commit": 40 hex digits, "dirty": bool}``. What git ignores is of no account.
    """
    try:
        commit, status = (
            subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.strip(), "dirty": bool(status.strip())}
