"""What the report says of a language model, and what it writes."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from lt25.report.collect import Results
from lt25.report.headline import Headline, span
from lt25.report.html import fill

LOSS_UNIT = "nats per token"
CAPTIONS = {
    "bits_by_document.svg": "Fewer is better. The lines are the values over all these bytes together.",
    "bits_by_position.svg": "Where the line falls, the model makes use of what it has read.",
}


def headline(metrics: dict, split: str) -> Headline:
    """Say a split's bits per byte, beside those of general compressors."""
    documents = f"{metrics['documents']:,} {split} documents"
    if metrics["documents"] < metrics["documents_in_split"]:
        documents = f"{metrics['documents']:,} of {metrics['documents_in_split']:,} {split} documents"
    return Headline(
        name="Bits per byte",
        value=f"{metrics['bits_per_byte']:.3f}",
        unit="",
        interval=span(metrics.get("interval_95"), 1, 3),
        on=f"{metrics['bytes']:,} bytes in {documents}",
        also={"perplexity per token": f"{metrics['perplexity']:.2f}"},
        bounds=metrics.get("interval_95") or (),
        measured=metrics["bits_per_byte"],
        yardsticks={**metrics.get("baselines", {}), **metrics["compressors"]},
        note="bits per byte on the same bytes; fewer is better. unigram: each token guessed by its frequency in training",
    )


def examples(results: Results) -> Markup:
    """Show the continuations of the prompts."""
    return fill(Path(__file__).with_suffix(".html"), samples=results.headline_split.get("samples", []))
