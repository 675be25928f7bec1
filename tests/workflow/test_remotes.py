"""`lt25 push` and `lt25 pull` through a server that speaks S3, on this machine."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.error import URLError

import pytest
import yaml

from tests.workflow import chain

LACKING = [name for name in ("moto", "flask", "dvc_s3", "boto3") if importlib.util.find_spec(name) is None]
KEYS = {
    "AWS_ACCESS_KEY_ID": "planted-key",
    "AWS_SECRET_ACCESS_KEY": "planted-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def endpoint(monkeypatch):
    """The address of an S3 server with an empty bucket, `lt25`, whose keys are in the environment."""
    import boto3

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port],
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.time() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/moto-api/", timeout=5)
                break
            except URLError:
                assert time.time() < deadline and server.poll() is None, "the server does not answer"
                time.sleep(0.5)
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="lt25")
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(bool(LACKING), reason=f"{', '.join(LACKING)} missing: pip install dvc-s3 'moto[server]'")
def test_a_server_of_s3_holds_what_was_pushed_and_nobodys_keys(tmp_path, endpoint):
    """Slow because it builds a chain: a minute and a half."""
    packages = os.pathsep.join(filter(None, sys.path))
    root = tmp_path / "built"
    root.mkdir()
    chain.project(root)
    (root / "config" / "config.yaml").write_text(yaml.safe_dump({"experiments": ["digits"]}))
    chain.repository(root)
    for command in (
        ("dvc", "remote", "add", "--default", "store", "s3://lt25/results"),
        ("dvc", "remote", "modify", "store", "endpointurl", endpoint),
        ("snakemake",),
    ):
        done = chain.run(root, *command, PYTHONPATH=packages)
        assert done.returncode == 0, done.stdout
    clone = chain.hand_on(root, tmp_path / "clone", PYTHONPATH=packages)
    for folder in (root, clone):
        for file in (path for path in folder.rglob("*") if path.is_file()):
            assert not any(secret.encode() in file.read_bytes() for secret in list(KEYS.values())[:2]), file
