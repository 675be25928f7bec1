"""A project's own Python: the task of examples/regression through the whole chain, and plugins that cannot be loaded."""

import builtins
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from lt25 import cli, plugins
from lt25.errors import UserError
from lt25.tasks import TASKS
from tests import tiny
from tests.data import make
from tests.workflow import chain

EXAMPLE = tiny.REPOSITORY / "examples" / "regression"


@pytest.fixture
def project(tmp_path) -> Path:
    """A project whose plugin is the example, with series whose mean is to be predicted."""
    rng = np.random.default_rng(0)
    series = [(rng.uniform() + 0.1 * rng.standard_normal(rng.integers(8, 16))).tolist() for _ in range(60)]
    make.parquet(tmp_path / "series" / "all.parquet", [{"series": one, "mean": float(np.mean(one))} for one in series])
    dataset = {
        "title": "Noisy levels",
        "licence": "none",
        "tasks": ["regression"],
        "origin": {"path": "series"},
        "columns": {"input": "series", "label": "mean"},
        "splits": make.HELD_OUT,
    }
    experiment = {
        "task": "regression",
        "dataset": "levels",
        "model": tiny.MODEL,
        "training": {"steps": 6, "local_batch_size": 4, "mixed_precision_param": "float32"},
        "optimizer": {"lr": 1e-2},
        "lr_scheduler": {"warmup_steps": 2},
    }
    config = {"experiments": ["levels"], "plugins": ["examples/regression"]}
    for file, content in (("datasets/levels", dataset), ("experiments/levels", experiment), ("config", config)):
        make.write(tmp_path / "config" / f"{file}.yaml", yaml.safe_dump(content))
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "regression").symlink_to(EXAMPLE)
    return tmp_path


def test_a_fourth_task_needs_no_change_of_lt25(project):
    for command in ("download", "prepare", "train", "export", "evaluate", "report"):
        done = chain.run(project, "lt25", command, "levels")
        assert done.returncode == 0, done.stdout
    results = project / "results" / "levels"
    metrics = json.loads((results / "evaluation" / "metrics.json").read_text())
    assert metrics["task"] == "regression"
    assert metrics["splits"]["test"]["mean_absolute_error"] > 0
    assert (results / "evaluation" / "predictions.svg").is_file()
    page = (project / "results" / "report.html").read_text()
    for said in ("Regression", "mean absolute error", "Its largest errors", "squared error per example"):
        assert said in page
    card = (results / "hf" / "README.md").read_text()
    assert "a model that predicts a number from a series" in card
    assert "results/levels/hf" in card


@pytest.fixture
def here(project, monkeypatch):
    """The project, for commands that run in this process; its plugin is forgotten afterwards."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    tasks = dict(TASKS)
    yield project
    TASKS.clear()
    TASKS.update(tasks)
    for name in [name for name in sys.modules if name.split(".")[0] == "regression"]:
        del sys.modules[name]


def answered(capsys, *command) -> str:
    """Run a command that fails; return its last line."""
    capsys.readouterr()
    assert cli.main(list(command)) == 2
    said = capsys.readouterr()
    return (said.out + said.err).strip().splitlines()[-1]


def test_rows_that_a_plugin_cannot_use_are_one_line(here, capsys):
    make.parquet(here / "series/all.parquet", [{"series": "up", "mean": 0.5}] * 40)
    assert cli.main(["download", "levels"]) == 0
    assert "no example that can be used: the first: all.parquet, row 0: column series: no such file: 'up'" in answered(
        capsys, "check", "levels"
    )
    make.parquet(here / "series/all.parquet", [{"series": [0.5, 1.0], "mean": "up"}] * 40)
    assert cli.main(["download", "levels"]) == 0
    assert "columns.label: found 'up', expected a number: name another column" in answered(capsys, "check", "levels")
    said = answered(capsys, "prepare", "levels")
    assert "40 of 40 examples cannot be used: 40 x values that are no numbers" in said
    # What goes wrong in a plugin's own code is told with the place.
    make.parquet(here / "series/all.parquet", [{"series": [[n / 40] * (1 + n % 2)], "mean": 0.5} for n in range(40)])
    assert cli.main(["download", "levels"]) == 0
    said = answered(capsys, "prepare", "levels")
    assert re.search(r"lt25: error: .*examples/regression/data.py:\d+: ValueError: all the input array dim", said)


def test_a_plugin_is_loaded_once(tmp_path, monkeypatch):
    make.write(
        tmp_path / "lt25_counted.py", "import builtins\nbuiltins.lt25_loads = getattr(builtins, 'lt25_loads', 0) + 1\n"
    )
    monkeypatch.setattr("builtins.lt25_loads", 0, raising=False)
    for _ in range(2):
        plugins.load(tmp_path, ["lt25_counted.py"])
    assert builtins.lt25_loads == 1
    del sys.modules["lt25_counted"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("lt25_gone.py", None, "no such file or package"),
        ("lt25_no_such_module", None, "No module named 'lt25_no_such_module'"),
        ("lt25_broken.py", "x = 1\nraise ValueError('why')\n", "lt25_broken.py:2: ValueError: why"),
        ("lt25_wrong.py", "def\n", "lt25_wrong.py:1: SyntaxError"),
        ("json.py", "", "there is another module called json"),
        ("lt25_empty.py", "x = 1\n", "registers no task and no model family: call lt25.tasks.register"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_one_line(tmp_path, name, content, said):
    if content is not None:
        make.write(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        plugins.load(tmp_path, [name], lambda: len(TASKS))
    assert str(caught.value).startswith(f"config/config.yaml: plugins: {name}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_intermediate_evaluation_imports_no_matplotlib():
    code = (
        "import sys, lt25.evaluation.run\nfrom lt25.tasks import TASKS\n"
        "[task.module('evaluation') for task in TASKS.values()]\nassert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=tiny.environment())
