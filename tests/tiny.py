"""A project in a temporary directory with tiny prepared data of each task: what the tests of later stages stand on."""

import contextlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from lt25.checkpoints.convert import read_weights
from lt25.data.speech_recognition import _write_tokenizer
from lt25.experiment import Experiment, load_experiment
from lt25.files import write_record
from lt25.training.job import write_job

REPOSITORY = Path(__file__).parents[1]

MODEL = {
    "model_type": "lt25_hgrn",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 32,
    "dropout": 0.1,
}
DECIDED = {
    "classification": {"input_size": 2, "num_labels": 3},
    "speech_recognition": {"input_size": 4, "vocab_size": 5, "pad_token_id": 0},
    "language_modeling": {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
    "recall": {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
}
DATASETS = {
    "classification": "digits",
    "speech_recognition": "spoken-digits",
    "language_modeling": "stdlib",
    "recall": "mqar",
}


def make_project(root: Path) -> Path:
    """Make ``root`` a project: the repository's datasets and model configurations, and an empty experiments directory."""
    for name in ("config/datasets", "config/models"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(REPOSITORY / name)
    (root / "config" / "experiments").mkdir()
    (root / "config" / "config.yaml").write_text("experiments: [tiny]\n")
    return root


def write_experiment(root: Path, task: str, name: str = "tiny", **sections) -> Experiment:
    """Write and load an experiment of 12 steps of 4 examples.

    Keyword arguments update its sections; None removes one, and a model with a type of its own is that alone.
    """
    experiment = {
        "task": task,
        "dataset": DATASETS[task],
        "model": MODEL,
        "training": {"steps": 12, "local_batch_size": 4, "mixed_precision_param": "float32"}
        | ({"seq_len": 16} if task == "language_modeling" else {}),
        "optimizer": {"lr": 1e-2},
        "lr_scheduler": {"warmup_steps": 2},
        "checkpoint": {"interval": 4},
        "metrics": {"log_freq": 1},
        "debug": {"deterministic": True},
    }
    for section, values in sections.items():
        updates = isinstance(values, dict) and "model_type" not in values
        experiment[section] = {**experiment.get(section, {}), **values} if updates else values
    path = root / "config" / "experiments" / f"{name}.yaml"
    experiment = {section: values for section, values in experiment.items() if values is not None}
    path.write_text(yaml.safe_dump(experiment))
    return load_experiment(path)


def prepare(experiment: Experiment, examples: int = 24, seed: int = 0, between: tuple[int, int] = (8, 20)) -> None:
    """Write random prepared data, in the layout of `lt25 prepare`, with sequences of different lengths ``between`` two."""
    rng = np.random.default_rng(seed)
    folder, task = experiment.processed_dir, experiment.task
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        lengths = rng.integers(*between, examples)
        tensors = {"input_offsets": torch.from_numpy(np.concatenate([[0], lengths.cumsum()]))}
        total = int(lengths.sum())
        if task in ("language_modeling", "recall"):
            tensors["inputs"] = torch.from_numpy(rng.integers(1, 11, total).astype(np.int32))
        else:
            tensors["inputs"] = torch.from_numpy(
                rng.normal(size=(total, DECIDED[task]["input_size"])).astype(np.float32)
            )
        if task == "classification":
            tensors["labels"] = torch.from_numpy(rng.integers(0, 3, examples))
        elif task == "speech_recognition":
            counts = rng.integers(1, 4, examples)
            tensors["label_offsets"] = torch.from_numpy(np.concatenate([[0], counts.cumsum()]))
            tensors["labels"] = torch.from_numpy(rng.integers(1, 5, counts.sum()).astype(np.int32))
        elif task == "recall":
            tensors["label_offsets"] = tensors["input_offsets"].clone()
            tensors["labels"] = tensors["inputs"].roll(-1).where(torch.arange(total) % 3 > 0, -100)
        save_file(tensors, folder / f"{split}-00000-of-00001.safetensors")
    if task == "speech_recognition":
        symbols = ["<pad>", "|", "<unk>", "a", "b"]
        _write_tokenizer(folder, {symbol: number for number, symbol in enumerate(symbols)})
    stats = {
        "task": task,
        "fingerprint": f"{task}-{seed}",
        "model": DECIDED[task],
        "splits": {split: {"examples": examples} for split in ("train", "validation", "test")},
    }
    write_record(folder / "stats.json", stats, sorted({*folder.iterdir()} - {folder / "stats.json"}))


def tiny(root: Path, task: str, name: str = "tiny", **sections) -> Experiment:
    """Make everything that training needs: experiment, prepared data, job file."""
    experiment = write_experiment(root, task, name, **sections)
    prepare(experiment)
    write_job(experiment)
    return experiment


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a test's trainer: one thread, no accelerator, nothing sent anywhere."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path, "DVC_NO_ANALYTICS": "1"}
    return {**kept, **own, **extra}


EXACT_PRODUCTS = {"TRITON_F32_DEFAULT": "tf32x3", "NVIDIA_TF32_OVERRIDE": "0"}
"""What makes a GPU multiply float32: otherwise products have factors of 11 bits, which tells kernels apart that compute the same.
Triton's exact way has no tensor cores, and the largest kernels take minutes to compile."""

# Every test trains in processes of its own, which are forked from one that has imported everything: a second instead of ten.
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["tests.started"])


def forked(target: Callable[..., None], *arguments: Any) -> Any:
    """Return a process, not started yet, that is forked from one which has imported everything."""
    # That one, which begins with the first call, finds `tests` from where it begins; what it does not find it leaves out.
    with contextlib.chdir(REPOSITORY):
        forkserver.ensure_running()
    return forks.Process(target=_begin, args=(target, *arguments))


def _begin(target: Callable[..., None], *arguments: Any) -> None:
    from lt25.ops.backends.numba_common import _start_threads

    _start_threads()
    target(*arguments)


def _rank(root: Path, arguments: list[str], settings: dict[str, str], output: Path, before: str) -> None:
    """Be one rank of a job, in a forked process; ``before`` is code to run first."""
    os.environ.clear()
    os.environ.update(settings)
    os.chdir(root)
    for stream, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(
            os.open(output.with_name(f"{output.name}.{stream}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor
        )
    exec(before, {})
    from lt25.training.__main__ import main

    sys.exit(main(arguments))


def start(experiment: Experiment, *overrides: str, processes: int = 1, before: str = "", **extra: str) -> list:
    """Start a trainer of one or several ranks; what they print goes to files beside the project."""
    arguments = ["--job.config_file", str(experiment.results_dir / "job.toml"), *overrides]
    ranks = []
    settings = environment(**extra)
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            settings |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)} if processes > 1 else {}
        output = experiment.root / f"{experiment.name}-{rank}"
        process = forked(_rank, experiment.root, arguments, settings | own, output, before)
        process.start()
        ranks.append(process)
    return ranks


def train(experiment: Experiment, *overrides: str, limit: float = 240, **options) -> SimpleNamespace:
    """Run the trainer to its end, ``limit`` seconds at most.

    Returns:
        Its ``returncode``, and the ``stdout`` and ``stderr`` of its ranks.
    """
    for old in experiment.root.glob(f"{experiment.name}-*.std*"):
        old.unlink()
    ranks = start(experiment, *overrides, **options)
    for process in ranks:
        process.join(timeout=limit)
    done = SimpleNamespace(returncode=max((process.exitcode for process in ranks), key=abs))
    for stream in ("stdout", "stderr"):
        files = sorted(experiment.root.glob(f"{experiment.name}-*.{stream}"))
        setattr(done, stream, "".join(file.read_text() for file in files))
    return done


def wait_for_all(processes: Iterable[Any]) -> bool:
    """Wait for processes that wait for each other: a second after one has failed, the others are killed.

    Args:
        processes: of `subprocess` or of `multiprocessing`.

    Returns:
        Whether all of them have ended as they should.
    """

    def status(process: Any) -> int | None:
        return process.poll() if isinstance(process, subprocess.Popen) else process.exitcode

    processes = list(processes)
    while any(status(process) is None for process in processes):
        time.sleep(0.05)
        if any(status(process) for process in processes):
            time.sleep(1)
            for process in processes:
                process.kill()
    return not any(status(process) for process in processes)


def kill_at(experiment: Experiment, seen) -> None:
    """Start the trainer and kill it, as the system would, as soon as ``seen()`` is true."""
    (process,) = start(experiment)
    deadline = time.monotonic() + 120
    while not seen():
        assert process.is_alive(), "the trainer ended before it could be killed"
        assert time.monotonic() < deadline, "the trainer never came to the point where it is killed"
        time.sleep(0.001)
    process.kill()
    process.join()


def history(experiment: Experiment) -> list[dict]:
    """Return the records of an experiment's current run."""
    folder = (experiment.results_dir / "checkpoints").resolve().parent
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(experiment: Experiment, step: int) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint of an experiment's current run."""
    return read_weights(experiment.results_dir / "checkpoints" / f"step-{step}")


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are the same bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
