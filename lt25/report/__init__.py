"""What the results look like to a reader: one self-contained page, and the table of the README."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lt25.experiment import Experiment

__all__ = ["build", "renew_table", "table"]


def build(experiments: Sequence[Experiment], out: Path, sweeps: Sequence[Sequence[Experiment]] = ()) -> None:
    """Write one HTML page with everything inside it that shows the experiments side by side; see `lt25.report.page`.

    Args:
        experiments: each is shown whole.
        out: the page's file.
        sweeps: the runs of each sweep, which are shown by their settings.

    Raises:
        UserError: if an experiment has not been evaluated.
    """
    from lt25.report.collect import read_metrics
    from lt25.training.halving import finalists

    for experiment in [*experiments, *(run for runs in sweeps for run in finalists(runs))]:
        read_metrics(experiment)
    # pandas and matplotlib take seconds to import, which a mistake of the user's should not wait for
    from lt25.files import write_text
    from lt25.report.page import render

    write_text(Path(out), render(experiments, sweeps))


def table(experiments: Sequence[Experiment]) -> str:
    """The results as a Markdown table; see `lt25.report.table`. Raises UserError as `build`."""
    from lt25.report.markdown import results_table

    return results_table(experiments)


def renew_table(experiments: Sequence[Experiment], path: Path) -> None:
    """Put the table between the two `<!-- results -->` lines of a Markdown file.

    Raises UserError if the file has no such place, or as `build`.
    """
    from lt25.report.markdown import renew

    renew(experiments, Path(path))
