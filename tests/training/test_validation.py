"""Validation during training: what it measures, that it disturbs nothing, and what it decides."""

import json
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lt25.tasks import TASKS
from lt25.training.validation import Validator
from tests import tiny


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    return tmp_path


def lines(experiment, kind):
    return [line for line in tiny.history(experiment) if ("validation" in line) == (kind == "validation")]


@pytest.mark.parametrize("task", TASKS)
def test_training_is_not_disturbed_and_the_tasks_metric_is_logged(root, task):
    plain = tiny.tiny(root, task, "plain")
    assert tiny.train(plain).returncode == 0
    watched = tiny.tiny(root, task, "watched", validation={"freq": 5})
    done = tiny.train(watched)
    assert done.returncode == 0, done.stderr
    assert tiny.same_weights(tiny.weights(plain, 12), tiny.weights(watched, 12))
    assert [a["loss"] for a in lines(plain, "training")] == [a["loss"] for a in lines(watched, "training")]
    found = lines(watched, "validation")
    assert [line["step"] for line in found] == [5, 10, 12]
    metric = TASKS[task].module("loss").METRIC
    assert all(line["validation"][metric] >= 0 for line in found)
    assert "validation: loss" in done.stdout
    if task == "speech_recognition":
        events = EventAccumulator(str(next(watched.results_dir.rglob("events.*")).parent)).Reload()
        shown = events.Tensors("validation_sentences/text_summary")
        assert [one.step for one in shown] == [5, 10, 12]
        assert shown[0].tensor_proto.string_val[0].decode().startswith("| said | heard |")
    # A validation that only watches is not part of what decides the weights.
    markers = [json.loads((one.results_dir / "train.json").read_text()) for one in (plain, watched)]
    assert markers[0]["fingerprint"] == markers[1]["fingerprint"]


@pytest.mark.parametrize("task", ["speech_recognition"])
def test_two_processes_measure_what_one_does(root, task):
    options = {"validation": {"freq": 3}, "model": {"dropout": 0.0}}
    one = tiny.tiny(root, task, "one", **options, training={"steps": 6})
    # An odd number of batches: one of two processes computes its last one in vain.
    tiny.prepare(one, 22)
    assert tiny.train(one).returncode == 0
    two = tiny.tiny(root, task, "two", **options, training={"steps": 6, "local_batch_size": 2, "global_batch_size": 4})
    tiny.prepare(two, 22)
    done = tiny.train(two, processes=2)
    assert done.returncode == 0, done.stderr
    for a, b in zip(lines(one, "validation"), lines(two, "validation"), strict=True):
        assert b["validation"] == pytest.approx(a["validation"], abs=1e-3)


def test_the_best_checkpoint_is_kept_and_exported_and_training_ends_without_improvement(root):
    from lt25.checkpoints.export import export

    # A rate that grows far too high: the first validation is the best.
    experiment = tiny.tiny(
        root,
        "language_modeling",
        training={"steps": 40},
        optimizer={"lr": 30.0},
        lr_scheduler={"warmup_steps": 40},
        validation={"freq": 3, "patience": 4},
        checkpoint={"interval": 2, "keep_latest_k": 2, "keep": "best"},
    )
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    marker = json.loads((experiment.results_dir / "train.json").read_text())
    found = lines(experiment, "validation")
    best = min(found, key=lambda line: line["validation"]["loss"])
    assert marker["best"] == {"step": best["step"], "metric": "loss", "value": best["validation"]["loss"]}
    assert marker["steps"] == best["step"] + 12 < 40
    said = f"4 validations without loss better than the {marker['best']['value']:.4f} of step {best['step']}: ended at step"
    assert said in done.stdout
    assert best["step"] in marker["checkpoints"]
    assert len(marker["checkpoints"]) <= 4
    export(experiment)
    assert json.loads((experiment.results_dir / "hf" / "export.json").read_text())["step"] == best["step"]
    card = (experiment.results_dir / "hf" / "README.md").read_text()
    assert f"| steps | {best['step']} of {marker['steps']}, the best on the validation split (loss " in card

    again = tiny.train(experiment)
    assert again.returncode == 0, again.stderr
    assert "nothing to train" in again.stdout


