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
    assert set(plots.training(history, [], "nats per example", "tokens")) == {"loss"}
    assert plots.training(history[:1], [], "nats per example", "tokens") == {}
    assert plots.sparkline([]) is None


VALIDATIONS = [{"step": s, "validation": {"loss": 1 / s, "accuracy": 1 - 0.5 / s}} for s in (1, 2, 4)]
HISTORY = [{"step": s, "seconds": 2.0 * s, "loss": 3 / s, "lr": 0.1, "positions_per_second": 9.0} for s in (1, 2, 3, 4)]


def lines_of(figure):
    (ax,) = figure.axes
    return {line.get_label(): line.get_ydata().tolist() for line in ax.lines}


def title_of(figure):
    return figure.get_suptitle()


def test_a_step_alone_has_whole_ticks():
    figure = plots.training(HISTORY, VALIDATIONS[:1], "nats per example", "frames")["validation-accuracy"]
    assert all(tick == round(tick) for tick in figure.axes[0].get_xticks())


def test_validation_stands_beside_the_training_loss_and_the_learning_rate():
    figures = plots.training(HISTORY, VALIDATIONS, "nats per example", "frames")
    assert list(figures) == ["loss", "validation-accuracy", "lr", "rate"]
    assert lines_of(figures["loss"])["validation"] == [1, 0.5, 0.25]
    assert title_of(figures["loss"]) == "Loss, nats per example"
    assert title_of(figures["validation-accuracy"]) == "Validation, accuracy, %"
    assert figures["validation-accuracy"].axes[0].get_ylim()[1] <= 100
    assert title_of(figures["rate"]) == "Throughput, frames per second"
    assert title_of(plots.training(HISTORY, [], "nats", "frames")["loss"]) == "Training loss, nats"


def test_axes_of_percentages_end_at_100_unless_a_value_is_above():
    top = [
        plots.learning_curve([1, 2], {"test": values}, "", True).axes[0].get_ylim()[1]
        for values in ([90, 100], [90, 140])
    ]
    assert top[0] == 100
    assert top[1] > 140
    assert plots.learning_curve([1, 2], {"test": [0, 50]}, "", True).axes[0].get_ylim()[0] == 0
    # What is no percentage has room at both ends.
    assert plots.learning_curve([1, 2], {"test": [90, 100]}, "", False).axes[0].get_ylim()[1] > 100


def test_curves_of_several_experiments_share_a_plot_and_look_different():
    curve = (np.array([1, 2]), np.array([2.0, 1.0]))
    empty = (np.array([]), np.array([]))
    figure = plots.together([curve, empty, curve, curve, curve, curve], "loss", "step")
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(looks) == len(set(looks)) == 6
    assert plots.together([curve, empty], "loss", "step") is None


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
