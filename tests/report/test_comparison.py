"""Experiments side by side: what differs between them, and variants of one."""

from dataclasses import replace

import pytest

from lt25 import report
from lt25.report.collect import collect
from lt25.report.comparison import Table, comparison, has_effect, outcomes, ranges, say, settings
from lt25.report.page import story

from .test_page import structure
from .trees import make


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """An experiment, and the same with another learning rate and with another split to evaluate."""
    root = tmp_path_factory.mktemp("variants")
    found = []
    for name, rate in (("leaves", 0.004), ("leaves@optimizer.lr=0.001", 0.001)):
        one = make(root, "classification", name, splits=["validation", "test"])
        first = found[0] if found else one
        job = {**one.job, "optimizer": {"lr": rate}}
        overrides = {"optimizer.lr": rate} if found else {}
        found.append(
            replace(one, path=first.path, dataset=first.dataset, job=job, overrides=overrides, decisive=overrides)
        )
    return found


def headlines(results):
    return [story(one, "x")["headline"] for one in results]


def test_what_differs_stands_in_the_table_and_nothing_else(variants):
    results = [collect(one) for one in variants]
    shared, own = settings(results)
    assert shared == [("optimizer.lr", ["0.004", "0.001"])]
    assert own == []
    rows = dict(outcomes(results, headlines(results)))
    assert rows["Accuracy"] == ["92.8 %", "92.8 %"]
    assert rows["Training"] == ["1 min 36 s on CPU (2 cores)"] * 2


def test_variants_of_one_experiment_share_a_page(variants, tmp_path):
    report.build([*variants, variants[0]], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    parsed = structure(page)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {"leaves", "leaves-optimizer-lr-0-001"} <= set(parsed.ids)
    assert "Results of 2 experiments" in page
    assert "<code>optimizer.lr: 0.001</code>" in page
    assert page.count(">Training loss, nats per example<") == 2
    assert "Accuracy and its 95 % interval; more is better." in page
    # Validation of one task can be compared.
    assert "Validation, accuracy, %" in page


def test_an_evaluation_with_other_options_is_a_column_of_its_own(variants, tmp_path):
    again = replace(variants[0], overrides={"evaluation.batch_size": 3})
    folder = again.evaluation_dir.parent
    assert folder != variants[0].evaluation_dir.parent
    folder.mkdir()
    (folder / "evaluation").symlink_to(variants[0].evaluation_dir)
    results = [collect(variants[0]), collect(replace(again, evaluation={**again.evaluation, "batch_size": 3}))]
    assert results[1].name == "leaves@evaluation.batch_size=3"
    _, own = settings(results)
    assert own == [("evaluation.batch_size", ["–", "3"])]


def test_experiments_of_several_tasks_are_compared_by_what_all_have(experiments):
    results = [collect(one) for one in experiments]
    shared, _ = settings(results)
    assert [key for key, _ in shared] == ["task", "dataset"]
    kinds = [one.experiment.task for one in results]
    assert [has_effect(one.experiment, "model.vocab_size") for one in results] == [k != "classification" for k in kinds]
    assert [has_effect(one.experiment, "training.seq_len") for one in results] == [
        k == "language_modeling" for k in kinds
    ]
    rows = dict(outcomes(results, headlines(results)))
    assert rows["Result"][0] == "92.8 % accuracy"
    assert rows["Result"][2].endswith(" bits per byte")
    shown = comparison(results, headlines(results))
    assert "Training loss, nats per label" in shown
    assert "interval; " not in shown
    assert ranges(["a", "b", "c"], headlines(results)) is None


def test_one_experiment_is_compared_with_nothing(experiments):
    results = [collect(experiments[0])]
    assert comparison(results, headlines(results)) == ""


def test_intervals_lie_on_a_scale_that_ends_at_100(variants):
    results = [collect(one) for one in variants]
    said = headlines(results)
    scale = ranges(["a", "b"], [replace(said[0], measured=100.0, bounds=[98.0, 100.0]), said[1]])
    assert scale["high"] == "100 %"
    (_, _, _, dot, left, right), below = scale["rows"]
    assert (dot, right) == (100, 100)
    assert 0 <= below[4] < below[3] < below[5] < left < 100


def test_the_longer_side_of_a_table_runs_down():
    wide = Table(["", "a", "b", "c"], [("x", ["1", "2", "3"])])
    assert wide.lengthwise() == Table(["", "x"], [("a", ["1"]), ("b", ["2"]), ("c", ["3"])])
    assert wide.lengthwise().lengthwise() == wide.lengthwise()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1e-3, "0.001"),
        (True, "true"),
        (None, "none"),
        ([], "none"),
        (["a", 2], "a, 2"),
        ({"a": 0.5}, "a: 0.5"),
        ("x", "x"),
    ],
)
def test_values_are_said_as_in_a_file(value, said):
    assert say(value) == said
