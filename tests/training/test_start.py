"""What training takes of the model that it starts from."""

import json
import shutil

import pytest
import torch
from transformers import AutoConfig

from lt25.checkpoints.export import export
from lt25.errors import UserError
from lt25.models.auto import auto_class
from lt25.training.start import taken
from tests import tiny


@pytest.fixture
def parent(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    experiment = tiny.tiny(tmp_path, "classification", "parent")
    assert tiny.train(experiment).returncode == 0
    export(experiment)
    return experiment


def test_other_classes_get_a_new_head_on_the_old_body(parent, monkeypatch):
    monkeypatch.setitem(tiny.DECIDED, "classification", {"input_size": 2, "num_labels": 5})
    child = tiny.tiny(
        parent.root,
        "classification",
        "child",
        init_from="parent",
        prepare={"layout": "rows"},
        optimizer={"lr": 1e-12, "weight_decay": 0.0},
    )
    done = tiny.train(child)
    assert done.returncode == 0, done.stderr
    folder = "results/parent/hf"
    assert (
        f"init_from: classes differ from those of {folder}: classifier made new, all else taken from there"
        in done.stdout
    )
    before, after = tiny.weights(parent, 12), tiny.weights(child, 4)
    for name, tensor in before.items():
        if name.startswith("classifier"):
            assert len(after[name]) == 5
        else:
            torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0)


def test_the_same_classes_are_taken_with_their_head_and_another_input_is_one_line(parent, monkeypatch):
    same = tiny.tiny(parent.root, "classification", "same", init_from="parent", optimizer={"lr": 1e-12})
    done = tiny.train(same)
    assert done.returncode == 0, done.stderr
    assert "init_from" not in done.stdout
    head = "classifier.weight"
    torch.testing.assert_close(tiny.weights(same, 4)[head], tiny.weights(parent, 12)[head], atol=1e-6, rtol=0)

    (last,) = same.root.glob("results/same/runs/*/checkpoints/step-12")
    shutil.rmtree(last)
    done = tiny.train(same)
    assert done.returncode == 0 and last.is_dir()
    assert "initial_load" not in done.stdout + done.stderr

    monkeypatch.setitem(tiny.DECIDED, "classification", {"input_size": 3, "num_labels": 3})
    other = tiny.tiny(parent.root, "classification", "other", init_from="parent", prepare={"layout": "rows"})
    done = tiny.train(other)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "results/parent/hf: model.features.proj.weight is [16, 2] there and [16, 3] here: start from" in line


def model_of(task, **fields):
    fields = {**tiny.MODEL, **tiny.DECIDED[task], **fields}
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        return auto_class(task).from_config(config)


@pytest.mark.parametrize(
    ("task", "file", "said", "fresh"),
    [
        ("speech_recognition", "vocab.json", "characters", ["ctc_head"]),
        ("language_modeling", "tokenizer.json", "tokens", ["lm_head", "model.embeddings"]),
    ],
)
def test_an_alphabet_or_vocabulary_of_the_same_size_but_other_characters(tmp_path, task, file, said, fresh):
    folder, data = tmp_path / "hf", tmp_path / "data"
    model = model_of(task).to_empty(device="cpu")
    model.save_pretrained(folder)
    data.mkdir()
    config = json.loads((folder / "config.json").read_text())
    weights = dict(model.named_parameters())
    for written, different in (({"a": 1, "b": 2}, False), ({"b": 1, "a": 2}, True)):
        for path, tokens in ((folder, {"a": 1, "b": 2}), (data, written)):
            # Of a tokenizer only the numbers of its tokens count.
            whole = {"version": path.name, "model": {"vocab": tokens}, "added_tokens": []}
            (path / file).write_text(json.dumps(tokens if file == "vocab.json" else whole))
        read, line = taken(weights, folder, data, config, task)
        missing = {name.rpartition(".")[0] for name in weights.keys() - read.keys()}
        assert missing == (set(fresh) if different else set())
        assert (line is not None) == different
        if line:
            assert line.startswith(f"init_from: {said} differ from those of {folder}: {' and '.join(fresh)} made new")


@pytest.mark.parametrize(
    ("tied", "has"), [(True, "no output layer but its embedding"), (False, "an output layer beside its embedding")]
)
def test_an_output_layer_is_not_lost_without_a_word(tmp_path, tied, has):
    """A tied model computes something else with the weights of one that is not; with other tokens both begin anew."""
    folder = tmp_path / "hf"
    model_of("language_modeling", tie_word_embeddings=tied).to_empty(device="cpu").save_pretrained(folder)
    weights = dict(model_of("language_modeling", tie_word_embeddings=not tied).named_parameters())
    config = {**json.loads((folder / "config.json").read_text()), "tie_word_embeddings": not tied}
    with pytest.raises(UserError, match=f"{folder} has {has}.*: set model.tie_word_embeddings to {str(tied).lower()}"):
        taken(weights, folder, tmp_path, config, "language_modeling")
    _, line = taken(weights, folder, tmp_path, {**config, "vocab_size": 12}, "language_modeling")
    assert line and "made new" in line


def test_a_model_without_a_part_is_one_line(tmp_path):
    model = model_of("classification", use_lower_bound=False).to_empty(device="cpu")
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    deeper = dict(model_of("classification", num_hidden_layers=3, use_lower_bound=False).named_parameters())
    with pytest.raises(
        UserError, match=r"model\.layers\.2\.\S+ is not there and \[\S+\] here: start from a model of the same"
    ):
        taken(deeper, tmp_path, tmp_path, config, "classification")


def test_tied_weights_start_as_one_on_any_number_of_processes_and_are_exported_once(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    monkeypatch.chdir(tiny.make_project(tmp_path))
    tied = {"model": {"tie_word_embeddings": True, "dropout": 0.0}}
    one = tiny.tiny(tmp_path, "language_modeling", "one", **tied)
    two = tiny.tiny(tmp_path, "language_modeling", "two", parallelism={"data_parallel_shard_degree": 2}, **tied)
    assert tiny.train(one, "--training.global_batch_size=8", "--training.local_batch_size=8").returncode == 0
    done = tiny.train(two, processes=2)
    assert done.returncode == 0, done.stderr
    runs = [next((experiment.results_dir / "runs").iterdir()) for experiment in (one, two)]
    losses = [[json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), atol=1e-4, rtol=1e-4)
    weights = tiny.weights(two, 12)
    assert torch.equal(weights["lm_head.weight"], weights["model.embeddings.weight"])
    counted = [json.loads((run / "train.json").read_text())["parameters"] for run in runs]
    assert (
        counted[0]
        == counted[1]
        == sum(parameter.numel() for parameter in model_of("language_modeling", **tied["model"]).parameters())
    )
    export(two)
    stored = load_file(two.results_dir / "hf" / "model.safetensors")
    assert "lm_head.weight" not in stored and "model.embeddings.weight" in stored
