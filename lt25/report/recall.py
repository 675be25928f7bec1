"""What the report says of a model that recalls."""

from __future__ import annotations

from markupsafe import Markup

from lt25.report.collect import Results
from lt25.report.headline import Headline, accuracy, percent, plural

LOSS_UNIT = "nats per symbol"
CAPTIONS = {
    "accuracy_by_difficulty.svg": "Difficulty is the number of pairs, or of letters. Training has the easier half of them."
}


def headline(metrics: dict, split: str) -> Headline:
    """Say the share of symbols that are right."""
    hardest = metrics["by_difficulty"][-1]
    return accuracy(
        metrics,
        "Recall",
        on=f"{metrics['asked']:,} symbols asked for in {plural(metrics['examples'], f'{split} sequence')}",
        also={f"at difficulty {hardest['difficulty']}": f"{percent(hardest['accuracy'], 1)} %"},
        note="% right of the same symbols; more is better. guess: always the symbol that is asked for most often",
    )


def examples(results: Results) -> Markup:
    """Show no single examples: they are random symbols."""
    return Markup("")
