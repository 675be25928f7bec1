"""What a training says while it goes on, and what it does not say before it can know."""

import re
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from lt25.training import metrics
from lt25.training.metrics import RunMetrics


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now.seconds)
    return now


def running(clock, unit="frames", steps=400, started_at=0):
    made = object.__new__(RunMetrics)
    made.name, made.unit, made.steps, made.started_at = "tiny", unit, steps, started_at
    made.started = made.last_line = clock.seconds
    made.first = made.bar = None
    return made


def show(made, step, rate=2500.0):
    made._show({"step": step, "loss": 1.5, "lr": 1e-3, "positions_per_second": rate, "skipped_steps": 0})


def test_the_first_line_tells_of_compiling_and_foretells_nothing(clock, capsys):
    made = running(clock)
    clock.seconds += 42
    show(made, 1, 16.0)
    assert capsys.readouterr().out == (
        "tiny  step 1/400  loss 1.5000  lr 1.00e-03  first step in 42.0 s, compiling included\n"
    )


def test_what_is_left_follows_from_the_steps_after_the_first(clock, capsys):
    made = running(clock)
    clock.seconds += 42
    show(made, 1)
    clock.seconds += 5
    show(made, 11)
    # Half a second a step, and 389 to go.
    assert capsys.readouterr().out.splitlines()[1].endswith("  2,500 frames/s  3:14 left")


def test_a_resumed_training_begins_anew_to_measure(clock, capsys):
    made = running(clock, started_at=200)
    clock.seconds += 30
    show(made, 210)
    assert "first 10 steps in 30.0 s, compiling included" in capsys.readouterr().out
    clock.seconds += 10
    show(made, 220)
    assert capsys.readouterr().out.endswith("  3:00 left\n")


@pytest.mark.parametrize(
    ("task", "unit"),
    [("classification", "positions"), ("speech_recognition", "frames"), ("language_modeling", "tokens")],
)
def test_a_line_names_the_unit_of_the_task(clock, capsys, task, unit):
    from lt25.tasks import TASKS

    made = running(clock, TASKS[task].unit)
    show(made, 1)
    clock.seconds += 5
    show(made, 2)
    assert re.search(rf"  2,500 {unit}/s  ", capsys.readouterr().out)


def test_lines_come_every_few_seconds_and_at_the_end(clock, capsys):
    made = running(clock, steps=40)
    for step in range(1, 41):
        clock.seconds += 1
        show(made, step)
    shown = [int(line.split("step ")[1].split("/")[0]) for line in capsys.readouterr().out.splitlines()]
    assert shown == [1, 6, 11, 16, 21, 26, 31, 36, 40]


@pytest.mark.parametrize(("device", "reported"), [("cpu", [5]), ("cuda", [])])
def test_a_step_is_reported_when_it_is_computed_and_a_gpus_when_the_next_one_is_on_its_way(
    monkeypatch, device, reported
):
    # Otherwise the time between the reports of two steps would not be that of a step.
    from lt25.training import trainer

    monkeypatch.setattr(trainer, "DEVICE_TYPE", device)
    monkeypatch.setattr(trainer.dist, "get_rank", lambda: 0)
    made, said = MagicMock(gradient_accumulation_steps=1, step=5, first_step=1, part=None, validator=None), []
    made.parallel_dims.pp_enabled = made.checkpointer.saves.return_value = False
    made.job_config.debug.seed, made.job_config.training.steps = 0, 10
    made.update.return_value = (None,) * 5
    made.make_report.return_value = lambda: said.append(made.step)
    trainer.Trainer.train_step(made, iter([({}, torch.zeros(1))]))
    assert said == reported
