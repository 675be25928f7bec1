"""A training on the two nodes of a real Slurm, where its packages are installed; ``make cluster`` runs all of the scenarios."""

import json
import sys

import pytest

from tests import tiny
from tests.cluster import rig, slurm

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(slurm.obstacle()), reason=f"no Slurm can be set up here: {slurm.obstacle()}"),
]


# Enough that the signal comes before the end.
STEPS = 200


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    # The paths of sockets are short.
    with slurm.running(tmp_path_factory.getbasetemp() / "slurm") as running:
        yield running


def test_a_training_on_two_nodes_stops_on_the_signal_is_requeued_and_arrives(cluster, tmp_path, monkeypatch):
    """What a time limit does, with the signal sent by hand: Slurm looks at limits every half a minute."""
    root = tiny.make_project(tmp_path / "project")
    monkeypatch.chdir(root)
    experiment = tiny.tiny(root, "classification", training={"steps": STEPS}, checkpoint={"interval": STEPS})
    environment = tiny.environment(NNODE="2", NGPU="1", PATH=cluster.environment["PATH"])
    script = f"{sys.executable} -m lt25.cli train tiny"
    (root / "job.sh").write_text(f"#!/bin/sh\nexec {script}\n")
    options = ["--parsable", "--requeue", "--nodes=2", "--ntasks=2", f"--output={root}/job.out"]
    number = cluster.call("sbatch", *options, f"--chdir={root}", f"{root}/job.sh", environment=environment).strip()

    def told() -> str:
        return (root / "job.out").read_text() if (root / "job.out").exists() else ""

    folder = experiment.results_dir
    rig.until("a step", lambda: any(file.stat().st_size for file in folder.glob("runs/*/metrics.jsonl")))
    cluster.call("scancel", "--signal=USR1", number)
    rig.until("requeued", lambda: rig.restarts(cluster, number) == 1 or (folder / "train.json").exists())
    assert not (folder / "train.json").exists(), f"it arrived before the signal: {told()}"
    (stopped,) = folder.glob("runs/*/checkpoints/step-*")
    rig.until("the end", lambda: (folder / "train.json").exists())
    marker = json.loads((folder / "train.json").read_text())
    assert (marker["steps"], marker["world_size"]) == (STEPS, 2)
    assert [line["step"] for line in tiny.history(experiment)] == list(range(1, STEPS + 1))
    log = (stopped.parents[1] / "trainer.log").read_text()
    assert f"Training starts at step {int(stopped.name.removeprefix('step-')) + 1}\n" in log, log
    rig.until("an empty queue", lambda: not cluster.call("squeue", "-h", "-t", "running,pending", "-o", "%i").strip())


@pytest.mark.slow
def test_a_colleagues_morning(cluster, tmp_path):
    """Slow because it builds a chain and a part of it again."""
    assert rig.Scenarios(cluster, tmp_path).a_colleagues_morning().startswith("nothing to do at first")
