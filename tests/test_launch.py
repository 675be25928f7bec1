"""What a job is started on, and one line for each setting that makes no sense."""

import os
import stat
import subprocess
import sys

import pytest

from lt25 import cli, launch
from lt25.errors import UserError
from lt25.launch import Launch, gpus, plan, visible_gpus, waiting
from tests import tiny

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
SHARD, REPLICATE, TENSOR = "data_parallel_shard_degree", "data_parallel_replicate_degree", "tensor_parallel_degree"
TWO_NODES = {"NNODE": "2", "MASTER_ADDR": "there"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch(1)),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, Launch(1)),
        ({"CUDA_VISIBLE_DEVICES": "0"}, Launch(1, device="cuda")),
        ({"CUDA_VISIBLE_DEVICES": "0,3"}, Launch(2, device="cuda")),
        ({"CUDA_VISIBLE_DEVICES": "0,3", "NGPU": "1"}, Launch(1, device="cuda")),
        ({"NGPU": "4"}, Launch(4)),
        ({"NGPU": "", "NNODE": ""}, Launch(1)),
        ({"MASTER_ADDR": "there"}, Launch(1, address=("there", 29500))),
        (TWO_NODES, Launch(1, 2, address=("there", 29500))),
        ({**TWO_NODES, "MASTER_PORT": "123", "NODE_RANK": "1"}, Launch(1, 2, "cpu", 1, ("there", 123))),
    ],
)
def test_the_environment_decides_on_what_a_job_is_started(environment, expected):
    assert plan({}, {**NO_GPU, **environment}) == expected


