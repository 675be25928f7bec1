"""The one number that stands for a model, and how numbers are said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Headline:
    """The main number of a split.

    Attributes:
        name: "Accuracy".
        value: "98.6".
        unit: "%", or "".
        interval: "97.2–99.7", or "" where there is none.
        on: what it was measured on, in words.
        also: further numbers, name -> said value.
        measured: the bare number, in the metric's unit.
        yardsticks: what the number is to be compared with, name -> number in the metric's unit: shown as bars, and in the
            README's table.
        note: the sentence under the bars; without yardsticks, why there are none.
        bounds: the interval's ends, in the metric's unit; empty where there is none.
        digits: how many digits after the point the number and its yardsticks have.
        more_is_better: whether a higher number is a better one.
    """

    name: str
    value: str
    unit: str
    interval: str
    on: str
    also: dict[str, str]
    measured: float
    yardsticks: dict[str, float] = field(default_factory=dict)
    note: str = ""
    bounds: Sequence[float] = ()
    digits: int = 3
    more_is_better: bool = False

    @property
    def said(self) -> str:
        """The number with its unit: "98.6 %"."""
        return f"{self.value} {self.unit}".strip()

    def say(self, number: float) -> str:
        """Write another number of the metric, with its unit."""
        return f"{number:.{self.digits}f} {self.unit}".strip()


def accuracy(metrics: dict, name: str, on: str, also: dict[str, str], note: str) -> Headline:
    """Say a share of right answers, ``metrics["accuracy"]``, in percent; the other arguments as `Headline`'s attributes."""
    return Headline(
        name=name,
        value=percent(metrics["accuracy"], 1),
        unit="%",
        interval=span(metrics.get("interval_95"), 100, 1),
        on=on,
        also=also,
        bounds=[100 * end for end in metrics.get("interval_95") or ()],
        measured=100 * metrics["accuracy"],
        yardsticks={name: 100 * share for name, share in metrics.get("baselines", {}).items()},
        note=note,
        digits=1,
        more_is_better=True,
    )


def percent(share: float, digits: int) -> str:
    """A share from 0 to 1 in percent, "98.6"; with further digits where it would round to 0 or 100 and is neither."""
    for more in range(digits, digits + 4):
        said = f"{100 * share:.{more}f}"
        if share in (0, 1) or float(said) not in (0, 100):
            break
    return said


def plural(n: int, one: str) -> str:
    """A count with its noun: "1 error", "1,204 errors"."""
    return f"{n:,} {one}{'' if n == 1 else 's'}"


def span(interval: list[float] | None, scale: float, digits: int) -> str:
    """An interval in words: "97.2–99.7"."""
    if not interval:
        return ""
    low, high = (f"{scale * end:.{digits}f}" for end in interval)
    return f"{low}–{high}"


def duration(seconds: float) -> str:
    """A time that a person can picture: "48 s", "3 min 20 s", "2 h 5 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{round(seconds / 60)} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def size(value: float) -> str:
    """A count of bytes: "812 B", "1.3 MB"."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= one:
            return f"{value / one:.1f} {unit}"
    return f"{value:.0f} B"


def count(value: float) -> str:
    """A big count, short: "1.3 M"; small ones in full."""
    for unit, one in (("G", 1e9), ("M", 1e6)):
        if value >= one:
            return f"{value / one:.2f} {unit}"
    return f"{value:,.0f}"
