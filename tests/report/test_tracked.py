"""Small files for other tools."""

import csv

from lt25.report.tracked import write_tracked


def test_the_curve_has_the_training_and_what_validation_measured(experiments):
    for experiment in experiments:
        write_tracked(experiment)
        rows = list(csv.DictReader((experiment.evaluation_dir / "curve.csv").open()))
        steps = [int(row["step"]) for row in rows]
        assert steps == sorted(set(steps)), "a line each"
        assert all(float(row["loss"]) > 0 for row in rows if row["loss"])
        validated = [row for row in rows if row["validation_loss"]]
        assert 0 < len(validated) < len(rows)
        metric = {"classification": "accuracy", "speech_recognition": "wer"}.get(experiment.task)
        assert metric is None or all(0 <= float(row[f"validation_{metric}"]) <= 1 for row in validated)
