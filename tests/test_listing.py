"""`lt25 list`: one line each, whatever is wrong with one of them."""

import json

import yaml

from lt25 import cli
from tests import tiny
from tests.data import make

DATASET = {
    "title": "Letters",
    "licence": "my own",
    "tasks": ["classification"],
    "origin": {"path": "letters"},
    "columns": {"input": "image", "label": "label"},
    "splits": make.HELD_OUT,
}


def test_datasets_experiments_and_models_have_a_line_each_and_an_invalid_file_is_one_too(tmp_path, monkeypatch, capsys):
    for folder in ("datasets", "experiments", "models"):
        (tmp_path / "config" / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config"
    (config / "datasets" / "letters.yaml").write_text(yaml.safe_dump(DATASET))
    (config / "datasets" / "broken.yaml").write_text("title: [")
    tiny.write_experiment(tmp_path, "classification", dataset="letters")
    (config / "experiments" / "wrong.yaml").write_text("task: dancing\n")
    (config / "models" / "big.json").write_text(json.dumps({"model_type": "lt25_hgrn", "num_hidden_layers": 1}))
    (config / "models" / "lost.json").write_text(json.dumps({"model_type": "lt25_hgrm"}))

    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["datasets:", "experiments:", "models:"]
    said = dict(line.split(maxsplit=1) for line in lines if line.startswith(" "))
    assert said["letters"] == "Letters: classification"
    assert said["broken"].startswith("config/datasets/broken.yaml:1: not valid YAML")
    assert said["tiny"].startswith("classification on letters: lt25_hgrn, ")
    assert said["wrong"].startswith("config/experiments/wrong.yaml: ")
    assert said["big"] == "lt25_hgrn, 1 layer of 2048"
    assert "config/models/lost.json: model_type: found lt25_hgrm" in said["lost"]
    assert len(lines) == 9


def test_a_project_without_files_says_so(tmp_path, monkeypatch, capsys):
    (tmp_path / "config" / "experiments").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["list"]) == 0
    assert "experiments: none in config/experiments/" in capsys.readouterr().out