@pytest.mark.parametrize(
    ("parallelism", "environment", "processes"),
    [
        ({SHARD: 2}, {}, 2),
        ({SHARD: 1}, {"CUDA_VISIBLE_DEVICES": "0,1"}, 1),
        ({SHARD: 2, REPLICATE: 2}, {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, 4),
        ({SHARD: 4}, TWO_NODES, 2),
        ({REPLICATE: 2}, {}, 2),
        ({TENSOR: 2}, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 4),
        ({SHARD: -1}, {"CUDA_VISIBLE_DEVICES": "0,1,2"}, 3),
    ],
)
def test_degrees_of_parallelism_decide_where_the_environment_does_not(parallelism, environment, processes):
    assert plan(parallelism, {**NO_GPU, **environment}).processes == processes


@pytest.mark.parametrize(
    ("parallelism", "environment", "message"),
    [
        ({}, {"NGPU": "abc"}, "NGPU: found 'abc', expected a whole number of at least 1"),
        ({}, {"NGPU": "0"}, "NGPU: found '0', expected a whole number of at least 1"),
        ({}, {"NGPU": "-1"}, "NGPU: found '-1'"),
        ({}, {"NGPU": "1.5"}, "NGPU: found '1.5'"),
        ({}, {"NNODE": "two"}, "NNODE: found 'two', expected a whole number of at least 1"),
        ({}, {"NNODE": "2"}, "MASTER_ADDR: missing, but NNODE is 2"),
        (
            {},
            {**TWO_NODES, "MASTER_PORT": "70000"},
            "MASTER_PORT: found '70000', expected a whole number from 1 to 65535",
        ),
        ({}, {"MASTER_PORT": "http"}, "MASTER_PORT: found 'http'"),
        ({}, {**TWO_NODES, "NODE_RANK": "2"}, "NODE_RANK: found '2', expected a whole number from 0 to 1"),
        ({}, {"NGPU": "9999"}, "NGPU: asks for 9999 processes on the "),
        ({}, {"CUDA_VISIBLE_DEVICES": "abc"}, "CUDA_VISIBLE_DEVICES: found 'abc', expected numbers of GPUs, each once"),
        ({}, {"CUDA_VISIBLE_DEVICES": "0,0"}, "CUDA_VISIBLE_DEVICES: found '0,0', expected numbers of GPUs, each once"),
        ({}, {"CUDA_VISIBLE_DEVICES": "0,1", "NGPU": "3"}, "NGPU: asks for 3 GPUs on this node, but 2 are visible"),
        ({SHARD: 4}, {"CUDA_VISIBLE_DEVICES": "0,1"}, "parallelism: asks for 4 GPUs on this node, but 2 are visible"),
        ({SHARD: 2}, {"NGPU": "3"}, f"parallelism: {SHARD} 2 takes 2 processes, and there are 3: set NGPU"),
        ({SHARD: 1}, {"NGPU": "2"}, "parallelism: no parallelism takes 1 processes, and there are 2"),
        (
            {TENSOR: 2, REPLICATE: 2},
            {"NGPU": "6"},
            f"{REPLICATE} 2, {TENSOR} 2 takes a multiple of 4 processes, and there are 6",
        ),
        ({SHARD: 3}, TWO_NODES, f"parallelism: {SHARD} 3 takes 3 processes, and there are 2"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(parallelism, environment, message):
    with pytest.raises(UserError) as error:
        plan(parallelism, {**NO_GPU, **environment})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_processes_share_the_cores():
    assert Launch(1).environment({}) == {}
    assert int(Launch(1, device="cuda").environment({})["OMP_NUM_THREADS"]) <= launch.GPU_THREADS
    assert Launch(2).environment({"OMP_NUM_THREADS": "3"}) == {}
    assert Launch(10_000).environment({}) == {"OMP_NUM_THREADS": "1"}


def test_nodes_say_what_they_wait_for():
    assert Launch(2).meeting() is None
    two = Launch(1, 2, address=("localhost", 123)).meeting()
    assert two == "waiting at localhost:123 for the other node to start the same command, at most 10 minutes"
    with pytest.raises(
        UserError, match=r"MASTER_ADDR: found no.such.host.invalid, which is no host that is known here"
    ):
        Launch(1, 3, address=("no.such.host.invalid", 123)).meeting()


def test_a_number_of_threads_must_be_one():
    assert waiting({"OMP_NUM_THREADS": "4,2", "GOMP_SPINCOUNT": "7"}) == {}
    for name in launch.THREADS:
        with pytest.raises(UserError, match=f"^{name}: found 'abc', expected a whole number of at least 1$"):
            waiting({name: "abc"})


def test_a_policy_of_waiting_is_set_unless_there_is_one():
    assert waiting({}) == launch.WAITING
    assert waiting({"OMP_WAIT_POLICY": "active"}) == {}
    assert waiting({"GOMP_SPINCOUNT": "7"}) == {}


@pytest.mark.parametrize(
    ("parallelism", "environment", "number"),
    [
        ({}, NO_GPU, 1),
        ({}, {"CUDA_VISIBLE_DEVICES": "0,1"}, 2),
        ({}, {**NO_GPU, "NGPU": "3"}, 3),
        ({SHARD: 8}, NO_GPU, 8),
        ({SHARD: 1}, {"CUDA_VISIBLE_DEVICES": "0,1"}, 1),
        ({TENSOR: 4}, NO_GPU, 4),
    ],
)
def test_a_rule_reserves_the_gpus_of_its_experiment(parallelism, environment, number):
    assert gpus(parallelism, environment) == number


def test_gpus_are_counted_by_nvidia_smi(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: One (UUID: GPU-1)'\necho 'GPU 1: Two (UUID: GPU-2)'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    launch._installed_gpus.cache_clear()
    assert visible_gpus({}) == 2
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}) == 1
    with pytest.raises(UserError, match="found '0,2', but there is no GPU 2: this machine has 0 to 1"):
        visible_gpus({"CUDA_VISIBLE_DEVICES": "0,2"})
    tool.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    launch._installed_gpus.cache_clear()
    assert visible_gpus({}) == 0
    launch._installed_gpus.cache_clear()


def test_lt25_train_says_it_before_it_writes_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    tiny.write_experiment(tmp_path, "classification")
    monkeypatch.setenv("NGPU", "abc")
    assert cli.main(["train", "tiny"]) == 2
    assert capsys.readouterr().err == "lt25: error: NGPU: found 'abc', expected a whole number of at least 1\n"
    assert not (tmp_path / "results").exists()


def test_the_environment_is_looked_at_before_anything_is_read_or_imported():
    script = """
import os, sys
sys.argv = ["lt25"]
from lt25.cli import main
for wrong in ({"NGPU": "0"}, {"NNODE": "abc"}, {"NNODE": "2"}, {"MASTER_PORT": "http"}, {"NODE_RANK": "5"}):
    os.environ.update(wrong)
    assert main(["train", "nosuch"]) == 2
    for name in wrong:
        del os.environ[name]
print({"jsonschema", "numpy", "lt25.experiment"} & set(sys.modules))"""
    environment = {name: value for name, value in os.environ.items() if name not in ("MASTER_ADDR", "SLURM_JOB_ID")}
    shown = subprocess.run([sys.executable, "-c", script], env=environment | NO_GPU, capture_output=True, text=True)
    assert shown.stdout == "set()\n", shown.stderr
    named = [line.split(": ")[2] for line in shown.stderr.splitlines()]
    assert named == ["NGPU", "NNODE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"]


def test_it_imports_no_torch():
    # The second is what a process sees that `python -m lt25.cli` has started.
    for program in ("lt25", tiny.REPOSITORY / "lt25" / "cli.py"):
        script = f"import sys; sys.argv = ['{program}']; import lt25.launch; print('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
