"""An experiment's accuracy on its test split, over several seeds: how the numbers of `smnist`, `psmnist` and `digits` are made.

    python benchmarks/seeds.py smnist psmnist digits [--seeds 3] [--beside 1] [--json FILE] [-- --training.steps 5000]

For each seed an experiment `<name>-seed-<n>` is written, like the first one but for `debug.seed` and the overrides behind `--`;
it is trained, exported, and looked at once on the validation and the test split. Begun again, it goes on where it was, and does
not train again what is trained. Printed are the accuracies, their mean, how far apart the best and the worst are, and the minutes
of a training on this machine.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml

from lt25.data.prepared import PreparedSplit
from lt25.evaluation.classification import evaluate_split
from lt25.experiment import load_experiment
from lt25.models.auto import load_model

BATCH = 250


def lt25(*words: str) -> None:
    """Run a command of lt25's; end with what it says if it fails."""
    done = subprocess.run([sys.executable, "-m", "lt25.cli", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"lt25 {' '.join(words)}: {(done.stdout + done.stderr)[-2000:]}")


def write(name: str, own: str, seed: int, overrides: list[str]) -> None:
    """Write an experiment file like that of ``name``, with a seed and overrides, ``--section.key value`` each."""
    fields = yaml.safe_load(Path(f"config/experiments/{name}.yaml").read_text())
    pairs = [("--debug.seed", str(seed)), *zip(overrides[::2], overrides[1::2], strict=True)]
    for key, value in pairs:
        section, _, inner = key.removeprefix("--").partition(".")
        fields.setdefault(section, {})[inner] = yaml.safe_load(value)
    Path(f"config/experiments/{own}.yaml").write_text(yaml.safe_dump(fields, sort_keys=False))


def run(name: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Train one seed and export it; return its ``seed``, ``minutes`` and accuracies by split."""
    own = f"{name}-seed-{seed}"
    write(name, own, seed, overrides)
    started = time.perf_counter()
    lt25("train", own)
    minutes = (time.perf_counter() - started) / 60
    lt25("export", own)
    return {"seed": seed, "minutes": minutes, **measure(own)}


def measure(name: str) -> dict[str, float]:
    """Return the accuracy of an exported classifier on validation and test."""
    experiment = load_experiment(name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder, found = experiment.results_dir / "hf", {}
    model = load_model("classification", folder, device)
    for split in ("validation", "test"):
        prepared, options = PreparedSplit(experiment.processed_dir, split), SimpleNamespace(batch_size=BATCH)
        found[split] = evaluate_split(model, folder, prepared, options, split, False)[0]["accuracy"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="+")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0; default: %(default)s")
    parser.add_argument("--beside", type=int, default=1, help="trainings side by side; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there too")
    words = sys.argv[1:]
    at = words.index("--") if "--" in words else len(words)
    options, overrides, rows = parser.parse_args(words[:at]), words[at + 1 :], {}
    for name in options.experiments:
        experiment = load_experiment(name)
        lt25("download", experiment.dataset.name)
        lt25("prepare", name)
        with ThreadPoolExecutor(options.beside) as pool:
            rows[name] = list(pool.map(lambda seed, name=name: run(name, seed, overrides), range(options.seeds)))
        accuracies = [100 * row["test"] for row in rows[name]]
        each = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
        mean, apart = sum(accuracies) / len(accuracies), max(accuracies) - min(accuracies)
        minutes = sum(row["minutes"] for row in rows[name]) / len(rows[name])
        print(f"{name}: test {mean:.2f} % ({each}; apart {apart:.2f}), {minutes:.1f} minutes a training", flush=True)
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
