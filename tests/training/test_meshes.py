"""Every mesh that is offered trains as one process does: losses, norms of gradients and weights, in float32.

Ten steps on CPUs with kernels that run there, and on GPUs; two steps of smaller batches where Triton's interpreter runs them.
"""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from lt25.models import meshes
from lt25.models.families import FAMILIES
from lt25.models.meshes import MESHES, Mesh
from lt25.tasks import TASKS
from lt25.training.processes import free_port
from tests import tiny
from tests.models.tiny import family_fields
from tests.training.ranks import train_in_turn

STEPS = 10
ALONE = Mesh({})
TASKS_TESTED = [task for task in TASKS if task != "recall"]


@dataclass(frozen=True)
class Cell:
    """A model of a family for a task on a mesh, and further keys that must not change the numbers."""

    mesh: Mesh
    family: str
    task: str
    options: str = "{}"

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def name(self) -> str:
        options = json.loads(self.options)
        named = [f"{key} {value}" for keys in options.values() for key, value in keys.items()]
        return "-".join([self.mesh.name or "alone", self.family, self.task, *named]).replace(" ", "_")

    @property
    def alone(self) -> "Cell":
        options = json.loads(self.options)
        options.pop("parallelism", None)
        return Cell(ALONE, self.family, self.task, json.dumps(options))

    @property
    def needs_triton(self) -> bool:
        """Whether its kernels are Triton's only."""
        return FAMILIES[self.family].devices == ("cuda",)

    @property
    def windows(self) -> int:
        """How many make a step: FLA's delta_net computes float32 only in batches of 64 tokens at most."""
        return 4 if self.needs_triton else 8


OPTIONS = [
    ("FSDP 2", "language_modeling", {"parallelism": {"fsdp_reshard_after_forward": "never"}}),
    ("FSDP 2", "language_modeling", {"model": {"tie_word_embeddings": True}}),
    ("TP 2", "language_modeling", {"model": {"tie_word_embeddings": True}, "activation_checkpoint": {"mode": "full"}}),
    ("TP 2", "language_modeling", {"model": {"use_short_conv": True}, "training": {"z_loss": 1e-3}}),
    ("TP 2", "language_modeling", {"parallelism": {"disable_loss_parallel": True}}),
    *((mesh, "language_modeling", {"training": {"varlen": False}}) for mesh in ("PP 2", "CP 2")),
    ("TP 2", "speech_recognition", {"model": {"bidirectional": True, "subsampling": 2}}),
    *(
        (
            mesh,
            "speech_recognition",
            {"training": {"intermediate_ctc": 0.3}, "augment": {"consistency": 0.2, "time_masks": 1}},
        )
        for mesh in ("DDP 2", "FSDP 2", "TP 2", "CP 2")
    ),
    ("TP 2", "classification", {"model": {"bidirectional": True, "pooling": "last"}}),
    # Batches have 11, 15 and 19 steps here, of which subsampling leaves 6, 8 and 10: parts of unequal and of equal sizes.
    *(
        ("TP 2", task, {"model": {"bidirectional": True, "use_short_conv": True, "subsampling": subsampling}})
        for task in ("classification", "speech_recognition")
        for subsampling in (1, 2)
    ),
    ("TP 4", "classification", {"model": {"bidirectional": True, "use_short_conv": True}}),
    ("FSDP 2 x TP 2", "speech_recognition", {"model": {"bidirectional": True, "use_short_conv": True}}),
    (
        "PP 2",
        "language_modeling",
        {"parallelism": {"pipeline_parallel_schedule": "Interleaved1F1B"}, "validation": {"freq": STEPS}},
    ),
    ("PP 2", "speech_recognition", {"validation": {"freq": STEPS}}),
    ("TP 2 x CP 2", "speech_recognition", {"model": {"bidirectional": True, "subsampling": 2}}),
    *(
        ("TP 2 x CP 2", task, {"model": {"bidirectional": True, "use_short_conv": True}})
        for task in ("classification", "speech_recognition")
    ),
    (
        "TP 2 x CP 2",
        "language_modeling",
        {"model": {"use_short_conv": True}, "activation_checkpoint": {"mode": "full"}},
    ),
    ("PP 2 x CP 2", "speech_recognition", {"model": {"subsampling": 2}, "validation": {"freq": STEPS}}),
]
OPTIONS_OF_FLA = [
    ("TP 2", "mamba2", {"model": {"num_hidden_layers": 2, "n_groups": 2, "norm_before_gate": True}}),
    ("TP 2", "transformer", {"model": {"num_hidden_layers": 2, "qk_norm": True, "qkv_bias": True}}),
    (
        "PP 2",
        "rwkv7",
        {"model": {"num_hidden_layers": 2}, "activation_checkpoint": {"mode": "full"}, "validation": {"freq": 2}},
    ),
    *(
        (
            "CP 2",
            family,
            {"model": {"num_hidden_layers": 2}, "activation_checkpoint": {"mode": "full"}, "validation": {"freq": 2}},
        )
        for family in ("gated_deltanet", "rwkv7")
    ),
]
"""What else must not change the numbers, on a mesh: of lt25's HGRN, and of flash-linear-attention's families."""


