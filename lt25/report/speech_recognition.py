"""What the report says of a speech recogniser, and utterances to listen to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import jiwer
import numpy as np
import pandas as pd
from markupsafe import Markup

from lt25.evaluation.alignment import aligned
from lt25.report import media
from lt25.report.collect import Results
from lt25.report.headline import Headline, duration, percent, plural, span
from lt25.report.html import fill

LOSS_UNIT = "nats per character"
CAPTIONS = {
    "wer_by_length.svg": "Errors divided by words, for utterances of each length.",
    "error_kinds.svg": "Words taken for others, left out, and made up.",
    "wer_by_condition.svg": "The same recordings played quieter, through a telephone's band, and in noise at these ratios of "
    "signal to noise. Lines are 95 % intervals.",
}
DRAWN, WORST = 5, 5
"""How many utterances the page shows: drawn at random, and of those with the most errors."""


def headline(metrics: dict, split: str) -> Headline:
    """Say a split's word error rate."""
    errors = metrics["substitutions"] + metrics["deletions"] + metrics["insertions"]
    also = {
        "CER": f"{percent(metrics['cer'], 2)} %",
        "without an error": f"{metrics['utterances_without_error']:,} of {metrics['utterances']:,}",
    }
    if "normalised" in metrics:
        also["spelling aside"] = f"{percent(metrics['normalised']['wer'], 2)} %"
    audio = ""
    if "seconds_of_audio" in metrics:
        audio = f", {duration(metrics['seconds_of_audio'])} of audio"
        also["real-time factor"] = f"{metrics['real_time_factor']:.4f}"
    return Headline(
        name="Word error rate",
        value=percent(metrics["wer"], 2),
        unit="%",
        interval=span(metrics.get("interval_95"), 100, 2),
        on=f"{plural(errors, 'error')} in {plural(metrics['reference_words'], 'word')} of "
        f"{plural(metrics['utterances'], f'{split} utterance')}{audio}",
        also=also,
        bounds=[100 * end for end in metrics.get("interval_95") or ()],
        measured=100 * metrics["wer"],
        note="No simple baseline stands beside it: always answering the most frequent words gets nearly all of them wrong, "
        "and tells nothing. Listen below, and compare with what you hear.",
        digits=2,
    )


def examples(results: Results) -> Markup:
    """Show utterances drawn at random, and those with the most errors, with their sound."""
    table = results.headline_predictions()
    chosen = np.random.default_rng(0).permutation(len(table))[:DRAWN]
    wrong = cast(pd.DataFrame, table[table["errors"] > 0])
    worst = wrong.sort_values(["errors", "character_errors", "words"], ascending=False, kind="stable").head(WORST)
    return fill(
        Path(__file__).with_suffix(".html"),
        split=results.metrics["headline"],
        some=utterances(results, table.iloc[sorted(chosen)]),
        worst=utterances(results, worst),
        **tables(results.metrics["splits"][results.metrics["headline"]]),
    )


def tables(metrics: dict) -> dict[str, list]:
    """Rows of the tables of a split, (name, cells): worse conditions, speakers from the worst on, words taken for others."""

    def row(name: str, rates: dict, *more: str) -> tuple[str, list[str]]:
        return name, [percent(rates["wer"], 2), span(rates["interval_95"], 100, 2) or "–", *more]

    speakers = sorted(metrics.get("by_speaker", {}).items(), key=lambda one: -one[1]["wer"])
    return {
        "conditions": [row(name, rates) for name, rates in metrics.get("conditions", {}).items()],
        "speakers": [row(name, rates, f"{rates['utterances']:,}") for name, rates in speakers]
        if len(speakers) > 1
        else [],
        "confusions": [
            (one["said"] or "–", [one["heard"] or "–", f"{one['count']:,}"]) for one in metrics.get("confusions", ())
        ],
    }


def utterances(results: Results, rows: pd.DataFrame) -> list[dict]:
    """Rows of the headline predictions, aligned word by word, with their sound where the prepared data keeps it."""
    clips = sounds(results, list(rows.index))
    return [
        {
            "pairs": aligned(jiwer.process_words(row["reference"], row["prediction"])),
            "errors": plural(int(row["errors"]), "error"),
            "words": plural(int(row["words"]), "word"),
            "about": " · ".join(
                str(part)
                for part in (row.get("speaker"), duration(row["seconds"]) if "seconds" in row else None)
                if part is not None and not pd.isna(part)
            ),
            "sound": clips.get(position, ""),
        }
        for position, row in cast(Iterable[tuple[int, Any]], rows.iterrows())
    ]


def sounds(results: Results, positions: list[int]) -> dict[int, str]:
    """Clips of some examples of the headline split: position -> data URI; {} where the prepared data keeps no audio."""
    import pyarrow.parquet

    path = results.experiment.processed_dir / f"{results.metrics['headline']}.parquet"
    if not path.exists() or "audio" not in pyarrow.parquet.read_schema(path).names:
        return {}
    audio = pyarrow.parquet.read_table(path, columns=["audio"])["audio"].take(positions).to_pylist()
    return {position: media.sound(clip) for position, clip in zip(positions, audio, strict=True) if clip}
