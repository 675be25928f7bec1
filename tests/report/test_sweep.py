"""A sweep on the page: settings by their mean over seeds, the best first by validation."""

from dataclasses import replace

import pytest

from lt25 import report
from lt25.errors import UserError
from lt25.report.collect import collect
from lt25.report.sweep import measure, settings, spread, table

from .test_page import structure
from .trees import make

KEYS = ["optimizer.lr"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A sweep of two learning rates and two seeds."""
    root, found = tmp_path_factory.mktemp("sweep"), []
    for rate in (1e-3, 3e-3):
        for seed in (0, 1):
            one = make(root, "classification", f"rates@debug.seed={seed}+optimizer.lr={rate:g}")
            values = {"optimizer.lr": rate, "debug.seed": seed}
            first = found[0] if found else one
            found.append(
                replace(
                    one,
                    path=first.path.with_name("rates.yaml"),
                    dataset=first.dataset,
                    overrides=values,
                    decisive=values,
                    swept=(*KEYS, "debug.seed"),
                )
            )
    return found


@pytest.fixture(scope="module")
def measured(runs):
    """Accuracies of which validation prefers the second rate, and test the first."""
    validation, test = {1e-3: (80, 82), 3e-3: (84, 86)}, {1e-3: (90, 91), 3e-3: (88, 89)}
    found = []
    for run in runs:
        one = measure(collect(run))
        rate, seed = run.overrides["optimizer.lr"], run.overrides["debug.seed"]
        numbers = {"validation": validation[rate][seed], "test": test[rate][seed]}
        found.append(
            replace(one, said={name: replace(one.said[name], measured=number) for name, number in numbers.items()})
        )
    return found


def test_a_setting_is_the_mean_and_the_spread_of_its_seeds(measured):
    groups = settings(measured, KEYS)
    assert [len(group) for group in groups] == [2, 2]
    made = table(groups, KEYS)
    assert made.head == ["optimizer.lr", "Accuracy, validation", "Accuracy, test", "Runs", "Training, mean"]
    assert made.rows[0] == ("0.001", ["81.0 ± 1.4 %", "90.5 ± 0.7 %", "2", "1 min 36 s"])
    # Alone, a run has no spread.
    assert table([measured[:1]], KEYS).rows[0][1][0] == "80.0 %"
    assert spread(groups, KEYS, "validation")["rows"][1] == ("lr 0.003", "85.0 %", [66.67, 100.0])


def test_the_page_of_a_sweep_orders_settings_by_validation(runs, measured, monkeypatch, tmp_path):
    numbers = {run.experiment.name: run for run in measured}
    monkeypatch.setattr("lt25.report.sweep.measure", lambda results: numbers[results.experiment.name])
    report.build([], tmp_path / "page.html", sweeps=[runs])
    page = (tmp_path / "page.html").read_text()
    parsed = structure(page)
    assert len(parsed.ids) == len(set(parsed.ids)) and "rates" in parsed.ids
    assert "<h1>Results of a sweep</h1>" in page and "4 runs of 2 settings on " in page
    assert page.index("85.0 ± 1.4 %") < page.index("81.0 ± 1.4 %")
    assert "Ordered by accuracy of the validation split; more is better." in page
    assert page.count(">Training loss, nats per example<") == 1 and "Validation, accuracy, %" in page
    assert all(run.name in page for run in runs)


def test_a_sweep_and_an_experiment_share_a_page_and_a_run_that_is_not_evaluated_is_named(runs, tmp_path):
    report.build(runs[:1], tmp_path / "page.html", sweeps=[runs])
    assert "<h1>Results of 1 experiment and a sweep</h1>" in (tmp_path / "page.html").read_text()
    lost = replace(runs[0], name="rates@debug.seed=9", overrides={}, decisive={"debug.seed": 9})
    with pytest.raises(UserError, match=r"rates@debug\.seed=9"):
        report.build([], tmp_path / "other.html", sweeps=[[*runs, lost]])
    assert not (tmp_path / "other.html").exists()
