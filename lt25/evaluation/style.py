"""The house style of every plot: small, quiet, readable on white and on black.

Plots have no background and five mid-tone colours. As files they can be looked at anywhere; the report replaces the
five colours by its own, which follow the reader's light or dark setting. Text stays text: smaller than outlines, and it
can be searched and selected. matplotlib is imported by the first plot that is drawn, since most evaluations draw none.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from lt25.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

INK = "#75797f"
TEXT = "#71757b"
ACCENT = "#2f8f9d"
SECOND = "#cc8a3b"
THIRD = "#b8596e"

# width and height of a small plot, in inches of 72 points; the page shows a point as about 1.25 pixels
SMALL = (3.4, 2.4)
SQUARE = (3.4, 3.3)

RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lt25",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.labelsize": 8.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-4, 6),
    "grid.color": INK,
    "grid.alpha": 0.22,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "xtick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "savefig.transparent": True,
}


def axes(
    size: tuple[float, float] = SMALL,
    title: str = "",
    x: str = "",
    grid: Literal["x", "y", "both", "none"] = "y",
) -> Axes:
    """A new figure with one pair of axes in the house style.

    size: inches; title: what the value axis shows, and its unit: it stands at the top, where it is read first, and not
    on its side; x: name of the horizontal axis; grid: "x", "y", "both" or "none".
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=size, layout="constrained")
        ax = figure.add_subplot()
        ax.grid(False)
        if grid != "none":
            ax.grid(True, axis=grid)
        if title:
            figure.suptitle(title, x=0, ha="left", fontsize=9.5, color=TEXT)
        ax.set_xlabel(x)
    return ax


def figure_of(ax: Axes) -> Figure:
    """The figure that `axes` made."""
    return cast("Figure", ax.figure)


def ticks(n: int, whole: bool = False) -> MaxNLocator:
    """About `n` ticks at numbers that a person would choose; `whole` allows whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    # Of an axis as short as one step matplotlib would otherwise divide the step, for a second tick.
    return MaxNLocator(n, integer=whole, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1 if whole else 2)


def logarithmic(ax: Axes) -> None:
    """Make a vertical axis logarithmic, with ticks at 1, 2 and 5 and their like, written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def end_at_100(ax: Axes, top: float | None = None) -> None:
    """Let a vertical axis of percentages begin no lower than 0 and, where no value is above, end at 100.

    top: where it would end; by default where it does.
    """
    bottom, now = ax.get_ylim()
    top = now if top is None else top
    ax.set_ylim(max(bottom, 0), min(top, 100) if ax.dataLim.y1 <= 100 else top)


def svg(figure: Figure) -> str:
    """The figure as an SVG document, the same bytes for the same figure."""
    import matplotlib

    with matplotlib.rc_context(RC), warnings.catch_warnings():
        buffer = io.StringIO()
        # matplotlib's own font only measures the text; whoever shows the file has others.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write the figure to `path` as SVG."""
    write_text(path, svg(figure))
