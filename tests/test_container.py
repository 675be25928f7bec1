"""The Containerfile, the Kubernetes Job and the profiles of clusters, as far as they can be compared with the project."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

REPOSITORY = Path(__file__).parents[1]
CONTAINERFILE = (REPOSITORY / "Containerfile").read_text()
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_what_the_image_copies_is_there_and_enough_to_install():
    copied = [name for line in re.findall(r"^COPY (.*)$", CONTAINERFILE, re.MULTILINE) for name in line.split()[:-1]]
    assert all((REPOSITORY / name).exists() for name in copied)
    assert {"constraints.txt", "pyproject.toml", PROJECT["readme"], "lt25"} <= set(copied)


def test_python_and_the_installer_are_those_of_make_setup():
    (python,) = re.findall(r"^FROM docker.io/library/python:([\d.]+)-", CONTAINERFILE, re.MULTILINE)
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    setup = (REPOSITORY / "workflow" / "scripts" / "setup.sh").read_text()
    assert re.findall(r"uv==[\d.]+", CONTAINERFILE) == re.findall(r"uv==[\d.]+", setup)
    assert "--constraint constraints.txt" in CONTAINERFILE


def test_every_dependency_is_pinned():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = {Requirement(line).name.lower(): line for line in lines if line and not line.startswith("#")}
    for dependency in map(Requirement, PROJECT["dependencies"]):
        assert "==" in pinned[dependency.name.lower()], dependency
    assert not any("://" in line for line in lines)


@pytest.mark.parametrize("name", ["slurm", "kubernetes"])
def test_a_profile_names_rules_that_there_are_and_gives_gpus_to_all_that_compute(name):
    profile = yaml.safe_load((REPOSITORY / "workflow" / "profiles" / name / "config.yaml").read_text())
    rules = {
        rule
        for file in (REPOSITORY / "workflow" / "rules").glob("*.smk")
        for rule in re.findall(r"^(?:use rule \w+ as|rule|checkpoint) (\w+)", file.read_text(), re.MULTILINE)
    }
    computing = {rule for rule in rules if rule.startswith(("train_", "evaluate_"))}
    assert computing == {rule for rule, asked in profile["set-resources"].items() if asked["gpu"]}
    assert {"train_model", "train_rung"} == profile["set-threads"].keys()


def test_volumes_mounts_and_command_of_the_job_fit_each_other_and_the_profile():
    manifests = yaml.safe_load_all((REPOSITORY / "workflow" / "kubernetes.yaml").read_text())
    claim, account, role, binding, job = manifests
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    assert volumes["project"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    # Where the image expects the project.
    assert container["workingDir"] in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert f"WORKDIR {container['workingDir']}\n" in CONTAINERFILE
    assert any(Requirement(one).name == container["command"][0] for one in PROJECT["dependencies"])
    profile = yaml.safe_load((REPOSITORY / container["command"][2] / "config.yaml").read_text())
    assert profile["container-image"] == container["image"]
    assert profile["kubernetes-persistent-volumes"] == [f"{claim['metadata']['name']}:{container['workingDir']}"]
    assert profile["precommand"] == f"cd {container['workingDir']}"
    assert pod["serviceAccountName"] == account["metadata"]["name"] == binding["subjects"][0]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"][0]["namespace"] == profile["kubernetes-namespace"]
    assert (pod["restartPolicy"], job["spec"]["backoffLimit"] > 0) == ("OnFailure", True)
