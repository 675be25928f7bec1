"""The CTC kernels for CUDA where there is no CUDA."""

import subprocess
import sys
from pathlib import Path


def test_kernels_in_tritons_interpreter():
    """In a process of its own: once Triton interprets kernels, it does not compile them in the same process."""
    tests = Path(__file__).with_name("interpreted_ctc.py")
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(tests))
    result = subprocess.run(command, cwd=tests.parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
