"""Snakemake and DVC run the same again after each of a dozen kinds of change; docs/dvc.md has the table."""

import pytest

from tests.faults.chains import copy
from tests.workflow import reruns


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return reruns.build(tmp_path_factory.mktemp("reruns") / "built")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("change", reruns.CHANGES)
def test_dvc_runs_again_what_snakemake_does(built, tmp_path, change):
    """Slow because every change is built by DVC: four minutes in all."""
    root = copy(built, tmp_path / "changed")
    reruns.CHANGES[change](root)
    planned, ran, _ = reruns.reruns(root)
    assert planned == ran
