"""A training in a batch job of Slurm, with commands in the place of Slurm's; tests/cluster has a real one."""

import os
import stat
import subprocess
import sys

import pytest

from lt25 import cli, slurm
from lt25.errors import UserError
from tests import tiny


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Puts scripts under the names of Slurm's commands first on the path; each notes how it was called."""

    def put(**scripts: str) -> None:
        for name, script in scripts.items():
            file = tmp_path / name
            file.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n{script}\n')
            file.chmod(file.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "END", 0)
    put.calls = lambda: (tmp_path / "calls").read_text().splitlines()
    return put


def test_a_batch_script_is_no_step_and_no_terminal():
    assert slurm.batch_job({}) is None
    assert slurm.batch_job({"SLURM_JOB_ID": "7"}) == "7"
    assert slurm.batch_job({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}) is None


def test_jobs_that_share_a_node_meet_at_ports_of_their_own():
    one, other = (slurm.meeting(job, {}) for job in ("7", "8"))
    assert one["MASTER_ADDR"] == other["MASTER_ADDR"] and one["MASTER_PORT"] != other["MASTER_PORT"]
    assert slurm.meeting("7", {"MASTER_ADDR": "there", "MASTER_PORT": ""}) == {**one, "MASTER_ADDR": "there"}


def test_a_step_runs_the_same_command_once_on_each_node():
    command = slurm.step(2, ["train", "digits", "--wait"])
    assert command[0] == "srun" and {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} <= set(command)
    assert command[-6:] == [sys.executable, "-m", "lt25.cli", "train", "digits", "--wait"]


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (2, False), (124, True), (143, False)])
def test_time_that_is_up_requeues_the_job(commands, status, requeued):
    commands(srun=f"echo $MASTER_PORT > /dev/null; exit {status}", scontrol="")
    assert slurm.run("7", 1, ["train", "digits"]) == status
    assert [call for call in commands.calls() if call.startswith("scontrol")] == ["scontrol requeue 7"] * requeued


def test_a_job_that_is_not_requeued_is_one_line(commands):
    commands(srun="exit 124", scontrol="echo slurm_requeue error: Requested operation is disabled >&2; exit 1")
    with pytest.raises(UserError) as error:
        slurm.run("7", 1, ["train", "digits"])
    assert str(error.value) == (
        "Slurm job 7: its time is up, and it is not requeued (slurm_requeue error: Requested operation is disabled): "
        "the checkpoint is saved, `lt25 train digits` goes on from it"
    )


def test_lt25_train_in_a_batch_script_answers_mistakes_itself_and_starts_a_step(
    tmp_path, commands, monkeypatch, capsys
):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    tiny.tiny(tmp_path, "classification")
    monkeypatch.delenv("SLURM_STEP_ID", raising=False)
    empty = dict.fromkeys(("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "CUDA_VISIBLE_DEVICES"), "")
    for name, value in {**empty, "SLURM_JOB_ID": "7", "NNODE": "2", "NGPU": "abc"}.items():
        monkeypatch.setenv(name, value)
    commands(srun="")
    assert cli.main(["train", "tiny"]) == 2
    assert "NGPU: found 'abc'" in capsys.readouterr().err
    monkeypatch.setenv("NGPU", "1")
    assert cli.main(["train", "tiny", "--optimizer.lr", "0.01"]) == 0
    (call,) = commands.calls()
    assert "--nodes=2" in call and call.endswith("-m lt25.cli train tiny --optimizer.lr 0.01")


def test_a_job_of_snakemake_imports_no_torch(tmp_path):
    # As its executors start one on a node: `python -m snakemake`.
    (tmp_path / "Snakefile").write_text("import sys, lt25\nprint('torch' in sys.modules)\nrule all:\n")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all"],
        cwd=tmp_path,
        env=tiny.environment(),
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[:1] == ["False"], done.stderr
