"""A few faults in a chain of each task; `make faults` tries two hundred."""

import json
import subprocess

import pytest

from tests.faults import chains, rig
from tests.workflow import chain


@pytest.mark.parametrize("experiment", chains.EXPERIMENTS)
def test_damage_to_what_stages_hand_on_is_healed_or_said_with_advice_that_heals(experiment, tmp_path):
    pristine = tmp_path / "pristine"
    pristine.mkdir()
    chains.build(pristine, experiment)
    for number, fault in enumerate(rig.faults(pristine, experiment, 5, seed=0)):
        result, why = rig.suffer(pristine, tmp_path / f"work-{number}", fault)
        assert result != "FAILED", f"{fault}: {why}"


def test_snakemake_says_what_is_damaged_and_makes_it_anew_when_it_is_run_again(tmp_path):
    root = chain.project(tmp_path)
    target = "results/digits/evaluation/metrics.json"

    def run() -> subprocess.CompletedProcess:
        return chain.snakemake(root, target)

    assert run().returncode == 0
    before = json.loads((root / target).read_text())
    (root / target).unlink()
    (shard,) = root.glob("data/processed/digits/*/test-*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)

    refused = run()
    assert refused.returncode != 0
    assert f"{shard.name} has changed since it was written: run `lt25 prepare digits`" in refused.stdout
    assert "Traceback" not in refused.stdout
    again = run()
    assert again.returncode == 0, again.stdout
    assert json.loads((root / target).read_text())["splits"] == before["splits"]
