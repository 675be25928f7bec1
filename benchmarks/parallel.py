"""Language models of 340M on one GPU and on several of one host, by every kind of parallelism: losses, speed, memory.

    python benchmarks/parallel.py [--gpus 2] [--only hgrn,transformer,gla] [--seconds 390] [--json FILE]
    python benchmarks/parallel.py --small --only hgrn      # small models on a CPU, by gloo

A step takes 8 windows of 4096 random tokens on all GPUs together, vocabulary 32,000, in bfloat16: DDP and FSDP share the windows
out, TP computes all of them on every GPU, PP passes them on one or two at a time. So the losses of all runs must be equal, to
1e-3 in bfloat16. Each row is a run of the trainer as a user starts it: tokens a second over all GPUs in the second half of the
run, how many times that is of one GPU's, peak memory of the first GPU, and the largest difference of a loss. Whatever does not
fit into ``--seconds`` is left out and named.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import trainings
from architectures import read_config
from step import write_job

BATCH, STEPS = 8, 20


def runs(gpus: int) -> dict[str, tuple[int, dict[str, int], int]]:
    """Return name -> GPUs, degrees of parallelism, and windows of a micro-batch."""
    return {
        "one": (1, {}, BATCH),
        "FSDP": (gpus, {"data_parallel_shard_degree": gpus}, BATCH // gpus),
        "TP": (gpus, {"tensor_parallel_degree": gpus}, BATCH),
        "PP": (gpus, {"pipeline_parallel_degree": gpus}, max(BATCH // (4 * gpus), 1)),
        "DDP": (gpus, {"data_parallel_replicate_degree": gpus, "data_parallel_shard_degree": 1}, BATCH // gpus),
    }


def train(name: str, gpus: int, degrees: dict[str, int], local: int, small: bool, limit: float) -> dict[str, Any]:
    """Train, and return losses, tokens a second and memory; or an error."""
    import torch

    config = read_config(name, "lt25", small)
    length = 64 if small else 4096
    torch.manual_seed(0)
    drawn = torch.randint(3, config["vocab_size"], (8 * BATCH * length,), dtype=torch.int32)
    training = {"steps": STEPS, "local_batch_size": local, "global_batch_size": BATCH, "seq_len": length}
    training["mixed_precision_param"] = "float32" if small else "bfloat16"
    settings = {"training": training, "optimizer": {"lr": 1e-4}, "metrics": {"log_freq": 1}}
    shape = {f"{kind}_parallel_degree": 1 for kind in ("tensor", "context", "pipeline")} | degrees
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        tensors = {"inputs": drawn, "input_offsets": torch.tensor([0, len(drawn)])}
        job = write_job(folder, "language_modeling", tensors, config, {**settings, "parallelism": shape})
        try:
            records, _ = trainings.train(job, gpus, degrees, limit)
        except trainings.Failed as error:
            return {"error": str(error)}
        half, last = records[len(records) // 2], records[-1]
        tokens = (last["step"] - half["step"]) * BATCH * length
        return {
            "tokens_per_second": tokens / (last["seconds"] - half["seconds"]),
            "memory_gib": last["memory_gib"],
            "losses": [record["loss"] for record in records],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--only", default="hgrn,transformer", help="of hgrn, transformer, gla")
    parser.add_argument("--runs", default=",".join(runs(2)), help="which, of all")
    parser.add_argument("--seconds", type=float, default=390, help="time for everything")
    parser.add_argument("--small", action="store_true", help="small models, in float32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    end, rows = time.perf_counter() + options.seconds, []
    for model in options.only.split(","):
        one: dict[str, Any] = {}
        for name in options.runs.split(","):
            left, row = end - time.perf_counter(), {"model": model, "run": name}
            if left < 20:
                row["error"] = "left out: no time left"
            else:
                row |= train(model, *runs(options.gpus)[name], options.small, min(left, 150))
            one = row if name == "one" else one
            if "losses" in row and "losses" in one:
                row["times"] = row["tokens_per_second"] / one["tokens_per_second"]
                pairs = zip(row["losses"], one["losses"], strict=True)
                row["off"] = max(abs(a - b) for a, b in pairs)
            rows.append(row)
            shown = {key: f"{value:,.4g}" if isinstance(value, float) else value for key, value in row.items()}
            shown.pop("losses", None)
            print("  ".join(f"{key} {value}" for key, value in shown.items()), flush=True)
            if options.json:
                options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
