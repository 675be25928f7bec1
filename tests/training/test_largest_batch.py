"""How much audio a batch holds: by a number, and as much as fits into a memory that a function stands in for."""

import json
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lt25.data.loader import StepBatches
from lt25.data.order import Reading, Share
from lt25.data.prepared import PreparedSplit
from lt25.errors import UserError
from lt25.training import largest_batch
from lt25.training.ahead import check_devices
from lt25.training.job import read_job, write_job
from lt25.training.largest_batch import most_that_fit, settle
from lt25.training.run import identity_of
from tests import tiny
from tests.data import make


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("base", "each"), [(0.2, 0.013), (0.0, 0.5), (0.1, 0.45), (0.3, 0.71), (0.9, 1.1e-4), (0, 1e-6)]
)
def test_as_many_are_found_as_fit_and_none_is_tried_that_does_not(base, each):
    asked = []

    def memory(count):
        asked.append(count)
        # What a gradient takes is there only once something was computed.
        return base + 0.01 + each * count if count else base

    found, most = most_that_fit(memory, 5000), math.floor((0.99 - base) / each)
    assert found == min(most, 5000)
    assert all(count <= max(most, 1) for count in asked)
    assert len(asked) < 16


def test_what_does_not_fit_once_is_none():
    assert most_that_fit(lambda count: math.inf if count else 0.5, 8) == 0


def memory(each):
    """Let a CPU have a memory, of which an utterance of the longest length takes a part."""
    return f"""
from lt25.training import largest_batch
largest_batch.DEVICE_TYPE = "cuda"
largest_batch.memory_of = lambda trainer: lambda count: 0.1 + {each} * count
"""


# The longest utterance is 19 frames, 24 when rounded up.
AUTO = {"training": {"batch_seconds": "auto", "local_batch_size": 8}, "validation": {"freq": 6}}


def test_what_was_found_is_recorded_and_a_resumed_run_on_other_ranks_takes_the_same(root):
    undisturbed = tiny.tiny(root, "speech_recognition", "undisturbed", **AUTO, model={**tiny.MODEL, "dropout": 0.0})
    done = tiny.train(undisturbed, before=memory(0.2))
    assert done.returncode == 0, done.stderr
    assert "training.batch_seconds: 1.0 s of audio fit into the memory" in done.stdout
    assert json.loads((undisturbed.results_dir / "train.json").read_text())["batch_seconds"] == pytest.approx(0.96)

    AUTO["training"]["global_batch_size"] = 8
    stopped = tiny.tiny(root, "speech_recognition", "stopped", **AUTO, model={**tiny.MODEL, "dropout": 0.0})
    checkpoint = stopped.results_dir / "checkpoints" / "step-8"
    assert tiny.train(stopped, before=memory(0.2) + KILLED_AT_9).returncode == -9
    assert checkpoint.is_dir()
    done = tiny.train(stopped, before=memory(0.01))
    assert done.returncode == 0, done.stderr
    assert "fit into the memory" not in done.stdout
    assert tiny.same_weights(tiny.weights(stopped, 12), tiny.weights(undisturbed, 12))


KILLED_AT_9 = """
import os, signal
from lt25.training.trainer import Trainer
plain = Trainer.train_step
def train_step(self, batches):
    if self.step == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    plain(self, batches)
Trainer.train_step = train_step
"""


