"""Stopping, going on and starting afresh: what a run directory is for."""

import json
import shutil
import socket

import pytest

from lt25.training.job import write_job
from tests import tiny


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    return tmp_path


COSINE = {"lr_scheduler": {"warmup_steps": 2, "decay_type": "cosine"}}

KILLED_WHILE_SAVING = """
import os, signal
from lt25.training import checkpoint
whole = checkpoint.publish
def publish(partial, final, run):
    if final.name == "step-8":
        next(partial.glob("*.distcp")).write_bytes(b"torn")
        os.kill(os.getpid(), signal.SIGKILL)
    whole(partial, final, run)
checkpoint.publish = publish
"""


@pytest.mark.parametrize("task", ["speech_recognition", "language_modeling"])
def test_a_trainer_killed_at_three_moments_arrives_where_an_undisturbed_one_does(root, task):
    undisturbed = tiny.tiny(root, task, "undisturbed")
    assert tiny.train(undisturbed).returncode == 0

    killed = tiny.tiny(root, task, "killed")
    checkpoints = killed.results_dir / "checkpoints"
    tiny.kill_at(killed, lambda: checkpoints.is_symlink())
    assert not checkpoints.is_dir() or not any(checkpoints.iterdir())
    tiny.kill_at(killed, lambda: (checkpoints / "step-4").is_dir())
    assert tiny.train(killed, before=KILLED_WHILE_SAVING).returncode == -9
    assert (checkpoints / "partial-8").is_dir()

    done = tiny.train(killed)
    assert done.returncode == 0, done.stderr
    assert tiny.same_weights(tiny.weights(killed, 12), tiny.weights(undisturbed, 12))
    assert [record["loss"] for record in tiny.history(killed)] == [
        record["loss"] for record in tiny.history(undisturbed)
    ]
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-12", "step-4", "step-8"]


def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_used(root):
    experiment = tiny.tiny(root, "classification")
    assert tiny.train(experiment).returncode == 0
    before = tiny.weights(experiment, 12)
    newest = experiment.results_dir / "checkpoints" / "step-12"
    data = next(newest.glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)

    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    assert "step-12 is damaged" in done.stderr
    assert "set aside" in done.stderr
    assert (newest.resolve().parents[1] / "damaged-step-12").is_dir()
    assert tiny.same_weights(tiny.weights(experiment, 12), before)


def marker(experiment):
    return json.loads((experiment.results_dir / "train.json").read_text())


def test_a_continued_run_is_not_the_fresh_one_and_leaves_the_shorter_one_unharmed(root):
    short = tiny.tiny(root, "classification", training={"steps": 6}, **COSINE)
    assert tiny.train(short).returncode == 0
    first = marker(short)
    assert first["path"] == [{"from": 0, "steps": 6}]
    kept = {file: file.read_bytes() for file in (short.results_dir / first["run_dir"] / "checkpoints").rglob("*.*")}

    longer = tiny.tiny(root, "classification", training={"steps": 12}, **COSINE)
    done = tiny.train(longer)
    assert done.returncode == 0, done.stderr
    assert "continuing the run of 6 steps from step 6" in done.stdout
    continued, weights = marker(longer), tiny.weights(longer, 12)
    assert continued["path"] == [{"from": 0, "steps": 6}, {"from": 6, "steps": 12}]
    assert [record["step"] for record in tiny.history(longer)] == list(range(1, 13))

    fresh = tiny.tiny(root, "classification", "fresh", training={"steps": 12}, **COSINE)
    assert tiny.train(fresh).returncode == 0
    assert marker(fresh)["fingerprint"] not in (continued["fingerprint"], first["fingerprint"])
    assert not tiny.same_weights(tiny.weights(fresh, 12), weights)

    shorter = tiny.tiny(root, "classification", training={"steps": 6}, **COSINE)
    done = tiny.train(shorter)
    assert done.returncode == 0, done.stderr
    assert "training.steps changed from 12 to 6: going back to" in done.stdout
    assert "already at step 6: nothing to train" in done.stdout
    assert marker(shorter) == first
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert (short.results_dir / "checkpoints").resolve() == short.results_dir / first["run_dir"] / "checkpoints"


def test_anything_that_decides_the_weights_starts_afresh_and_says_so(root):
    first = tiny.tiny(root, "classification", training={"steps": 4})
    assert tiny.train(first).returncode == 0
    run = marker(first)["run_dir"]
    other = tiny.tiny(root, "classification", training={"steps": 4}, optimizer={"lr": 5e-3})
    done = tiny.train(other)
    assert "optimizer.lr changed from 0.01 to 0.005: starting afresh in" in done.stdout
    assert marker(other)["run_dir"] != run
    assert (first.results_dir / run / "checkpoints" / "step-4").is_dir()


