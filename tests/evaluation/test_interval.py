import numpy as np
import pytest

from lt25.evaluation.interval import bootstrap_interval


def test_the_interval_of_a_proportion_is_close_to_the_normal_one():
    right = np.array([1] * 900 + [0] * 100)
    low, high = bootstrap_interval(right, np.ones(1000))
    half = 1.96 * (0.9 * 0.1 / 1000) ** 0.5
    assert low == pytest.approx(0.9 - half, abs=0.003)
    assert high == pytest.approx(0.9 + half, abs=0.003)
    assert bootstrap_interval(right, np.ones(1000)) == [low, high]


def test_examples_that_all_agree_have_no_spread():
    assert bootstrap_interval([2, 4, 6], [1, 2, 3]) == pytest.approx([2, 2])


def test_nothing_to_say():
    assert bootstrap_interval([1], [1]) is None
    assert bootstrap_interval([0, 0], [0, 0]) is None