def _mesh(name: str) -> Mesh:
    return next(mesh for mesh in MESHES if mesh.name == name)


def _sizes(mesh: Mesh, family: str) -> dict[str, int]:
    """The least that a mesh can cut: a layer for each stage, and heads for each rank of tensor parallelism."""
    layers = max(mesh.degrees.get("pipeline_parallel_degree", 1), 2)
    ranks, heads = mesh.degrees.get("tensor_parallel_degree", 1), family_fields(family).get("num_kv_heads")
    return {"num_hidden_layers": layers, **({"num_kv_heads": ranks} if heads and heads < ranks else {})}


def _cells() -> Iterator[Cell]:
    for mesh in MESHES:
        for name, family in FAMILIES.items():
            if meshes.refusal(family, mesh.degrees) is None:
                options = {"model": _sizes(mesh, name)} if family.devices == ("cuda",) else {}
                tasks = (task for task in TASKS_TESTED if task in family.tasks)
                yield from (Cell(mesh, name, task, json.dumps(options)) for task in tasks)
    for mesh, task, options in OPTIONS:
        yield Cell(_mesh(mesh), "lt25_hgrn", task, json.dumps(options))
    for mesh, family, options in OPTIONS_OF_FLA:
        yield Cell(_mesh(mesh), family, "language_modeling", json.dumps(options))


def _is_quick(cell: Cell) -> bool:
    """What takes two processes and no interpreter, and of four what joins two kinds."""
    if cell.mesh.processes == 2:
        return cell.family == "lt25_hgrn" or (cell.family == "llama" and cell.mesh.name[:2] in ("TP", "PP", "CP"))
    return (
        cell.mesh.processes == 4
        and len(cell.mesh.degrees) == 2
        and cell.family == "lt25_hgrn"
        and (cell.task == "language_modeling")
    )


CELLS = list(_cells())
PARAMETERS = [pytest.param(cell, id=cell.name, marks=() if _is_quick(cell) else pytest.mark.slow) for cell in CELLS]
ON_GPUS = [cell for cell in CELLS if cell.needs_triton and cell.mesh.processes <= torch.cuda.device_count()]


def _steps(cell: Cell, gpus: bool) -> int:
    return 2 if cell.needs_triton and not gpus else STEPS


def _experiment(root: Path, cell: Cell, gpus: bool) -> Any:
    readers = 1
    for key, degree in cell.mesh.degrees.items():
        readers *= degree if key.startswith("data_parallel") else 1
    options = json.loads(cell.options)
    fields = (
        {**tiny.MODEL, "dropout": 0.0, "num_hidden_layers": 4, "hidden_size": 32}
        if cell.family == "lt25_hgrn"
        else {**family_fields(cell.family), "num_hidden_layers": 4}
    )
    # As many as the largest degree of tensor parallelism.
    fields |= {"num_heads": 4} if "num_heads" in fields else {}
    fields = {**fields, **options.pop("model", {})}
    fields = {key: value for key, value in fields.items() if key not in ("architectures", "vocab_size")}
    return tiny.tiny(
        root,
        cell.task,
        cell.name,
        model=fields,
        training={
            "steps": _steps(cell, gpus),
            "local_batch_size": max(
                cell.windows // readers // (4 if "pipeline_parallel_degree" in cell.mesh.degrees else 1), 1
            ),
            "global_batch_size": cell.windows,
            **({"seq_len": 16 if gpus else 8} if cell.needs_triton else {}),
            **options.pop("training", {}),
        },
        parallelism={**cell.mesh.degrees, **options.pop("parallelism", {})},
        checkpoint={"interval": _steps(cell, gpus)},
        # Adam divides a gradient by its own size, and would make a step of what rounding leaves of a gradient of 0. In ten large
        # steps the rounding of GPUs, whose sums have other orders on other meshes, grows to 2e-3 of gla's last norm.
        optimizer={"lr": 2e-3 if gpus else 5e-3, "eps": 1e-4},
        **options,
    )


def train(root: Path, cells: list[Cell], processes: int, gpus: bool) -> None:
    """Train the cells of one number of processes, one after another in the same processes; those after a failure in others.

    Once in some thousand steps of tensor parallelism, beside other busy processes, two wait for each other in Gloo until its time
    is up, in different collectives. What ends so is tried once more, which tells it from what never works, and is warned of.
    """
    experiments = [_experiment(root, cell, gpus) for cell in cells]
    kernels = "interpreted" if any(cell.needs_triton for cell in cells) else "torch"
    retried = None
    while experiments:
        files = [str(experiment.results_dir / "job.toml") for experiment in experiments]
        _train_some(root, files, "compiled" if gpus else kernels, processes)
        left = [one for one in experiments if not (one.results_dir / "train.json").is_file()]
        if left and left[0] is not retried and _timed_out(root, processes):
            retried = left[0]
            warnings.warn(f"{retried.name}: Gloo waited until its time was up, so it was trained again", stacklevel=2)
            shutil.rmtree(retried.results_dir / "runs")
            (retried.results_dir / "checkpoints").unlink(missing_ok=True)
            experiments = experiments[experiments.index(retried) :]
        else:
            experiments = experiments[experiments.index(left[0]) + 1 :] if left else []


