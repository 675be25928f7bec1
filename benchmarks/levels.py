"""Word error rates of exported speech recognisers on recordings that are played louder and softer.

    python benchmarks/levels.py EXPERIMENT... [--split validation]

The exported model of each experiment, or of each run of a sweep, hears a prepared split at four levels, as files of 16 bits at
the rate of `prepare.sample_rate` hold them: what they do not suffice for is cut off. Needs `prepare.store: audio`. Prints a
Markdown table in %, with the mean of all models at its end. `--split test` is for the final number.
"""

import argparse
from typing import Any

import torch
from transformers import AutoTokenizer

import lt25  # noqa: F401 (registers the models)
from lt25.data.audio import from_int16, to_int16
from lt25.data.prepared import PreparedSplit
from lt25.data.speech_recognition import holds_audio
from lt25.evaluation.speech_recognition import transcribe
from lt25.experiment import Experiment, load_experiments
from lt25.models.auto import load_model

LEVELS = (12, 0, -12, -24)


class Played(PreparedSplit):
    """A prepared split whose recordings are played at another level, in decibels."""

    decibels = 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        louder = from_int16(item["input"]).numpy() * 10 ** (self.decibels / 20)
        return {**item, "input": torch.from_numpy(to_int16(louder))}


def measure(experiment: Experiment, name: str) -> list[float]:
    """Return the word error rate at each level, in %."""
    split = Played(experiment.processed_dir, name)
    if not holds_audio(split):
        raise SystemExit(f"{split.path}: holds features, which have a level already: set prepare.store to audio")
    folder, rates = experiment.results_dir / "hf", []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = load_model("speech_recognition", folder, device), AutoTokenizer.from_pretrained(folder)
    for split.decibels in LEVELS:
        metrics, _ = transcribe(model, split, tokenizer, 100, f"{experiment.name}, {split.decibels:+} dB")
        rates.append(100 * metrics["wer"])
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+")
    parser.add_argument("--split", default="validation")
    options = parser.parse_args()
    runs = [run for name in options.experiments for run in load_experiments(name)]
    rows = {run.name: measure(run, options.split) for run in runs}
    rows["mean"] = [sum(rates) / len(rows) for rates in zip(*rows.values(), strict=True)]
    print(f"| {options.split} | " + " | ".join(f"{level} dB" for level in LEVELS) + " |")
    print("| --- |" + " ---: |" * len(LEVELS))
    for name, rates in rows.items():
        print(f"| {name} | " + " | ".join(f"{rate:.2f}" for rate in rates) + " |")


if __name__ == "__main__":
    main()
