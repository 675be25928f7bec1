"""A sweep that stops its worse settings early, under Snakemake: planned, killed, run to its end, and run again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny
from tests.workflow import chain

PAGE = "results/rates/report.html"


def project(root: Path) -> Path:
    """Make a project with a sweep of four settings and rungs at steps 2 and 4 of 6."""
    chain.project(root)
    chain.write_experiment(
        root,
        "rates",
        "classification",
        optimizer={"lr": [1e-6, 1e-3, 1e-2, 3e-2]},
        validation={"freq": 2},
        halving={"rungs": [2, 4], "eta": 2},
    )
    return root


def test_the_first_rung_is_planned_and_on_a_cluster_run_by_run(tmp_path):
    root = project(tmp_path)
    # A page of before the section `halving` was written.
    (root / PAGE).parent.mkdir(parents=True)
    (root / PAGE).write_text("all runs")
    planned = chain.snakemake(root, "--dry-run", PAGE).stdout
    assert (root / f"{PAGE}.outdated").read_text() == "all runs" and not (root / PAGE).exists()
    counts = dict(re.findall(r"^(\w+) +(\d+)$", planned, re.MULTILINE))
    assert counts["write_sweep"] == "1", planned
    assert (counts["train_rung"], counts["choose_runs"], "train_model" in counts) == ("4", "2", False), planned
    target = "train_rung:experiment=rates@optimizer.lr=0.01,step=2"
    planned = chain.snakemake(root, "--dry-run", "--target-jobs", target).stdout
    assert {*re.findall(r"^train_rung +(\d+)$", planned, re.MULTILINE)} == {"1"}, planned


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_killed_sweep_goes_on_and_ends_with_the_best_and_again_there_is_nothing_to_do(tmp_path):
    """Slow because seven trainings are started, each by a command of its own: two minutes."""
    root = project(tmp_path)
    started = subprocess.Popen(
        [Path(sys.executable).parent / "snakemake", PAGE],
        cwd=root,
        env=tiny.environment(PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while started.poll() is None and len([*root.glob("results/rates@*/rungs/step-2.json")]) < 2:
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert not (root / "results/rates/rungs/step-2.json").exists(), "it was killed too late"

    done = chain.snakemake(root, PAGE)
    assert done.returncode == 0, done.stdout
    runs = {step: json.loads((root / f"results/rates/rungs/step-{step}.json").read_text())["go_on"] for step in (2, 4)}
    assert len(runs[2]) == 2 and len(runs[4]) == 1 and runs[4][0] in runs[2]
    losses = {
        path.parents[1].name: json.loads(path.read_text())["validation"]["loss"]
        for path in root.glob("results/rates@*/rungs/step-2.json")
    }
    assert sorted(losses, key=losses.__getitem__)[:2] == sorted(runs[2], key=losses.__getitem__)
    assert [path.parent.name for path in root.glob("results/rates@*/train.json")] == runs[4]
    page = (root / PAGE).read_text()
    assert (page.count("stopped at step 2"), page.count("stopped at step 4")) == (2, 1)
    assert chain.NOTHING in chain.snakemake(root, "--dry-run", PAGE).stdout
    # As a cluster's job is told its target, which sees what is there.
    (root / PAGE).unlink()
    planned = chain.snakemake(root, "--dry-run", "--target-jobs", "write_sweep:sweep=rates").stdout
    assert "comparing the runs of rates" in planned and "train_" not in planned, planned
