"""A checkpoint is data: what somebody put into it is not run."""

import os
import pickle
import shutil

import pytest
import torch
import torch.distributed.checkpoint as dcp

from lt25.checkpoints import convert, plain
from lt25.checkpoints.whole import publish
from lt25.errors import UserError
from tests import tiny


class Program:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def checkpoint(tmp_path):
    with plain.one_process():
        dcp.save(
            {"hf.a": torch.arange(3.0), "step": 7, "rates": [0.5]}, checkpoint_id=tmp_path / "step-4", no_dist=True
        )
    return tmp_path / "step-4"


def test_tensors_and_plain_values_are_read(checkpoint):
    states = {"hf.a": torch.zeros(3), "step": 0, "rates": [0.0]}
    plain.load(states, checkpoint, no_dist=True)
    assert states["hf.a"].tolist() == [0, 1, 2]
    assert (states["step"], states["rates"]) == (7, [0.5])
    assert convert.read_weights(checkpoint)["a"].tolist() == [0, 1, 2]


def test_a_program_in_the_metadata_is_not_run(checkpoint, tmp_path):
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Program(tmp_path / "ran")))
    with pytest.raises(UserError, match="step-4: holds more than tensors and plain values"):
        convert.read_weights(checkpoint)
    assert not (tmp_path / "ran").exists()


def test_a_program_in_a_value_is_not_run(tmp_path):
    with plain.one_process():
        dcp.save({"step": Program(tmp_path / "ran")}, checkpoint_id=tmp_path / "step-4", no_dist=True)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="step-4: holds more than tensors and plain values"):
        plain.load({"step": 0}, tmp_path / "step-4", no_dist=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_in_the_place_of_a_value_is_not_run_and_nothing_is_warned_of(checkpoint, tmp_path, protocol):
    program = pickle.dumps(Program(tmp_path / "ran"), protocol)
    metadata = plain.PlainReader(checkpoint).read_metadata()
    stored = next(stored for index, stored in metadata.storage_data.items() if index.fqn == "step")
    stored.offset, stored.length = 0, len(program)
    (checkpoint / stored.relative_path).write_bytes(program)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match="step-4: holds more than tensors and plain values"):
        plain.load({"step": 0}, checkpoint, no_dist=True)
    assert not (tmp_path / "ran").exists()


def test_a_file_elsewhere_is_not_read(checkpoint):
    metadata = plain.PlainReader(checkpoint).read_metadata()
    for stored in metadata.storage_data.values():
        stored.relative_path = f"../{checkpoint.name}/{stored.relative_path}"
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UserError, match="holds more than"):
        plain.read_metadata(checkpoint)


@pytest.mark.parametrize("damage", ["gone", "empty", "short", "other"])
def test_a_file_that_is_listed_as_it_is_and_cannot_be_read_is_one_line(checkpoint, damage):
    (file,) = checkpoint.glob("*.distcp")
    content = file.read_bytes()
    file.unlink()
    if damage != "gone":
        file.write_bytes({"empty": b"", "short": content[:100], "other": b"x" * len(content)}[damage])
    with pytest.raises(UserError, match=r"step-4: .*: move it away, and go on from another checkpoint") as caught:
        plain.load({"hf.a": torch.zeros(3), "step": 0, "rates": [0.0]}, checkpoint, no_dist=True)
    assert "\n" not in str(caught.value)


def test_the_trainer_runs_no_program_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    experiment = tiny.tiny(tmp_path, "classification", training={"steps": 2}, checkpoint={"interval": 1})
    assert tiny.train(experiment).returncode == 0
    checkpoints = (experiment.results_dir / "checkpoints").resolve()
    run = plain_run(checkpoints)
    (checkpoints.parent / "train.json").unlink()
    newest = shutil.move(checkpoints / "step-2", checkpoints / "partial-2")
    (newest / ".metadata").write_bytes(pickle.dumps(Program(tmp_path / "ran")))
    publish(newest, checkpoints / "step-2", run)
    done = tiny.train(experiment)
    assert done.returncode == 2, done.stderr
    assert "step-2: holds more than tensors and plain values" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "ran").exists()


def plain_run(checkpoints):
    from lt25.checkpoints.whole import manifest

    return manifest(checkpoints / "step-2")["run"]


def test_a_checkpoint_without_the_place_in_the_data_is_refused_in_one_line(tmp_path):
    with plain.one_process():
        dcp.save({"model": torch.zeros(2), "dataloader": {"steps": 3}}, checkpoint_id=tmp_path / "step-3", no_dist=True)
    states = {"model": torch.ones(2), "dataloader": {"steps": 0, "source": {"step": 0}}}
    with pytest.raises(UserError, match=r"step-3: holds no dataloader.source.step: go on from another checkpoint"):
        plain.load(states, tmp_path / "step-3", no_dist=True)
