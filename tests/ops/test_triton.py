"""The CUDA kernels where there is no CUDA."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("way", ["interpreted", "compiled"])
def test_kernels(way):
    """In a process of its own: once Triton interprets kernels, it does not compile them in the same process."""
    tests = Path(__file__).with_name(f"{way}.py")
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(tests))
    result = subprocess.run(command, cwd=tests.parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
