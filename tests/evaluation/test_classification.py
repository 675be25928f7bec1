from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support

from lt25.evaluation.classification import (
    by_part_read,
    calibration,
    class_f1,
    evaluate_split,
    gates,
    growing,
    reliability,
    score,
)

from .fakes import FakeSplit, options


def test_score_agrees_with_scikit_learn():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 4, 300)
    predictions = np.where(generator.random(300) < 0.7, labels, generator.integers(0, 4, 300))
    metrics = score(labels, predictions, list("abcd"))
    assert metrics["confusion"] == confusion_matrix(labels, predictions).tolist()
    assert metrics["macro_f1"] == pytest.approx(f1_score(labels, predictions, average="macro"))
    columns = np.array(precision_recall_fscore_support(labels, predictions)).T
    ours = [[c["precision"], c["recall"], c["f1"], c["support"]] for c in metrics["per_class"].values()]
    np.testing.assert_allclose(ours, columns)
    low, high = metrics["interval_95"]
    assert low < metrics["accuracy"] < high


def test_nothing_wrong_is_not_certainty_and_the_axis_ends_at_100():
    metrics = score(np.arange(40) % 4, np.arange(40) % 4, list("abcd"))
    low, high = metrics["interval_95"]
    assert (metrics["accuracy"], high) == (1.0, 1.0)
    assert 0.9 < low < 0.95
    (ax,) = class_f1(metrics["per_class"]).axes
    assert ax.get_xlim()[1] == 100
    assert max(ax.get_xticks()) <= 100


def test_a_class_never_seen_nor_predicted_leaves_macro_f1_alone():
    metrics = score(np.array([0, 1, 1]), np.array([0, 1, 0]), ["a", "b", "never"])
    assert metrics["macro_f1"] == pytest.approx(2 / 3)
    assert metrics["per_class"]["never"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


class LengthModel(torch.nn.Module):
    """Says "long" for sequences of more than three steps; reads the lengths off the mask."""

    device = torch.device("cpu")
    config = SimpleNamespace(num_labels=2, id2label={0: "short", 1: "long"})

    def forward(self, input_features, attention_mask=None):
        batch, steps, _ = input_features.shape
        lengths = attention_mask.sum(1) if attention_mask is not None else torch.full((batch,), steps)
        return SimpleNamespace(logits=torch.stack([torch.zeros(batch), lengths - 3.5], 1))


def test_predictions_stay_in_the_splits_order_though_batches_are_sorted():
    lengths = [2, 9, 3, 4, 1, 8, 5]
    split = FakeSplit([np.ones((n, 2), np.float16) for n in lengths], [int(n > 3) for n in lengths])
    split.labels[1] = 0
    metrics, table = evaluate_split(
        LengthModel(), Path(), split, options("classification", batch_size=3), "test", False
    )
    assert table["id"].tolist() == [f"example-{i}" for i in range(7)]
    assert table["prediction"].tolist() == ["long" if n > 3 else "short" for n in lengths]
    assert metrics["correct"] == 6
    assert table["correct"].tolist() == [True, False, True, True, True, True, True]
    assert table["reference_probability"][1] == pytest.approx(1 - table["probability"][1], abs=1e-6)


def test_calibration_is_the_distance_of_conviction_and_accuracy():
    probabilities = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55, 1.0])
    correct = np.array([True, True, True, False, True, False, True])
    found = calibration(probabilities, correct)
    assert [one["examples"] for one in found["bins"]] == [2, 5]
    assert found["bins"][1]["accuracy"] == 0.8 and found["bins"][1]["probability"] == pytest.approx(0.96)
    assert found["error"] == pytest.approx((2 * 0.05 + 5 * 0.16) / 7)
    (ax,) = reliability(found).axes
    assert len(ax.collections) == 2


def test_accuracy_by_the_part_read_cuts_every_sequence_at_its_own_length():
    lengths = [10, 20, 5]
    split = FakeSplit([np.ones((n, 2), np.float16) for n in lengths], [1, 1, 1])
    found = by_part_read(LengthModel(), split, 2, "test")
    # "long" from four steps on: of 10 steps after 4 tenths, of 20 after two, of 5 after 8 (4 of 5 steps).
    assert [round(3 * one["accuracy"]) for one in found] == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    (ax,) = growing(found).axes
    assert ax.get_ylim()[1] == 100
    assert len(gates([[1, 2, 3, 4, 5], [2, 4, 8, 16, 32]]).axes) == 1
