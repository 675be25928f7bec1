"""`lt25 new`: the settings of one experiment on another dataset, with comments that are right."""

import pytest
import yaml

from lt25 import cli
from lt25.experiment import load_experiment
from lt25.new import _set, _without
from tests.data import make

LIKE = """\
# Ten digits, one pixel at a time: 64 steps.
# More of them.
task: language_modeling
dataset: digits   # scikit-learn's

model: {model_type: lt25_hgrn, hidden_size: 16, num_hidden_layers: 1}  # small: ten classes

# 2 epochs
training:
  steps: 2  # of 64
  seq_len: 8
  # as in the paper
  local_batch_size: 2
optimizer: {lr: 1e-3}
lr_scheduler: {warmup_steps: 1}
evaluation: {prompts: ["# not a comment", 'it''s # neither']}
"""


def dataset(title: str, **changes) -> str:
    values = {
        "title": title,
        "licence": "my own",
        "tasks": ["language_modeling"],
        "origin": {"path": "texts"},
        "columns": {"text": "text"},
        "splits": make.HELD_OUT,
    }
    return yaml.safe_dump({**values, **changes})


@pytest.fixture
def config(tmp_path, monkeypatch):
    config = tmp_path / "config"
    (config / "datasets").mkdir(parents=True)
    (config / "experiments").mkdir()
    monkeypatch.chdir(tmp_path)
    make.write(tmp_path / "texts" / "all.csv", "text\ngood\nbad\n")
    (config / "experiments" / "digits.yaml").write_text(LIKE)
    (config / "datasets" / "digits.yaml").write_text(dataset("Digits"))
    (config / "datasets" / "poems.yaml").write_text(dataset("Poems, since 1900"))
    (config / "datasets" / "1900.yaml").write_text(dataset("Poems"))
    (config / "datasets" / "images.yaml").write_text(
        dataset("Images", tasks=["classification"], columns={"input": "image", "label": "label"})
    )
    (config / "datasets" / "gone.yaml").write_text(dataset("Gone", origin={"path": "nowhere"}))
    return config


def test_the_new_file_has_the_old_settings_the_new_dataset_and_no_comment_of_the_old(config, capsys):
    assert cli.main(["new", "verse", "--like", "digits", "--dataset", "poems"]) == 0
    assert capsys.readouterr().out == "config/experiments/verse.yaml: ok\n"
    text = (config / "experiments" / "verse.yaml").read_text()
    assert text.startswith("# Poems, since 1900: language modelling. Begun as a copy of digits.yaml.\ntask: ")
    assert text.count("#") == 3
    assert "  steps: 2\n  seq_len: 8\n  local_batch_size: 2\n" in text
    assert (
        "dataset: poems\n\nmodel: {model_type: lt25_hgrn, hidden_size: 16, num_hidden_layers: 1}\n\ntraining:" in text
    )
    assert yaml.safe_load(text) == {**yaml.safe_load(LIKE), "dataset": "poems"}
    old, new = load_experiment("digits"), load_experiment("verse")
    assert (new.dataset.name, new.job, new.model) == ("poems", old.job, old.model)
    assert new.evaluation["prompts"] == ["# not a comment", "it's # neither"]


def test_what_makes_a_variant_is_carried_into_the_file(config):
    sets = ["optimizer.lr=0.5", "optimizer.beta1=0.5", "training.max_norm=2.0", "training.dataloader.pin_memory=true"]
    like = load_experiment("digits", [*sets, "training.steps=9", "debug.seed=7"])
    assert cli.main(["new", "verse", "--like", like.name, "--dataset", "poems"]) == 0
    new = load_experiment("verse")
    assert new.job == {
        **like.job,
        "training": {**like.job["training"], "dataloader": new.job["training"]["dataloader"]},
    }
    assert new.overrides == {}
    text = _set("compile:\n  components:\n  - model\n  enable: false\n", ["compile", "components"], ["loss"])
    assert yaml.safe_load(text) == {"compile": {"components": ["loss"], "enable": False}}


def test_a_dataset_whose_name_is_a_number_is_written_with_quotes(config):
    assert cli.main(["new", "verse", "--like", "digits", "--dataset", "1900"]) == 0
    assert load_experiment("verse").dataset.name == "1900"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--like", "digits", "--dataset", "poems"], "config/experiments/digits.yaml: is there already"),
        (["verse", "--like", "digitz", "--dataset", "poems"], "no such experiment file: did you mean digits?"),
        (["verse", "--like", "digits", "--dataset", "poem"], "no such dataset file: did you mean poems?"),
        (
            ["verse", "--like", "digits", "--dataset", "images"],
            "is for classification, and digits does language_modeling",
        ),
        (["verse", "--like", "digits", "--dataset", "gone"], "config/datasets/gone.yaml: origin.path: no such folder"),
        (["a/b", "--like", "digits", "--dataset", "poems"], "found a/b, expected a name of letters"),
        (["verse.yaml", "--like", "digits", "--dataset", "poems"], "without .yaml"),
        (
            ["verse", "--like", "digits", "--dataset", "config/datasets/poems.yaml"],
            "expected a name in config/datasets/",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(config, capsys, arguments, message):
    assert cli.main(["new", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert [path.name for path in (config / "experiments").iterdir()] == ["digits.yaml"]
    assert (config / "experiments" / "digits.yaml").read_text() == LIKE


def test_a_section_is_taken_out_of_a_text():
    block = "task: a\naugment:\n  shift: 1\n\nmodel: {x: 1}\n"
    flow = "task: a\naugment: {shift: 1}\nmodel: {x: 1}\n"
    for text in (block, flow):
        assert yaml.safe_load(_without(text, "augment")) == {"task": "a", "model": {"x": 1}}
    assert _without(flow, "training") == flow
