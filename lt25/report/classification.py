"""What the report says of a classifier, and its most confident mistakes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from markupsafe import Markup

from lt25.report import media
from lt25.report.collect import Results, read_if_there
from lt25.report.headline import Headline, accuracy, percent, plural
from lt25.report.html import fill

if TYPE_CHECKING:
    import pandas as pd

LOSS_UNIT = "nats per example"
CAPTIONS = {
    "confusion.svg": "Rows are the true classes, columns what the model said. Off the diagonal: mistakes.",
    "f1.svg": "F1 is the harmonic mean of precision and recall.",
    "calibration.svg": "On the dashed line a model is right as often as it is sure. Larger points stand for more examples.",
    "read.svg": "The same model, given the beginnings of the sequences only.",
    "gates.svg": "After so many steps a channel has forgotten all but 37 % of what it held: median, half and 90 % of a layer's "
    "channels.",
}
MISTAKES = 18
CHANNELS = 8
"""So many channels of a series are drawn, its first."""


def headline(metrics: dict, split: str) -> Headline:
    """Say a split's accuracy."""
    return accuracy(
        metrics,
        "Accuracy",
        on=f"{metrics['correct']:,} of {plural(metrics['examples'], f'{split} example')} right",
        also={"macro F1": f"{percent(metrics['macro_f1'], 1)} %"},
        note="% right of the same examples; more is better",
    )


def examples(results: Results) -> Markup:
    """Show the wrong answers given with most conviction."""
    return fill(Path(__file__).with_suffix(".html"), mistakes=mistakes(results))


def mistakes(results: Results) -> list[dict]:
    """The wrong answers given with most conviction, with the picture or curve that the model was shown."""
    from lt25.data.images import pixel_order
    from lt25.data.prepared import PreparedSplit

    table = results.headline_predictions()
    wrong = cast("pd.DataFrame", table[~table["correct"]]).sort_values("probability", ascending=False).head(MISTAKES)
    if wrong.empty:
        return []
    split = PreparedSplit(results.experiment.processed_dir, results.metrics["headline"])
    extractor = read_if_there(split.path / "preprocessor_config.json")
    size = extractor.get("size")
    order = pixel_order(size, extractor["permutation"]) if size else None
    shown = []
    for position, row in cast(Iterable[tuple[int, Any]], wrong.iterrows()):
        values = split[int(position)]["input"].float().numpy()
        # What is read in another order is shown in its own.
        values = values if order is None else values[order.argsort()]
        # The other half of the channels says where the first was measured.
        channels = values.shape[1] // (2 if extractor.get("missing") else 1)
        shown.append(
            {
                "id": row["id"],
                "picture": media.picture(values, size) if size else None,
                "traces": [] if size else media.traces(values[:, : min(channels, CHANNELS)]),
                "reference": row["reference"],
                "prediction": row["prediction"],
                "probability": f"{percent(float(row['probability']), 0)} %",
            }
        )
    return shown
