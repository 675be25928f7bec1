"""Experiment files: what is filled in, and what each mistake is answered with."""

import json
from pathlib import Path

import pytest
import yaml

from lt25 import experiment as config
from lt25.errors import UserError

REPOSITORY = Path(__file__).parents[1]
GOOD = {
    "task": "classification",
    "dataset": "digits",
    "model": {"model_type": "lt25_hgrn", "hidden_size": 8},
    "training": {"steps": 10, "local_batch_size": 4},
    "optimizer": {"lr": 1e-3},
    "lr_scheduler": {"warmup_steps": 2},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose only experiment is what the test makes of `GOOD`."""
    for name in ("config/datasets", "config/models", "workflow/schemas"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(REPOSITORY / name)
    (tmp_path / "config" / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(project, change=None, text=None):
    experiment = json.loads(json.dumps(GOOD))
    for key, value in (change or {}).items():
        *path, last = key.split(".")
        place = experiment
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    (project / "config" / "experiments" / "tiny.yaml").write_text(text or yaml.safe_dump(experiment))


def test_defaults_are_filled_in_and_overridden_key_by_key(project):
    write(project, {"checkpoint.interval": 5})
    experiment = config.load_experiment("tiny")
    assert experiment.job["checkpoint"] == {
        "enable": True,
        "folder": "checkpoints",
        "last_save_model_only": False,
        "interval": 5,
    }
    assert experiment.job["training"] == GOOD["training"]
    assert experiment.results_dir == project / "results" / "tiny"
    assert experiment.kept_steps == [5, 10]


def test_a_learning_rate_in_scientific_notation_is_a_number(project):
    write(project, text=yaml.safe_dump(GOOD).replace("lr: 0.001", "lr: 1e-3"))
    assert config.load_experiment("tiny").job["optimizer"]["lr"] == 1e-3


def test_kept_steps_follow_interval_last_step_and_keep_latest_k(project):
    write(project, {"checkpoint.interval": 3, "checkpoint.keep_latest_k": 3})
    assert config.load_experiment("tiny").kept_steps == [6, 9, 10]


def test_recipes_differ_exactly_when_the_prepared_data_does(project):
    write(project)
    first = config.load_experiment("tiny").recipe
    write(project, {"optimizer.lr": 2e-3})
    assert config.load_experiment("tiny").recipe == first
    write(project, {"prepare": {"layout": "rows"}})
    assert config.load_experiment("tiny").recipe != first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training.stepz": 3}, "training.stepz: unknown key: did you mean steps? Allowed: "),
        ({"training.steps": "ten"}, 'training.steps: found "ten", expected integer'),
        ({"training.steps": 0}, "training.steps: found 0, expected at least 1"),
        (
            {"training.local_batch_size": 4, "training.global_batch_size": 6},
            "training.global_batch_size: 6 is no multiple",
        ),
        ({"task": "vision"}, 'task: found "vision", allowed: classification, speech_recognition, language_modeling'),
        ({"lr_scheduler.decay_type": "step"}, 'lr_scheduler.decay_type: found "step", allowed: linear, sqrt, cosine'),
        ({"lr_scheduler.warmup_steps": 11}, "lr_scheduler.warmup_steps: 11 is more than training.steps, 10"),
        ({"checkpoint.keep_latest_k": 1}, "checkpoint.keep_latest_k: found 1, which is not allowed"),
        ({"optimizer.lr": 0}, "optimizer.lr: found 0, expected more than 0"),
        ({"model": {"hidden_size": 8}}, "model.model_type: missing"),
        ({"model": {"base": "config/models/none.json"}}, "model.base: no such file: config/models/none.json"),
        ({"dataset": "digit"}, "config/datasets/digit.yaml: no such dataset file: did you mean digits?"),
        ({"extra": 1}, "extra: unknown key"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_key_found_and_allowed(project, change, message):
    write(project, change)
    with pytest.raises(UserError) as caught:
        config.load_experiment("tiny")
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert text.startswith("config/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [", "config/experiments/tiny.yaml:1: not valid YAML"),
        ("- a\n- b", "expected keys and values"),
        ("task: classification\ntask: classification", "the key task stands twice"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(project, text, message):
    write(project, text=text)
    with pytest.raises(UserError, match=message):
        config.load_experiment("tiny")


def test_a_missing_experiment_names_the_close_one(project):
    write(project)
    with pytest.raises(UserError, match="no such experiment file: did you mean tiny"):
        config.load_experiment("tinny")


def test_outside_a_project_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not inside an lt25 project"):
        config.load_experiment("tiny")


def test_the_schema_of_torchtitans_sections_is_in_step_with_torchtitan():
    from lt25.training.schema import build

    written = json.loads((REPOSITORY / "workflow" / "schemas" / "torchtitan.schema.json").read_text())
    assert written == build(), "run `python -m lt25.training.schema`"


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "config" / "experiments").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_experiment_file_is_valid(path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert config.load_experiment(path).name == path.stem
