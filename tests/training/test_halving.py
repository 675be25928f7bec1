"""Successive halving: what a rung leaves, who goes on, and that whoever goes on arrives where an undisturbed run does."""

import json
from pathlib import Path

import pytest
import yaml

from lt25 import cli
from lt25.errors import UserError
from lt25.experiment import load_experiments
from lt25.files import load_record, write_record
from lt25.training.ahead import is_at
from lt25.training.halving import candidates, choice_file, finalists, halve, stopped
from lt25.training.job import job_of, write_job
from lt25.training.run import identity_of, rung_file
from tests import tiny

SWEEP = {"optimizer": {"lr": [1e-3, 1e-2, 3e-2, 1e-6]}, "debug": {"seed": [0, 1]}}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The eight runs of a sweep with rungs at steps 4 and 8 of 12, with prepared data."""
    monkeypatch.chdir(tiny.make_project(tmp_path))
    tiny.write_experiment(tmp_path, "classification", "plain", validation={"freq": 2}, checkpoint={"interval": 6})
    written = yaml.safe_load((tmp_path / "config/experiments/plain.yaml").read_text())
    for section, values in SWEEP.items():
        written[section] = {**written[section], **values}
    written["halving"] = {"rungs": [4, 8], "eta": 2}
    (tmp_path / "config/experiments/rates.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    runs = load_experiments("rates")
    tiny.prepare(runs[0])
    return runs


def note(run, step, loss):
    """Write what a run found at a rung, as its trainer does."""
    write_job(run)
    model = load_record(run.processed_dir / "stats.json")["model"]
    identity = {**identity_of({**job_of(run), **run.job}, 1), "model": {**run.model, **model}}
    found = {"identity": identity, "path": [{"steps": 12}], "step": step, "validation": {"loss": loss}}
    write_record(rung_file(run.results_dir, step), found)


def test_a_run_that_goes_on_from_a_rung_arrives_where_one_that_never_stopped_does(runs):
    halved, whole = runs[0], runs[0].root / "whole"
    write_job(halved)
    done = tiny.train(halved, "--lt25.rung", "4")
    assert done.returncode == 0, done.stderr
    assert "at step 4, for the rung of step 4: validation loss " in done.stdout
    assert is_at(halved, 4) and not is_at(halved, 8) and not (halved.results_dir / "train.json").exists()
    noted = json.loads(rung_file(halved.results_dir, 4).read_text())
    # Again, and after the record was lost: nothing is trained, and the same is noted.
    rung_file(halved.results_dir, 4).unlink()
    assert tiny.train(halved, "--lt25.rung", "4").returncode == 0
    assert json.loads(rung_file(halved.results_dir, 4).read_text()) == noted
    for rung in ("8", "0"):
        assert tiny.train(halved, "--lt25.rung", rung).returncode == 0
    weights, history = tiny.weights(halved, 12), tiny.history(halved)
    halved.results_dir.rename(whole)
    assert tiny.train(write_again(halved)).returncode == 0
    assert tiny.same_weights(weights, tiny.weights(halved, 12))
    plain = [{key: line[key] for key in ("step", "loss", "validation", "lr") if key in line} for line in history]
    assert plain == [{key: line[key] for key in one} for one, line in zip(plain, tiny.history(halved), strict=True)]
    # A run that has arrived says of a rung what its history has.
    assert tiny.train(halved, "--lt25.rung", "4").returncode == 0
    again = json.loads(rung_file(halved.results_dir, 4).read_text())
    assert again["validation"] == noted["validation"]


def write_again(experiment):
    write_job(experiment)
    return experiment


def test_the_best_settings_go_on_with_all_their_seeds(runs):
    for run in runs:
        # The setting of the lowest single loss is not that of the lowest mean; what is no number is the worst.
        rate, seed = run.job["optimizer"]["lr"], run.job["debug"]["seed"]
        note(run, 4, {1e-3: (2.0, 2.0), 1e-2: (1.0, 9.0), 3e-2: (3.0, 3.0), 1e-6: (float("nan"), 0.1)}[rate][seed])
    assert halve(runs, 4).startswith(
        "rates: 2 of 4 settings, 4 runs, go on from step 4: rates@debug.seed=0+optimizer.lr=0.001"
    )
    assert {run.job["optimizer"]["lr"] for run in candidates(runs, 8)} == {1e-3, 3e-2}
    with pytest.raises(UserError, match=r"step-8.json: not there: run `lt25 train rates .* --rung 8` first"):
        halve(runs, 8)
    for run in candidates(runs, 8):
        note(run, 8, run.job["optimizer"]["lr"])
    halve(runs, 8)
    assert [run.job["optimizer"]["lr"] for run in finalists(runs)] == [1e-3, 1e-3]
    assert {step: len(found) for step, found in stopped(runs).items()} == {4: 4, 8: 2}


def rewrite(old, new):
    """Change the sweep's file; return its runs."""
    file = Path("config/experiments/rates.yaml")
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    return load_experiments("rates")


def test_a_choice_is_of_the_runs_and_the_section_that_made_it(runs, capsys):
    for run in runs:
        note(run, 4, run.job["optimizer"]["lr"])
    halve(runs, 4)
    chosen = choice_file(runs[0], 4).read_text()
    assert cli.main(["halve", runs[0].name, "--rung", "4"]) == 2
    assert capsys.readouterr().err.endswith("chooses among all runs of a sweep: name the sweep, rates\n")
    assert choice_file(runs[0], 4).read_text() == chosen

    again = (
        r"is of other runs or another section halving than .*rates.yaml has now: run `lt25 halve rates --rung 4` again"
    )
    for old, new in (("eta: 2", "eta: 4"), ("- 8\n", "- 6\n")):
        with pytest.raises(UserError, match=again):
            candidates(rewrite(old, new), 8)
        rewrite(new, old)
    note(runs[0], 4, 7.0)
    with pytest.raises(UserError, match=again):
        finalists(runs)
    # A run's note that is of a smaller model says nothing of the one that is asked for now.
    changed = rewrite("hidden_size: 16", "hidden_size: 24")
    with pytest.raises(UserError, match=r"is of another training than .*rates.yaml decides on now: run `lt25 train"):
        halve(changed, 4)
    assert choice_file(runs[0], 4).read_text() == chosen


def test_a_step_that_is_no_rung_is_refused(runs, capsys):
    assert cli.main(["train", runs[0].name, "--rung", "5"]) == 2
    assert cli.main(["halve", "rates", "--rung", "5"]) == 2
    assert cli.main(["halve", "plain", "--rung", "5"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert (
        lines[0]
        == lines[1]
        == ("lt25: error: config/experiments/rates.yaml: --rung 5: no such step in halving.rungs: there are 4, 8")
    )
    assert lines[2].endswith(
        "plain.yaml: --rung 5: no such step in halving.rungs: there are none: add the section halving"
    )