KILLED_AT_THE_END = """
import os, signal
from lt25.training import run
run.finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_killed_between_its_last_checkpoint_and_its_record_gets_the_record(root):
    experiment = tiny.tiny(root, "classification", training={"steps": 4})
    assert tiny.train(experiment, before=KILLED_AT_THE_END).returncode == -9
    assert not (experiment.results_dir / "train.json").exists()
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    assert marker(experiment)["steps"] == 4
    assert marker(experiment)["loss"] == tiny.history(experiment)[-1]["loss"]


def test_an_override_by_hand_trains_apart_from_the_experiments_run(root):
    experiment = tiny.tiny(root, "classification")
    done = tiny.train(experiment, "--training.steps", "4")
    assert done.returncode == 0, done.stderr
    assert "overridden by hand: training in results/tiny/runs/" in done.stdout
    assert not (experiment.results_dir / "train.json").exists()
    assert not (experiment.results_dir / "checkpoints").exists()
    runs = list((experiment.results_dir / "runs").iterdir())
    assert [json.loads((run / "train.json").read_text())["steps"] for run in runs] == [4]


def test_a_given_step_is_loaded_and_gone_on_from(root):
    experiment = tiny.tiny(root, "classification")
    assert tiny.train(experiment).returncode == 0
    before = tiny.weights(experiment, 12)
    experiment = tiny.tiny(root, "classification", checkpoint={"load_step": 4})
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    assert tiny.same_weights(tiny.weights(experiment, 12), before)
    missing = tiny.tiny(root, "classification", checkpoint={"load_step": 5})
    done = tiny.train(missing)
    assert done.returncode == 2
    assert "checkpoint.load_step: no checkpoint of step 5: there are 4, 8, 12" in done.stderr


def test_two_trainers_never_write_one_run_directory(root):
    from filelock import FileLock

    experiment = tiny.tiny(root, "classification", training={"steps": 2})
    assert tiny.train(experiment).returncode == 0
    run = (experiment.results_dir / "checkpoints").resolve().parent
    with FileLock(run / "lock"):
        done = tiny.train(experiment)
    assert done.returncode == 2
    assert "another trainer is writing here" in done.stderr
    assert done.stderr.count("\n") == 1


def test_training_starts_from_an_exported_model_even_after_an_early_kill(root):
    from lt25.checkpoints.export import export

    first = tiny.tiny(root, "classification", "first")
    assert tiny.train(first).returncode == 0
    export(first)

    second = tiny.tiny(root, "classification", "second", init_from="first", optimizer={"lr": 1e-12})
    run_before = second.results_dir / "checkpoints"
    tiny.kill_at(second, lambda: run_before.is_symlink())
    (second.results_dir / "checkpoints").resolve().mkdir(parents=True, exist_ok=True)
    done = tiny.train(second)
    assert done.returncode == 0, done.stderr
    for name, tensor in tiny.weights(first, 12).items():
        assert (tiny.weights(second, 12)[name] - tensor).abs().max() < 1e-6, name


def test_a_change_of_the_data_is_another_run(root):
    experiment = tiny.tiny(root, "classification", training={"steps": 2})
    assert tiny.train(experiment).returncode == 0
    shutil.rmtree(experiment.processed_dir)
    tiny.prepare(experiment, seed=1)
    write_job(experiment)
    done = tiny.train(experiment)
    assert "data changed from classification-0 to classification-1: starting afresh" in done.stdout


LOST = """
import os, signal
from lt25.training.trainer import Trainer
plain = Trainer.train_step
def train_step(self, batches):
    if self.step == 6 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    plain(self, batches)
Trainer.train_step = train_step
"""


def test_a_rank_that_loses_another_says_so_in_a_line_and_the_same_command_arrives(root):
    experiment = tiny.tiny(root, "classification", training={"local_batch_size": 2, "global_batch_size": 4})
    left = tiny.train(experiment, processes=2, before=LOST)
    assert left.returncode == -9 and "Traceback" not in left.stderr, left.stderr
    assert left.stderr.startswith("lt25: process 0 has lost its connection to another one ("), left.stderr
    assert tiny.train(experiment, processes=2).returncode == 0
    assert [record["step"] for record in tiny.history(experiment)] == list(range(1, 13))


def test_a_port_that_is_in_use_is_one_line(root):
    experiment = tiny.tiny(root, "classification")
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        done = tiny.train(experiment, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), **place)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert f"lt25: process 0 has not met the others at 127.0.0.1:{port} (" in done.stderr


FULL_DISK = """
import errno
from lt25.training import checkpoint
whole = checkpoint.publish
def publish(partial, final, run):
    if final.name == "step-8":
        raise OSError(errno.ENOSPC, "No space left on device")
    whole(partial, final, run)
checkpoint.publish = publish
"""


@pytest.mark.parametrize("mode", ["disabled", "async"])
def test_a_checkpoint_that_finds_no_room_ends_the_training_in_a_line_and_it_goes_on_from_the_one_before(root, mode):
    experiment = tiny.tiny(root, "classification", checkpoint={"interval": 4, "async_mode": mode})
    stopped = tiny.train(experiment, before=FULL_DISK)
    assert stopped.returncode == 2, stopped.stderr
    assert stopped.stderr.endswith(
        "the disk is full: make room there; the same command goes on from the last checkpoint\n"
    )
    assert "Traceback" not in stopped.stderr
    assert [path.name for path in experiment.results_dir.glob("checkpoints/step-*")] == ["step-4"]
    assert tiny.train(experiment).returncode == 0
    assert [record["step"] for record in tiny.history(experiment)] == list(range(1, 13))