def _timed_out(root: Path, processes: int) -> bool:
    """Whether one of the processes gave up waiting for another in the last training of its log."""
    logs = ((root / f"rank-{rank}.log").read_text() for rank in range(processes))
    return any("Timed out waiting" in log.rpartition("===")[2] for log in logs)


def _train_some(root: Path, files: list[str], kernels: str, processes: int) -> None:
    jobs = [(free_port(), file) for file in files]
    settings = tiny.environment(MASTER_ADDR="127.0.0.1", WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes))
    if kernels == "interpreted":
        # Some of FLA's functions are compiled by torch, which on a CPU takes a compiler of C++ minutes.
        settings |= {"TRITON_INTERPRET": "1", "TORCH_COMPILE_DISABLE": "1"}
    if kernels == "compiled":
        settings |= {**tiny.EXACT_PRODUCTS, "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(processes)))}
    ranks: list[Any] = []
    for rank in range(processes):
        own = settings | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        if kernels != "torch":
            # Triton asks for the variable when it is imported, which it is in what a process is forked from.
            command = [sys.executable, "-m", "tests.training.ranks", json.dumps([str(root), jobs, rank])]
            ranks.append(subprocess.Popen(command, cwd=tiny.REPOSITORY, env=own))
            continue
        ranks.append(tiny.forked(train_in_turn, root, jobs, own, rank))
        ranks[-1].start()
    tiny.wait_for_all(ranks)


@cache
def _group(asked: tuple[Cell, ...], folder: Path, processes: int, needs_triton: bool, quick: bool, gpus: bool) -> Path:
    """Train those cells of a kind that tests ask for; return the project, in a folder of the tests'."""
    root = tiny.make_project(Path(mkdtemp(dir=folder)))
    wanted = [cell for cell in asked if _is_quick(cell) == quick and cell.needs_triton == needs_triton]
    if processes == 1:
        chosen = list(dict.fromkeys(cell.alone for cell in wanted))
    else:
        chosen = [cell for cell in wanted if cell.mesh.processes == processes]
    before = Path.cwd()
    os.chdir(root)
    try:
        train(root, chosen, processes, gpus)
    finally:
        os.chdir(before)
    return root


def result(root: Path, cell: Cell, steps: int) -> tuple[list[float], list[float], dict[str, torch.Tensor], list[float]]:
    """Return losses, norms of gradients, weights, and losses of validations."""
    os.chdir(root)
    experiment = tiny.load_experiment(root / "config" / "experiments" / f"{cell.name}.yaml")
    log = root / "rank-0.log"
    assert (experiment.results_dir / "train.json").is_file(), log.read_text()[-3000:]
    history = tiny.history(experiment)
    records = [record for record in history if "loss" in record]
    return (
        [record["loss"] for record in records],
        [record["grad_norm"] for record in records],
        tiny.weights(experiment, steps),
        [record["validation"]["loss"] for record in history if "validation" in record],
    )


def _compare(cell: Cell, request: pytest.FixtureRequest, folder: Path, gpus: bool) -> None:
    name, steps = request.node.originalname, _steps(cell, gpus)
    asked = tuple(
        item.callspec.params["cell"] for item in request.session.items if getattr(item, "originalname", "") == name
    )
    kind = cell.needs_triton, _is_quick(cell), gpus
    found = result(_group(asked, folder, cell.mesh.processes, *kind), cell, steps)
    alone = result(_group(asked, folder, 1, *kind), cell.alone, steps)
    losses, norms, weights, validations = found
    expected_losses, expected_norms, expected_weights, expected_validations = alone
    assert len(losses) == steps and losses == pytest.approx(expected_losses, abs=1e-4)
    assert norms == pytest.approx(expected_norms, rel=1e-3, abs=1e-5)
    assert validations == pytest.approx(expected_validations, abs=1e-4)
    assert weights.keys() == expected_weights.keys()
    for name, tensor in expected_weights.items():
        torch.testing.assert_close(
            weights[name], tensor, atol=1e-4, rtol=0, msg=lambda said, name=name: f"{name}: {said}"
        )


@pytest.mark.parametrize("cell", PARAMETERS)
def test_a_mesh_trains_as_one_process(cell, request, monkeypatch, tmp_path_factory):
    """Slow are what Triton's interpreter computes, and most meshes of four and eight processes."""
    monkeypatch.chdir(Path.cwd())  # back again afterwards
    _compare(cell, request, tmp_path_factory.getbasetemp(), gpus=False)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("cell", ON_GPUS, ids=lambda cell: cell.name)
def test_gpus_train_as_one(cell, request, monkeypatch, tmp_path_factory):
    """What has Triton's kernels only, on as many GPUs as there are, compiled."""
    monkeypatch.chdir(Path.cwd())
    _compare(cell, request, tmp_path_factory.getbasetemp(), gpus=True)
