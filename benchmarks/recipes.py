"""What the recipes for large speech data take, on paper.

    python benchmarks/recipes.py [--table docs/speech.md]

Of the experiments librispeech-100, librispeech-960 and peoples-speech are read sizes, batches and steps. Hours and utterances
of the data are as published, and so is the longest utterance. A step has as many seconds of audio as its passes hold, `PADDING`
of which is none. Parameters are counted in a model without memory. Computing is 6
operations a parameter for each frame that subsampling leaves, at `UTILISATION` of 989 TFLOP/s (bfloat16, not sparse, H100 and
H200); where frames are computed as audio is read, each process that loads makes `READ` seconds of audio a second, and the slower
of both counts. Memory is 16 bytes a parameter (float32 weights, gradients and AdamW's two), and `BYTES` for each channel of each
layer and frame of the largest batch, as HGRN 340M was measured to need (benchmarks/RESULTS.md, scaling). Disk is what `lt25
prepare` writes: int16 samples at 16 kHz, or 80 bands in float16 every 10 ms.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch

from lt25.experiment import load_experiment
from lt25.models import HGRNConfig, HGRNForCTC
from lt25.report.markdown import replace

UTILISATION, READ, BYTES, PEAK, PADDING, MARK = 0.2, 500, 40, 989e12, 0.05, "<!-- recipes -->"


class Published(NamedTuple):
    """What is published of a training split, or follows from it.

    Attributes:
        hours: of audio.
        utterances: how many.
        longest: of them, in seconds.
    """

    hours: float
    utterances: int
    longest: float


DATA = {
    "librispeech-100": Published(100.6, 28_539, 24.5),
    "librispeech-960": Published(960.9, 281_241, 35.2),
    # Hours by the size of its FLAC files; a longer recording than prepare.max_seconds is not used.
    "peoples-speech": Published(5_900, 1_501_271, 30.0),
}


def row(name: str) -> dict[str, float]:
    """Return the numbers of a recipe."""
    experiment, data = load_experiment(name), DATA[name]
    values = {key: value for key, value in experiment.model.items() if key != "model_type"}
    sizes = {"input_size": experiment.prepare["n_mels"], "vocab_size": experiment.prepare["vocab_size"]}
    config = HGRNConfig(**{**values, **sizes, "pad_token_id": 0})
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in HGRNForCTC(config).parameters())
    training = experiment.job["training"]
    local, steps = training["local_batch_size"], training["steps"]
    passes = max(training["global_batch_size"] // local, 1)
    positions = training["batch_seconds"] * 100 / config.subsampling
    audio_of_step = passes * training["batch_seconds"] * (1 - PADDING)
    batch, seconds = audio_of_step * data.utterances / data.hours / 3600, steps * audio_of_step
    speed = UTILISATION * PEAK / (6 * parameters * 100 / config.subsampling)
    if audio := experiment.prepare["store"] == "audio":
        speed = min(speed, READ * training["dataloader"]["num_workers"])
    return {
        "parameters": parameters,
        "batch": batch,
        "audio": audio_of_step,
        "steps": steps,
        "epochs": steps * batch / data.utterances,
        "gib": (16 * parameters + BYTES * config.num_hidden_layers * config.hidden_size * positions) / 2**30,
        "speed": speed,
        "hours": seconds / speed / 3600,
        "disk": data.hours * 3600 * (16000 * 2 if audio else 100 * 80 * 2) / 1e9,
    }


def table() -> str:
    """Return the table of docs/speech.md."""
    lines = [
        "| recipe | hours of audio | parameters | utterances a step | audio s a step | steps | epochs | GiB of a GPU | audio s/s "
        "| hours on one GPU | GB on disk |",
        "| --- " + "| ---: " * 10 + "|",
    ]
    for name, data in DATA.items():
        found = row(name)
        lines.append(
            f"| `{name}` | {data.hours:,.0f} | {found['parameters'] / 1e6:.1f} M | {found['batch']:.0f} | "
            f"{found['audio']:,.0f} | "
            f"{found['steps']:,} | {found['epochs']:.0f} | {found['gib']:.1f} | {found['speed']:,.0f} | {found['hours']:.1f} | "
            f"{found['disk']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, metavar="FILE", help=f"renew the table between two lines {MARK} there")
    options = parser.parse_args()
    print(told := table())
    if options.table:
        replace(options.table, MARK, told)


if __name__ == "__main__":
    main()
