"""What the report says of a regression, and the examples with the largest errors."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from lt25.report.collect import Results
from lt25.report.headline import Headline, span

LOSS_UNIT = "squared error per example"
CAPTIONS = {"predictions.svg": "On the line, the prediction is right."}
LARGEST = 5


def headline(metrics: dict[str, Any], split: str) -> Headline:
    """Say a split's mean absolute error."""
    return Headline(
        name="Mean absolute error",
        value=f"{metrics['mean_absolute_error']:.3f}",
        unit="",
        interval=span(metrics["interval_95"], 1, 3),
        on=f"{metrics['examples']:,} {split} examples",
        also={"root mean squared error": f"{metrics['root_mean_squared_error']:.3f}"},
        measured=metrics["mean_absolute_error"],
    )


def examples(results: Results) -> Markup:
    """Show the largest errors."""
    worst = results.headline_predictions().sort_values("error", ascending=False).head(LARGEST)
    row = Markup('<tr><td>{}</td><td class="n">{:.3f}</td><td class="n">{:.3f}</td></tr>')
    rows = Markup("").join(row.format(one["id"], one["reference"], one["prediction"]) for _, one in worst.iterrows())
    head = Markup('<tr><th>Example</th><th class="n">True</th><th class="n">Predicted</th></tr>')
    return Markup("<h3>Its largest errors</h3><table><thead>{}</thead><tbody>{}</tbody></table>").format(head, rows)
