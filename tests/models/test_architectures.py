"""Every language model through lt25, on a CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from lt25.models.families import FAMILIES

# The interpreter takes one to several minutes for each of the others.
QUICK = ("gla", "transformer")
NAMES = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name, family in FAMILIES.items()
    if family.source == "flash-linear-attention"
]


@pytest.mark.parametrize("name", NAMES)
def test_trains_resumes_exports_reloads_and_generates(name):
    """In a process of its own: once Triton interprets kernels, it does not compile them in the same process."""
    tests = Path(__file__).with_name("interpreted.py")
    test = f"{tests}::test_it_trains_resumes_and_is_exported[{name}]"
    command = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test)
    result = subprocess.run(command, cwd=tests.parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
