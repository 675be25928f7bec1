"""Snakemake's executor for Kubernetes with the profile for it, at an API that runs a job's command as a process."""

import importlib.util
import json
import sys
import threading
import time

import pytest

from tests.cluster.kubernetes_api import Cluster, cluster
from tests.workflow import chain

needs_plugin = pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_kubernetes") is None,
    reason="needs `pip install snakemake-executor-plugin-kubernetes`",
)


def rule(job: dict) -> str:
    """The rule that a job's pod is told to run."""
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container["args"][1].split("--target-jobs ")[1].split(":")[0].strip("'")


@needs_plugin
@pytest.mark.slow
def test_jobs_are_pods_that_see_the_project_and_a_training_that_is_killed_goes_on(tmp_path):
    """Slow because each pod imports everything: a minute or two."""
    root, folder = tmp_path / "project", tmp_path / "cluster"
    root.mkdir()
    folder.mkdir()
    chain.project(root)
    chain.write_experiment(root, "digits", "classification", training={"steps": 200}, checkpoint={"interval": 20})

    def lose_a_node(kubernetes: Cluster) -> None:
        while not (root / "results/digits/checkpoints/step-20").is_dir():
            time.sleep(0.05)
        kubernetes.kill(next(name for name, job in kubernetes.jobs.items() if rule(job) == "train_model"))

    with cluster(folder) as kubernetes:
        threading.Thread(target=lose_a_node, args=[kubernetes], daemon=True).start()
        done = chain.run(
            root,
            *(sys.executable, "-m", "snakemake", "--profile", "workflow/profiles/kubernetes", "--latency-wait", "1"),
            *("--kubernetes-persistent-volumes", f"lt25-project:{root}", "--precommand", f"cd {root}"),
            *("--", "results/digits/evaluation/metrics.json"),
            KUBECONFIG=str(kubernetes.config),
        )
        jobs = list(kubernetes.jobs.values())
        logs = [(folder / name).read_text() for name in kubernetes.jobs]
    assert done.returncode == 0, "\n".join([done.stdout, *logs])
    ran = [rule(job) for job in jobs]
    assert ran == ["download_dataset", "prepare_data", *["train_model"] * 2, "export_model", "evaluate_model"]
    assert json.loads((root / "results/digits/train.json").read_text())["steps"] == 200
    assert "step 1/200" not in logs[3], logs[3]
    for name, job in zip(ran, jobs, strict=True):
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == "registry.example.org/lt25"
        assert {"name": "lt25-project", "mountPath": str(root)} in container["volumeMounts"]
        assert {"name": "lt25-project", "persistentVolumeClaim": {"claimName": "lt25-project"}} in pod["volumes"]
        for kind in ("requests", "limits"):
            gpus = container["resources"][kind].get("nvidia.com/gpu")
            assert gpus == ("1" if name in ("train_model", "evaluate_model") else None)
