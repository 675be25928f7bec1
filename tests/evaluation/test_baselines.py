"""What simple means reach: worked out by hand, and by scikit-learn on the same values."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lt25.evaluation import baselines
from lt25.evaluation.baselines import classifier_baselines, unigram_bits_per_byte

from .fakes import FakeSplit


def series_of(labels, lengths, seed=0):
    """Noisy series whose level is their class."""
    generator = np.random.default_rng(seed)
    return FakeSplit(
        [
            (label + 0.2 * generator.normal(size=(n, 2))).astype(np.float16)
            for label, n in zip(labels, lengths, strict=True)
        ],
        labels,
    )


def test_the_most_frequent_class_is_trainings():
    train = series_of([0, 0, 0, 1, 1, 2], [5] * 6)
    # In the test split another class is the most frequent one.
    reached = classifier_baselines(train, series_of([2, 2, 2, 0], [5] * 4))
    assert reached["most frequent class"] == 0.25


@pytest.mark.parametrize("lengths", [[6] * 60, [3 + i % 9 for i in range(60)]], ids=["one length", "many lengths"])
def test_a_line_tells_levels_apart(lengths):
    labels = [i % 3 for i in range(60)]
    reached = classifier_baselines(series_of(labels, lengths), series_of(labels, lengths, seed=1))
    assert reached["linear model"] > 0.9
    assert reached["most frequent class"] == pytest.approx(1 / 3)


def test_a_line_cannot_tell_what_no_line_can():
    # Exclusive or: each value alone says nothing.
    points = [(a, b) for a in (0, 1) for b in (0, 1)] * 10
    split = FakeSplit([np.array(p, np.float32)[:, None] for p in points], [int(a != b) for a, b in points])
    assert classifier_baselines(split, split)["linear model"] <= 0.75


def test_training_examples_and_features_are_limited(monkeypatch):
    monkeypatch.setattr(baselines, "TRAINING_EXAMPLES", 12)
    monkeypatch.setattr(baselines, "WEIGHTS", 8)
    seen = []
    flat = baselines._flat

    def watched(split, indices, steps):
        values = flat(split, indices, steps)
        seen.append(values.shape)
        return values

    monkeypatch.setattr(baselines, "_flat", watched)
    labels = [i % 2 for i in range(40)]
    train = series_of(labels, [50] * 40)
    assert classifier_baselines(train, train) == classifier_baselines(train, train)
    assert seen[:2] == [(12, 4), (40, 4)]


def test_one_class_needs_no_line():
    train = series_of([1, 1], [3, 3])
    assert classifier_baselines(train, train) == {"most frequent class": 1.0}


def test_a_unigram_knows_frequencies_only():
    train = SimpleNamespace(shards={"inputs": torch.tensor([0, 0, 0, 1], dtype=torch.uint16)})
    documents = [torch.tensor([0, 1], dtype=torch.uint16), torch.tensor([2], dtype=torch.uint16)]
    # Each counted once more: 4, 2 and 1 of 7.
    expected = -(math.log2(4 / 7) + math.log2(2 / 7) + math.log2(1 / 7)) / 6
    assert unigram_bits_per_byte(train, documents, 6, 3) == pytest.approx(expected)


def test_of_many_tokens_blocks_from_all_over_are_counted(monkeypatch):
    monkeypatch.setattr(baselines, "TRAINING_TOKENS", 20)
    monkeypatch.setattr(baselines, "BLOCK", 5)
    train = SimpleNamespace(shards={"inputs": torch.tensor([0] * 50 + [1] * 50)})
    # Four blocks of five, two from either half.
    assert unigram_bits_per_byte(train, [torch.tensor([0, 1])], 2, 2) == pytest.approx(1)
