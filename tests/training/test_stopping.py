"""Stopping in mid-run: a signal or a time limit leaves a whole checkpoint, and the same command goes on from there."""

import json
import os
import signal
import time

import pytest

from lt25.checkpoints.whole import damage, kept_steps
from tests import tiny


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    return tmp_path


def stop_at(experiment, step, number, processes=1):
    """Send a signal to the first rank once a step is logged; return the exit statuses and what was printed."""
    ranks = tiny.start(experiment, processes=processes)
    history = experiment.results_dir / "checkpoints" / ".." / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (history.is_file() and len(history.read_text().splitlines()) >= step):
        assert all(rank.is_alive() for rank in ranks)
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(ranks[0].pid, number)
    for rank in ranks:
        rank.join(timeout=120)
    printed = (experiment.root / f"{experiment.name}-0.stderr").read_text()
    return [rank.exitcode for rank in ranks], printed


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 124)])
def test_a_signal_saves_a_checkpoint_and_the_resumed_run_arrives_at_the_same_weights(root, number, status):
    sections = {"training": {"steps": 400}, "checkpoint": {"interval": 1000}}
    stopped = tiny.tiny(root, "classification", "stopped", **sections)
    statuses, printed = stop_at(stopped, 5, number)
    assert statuses == [status], printed
    (step,) = kept_steps(stopped.results_dir / "checkpoints")
    assert 5 <= step < 400
    assert f"at step {step}: checkpoint saved; the same command goes on from there" in printed
    assert printed.count("\n") == 1
    assert damage(stopped.results_dir / "checkpoints" / f"step-{step}") is None
    assert not (stopped.results_dir / "train.json").exists()
    assert tiny.history(stopped)[-1]["step"] == step
    if number == signal.SIGTERM:
        undisturbed = tiny.tiny(root, "classification", "undisturbed", **sections)
        assert tiny.train(undisturbed).returncode == tiny.train(stopped).returncode == 0
        assert tiny.same_weights(tiny.weights(stopped, 400), tiny.weights(undisturbed, 400))
        assert json.loads((stopped.results_dir / "train.json").read_text())["steps"] == 400


def test_a_signal_to_one_rank_stops_all_after_the_same_step(root):
    experiment = tiny.tiny(
        root,
        "classification",
        training={"steps": 2000, "local_batch_size": 2, "global_batch_size": 4},
        checkpoint={"interval": 5000},
    )
    statuses, printed = stop_at(experiment, 3, signal.SIGTERM, processes=2)
    assert statuses == [143, 143], printed
    (step,) = kept_steps(experiment.results_dir / "checkpoints")
    assert f"stopped at step {step}: checkpoint saved" in printed
    assert damage(experiment.results_dir / "checkpoints" / f"step-{step}") is None


def test_a_time_limit_ends_the_training_and_is_no_value_overridden_by_hand(root):
    experiment = tiny.tiny(root, "classification", training={"steps": 100_000}, checkpoint={"interval": 100_000})
    done = tiny.train(experiment, "--lt25.time_limit", "3")
    assert done.returncode == 124, done.stderr
    assert "stopped by the time limit at step" in done.stderr
    assert kept_steps(experiment.results_dir / "checkpoints")
    assert "by hand" not in done.stdout