def test_what_is_found_holds_the_longest_utterance_at_the_slowest_speed(tmp_path, monkeypatch):
    make.audio_folder(tmp_path / "mine", ["one two"] * 12)
    data = make.dataset("speech_recognition", {"path": str(tmp_path / "mine")}, {"audio": "audio", "text": "text"})
    folder = make.prepared(tmp_path, "speech_recognition", data, n_mels=40, store="audio")
    reading, augment = Reading(Share(64), seed=1, searched=True), {"speed": [0.5, 1], "tempo": [0.5, 0.7, 1, 1.2]}
    loader = StepBatches(PreparedSplit(folder, "train"), "speech_recognition", reading, augment=augment)
    trainer = SimpleNamespace(dataloader=loader, job_config=SimpleNamespace(lt25=SimpleNamespace(experiment="mine")))
    monkeypatch.setattr(largest_batch, "memory_of", lambda trainer: lambda count: 0.1 + 0.2 * count)
    monkeypatch.setattr(largest_batch.dist, "get_rank", lambda: 0)
    lengths: Any = loader.source.lengths
    longest = int(lengths.max())
    assert len(loader.longest()["input"]) == 4 * longest
    assert settle(trainer) == pytest.approx(0.01 * 4 * -(-4 * longest // 8) * 8)


def test_two_ranks_train_on_the_batches_that_one_trains_on_in_turn(root):
    """Rank by rank or one after another: the micro-batches of a step are the same, and so is its loss."""
    losses = []
    for processes in (1, 2):
        sections = {"batch_seconds": 0.5, "local_batch_size": 4, "global_batch_size": 8, "steps": 6}
        experiment = tiny.tiny(
            root,
            "speech_recognition",
            f"on{processes}",
            training=sections,
            model={**tiny.MODEL, "dropout": 0.0},
            parallelism={"data_parallel_replicate_degree": processes},
        )
        done = tiny.train(experiment, processes=processes)
        assert done.returncode == 0, done.stderr
        losses.append([record["loss"] for record in tiny.history(experiment)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_memory_that_cannot_be_measured_or_holds_no_utterance_is_one_line(root, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    experiment = tiny.tiny(root, "speech_recognition", **AUTO)
    with pytest.raises(UserError, match=r"training.batch_seconds: found auto, but there is no GPU here"):
        check_devices(experiment)
    done = tiny.train(experiment)
    assert done.returncode == 2
    assert done.stderr == (
        "lt25: error: training.batch_seconds: found auto, but only a GPU's memory is measured: use a number of seconds\n"
    )
    done = tiny.train(experiment, before=memory(2))
    assert done.returncode == 2
    assert (
        "training.batch_seconds: auto: the longest utterance, 0.2 s, does not fit into the memory: lower" in done.stderr
    )


def test_the_most_utterances_and_the_seconds_decide_where_a_run_arrives(root):
    def identity(**training):
        experiment = tiny.tiny(root, "speech_recognition", training={"global_batch_size": 16, **training})
        return identity_of(read_job(experiment.job_file), 1)

    assert identity(local_batch_size=4) == identity(local_batch_size=8)
    by_length = identity(local_batch_size=4, batch_seconds=20)
    assert by_length == identity(local_batch_size=4, batch_seconds=20.0)
    assert by_length != identity(local_batch_size=8, batch_seconds=20)
    assert by_length != identity(local_batch_size=4, batch_seconds=30)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graphs", [False, True], ids=["plain", "recorded"])
def test_what_is_found_on_a_gpu_fits_and_fills_it(root, graphs):
    model = {**tiny.MODEL, "hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1024}
    training = {"batch_seconds": "auto", "local_batch_size": 600, "cuda_graphs": graphs}
    experiment = tiny.write_experiment(root, "speech_recognition", model=model, training=training)
    tiny.prepare(experiment, examples=600, between=(2990, 3000))
    write_job(experiment)
    command = [sys.executable, "-m", "lt25.training", "--job.config_file", str(experiment.job_file)]
    environment = tiny.environment(CUDA_VISIBLE_DEVICES="0")
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    record = json.loads((experiment.results_dir / "train.json").read_text())
    whole = torch.cuda.mem_get_info()[1] / 2**30
    print(record["batch_seconds"], record["memory_gib"], whole)
    assert 30 < record["batch_seconds"] < 600 * 30
    assert (0.3 if graphs else 0.6) * whole < record["memory_gib"] < 0.97 * whole