def validator(metric, direction, validations, **job):
    """A validator that has measured nothing itself, with the history of a run."""
    made = object.__new__(Validator)
    made.metric, made.losses = metric, SimpleNamespace(DIRECTION=direction)
    made.metrics = SimpleNamespace(validations=validations)
    made.job_config = SimpleNamespace(**{name: SimpleNamespace(**values) for name, values in job.items()})
    return made


def measured(*numbers):
    return [
        {"step": 10 * n, "validation": {"loss": loss, "accuracy": accuracy}}
        for n, (loss, accuracy) in enumerate(numbers, start=1)
    ]


NAN = float("nan")


@pytest.mark.parametrize(
    ("numbers", "step"),
    [
        ([(0.5, 0.9), (0.4, 0.9), (0.6, 0.8)], 20),
        ([(0.4, 0.9), (0.5, 0.9)], 10),
        ([(0.4, 0.9), (0.4, 0.9)], 10),
        ([(0.1, 0.8), (0.9, 0.9)], 20),
        ([(NAN, 0.9), (0.9, 0.9)], 20),
        ([(0.1, NAN), (0.9, 0.2)], 20),
    ],
)
def test_of_equal_accuracies_the_lower_loss_is_better_then_the_first(numbers, step):
    best = validator("accuracy", "max", measured(*numbers)).best
    assert (best["step"], best["metric"]) == (step, "accuracy")


def test_a_lower_loss_at_the_same_accuracy_renews_the_patience():
    still = validator("accuracy", "max", measured((0.5, 1.0), (0.4, 1.0), (0.3, 1.0)), validation={"patience": 2})
    assert not still.out_of_patience
    worse = validator("accuracy", "max", measured((0.3, 1.0), (0.4, 1.0), (0.5, 1.0)), validation={"patience": 2})
    assert worse.out_of_patience


@pytest.mark.parametrize(("total", "ranks", "examples"), [(-1, 1, 12), (-1, 2, 24), (8, 2, 24), (40, 1, 50)])
def test_steps_of_a_validation_are_as_many_examples_as_those_of_training(total, ranks, examples):
    training = {"global_batch_size": total, "local_batch_size": 4, "batch_seconds": None}
    made = validator("loss", "min", [], training=training, validation={"steps": 3})
    made.ranks, made.source = ranks, SimpleNamespace(count=50, lengths=None)
    chosen = [place for batch in made.batches for place in batch]
    assert len(chosen) == len(set(chosen)) == examples
    again = validator("loss", "min", [], training=training, validation={"steps": 3})
    again.ranks, again.source = ranks, made.source
    assert again.batches == made.batches


def test_the_character_error_rate_counts_edits_of_greedy_decodings():
    losses = TASKS["speech_recognition"].module("loss")
    frames = torch.tensor([[3, 3, 0, 3, 2], [1, 0, 0, 0, 4]])
    logits = torch.nn.functional.one_hot(frames, 5).float()
    labels = torch.tensor([[3, 3, 2], [1, 2, -100]])
    # The second utterance counts four frames, so that its last symbol is not read.
    errors, characters = losses.metric((logits, torch.tensor([5, 4])), labels)["cer"]
    assert (errors.item(), characters.item()) == (1, 5)


def test_the_word_error_rate_counts_words_between_spaces():
    losses = TASKS["speech_recognition"].module("loss")
    # Class 1 is the space. "ab a" is heard as "aa a b", "b" as nothing.
    frames = torch.tensor([[3, 0, 3, 1, 3, 1, 4], [0, 0, 1, 0, 0, 0, 0]])
    logits = torch.nn.functional.one_hot(frames, 5).float()
    labels = torch.tensor([[3, 4, 1, 3], [4, -100, -100, -100]])
    errors, words = losses.metric((logits, torch.tensor([7, 7])), labels)["wer"]
    assert (errors.item(), words.item()) == (3, 3)
