"""The Containerfile and the Kubernetes Job, as far as they can be compared with the project: neither is built or run here."""

import re
import tomllib
from pathlib import Path

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


def test_volumes_mounts_and_command_of_the_job_fit_each_other():
    claim, job = yaml.safe_load_all((REPOSITORY / "workflow" / "kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    assert volumes["project"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    # Where the image expects the project.
    assert container["workingDir"] in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert f"WORKDIR {container['workingDir']}\n" in CONTAINERFILE
    assert any(Requirement(one).name == container["command"][0] for one in PROJECT["dependencies"])
    assert (pod["restartPolicy"], job["spec"]["backoffLimit"] > 0) == ("OnFailure", True)
