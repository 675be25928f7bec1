"""Context parallelism: sequences of up to a million tokens through an HGRN language model on two GPUs, beside one.

    python benchmarks/context.py [--gpus 2] [--seconds 190] [--json FILE]

Each row is a run of the trainer as a user starts it: HGRN of 1,024 channels in bfloat16, one window a step, activations of each
layer computed again, forward, backward and optimizer step. It says tokens a second over all GPUs in the last third of the run,
the peak of memory on the first GPU, and the last loss. The first two rows are all GPUs and one on the same windows: their losses
must be equal. Then come 1,048,576 tokens in one sequence, shared by all GPUs, and on one GPU the longest power of two that fits.
A model whose million tokens do not fit is tried again with fewer layers. What ``--seconds`` leave no time for is named.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import trainings
from step import Case, Variant, write_project

CHANNELS, VOCABULARY, LAYERS = 1024, 1024, (24, 16)
EQUAL, LONG = 2**15, 2**20


def train(gpus: int, length: int, layers: int, steps: int, limit: float) -> dict[str, Any]:
    """Train on windows of so many tokens, and return tokens a second, memory and loss; or an error."""
    # No document ends within a window.
    training = {"mixed_precision_param": "bfloat16", "varlen": False}
    parallelism = {f"{kind}_parallel_degree": 1 for kind in ("tensor", "context", "pipeline")}
    parallelism["context_parallel_degree"] = gpus
    settings = {
        "training": training,
        "parallelism": parallelism,
        "activation_checkpoint": {"mode": "full"},
        "optimizer": {"lr": 1e-3},
    }
    model = {"dropout": 0.0, "use_short_conv": True}
    case = Case(hidden=CHANNELS, layers=layers, batch=1, steps=length, channels=0, classes=VOCABULARY)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = write_project(folder, case, steps, Variant("language_modeling", settings, model))
        try:
            records, _ = trainings.train(job, gpus, parallelism, limit)
        except trainings.Failed as error:
            return {"error": str(error)}
        return {
            "per_second": records[-1]["positions_per_second"],
            "memory_gib": max(record["memory_gib"] for record in records),
            "loss": records[-1]["loss"],
            "grad_norm": records[-1]["grad_norm"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=190, help="time for everything")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    end, rows = time.perf_counter() + options.seconds, []

    def measure(gpus: int, length: int, layers: int, steps: int) -> dict[str, Any]:
        left, started = end - time.perf_counter(), time.perf_counter()
        row = {"gpus": gpus, "tokens": length, "layers": layers}
        row |= {"error": "left out: no time left"} if left < 20 else train(gpus, length, layers, steps, min(left, 90))
        rows.append(row)
        numbers = {key: f"{value:,.6g}" if isinstance(value, float) else value for key, value in row.items()}
        print("  ".join(f"{key} {value}" for key, value in numbers.items()), end="", flush=True)
        print(f"  ({time.perf_counter() - started:.0f} s)", flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
        return row

    def fits(row: dict[str, Any]) -> bool:
        return "error" not in row

    measure(options.gpus, EQUAL, LAYERS[0], 12)
    measure(1, EQUAL, LAYERS[0], 12)
    layers = next((layers for layers in LAYERS if fits(measure(options.gpus, LONG, layers, 6))), LAYERS[-1])
    next((length for length in (LONG // 2, LONG // 4, LONG // 8) if fits(measure(1, length, layers, 6))), None)


if __name__ == "__main__":
    main()
