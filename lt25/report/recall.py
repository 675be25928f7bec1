"""What the report says of a model that recalls."""

from __future__ import annotations

from markupsafe import Markup

from lt25.report.collect import Results
from lt25.report.headline import Headline, percent, plural, span

LOSS_UNIT = "nats per symbol"
CAPTIONS = {
    "accuracy_by_difficulty.svg": "Difficulty is the number of pairs, or of letters. Training has the easier half of them."
}


def headline(metrics: dict, split: str) -> Headline:
    """Say the share of symbols that are right."""
    hardest = metrics["by_difficulty"][-1]
    return Headline(
        name="Recall",
        value=percent(metrics["accuracy"], 1),
        unit="%",
        interval=span(metrics.get("interval_95"), 100, 1),
        on=f"{metrics['asked']:,} symbols asked for in {plural(metrics['examples'], f'{split} sequence')}",
        also={f"at difficulty {hardest['difficulty']}": f"{percent(hardest['accuracy'], 1)} %"},
        bounds=[100 * end for end in metrics.get("interval_95") or ()],
        measured=100 * metrics["accuracy"],
        yardsticks={name: 100 * share for name, share in metrics.get("baselines", {}).items()},
        note="% right of the same symbols; more is better. guess: always the symbol that is asked for most often",
        digits=1,
        more_is_better=True,
    )


def examples(results: Results) -> Markup:
    """Show no single examples: they are random symbols."""
    return Markup("")
