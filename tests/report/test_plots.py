import numpy as np

from lt25.evaluation import style
from lt25.report import plots
from lt25.report.svg import inline


def test_smoothing_neither_lags_nor_bends_at_the_ends():
    assert np.allclose(plots.smooth(np.full(90, 3.0)), 3.0)
    ramp = np.arange(200.0)
    assert np.allclose(plots.smooth(ramp)[20:-20], ramp[20:-20])
    assert len(plots.smooth(np.array([1.0, 2.0]))) == 2


def test_values_that_are_not_finite_are_not_drawn():
    history = [{"step": s, "loss": float("nan") if s == 2 else 1.0} for s in range(5)]
    assert plots.series(history, "loss")[0].tolist() == [0, 1, 3, 4]
    assert set(plots.training(history, "nats per example")) == {"loss"}
    assert plots.training(history[:1], "nats per example") == {}
    assert plots.sparkline([]) is None


def test_the_same_figure_is_the_same_bytes():
    once, again = (style.svg(plots.learning_curve([1, 2], {"test": [3.0, 2.0]}, "loss")) for _ in range(2))
    assert once == again
    assert "<text" in once


def test_two_plots_on_a_page_do_not_share_names():
    text = style.svg(plots.learning_curve([1, 2], {"test": [3.0, 2.0]}, "loss"))
    a, b = inline(text, "a", "x & y"), inline(text, "b", "x")
    assert "DejaVu" not in a
    assert 'aria-label="x &amp; y"' in a
    assert 'id="a-' in a
    assert 'id="a-' not in b
    assert "#a-" not in b
