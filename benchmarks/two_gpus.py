"""The trainer on one GPU and on several of one host: replicas and shards, with CUDA graphs and without.

    python benchmarks/two_gpus.py [--gpus 2] [--only digits,fsdd,340m] [--seconds 300] [--json FILE]

Synthetic data of the sizes of ``config/experiments/digits.yaml`` and ``fsdd.yaml``, and HGRN 340M at 8 x 4096 tokens, in
bfloat16. Each row is a run of the trainer as a user starts it, with the batch of one GPU on each: steps of input a second over
all GPUs in the last third of the run, how many times that is of one GPU's, and the loss at its end. "same batch" rows train with
one GPU's batch divided among all: their losses must be those of one GPU. Whatever does not fit into ``--seconds`` is left out
and named. What differs from the experiments: no dropout, so that losses can be compared.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trainings
from step import REPOSITORY, Case, Variant, write_project


@dataclass(frozen=True)
class Workload:
    """A network, its task, what its model has besides the size, and how many steps show its speed."""

    case: Case
    task: str
    model: dict[str, Any]
    steps: int


def _base(name: str, *left_out: str) -> dict[str, Any]:
    fields = json.loads((REPOSITORY / "config" / "models" / f"{name}.json").read_text())
    left_out = ("model_type", "architectures", "dropout", "hidden_size", "num_hidden_layers", "vocab_size", *left_out)
    return {key: value for key, value in fields.items() if key not in left_out}


def workloads() -> dict[str, Workload]:
    return {
        "digits": Workload(
            Case(hidden=64, layers=4, batch=64, steps=64, channels=1, classes=10),
            "classification",
            _base("hgrn_classifier_tiny"),
            900,
        ),
        "fsdd": Workload(
            Case(hidden=128, layers=4, batch=32, steps=50, channels=40, classes=20, labels=5),
            "speech_recognition",
            _base("hgrn_ctc_tiny"),
            900,
        ),
        "340m": Workload(
            Case(hidden=1024, layers=24, batch=8, steps=4096, channels=0, classes=1024),
            "language_modeling",
            _base("hgrn_lm_340m", "bos_token_id", "eos_token_id", "pad_token_id"),
            60,
        ),
    }


def runs(gpus: int) -> list[tuple[str, int, dict[str, int], bool, bool]]:
    """Return name, GPUs, degrees of parallelism, whether steps are recorded, and whether the batch is one GPU's, of each run."""
    replicas = {"data_parallel_replicate_degree": gpus, "data_parallel_shard_degree": 1}
    shards = {"data_parallel_shard_degree": gpus}
    return [
        ("one", 1, {}, True, False),
        ("default", gpus, {}, True, False),
        ("default, same batch", gpus, {}, True, True),
        ("one, no graphs", 1, {}, False, False),
        ("replicas, no graphs", gpus, replicas, False, False),
        ("shards", gpus, shards, False, False),
    ]


def train(workload: Workload, gpus: int, parallelism: dict[str, int], graphs: bool, same: bool, limit: float) -> dict:
    """Train, and return tokens (steps of input) a second, the last loss, and what was chosen; or an error."""
    case = workload.case
    local = case.batch // gpus if same else case.batch
    training = {"cuda_graphs": graphs, "mixed_precision_param": "bfloat16", "local_batch_size": local}
    settings = {"training": training, "parallelism": parallelism, "optimizer": {"lr": 1e-3}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variant = Variant(workload.task, settings, workload.model)
        job = write_project(folder, case, workload.steps, variant)
        try:
            records, said = trainings.train(job, gpus, parallelism, limit)
        except trainings.Failed as error:
            return {"error": str(error)}
        last = records[-1]
        chosen = next((line.split(": ", 1)[1] for line in said.splitlines() if " of state " in line), "")
        return {"per_second": last["positions_per_second"], "loss": last["loss"], "chosen": chosen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--only", default="digits,fsdd,340m")
    parser.add_argument("--seconds", type=float, default=300, help="time for everything")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    end, rows = time.perf_counter() + options.seconds, []
    one: dict[str, dict] = {}
    # The most telling runs of all networks come first.
    for name, gpus, parallelism, graphs, same in runs(options.gpus):
        for network in options.only.split(","):
            left, started = end - time.perf_counter(), time.perf_counter()
            row = {"network": network, "run": name}
            if left < 20:
                row["error"] = "left out: no time left"
            else:
                row |= train(workloads()[network], gpus, parallelism, graphs, same, min(left, 100))
            if name == "one":
                one[network] = row
            if "per_second" in row and "per_second" in one.get(network, {}):
                row["times"] = row["per_second"] / one[network]["per_second"]
                if same:
                    row["off"] = abs(row["loss"] - one[network]["loss"])
            rows.append(row)
            numbers = {key: f"{value:,.5g}" if isinstance(value, float) else value for key, value in row.items()}
            print("  ".join(f"{key} {value}" for key, value in numbers.items()), end="", flush=True)
            print(f"  ({time.perf_counter() - started:.0f} s)", flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
