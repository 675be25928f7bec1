"""What a run directory goes through: strays, copies, changes and second trainers; no answer of these needs torch's start."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from lt25 import cli, files
from lt25.checkpoints.export import export
from lt25.checkpoints.whole import damage, discard, kept_steps, publish
from lt25.errors import UserError
from lt25.experiment import load_experiment
from lt25.launch import Launch
from lt25.training import run as runs
from lt25.training.ahead import settle
from lt25.training.job import read_job
from tests import tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project with an experiment that has arrived, with checkpoints of steps 4, 8 and 12."""
    root = tiny.make_project(tmp_path_factory.mktemp("trained"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        experiment = tiny.tiny(root, "classification")
        done = tiny.train(experiment)
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def experiment(trained, tmp_path, monkeypatch):
    """A copy of it."""
    root = shutil.copytree(trained, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(root)
    return load_experiment("tiny")


@pytest.fixture
def run(experiment):
    job = read_job(Path("results/tiny/job.toml"))
    return runs.open_run(job, job, 1)


def test_the_job_file_means_the_same_run_before_torch_as_in_the_trainer(run):
    assert run.marker.is_file()
    assert files.load_record(run.record)["identity"] == run.identity


def test_a_job_that_has_arrived_is_said_before_torch_is_imported(experiment, run, monkeypatch, capsys):
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("a trainer was started"))
    before = (experiment.results_dir / "train.json").read_bytes()
    (experiment.results_dir / "train.json").unlink()
    (run.directory / "metrics.jsonl").write_text("torn")
    assert cli.main(["train", "tiny"]) == 0
    assert capsys.readouterr().out == "tiny: already at step 12: nothing to train\n"
    assert (experiment.results_dir / "train.json").read_bytes() == before
    assert [record["step"] for record in tiny.history(experiment)] == list(range(1, 13))


def test_nodes_that_have_arrived_wait_for_no_other(experiment, monkeypatch, capsys):
    monkeypatch.setattr("lt25.training.processes.run", lambda *_: pytest.fail("a trainer was started"))
    for name, value in {"NNODE": "2", "NGPU": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    tiny.tiny(experiment.root, "classification", training={"local_batch_size": 2})
    assert cli.main(["train", "tiny"]) == 0
    assert capsys.readouterr().out == "tiny: already at step 12: nothing to train\n"


def test_a_second_trainer_is_refused_at_once_and_waits_if_asked_to(run, monkeypatch, capsys):
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("a trainer was started"))
    files.write_json(run.directory / "lock.json", {"pid": 123, "host": "elsewhere"})
    with FileLock(run.directory / "lock") as other:
        assert cli.main(["train", "tiny"]) == 2
        error = capsys.readouterr().err
        assert "another trainer is writing here (process 123 on elsewhere): stop it, or wait" in error
        assert error.count("\n") == 1
        monkeypatch.setattr("lt25.training.ahead.say", lambda line: (print(line), other.release()))
        assert cli.main(["train", "tiny", "--wait"]) == 0
    out = capsys.readouterr().out
    assert "waiting until it ends" in out
    assert "already at step 12" in out


def test_a_step_that_is_not_kept_is_refused_before_torch_is_imported(experiment):
    tiny.tiny(experiment.root, "classification", checkpoint={"load_step": 5})
    with pytest.raises(UserError, match=r"checkpoint.load_step: no checkpoint of step 5: there are 4, 8, 12"):
        settle(Path("results/tiny/job.toml"), Launch(1), fresh=False, wait=False)


def test_a_changed_job_file_or_model_is_one_line(experiment):
    for file in (experiment.results_dir / "job.toml", experiment.results_dir / "model" / "config.json"):
        whole = file.read_bytes()
        for content in (whole.replace(b"12", b"13"), whole.replace(b"32", b"16"), whole[:50], b"\xff", b""):
            if content == whole:
                continue
            file.write_bytes(content)
            with pytest.raises(UserError, match="run `lt25 configure tiny`"):
                read_job(Path("results/tiny/job.toml"))
        file.write_bytes(whole)
    assert read_job(Path("results/tiny/job.toml"))["training"]["steps"] == 12


def choose(run, step=-1):
    import lt25.training.torchtitan  # noqa: F401
    from lt25.training.checkpoint import _choose

    return _choose(run, step)


def test_what_is_no_checkpoint_of_the_run_is_not_taken_for_one(run, tmp_path):
    (run.checkpoints / ".DS_Store").touch()
    (run.checkpoints / "step-60").touch()
    shutil.copytree(run.checkpoints / "step-12", run.checkpoints / "step-60.bak")
    assert kept_steps(run.checkpoints) == [4, 8, 12]
    assert choose(run) == 12

    # Another seed's, whole as it is; the run's own under another step's name; one whose list has another form.
    other = shutil.copytree(run.checkpoints / "step-12", tmp_path / "partial-16")
    publish(other, run.checkpoints / "step-16", {**run.facts, "identity": {**run.identity, "debug": {"seed": 1}}})
    shutil.copytree(run.checkpoints / "step-12", run.checkpoints / "step-20")
    for step, content in ((24, "[]"), (28, '{"__0_0.distcp": {"size": 1}}'), (32, "")):
        shutil.copytree(run.checkpoints / "step-12", run.checkpoints / f"step-{step}")
        (run.checkpoints / f"step-{step}" / "manifest.json").write_text(content)
    assert damage(run.checkpoints / "step-16") is None
    assert damage(run.checkpoints / "step-16", run.facts) == "it is of another run"
    assert damage(run.checkpoints / "step-20", run.facts) == "it is the checkpoint of step 12"
    assert choose(run) == 12
    assert len(list(run.directory.glob("damaged-step-*"))) == 5
    assert kept_steps(run.checkpoints) == [4, 8, 12]


def test_nothing_that_is_set_aside_is_lost(run):
    for _ in range(3):
        shutil.copytree(run.checkpoints / "step-12", run.checkpoints / "step-16")
        assert discard(run.checkpoints / "step-16").is_dir()
    names = sorted(path.name for path in run.directory.glob("damaged-*"))
    assert names == ["damaged-step-16", "damaged-step-16-2", "damaged-step-16-3"]


def test_the_advice_after_a_damaged_checkpoint_heals_it(experiment, run, monkeypatch):
    (run.checkpoints / "step-8" / ".metadata").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"step-8: .metadata has 4 bytes instead of .*: run `lt25 train tiny`"):
        export(experiment, [8])
    assert (run.directory / "damaged-step-8").is_dir()
    # Snakemake trains again, and it is made anew from the checkpoint before; others that are gone were removed on purpose.
    assert not (experiment.results_dir / "train.json").exists()
    assert runs.arrived(run) is None
    assert choose(run) == 4
    (run.directory / "damaged-step-8").rename(run.checkpoints / "step-8")
    shutil.rmtree(run.checkpoints / "step-8")
    assert runs.arrived(run) is not None


def test_a_damaged_best_checkpoint_is_made_anew(run):
    record = {**files.load_record(run.marker), "best": {"step": 8, "metric": "loss", "value": 1.0}}
    runs.finish(run, record, is_wanted=True)
    assert runs.arrived(run) is not None
    (run.checkpoints / "step-8" / ".metadata").write_bytes(b"torn")
    assert runs.arrived(run) is None
    assert choose(run) == 4


def test_another_number_of_threads_or_another_machine_is_said(run):
    machine = files.load_record(run.record)["machine"]
    threads = machine["threads"]
    assert machine["processes"] == 1
    assert runs.enter(run, machine) == []
    (line,) = runs.enter(run, {**machine, "threads": threads + 1})
    assert line.startswith(f"threads {threads + 1}, but it began with {threads}: ")
    assert files.load_record(run.record)["machine"] == machine
    shutil.rmtree(run.checkpoints)
    assert runs.enter(run, {**machine, "threads": threads + 1}) == []
    assert files.load_record(run.record)["machine"]["threads"] == threads + 1


def test_a_damaged_record_of_a_continued_run_is_read_from_its_checkpoint(run, experiment):
    longer = tiny.tiny(experiment.root, "classification", training={"steps": 16})
    job = read_job(longer.results_dir / "job.toml")
    (run.directory / "run.json").write_text("torn")
    continued = runs.open_run(job, job, 1)
    assert continued.path == [{"from": 0, "steps": 12}, {"from": 12, "steps": 16}]
    runs.enter(continued, {})
    assert damage(continued.checkpoints / "step-12", continued.facts) is None


def test_retraining_moves_the_former_run_aside(experiment, run, monkeypatch):
    started = []

    def become(path, command, environment):
        started.append(command)
        sys.exit()  # Another program would go on from here.

    monkeypatch.setattr(os, "execve", become)
    with pytest.raises(SystemExit):
        cli.main(["train", "tiny", "--fresh"])
    assert started[0][-1] == "--lt25.fresh"
    before = tiny.weights(experiment, 12)
    former = run.directory.with_name(f"{run.directory.name}-former-1")
    shard = next(experiment.processed_dir.glob("train-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    done = tiny.train(experiment, "--lt25.fresh")
    assert done.returncode == 2 and shard.name in done.stderr
    assert run.directory.is_dir() and not former.exists()
    # The record of damaged data is set aside, so it is prepared anew.
    tiny.prepare(experiment)
    done = tiny.train(experiment, "--lt25.fresh")
    assert done.returncode == 0, done.stderr
    assert "training from the start; the former run is" in done.stdout
    assert kept_steps(former / "checkpoints") == [4, 8, 12]
    assert tiny.same_weights(tiny.weights(experiment, 12), before)


CHANGED_MEANWHILE = """
from pathlib import Path
from lt25.experiment import load_experiment
from lt25.launch import Launch
from lt25.training.job import write_job
from lt25.training.trainer import Trainer
train = Trainer.train
def changed(self):
    status = train(self)
    file = Path("config/experiments/tiny.yaml")
    file.write_text(file.read_text().replace("lr: 0.01", "lr: 0.005"))
    write_job(load_experiment("tiny"))
    return status
Trainer.train = changed
"""


def test_a_trainer_that_outlives_its_job_leaves_the_marker_alone(experiment, run):
    (experiment.results_dir / "train.json").unlink()
    run.marker.unlink()
    done = tiny.train(experiment, before=CHANGED_MEANWHILE)
    assert done.returncode == 0, done.stderr
    assert run.marker.is_file()
    assert not (experiment.results_dir / "train.json").exists()


def test_strays_beside_no_checkpoint_do_not_stop_a_start(experiment, run):
    for step in (4, 8, 12):
        shutil.rmtree(run.checkpoints / f"step-{step}")
    (run.checkpoints / ".DS_Store").touch()
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert kept_steps(run.checkpoints) == [4, 8, 12]


def test_two_processes_arrive_once_and_say_so_the_second_time(experiment):
    experiment = tiny.tiny(
        experiment.root, "classification", "two", training={"steps": 4, "global_batch_size": 4, "local_batch_size": 2}
    )
    marker = experiment.results_dir / "train.json"
    assert tiny.train(experiment, processes=2).returncode == 0
    again = tiny.train(experiment, processes=2)
    assert again.returncode == 0, again.stderr
    assert "already at step 4: nothing to train" in again.stdout
    # As if both processes had been killed before the record was written.
    loss = json.loads(marker.read_text())["loss"]
    for file in (marker, *(experiment.results_dir / "runs").glob("*/*.json*")):
        file.unlink()
    again = tiny.train(experiment, processes=2)
    assert again.returncode == 0, again.stderr
    assert json.loads(marker.read_text())["loss"] == loss
