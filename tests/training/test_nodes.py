"""Two nodes, each with a network of its own, as network namespaces of one machine, train as one process does."""

import os
import shutil
import subprocess
import sys

import pytest

from tests import tiny

ADDRESSES = ("10.199.87.1", "10.199.87.2")


@pytest.fixture
def nodes():
    """The names of two namespaces that a cable joins."""
    names = [f"lt25-{os.getpid()}-{number}" for number in (0, 1)]
    ip = shutil.which("ip")
    if (
        os.geteuid() != 0
        or ip is None
        or subprocess.run([ip, "netns", "add", names[0]], capture_output=True).returncode
    ):
        pytest.skip("needs root, the right to make network namespaces, and iproute2's ip")
    try:
        said = [f"netns add {names[1]}", f"link add node netns {names[0]} type veth peer name node netns {names[1]}"]
        for name, address in zip(names, ADDRESSES, strict=True):
            said += [
                f"-n {name} addr add {address}/24 dev node",
                *(f"-n {name} link set {one} up" for one in ("node", "lo")),
            ]
        for line in said:
            subprocess.run([ip, *line.split()], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run([ip, "netns", "del", name], capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("numbered", [False, True], ids=["nodes agree on their numbers", "nodes have numbers"])
def test_two_nodes_train_as_one_process(tmp_path, monkeypatch, nodes, numbered):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    training = {"steps": 4, "local_batch_size": 4, "global_batch_size": 4}
    model = {**tiny.MODEL, "dropout": 0.0}
    one = tiny.tiny(tmp_path, "language_modeling", "one", model=model, training=training)
    assert tiny.train(one).returncode == 0
    two = tiny.tiny(
        tmp_path,
        "language_modeling",
        "two",
        model=model,
        training=training,
        parallelism={"tensor_parallel_degree": 2},
    )
    # gloo listens where the host's name leads to, unless it is told.
    where = {"NNODE": "2", "NGPU": "1", "MASTER_ADDR": ADDRESSES[0], "GLOO_SOCKET_IFNAME": "node"}
    command = [sys.executable, "-m", "lt25.cli", "train", "two"]
    started = []
    for number, name in enumerate(nodes):
        settings = tiny.environment(**where, **({"NODE_RANK": str(number)} if numbered else {}))
        inside = ["ip", "netns", "exec", name, *command]
        started.append(
            subprocess.Popen(inside, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    assert tiny.wait_for_all(started), [process.communicate()[0] for process in started]
    said = started[1].communicate()[0]
    assert f"two: waiting at {ADDRESSES[0]}:29500 for the other node" in said
    losses, expected = ([record["loss"] for record in tiny.history(each)] for each in (two, one))
    assert len(losses) == 4 and losses == pytest.approx(expected, abs=1e-4)
