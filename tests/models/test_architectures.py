"""The README's table of architectures: each ability of each family, on a CPU."""

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from lt25.models.families import ABILITIES, FAMILIES

# Each of the others takes half a minute to several, most of it in the interpreter; lt25_hgrn is tested everywhere.
QUICK = ("llama",)
# How models are initialised is tested in test_initialise.py, which needs no interpreter.
TESTED = [ability for ability in ABILITIES if ability != "meta init"]
CELLS = [
    pytest.param(name, ability, marks=() if name in QUICK else pytest.mark.slow)
    for name in FAMILIES
    for ability in TESTED
]


@cache
def outcomes(name: str) -> dict[str, str]:
    """Test a family in a process of its own: once Triton interprets kernels, it does not compile them in the same process.

    Returns:
        For each ability what went wrong, nothing if nothing did.
    """
    tests = Path(__file__).with_name("interpreted.py")
    asked = {ability: f"test_{ability.replace(' ', '_')}[{name}]" for ability in TESTED}
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        options = ("-q", "-p", "no:cacheprovider", f"--junitxml={report.name}")
        command = [sys.executable, "-m", "pytest", *options, *(f"{tests}::{test}" for test in asked.values())]
        done = subprocess.run(command, cwd=tests.parents[2], capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        cases = {case.attrib["name"]: case for case in ElementTree.parse(report.name).iter("testcase")}
    return {ability: "\n".join(part.text or "" for part in cases[test]) for ability, test in asked.items()}


@pytest.mark.parametrize(("name", "ability"), CELLS)
def test_a_family_has_an_ability_or_lacks_it_for_a_reason(name, ability):
    """Of one that it lacks, what is done in its place is tested."""
    went_wrong = outcomes(name)[ability]
    assert not went_wrong, went_wrong


@pytest.mark.parametrize(("experiments", "count"), [("fineweb-edu-*", 13), ("tinyshakespeare-*", 4)])
def test_experiments_of_the_architectures_differ_in_the_model_only(experiments, count):
    folder = Path(__file__).parents[2] / "config" / "experiments"
    files = [yaml.safe_load(path.read_text()) for path in sorted(folder.glob(f"{experiments}.yaml"))]
    models = [file.pop("model") for file in files]
    assert len(models) == count and all(list(model) == ["base"] for model in models)
    assert len({model["base"] for model in models}) == count
    assert all(file == files[0] for file in files)


def test_only_boundaries_of_texts_may_be_lacking():
    """What is done where another ability is lacking has no test."""
    assert all(set(family.lacks) <= {"varlen"} for family in FAMILIES.values())
