"""Stopping in mid-run: a signal or a time limit leaves a whole checkpoint, and the same command goes on from there."""

import json
import signal

import pytest

from lt25.checkpoints.whole import damage, kept_steps
from tests import tiny

# The first rank gets the signal while it takes its fifth step.
SIGNALLED = """
import os
from lt25.training.trainer import Trainer
take = Trainer.train_step
def train_step(self, batches):
    take(self, batches)
    if self.step == 5 and os.environ["RANK"] == "0":
        os.kill(os.getpid(), {})
Trainer.train_step = train_step
"""

# Both ranks get the signal when nothing is left to train: the second at once, the first when it has recorded its arrival.
SIGNALLED_AT_THE_END = """
import os, signal
from lt25.training import __main__ as training
close, finish = training.Trainer.close, training.runs.finish
def signalled(then, rank):
    def call(*arguments):
        then(*arguments)
        if os.environ["RANK"] == rank:
            os.kill(os.getpid(), signal.SIGUSR1)
    return call
training.stop_at_once()
training.Trainer.close, training.runs.finish = signalled(close, "1"), signalled(finish, "0")
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 124)])
def test_a_signal_saves_a_checkpoint_and_the_resumed_run_arrives_at_the_same_weights(root, number, status):
    stopped = tiny.tiny(root, "classification", "stopped")
    done = tiny.train(stopped, before=SIGNALLED.format(int(number)))
    assert done.returncode == status, done.stderr
    checkpoints = stopped.results_dir / "checkpoints"
    assert kept_steps(checkpoints) == [4, 5]
    assert damage(checkpoints / "step-5") is None
    assert "at step 5: checkpoint saved; the same command goes on from there" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (stopped.results_dir / "train.json").exists()
    assert tiny.history(stopped)[-1]["step"] == 5
    if number == signal.SIGTERM:
        undisturbed = tiny.tiny(root, "classification", "undisturbed")
        assert tiny.train(undisturbed).returncode == tiny.train(stopped).returncode == 0
        assert tiny.same_weights(tiny.weights(stopped, 12), tiny.weights(undisturbed, 12))
        assert json.loads((stopped.results_dir / "train.json").read_text())["steps"] == 12


def test_a_signal_to_one_rank_stops_all_after_the_same_step(root):
    sizes = {"training": {"local_batch_size": 2, "global_batch_size": 4}}
    experiment = tiny.tiny(root, "classification", **sizes)
    done = tiny.train(experiment, processes=2, before=SIGNALLED.format(int(signal.SIGTERM)))
    assert done.returncode == 143, done.stderr
    # The ranks hear of it while they take the next step.
    assert kept_steps(experiment.results_dir / "checkpoints") == [4, 6]
    assert "stopped at step 6: checkpoint saved" in done.stderr


def test_a_signal_to_a_training_that_has_arrived_comes_too_late(root):
    sizes = {"training": {"steps": 2, "local_batch_size": 2, "global_batch_size": 4}}
    experiment = tiny.tiny(root, "classification", **sizes)
    done = tiny.train(experiment, processes=2, before=SIGNALLED_AT_THE_END)
    assert (done.returncode, done.stderr) == (0, "")
    assert (experiment.results_dir / "train.json").exists()


def test_a_time_limit_that_is_shorter_than_the_start_lets_a_step_be_taken(root):
    experiment = tiny.tiny(root, "classification", training={"steps": 2})
    for step in (1, 2):
        done = tiny.train(experiment, "--lt25.time_limit", "0.001")
        assert kept_steps(experiment.results_dir / "checkpoints")[-1] == step, done.stderr
    assert done.returncode == 0


def test_a_time_limit_ends_the_training_and_is_no_value_overridden_by_hand(root):
    experiment = tiny.tiny(root, "classification", training={"steps": 100_000}, checkpoint={"interval": 100_000})
    done = tiny.train(experiment, "--lt25.time_limit", "1")
    assert done.returncode == 124, done.stderr
    assert "stopped by the time limit at step" in done.stderr
    assert "by hand" not in done.stdout
