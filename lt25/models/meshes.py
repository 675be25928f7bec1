"""The meshes of processes that models are trained on: one table, which drives the tests, the refusals and docs/scaling.md.

A mesh is what the degrees of an experiment's ``parallelism`` section make: an axis for each that is above 1. A model is trained
on a mesh only if its family has these kinds of parallelism and the table has exactly these axes together: what no test compares
with one process is refused. Nothing here imports torch.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

_REPLICAS, _SHARDS = "data_parallel_replicate_degree", "data_parallel_shard_degree"
_TENSOR, _PIPELINE, _CONTEXT = (f"{kind}_parallel_degree" for kind in ("tensor", "pipeline", "context"))
_SHORT = {_REPLICAS: "DDP", _SHARDS: "FSDP", _TENSOR: "TP", _PIPELINE: "PP", _CONTEXT: "CP"}

KINDS = ("data", "tensor", "pipeline", "context")
"""The kinds of parallelism; each but "data" is the first word of its key, ``tensor_parallel_degree``."""


class Parallel(Protocol):
    """What this module asks of a model's family, `lt25.models.families.Family`."""

    @property
    def model_type(self) -> str: ...
    @property
    def tasks(self) -> tuple[str, ...]: ...
    @property
    def parallelism(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Mesh:
    """Degrees of parallelism that are tested together.

    Attributes:
        degrees: keys of the ``parallelism`` section -> degree; those that it lacks are 1.
    """

    degrees: Mapping[str, int]

    @property
    def name(self) -> str:
        """The mesh as one writes it: "FSDP 2 x TP 2"; replicas of shards are "HSDP 2 x 2"."""
        names = {_SHORT[key]: degree for key, degree in self.degrees.items()}
        parts = [f"{name} {degree}" for name, degree in names.items()]
        if "DDP" in names and "FSDP" in names:
            parts = [f"HSDP {names['DDP']} x {names['FSDP']}", *parts[2:]]
        return " x ".join(parts)

    @property
    def processes(self) -> int:
        product = 1
        for degree in self.degrees.values():
            product *= degree
        return product


MESHES = tuple(
    Mesh(degrees)
    for degrees in (
        {_REPLICAS: 2},
        {_SHARDS: 2},
        {_REPLICAS: 2, _SHARDS: 2},
        {_TENSOR: 2},
        {_TENSOR: 4},
        {_SHARDS: 2, _TENSOR: 2},
        {_PIPELINE: 2},
        {_PIPELINE: 4},
        {_SHARDS: 2, _PIPELINE: 2},
        {_TENSOR: 2, _PIPELINE: 2},
        {_CONTEXT: 2},
        {_CONTEXT: 4},
        {_SHARDS: 2, _CONTEXT: 2},
        {_TENSOR: 2, _CONTEXT: 2},
        {_PIPELINE: 2, _CONTEXT: 2},
        {_REPLICAS: 2, _SHARDS: 2, _TENSOR: 2},
        {_SHARDS: 2, _TENSOR: 2, _PIPELINE: 2},
        {_SHARDS: 2, _TENSOR: 2, _CONTEXT: 2},
        {_SHARDS: 2, _PIPELINE: 2, _CONTEXT: 2},
        {_TENSOR: 2, _PIPELINE: 2, _CONTEXT: 2},
    )
)
"""Every mesh that is tested; axes that none of them has, no more and no less, are refused."""


def stages(parallelism: Mapping[str, Any]) -> int:
    """Return into how many stages a pipeline cuts a model: with an interleaved schedule, each process has two."""
    interleaved = parallelism.get("pipeline_parallel_schedule", "1F1B").startswith("Interleaved")
    return parallelism.get(_PIPELINE, 1) * (2 if interleaved else 1)


def too_few(parallelism: Mapping[str, Any], microbatches: int) -> str | None:
    """Say in one line why a step of so many micro-batches does not pass through a pipeline's stages; None if it does."""
    degree, schedule = parallelism.get(_PIPELINE, 1), parallelism.get("pipeline_parallel_schedule", "1F1B")
    found = f"training.global_batch_size: makes {microbatches} micro-batches a step"
    if degree > 1 and schedule == "1F1B" and microbatches < degree:
        return (
            f"{found}, but 1F1B wants one for each of the {degree} stages at least: raise it, or lower local_batch_size"
        )
    rounds = max(microbatches // degree, 1)
    if degree > 1 and schedule == "Interleaved1F1B" and microbatches % rounds:
        return f"{found}, which {schedule} cannot take through in {rounds} equal rounds: use a multiple of {degree}"
    return None


def refusal(family: Parallel, parallelism: Mapping[str, Any]) -> str | None:
    """Say in one line why a family's models cannot be trained with these degrees; None if they can.

    Args:
        family: the model's.
        parallelism: the section of an experiment; degrees that it lacks are 1. Shards over whatever is left (-1) are refused only
            if they were with any number of processes.
    """
    for kind in KINDS[1:]:
        degree = parallelism.get(f"{kind}_parallel_degree", 1)
        if degree > 1 and kind not in family.parallelism:
            there = ", ".join(family.parallelism)
            return (
                f"parallelism.{kind}_parallel_degree: found {degree}, "
                f"but {family.model_type} has {there} parallelism only: use 1"
            )
    if parallelism.get("enable_async_tensor_parallel"):
        return "parallelism.enable_async_tensor_parallel: found true, but layers exchange steps before they compute: use false"
    axes = {key for key in _SHORT if parallelism.get(key, 1) > 1}
    tested = [mesh.degrees.keys() for mesh in MESHES]
    possible = [axes, axes | {_SHARDS}] if parallelism.get(_SHARDS, 1) == -1 else [axes]
    if any(len(some) < 2 or some in tested for some in possible):
        return None
    together = " and ".join(_SHORT[key] for key in _SHORT if key in axes)
    found = f"parallelism: found {together} together, not tested"
    if _REPLICAS in axes and axes - {_REPLICAS} | {_SHARDS} in tested:
        shards = parallelism.get(_SHARDS, 1)
        all_shards = "" if shards == -1 else f" and {_SHARDS} {parallelism[_REPLICAS] * shards}"
        return f"{found}: use {_REPLICAS} 1{all_shards}"
    return f"{found}: docs/scaling.md shows what is"


def table(families: Iterable[Parallel]) -> str:
    """Return the table of meshes and families in Markdown; families that are alike share a column."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for family in families:
        cells = tuple("yes" if refusal(family, mesh.degrees) is None else "refused" for mesh in MESHES)
        columns.setdefault(cells, []).append(f"`{family.model_type}`")
    head = ["mesh", *(", ".join(names) for names in columns.values())]
    rows = ([mesh.name, *cells] for mesh, cells in zip(MESHES, zip(*columns, strict=True), strict=True))
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
