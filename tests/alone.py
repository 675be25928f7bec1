"""Tests that need a process of their own."""

import subprocess
import sys
from pathlib import Path


def run_alone(tests: Path) -> None:
    """Run a file of tests in a process of its own: once Triton interprets kernels, it does not compile them in the same one."""
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(tests))
    result = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
