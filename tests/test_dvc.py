"""`lt25 dvc`: the stages of DVC are those of the experiments in config/config.yaml."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lt25 import dvc
from lt25.errors import UserError
from lt25.experiment import load_config, load_experiment
from lt25.tasks import TASKS
from tests import tiny

REPOSITORY = Path(__file__).parents[1]


def test_the_repositorys_stages_are_in_step_with_its_configuration(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    experiments = [load_experiment(name) for name in load_config()["experiments"]]
    written = dvc.stages(experiments, load_config()["learning_curves"])
    assert (REPOSITORY / "dvc.yaml").read_text() == written, "run `lt25 dvc`"


def test_experiments_of_one_dataset_share_a_stage_and_no_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    experiments = [
        tiny.write_experiment(tmp_path, "classification", "one"),
        tiny.write_experiment(tmp_path, "classification", "v1.5", prepare={"layout": "rows"}),
        tiny.write_experiment(tmp_path, "classification", "child", init_from="one"),
        load_experiment("one", ["optimizer.lr=1e-3"]),
    ]
    stages = yaml.safe_load(dvc.stages(experiments))["stages"]
    assert [name for name in stages if name.startswith("prepare-")] == ["prepare-digits"]
    assert stages["prepare-digits"]["cmd"].endswith(
        "-- results/one/job.toml results/v1.5/job.toml results/child/job.toml results/one@optimizer.lr=0.001/job.toml"
        f"  # as in classification {TASKS['classification'].preparation_version}"
    )
    assert "train-v1-5" in stages and "train-one-optimizer-lr-0-001" in stages
    assert "results/one/hf" in stages["train-child"]["deps"]
    made = [next(iter(out)) for stage in stages.values() for out in stage["outs"]]
    assert len(made) == len(set(made))
    assert not any(one != other and one.startswith(f"{other}/") for one in made for other in made)


def test_a_version_that_prepares_otherwise_changes_the_stage_that_prepares_and_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    task, experiments = TASKS["classification"], [tiny.write_experiment(tmp_path, "classification", "one")]
    before = yaml.safe_load(dvc.stages(experiments))["stages"]
    monkeypatch.setitem(TASKS, "classification", replace(task, preparation_version=task.preparation_version + 1))
    after = yaml.safe_load(dvc.stages(experiments))["stages"]
    assert [name for name in before if after[name] != before[name]] == ["prepare-digits"]


def test_an_experiments_file_reaches_training_by_its_job_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    stages = yaml.safe_load(dvc.stages([tiny.write_experiment(tmp_path, "classification", "one")]))["stages"]
    file = "config/experiments/one.yaml"
    # A setting of the evaluation changes the file and not the job, so that DVC trains nothing.
    assert [name for name in stages if file in stages[name]["deps"]] == ["prepare-digits", "evaluate-one"]
    assert "results/one/job.toml" in stages["train-one"]["deps"]
    # The dataset's file says which examples are held out, so it prepares anew.
    dataset = "config/datasets/digits.yaml"
    assert [name for name in stages if dataset in stages[name]["deps"]] == ["acquire-digits", "prepare-digits"]
    assert {"results/one/job.toml": {"persist": True}} in stages["prepare-digits"]["outs"]


def test_a_remote_that_lacks_what_was_to_be_pulled_is_a_line(tmp_path, monkeypatch):
    """As where the remote is out of reach, which DVC does not tell from a remote without the file."""
    monkeypatch.chdir(tiny.make_project(tmp_path))
    for command in ("git init --quiet", "dvc init --quiet", "dvc remote add --quiet --default store gone"):
        subprocess.run(
            [sys.executable, "-m", *command.split()] if command.startswith("dvc") else command.split(), check=True
        )
    (tmp_path / "data.dvc").write_text("outs:\n- md5: 0123456789abcdef0123456789abcdef\n  hash: md5\n  path: data\n")
    with pytest.raises(UserError) as refused:
        dvc.pull()
    assert str(refused.value) == (
        "dvc pull: failed to pull data from the cloud - Checkout failed for following targets: data: see that DVC's remote is "
        "within reach (`dvc remote list`) and was sent what dvc.lock names (`lt25 push`)"
    )
