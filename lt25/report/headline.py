"""The one number that stands for a model, and how it is said."""

from __future__ import annotations

from dataclasses import dataclass

TASK_NAMES = {
    "classification": "Sequence classification",
    "speech_recognition": "Speech recognition",
    "language_modeling": "Language modelling",
}


@dataclass(frozen=True)
class Headline:
    """name: "Accuracy"; value: "98.6"; unit: "%"; interval: "97.2–99.7", or "" where there is none; on: what it was
    measured on, in words; also: further numbers, name -> said value; measured: the bare number, in the metric's unit."""

    name: str
    value: str
    unit: str
    interval: str
    on: str
    also: dict[str, str]
    measured: float


def headline(task: str, metrics: dict, split: str) -> Headline:
    """Say the main number of one split's metrics. split: its name, for the words."""
    if task == "classification":
        return Headline(
            name="Accuracy",
            value=f"{100 * metrics['accuracy']:.1f}",
            unit="%",
            interval=span(metrics.get("interval_95"), 100, 1),
            on=f"{metrics['correct']:,} of {metrics['examples']:,} {split} examples right",
            also={"macro F1": f"{100 * metrics['macro_f1']:.1f} %"},
            measured=100 * metrics["accuracy"],
        )
    if task == "speech_recognition":
        errors = metrics["substitutions"] + metrics["deletions"] + metrics["insertions"]
        also = {
            "CER": f"{100 * metrics['cer']:.2f} %",
            "without an error": f"{metrics['utterances_without_error']:,} of {metrics['utterances']:,}",
        }
        audio = ""
        if "seconds_of_audio" in metrics:
            audio = f", {duration(metrics['seconds_of_audio'])} of audio"
            also["real-time factor"] = f"{metrics['real_time_factor']:.4f}"
        return Headline(
            name="Word error rate",
            value=f"{100 * metrics['wer']:.2f}",
            unit="%",
            interval=span(metrics.get("interval_95"), 100, 2),
            on=f"{errors:,} errors in {metrics['reference_words']:,} words of "
            f"{metrics['utterances']:,} {split} utterances{audio}",
            also=also,
            measured=100 * metrics["wer"],
        )
    documents = f"{metrics['documents']:,} {split} documents"
    if metrics["documents"] < metrics["documents_in_split"]:
        documents = f"{metrics['documents']:,} of {metrics['documents_in_split']:,} {split} documents"
    return Headline(
        name="Bits per byte",
        value=f"{metrics['bits_per_byte']:.3f}",
        unit="",
        interval=span(metrics.get("interval_95"), 1, 3),
        on=f"{metrics['bytes']:,} bytes in {documents}",
        also={
            "perplexity per token": f"{metrics['perplexity']:.2f}",
            **{name: f"{value:.3f}" for name, value in metrics["compressors"].items()},
        },
        measured=metrics["bits_per_byte"],
    )


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
