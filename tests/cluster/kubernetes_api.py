"""As much of a Kubernetes as Snakemake's executor talks to: a pod is a process of this machine, in a folder of its own."""

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests import tiny


class Cluster:
    """Runs each Job's command once.

    Attributes:
        jobs: what was asked for, by name.
        pods: their processes, by the same names.
        config: a file for `KUBECONFIG`.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.jobs, self.pods = folder, {}, {}
        self.config = folder / "config.yaml"
        named = {
            "cluster": {"server": f"http://127.0.0.1:{port}"},
            "context": {"cluster": "one", "user": "one"},
            "user": {},
        }
        lists = {f"{kind}s": [{"name": "one", kind: value}] for kind, value in named.items()}
        self.config.write_text(yaml.safe_dump({"current-context": "one", **lists}))

    def start(self, job: dict[str, Any]) -> None:
        """Start the pod of a job."""
        name, (container,) = job["metadata"]["name"], job["spec"]["template"]["spec"]["containers"]
        with (self.folder / name).open("w") as log:
            pod = subprocess.Popen(
                [*container["command"], *container["args"]],
                cwd=tempfile.mkdtemp(dir=self.folder),
                env=tiny.environment(PATH=os.environ["PATH"]),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.jobs[name], self.pods[name] = job, pod

    def kill(self, name: str) -> None:
        """End a pod as where its node dies."""
        os.killpg(self.pods[name].pid, signal.SIGKILL)

    def answer(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return the HTTP status and the answer to a request."""
        if method == "POST" and path.endswith("/jobs"):
            self.start(body)
            return 201, body
        if job := re.search(r"/jobs/([\w-]+)/status$", path):
            code = self.pods[job[1]].poll()
            return 200, {"status": {"active": 1} if code is None else {"failed" if code else "succeeded": 1}}
        if job := re.search(r"/pods\?labelSelector=job-name%3D([\w-]+)$", path):
            code = self.pods[job[1]].poll()
            state = {"running": {}} if code is None else {"terminated": {"exitCode": abs(code)}}
            container = {
                "name": "snakemake",
                "image": "",
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "state": state,
            }
            pod = {"metadata": {"name": f"{job[1]}-pod"}, "status": {"containerStatuses": [container]}}
            return 200, {"items": [pod]}
        if job := re.search(r"/pods/([\w-]+)-pod/log\?(.*)", path):
            # No container has been started again.
            return (400, {}) if "previous" in job[2] else (200, (self.folder / job[1]).read_text())
        return (201 if method == "POST" else 200), body


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Serve the API as long as this is entered; ends what runs then."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
            status, said = served.answer(self.command, self.path, body)
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Cluster(folder, server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield served
    finally:
        server.shutdown()
        for name, pod in served.pods.items():
            if pod.poll() is None:
                served.kill(name)
