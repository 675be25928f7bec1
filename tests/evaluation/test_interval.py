import numpy as np
import pytest
from scipy.stats import binomtest

from lt25.evaluation.interval import bootstrap_interval, rate_interval, wilson_interval


@pytest.mark.parametrize(("right", "n"), [(0, 9), (9, 9), (351, 359), (1, 2), (1, 1), (5000, 10_000)])
def test_the_interval_of_a_proportion_is_wilsons(right, n):
    expected = binomtest(right, n).proportion_ci(method="wilson")
    low, high = wilson_interval(right, n)
    assert [low, high] == pytest.approx([expected.low, expected.high], abs=1e-6)
    assert 0 <= low <= right / n <= high <= 1
    assert high - low > 0.01


def test_a_proportion_of_nothing_has_no_interval():
    assert wilson_interval(0, 0) is None


def test_the_bootstrap_of_a_proportion_is_close_to_the_normal_interval():
    right = np.array([1] * 900 + [0] * 100)
    low, high = bootstrap_interval(right, np.ones(1000))
    half = 1.96 * (0.9 * 0.1 / 1000) ** 0.5
    assert low == pytest.approx(0.9 - half, abs=0.003)
    assert high == pytest.approx(0.9 + half, abs=0.003)
    assert bootstrap_interval(right, np.ones(1000)) == [low, high]


@pytest.mark.parametrize("ratio", [0, 2, 0.1, 1234.567])
def test_examples_that_all_agree_do_not_make_certain(ratio):
    assert bootstrap_interval(ratio * np.array([1, 2, 3, 7]), [1, 2, 3, 7]) is None


def test_no_error_in_few_utterances_is_not_certainty():
    low, high = rate_interval([0] * 20, [3] * 20)
    assert low == 0
    assert high == pytest.approx(0.161, abs=0.001)
    assert 0.8 < rate_interval([3] * 24, [3] * 24)[0] < 0.95 and rate_interval([3] * 24, [3] * 24)[1] == 1
    low, high = rate_interval([1, 2, 1] * 5, [2, 4, 2] * 5)
    assert 0.2 < low < 0.4 and 0.6 < high < 0.8
    assert rate_interval([6] * 5, [3] * 5)[1] == 2
    assert rate_interval([0, 1, 0], [3, 3, 3]) == bootstrap_interval([0, 1, 0], [3, 3, 3])


def test_nothing_to_say():
    assert bootstrap_interval([1], [1]) is None
    assert bootstrap_interval([0, 0], [0, 0]) is None
    assert rate_interval([0], [1]) is None
    assert rate_interval([0, 0], [0, 0]) is None
