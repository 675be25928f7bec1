"""Pipeline parallelism: the layers of a model in stages, which the processes of a group share; torch's schedules order the work.

A stage is the model itself, in which the layers of other stages pass on what they are given. So names, indices and what a model
computes for all of its layers, such as HGRN's lower bounds, are what they are in one process. Every rank reads the batch, and
only the residual stream travels, and with RWKV7 the first layer's values beside it. The micro-batches of a step's gradient
accumulation are what fills the pipeline.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import PipelineScheduleSingle, get_schedule_class
from torch.distributed.tensor import DTensor
from torchtitan.config import TORCH_DTYPE_MAP
from torchtitan.distributed import ParallelDims

from lt25.data.batches import in_windows
from lt25.errors import UserError
from lt25.models import families, meshes
from lt25.models.families import Family, find
from lt25.tasks import TASKS
from lt25.training.job_config import Job
from lt25.training.losses import IGNORE

Batches = list[dict[str, Tensor]]


class Pipeline:
    """The stages of one rank, and what takes a step's micro-batches through all of them.

    Args:
        parts: the rank's stages, `TaskModel`s as `cut` makes them, by their numbers.
        count: stages of all ranks.
        job: the resolved job.
        group: the processes that have the stages, of the "pp" dimension.
        device: of this rank.
        dtype: of the residual stream between stages.
    """

    def __init__(
        self,
        parts: dict[int, Any],
        count: int,
        job: Job,
        group: dist.ProcessGroup,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.parts, self.count, self.group, self.device, self.dtype = parts, count, group, device, dtype
        self.kind = cast(Any, get_schedule_class(job.parallelism.pipeline_parallel_schedule))
        self.schedule: Any = None
        self.fits: tuple[int, ...] = ()
        self.ends = (0 in parts, count - 1 in parts)

    def step(self, microbatches: Batches, labels: Tensor) -> Tensor:
        """Accumulate the gradients of a step.

        Args:
            microbatches: the same on all ranks of the pipeline, and `of_one_length`; the models' inputs by name, and labels.
            labels: how many labels all ranks of the mesh have, by which losses are divided.

        Returns:
            The loss on the rank of the last stage, otherwise 0: a scalar.
        """
        for part in self.parts.values():
            part.stage.start(microbatches, labels)
        numbers = torch.arange(len(microbatches))
        losses: list[Tensor] | None = [] if self.ends[1] else None
        arguments = (numbers,) if self.ends[0] else ()
        target = numbers if self.ends[1] else None
        self._fit(microbatches)
        try:
            self.schedule.step(*arguments, target=target, losses=losses, return_outputs=False)
        except RuntimeError as error:
            # What has happened in a stage, a lost connection or a user's error, stands behind torch's, which says where.
            if error.__cause__ is None:
                raise
            raise error.__cause__ from None
        self._sum_copies()
        return torch.stack(losses).detach().sum() if losses else torch.zeros((), device=self.device)

    @torch.no_grad()
    def evaluate(self, batch: dict[str, Tensor]) -> Any:
        """Take one batch through all stages, without gradients.

        Args:
            batch: as a micro-batch of `step`.

        Returns:
            On the rank of the last stage what `TaskModel.predict` does, otherwise None.
        """
        degree, rank = dist.get_world_size(self.group), dist.get_rank(self.group)
        x: Any = torch.empty(0, device=self.device)
        for number in range(self.count):
            before, owner, after = ((number + step) % degree for step in (-1, 0, 1))
            if owner != rank:
                continue
            part = self.parts[number]
            if number > 0 and before != rank:
                x = torch.empty(self._shape(batch), dtype=self.dtype, device=self.device)
                dist.recv(x, group=self.group, group_src=before)
            part.stage.start([batch], None)
            x = part(x)
            if number == self.count - 1:
                return x
            if after != rank:
                dist.send(x, group=self.group, group_dst=after)
        return None

    def of_last_stage(self, found: Any) -> Any:
        """Give all ranks what the rank of the last stage has found, any object."""
        shared = [found]
        dist.broadcast_object_list(
            shared, group=self.group, group_src=(self.count - 1) % dist.get_world_size(self.group)
        )
        return shared[0]

    def _shape(self, batch: dict[str, Tensor]) -> tuple[int, int, int]:
        """Return the shape of the residual stream between stages."""
        some = next(iter(self.parts.values()))
        rows, steps = batch["input"].shape[:2]
        streams = 1 if some.stage.carries is None else 2
        return rows, some.stage.steps(steps), streams * some.hf.config.hidden_size

    def _fit(self, microbatches: Batches) -> None:
        """Make a schedule for this shape of the residual stream, if the last one had another.

        It has a buffer of that shape for each micro-batch, so none is kept for a shape that may never come again.
        """
        shape = (len(microbatches), *self._shape(microbatches[0]))
        if shape != self.fits:
            self.schedule, self.fits = None, shape
            stream = torch.empty(shape[1:], dtype=self.dtype, device="meta")
            number, loss = torch.empty(1, dtype=torch.int64, device="meta"), torch.empty((), device="meta")
            stages = [
                PipelineStage(
                    part,
                    index,
                    self.count,
                    self.device,
                    input_args=number if index == 0 else stream,
                    output_args=loss if index == self.count - 1 else stream,
                    group=self.group,
                )
                for index, part in self.parts.items()
            ]
            single = issubclass(self.kind, PipelineScheduleSingle)
            self.schedule = self.kind(
                stages[0] if single else stages, len(microbatches), loss_fn=lambda loss, _: loss, scale_grads=False
            )

    @torch.no_grad()
    def _sum_copies(self) -> None:
        """Sum the gradients of weights that every stage has a copy of, so that all copies make the same step."""
        for copies in zip(*(copied(part) for part in self.parts.values()), strict=True):
            grads = [_local(weight.grad) for weight in copies if weight.grad is not None]
            total = torch.stack(grads).sum(0) if grads else torch.zeros_like(_local(copies[0]))
            dist.all_reduce(total, group=self.group)
            for weight in copies:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                _local(weight.grad).copy_(total)


class Stage:
    """What the forward pass of a `TaskModel` needs to be one stage of several.

    Attributes:
        number, last: its place, and the last stage's.
        seed: from which every stage draws the initial weights of the whole model.
        subsampling: how many steps of the input make one of the layers'.
        dtype: of the residual stream between stages.
        batches, labels: as `Pipeline.step` is given them; no labels where only the output is asked for.
        next: the micro-batch that comes next; every schedule takes them through a stage in their order.
        given: the residual stream from the stage before.
        carries: the argument of layers that has what they take from others beside the residual stream, and its type; it has the
            stream's shape. None if there is nothing.
        carried: its value, from the stage before, and then for the stage behind.
        precision: autocast, if weights are float32 while products are not.
    """

    def __init__(
        self,
        number: int,
        last: int,
        seed: int,
        subsampling: int,
        dtype: torch.dtype,
        carries: tuple[str, torch.dtype] | None,
    ) -> None:
        self.number, self.last, self.seed, self.subsampling, self.dtype = number, last, seed, subsampling, dtype
        self.carries = carries
        self.carried: Tensor | None = None
        self.batches: Batches = []
        self.labels: Tensor | None = None
        self.next = 0
        self.given: Tensor | None = None
        self.precision: AbstractContextManager = nullcontext()

    def start(self, batches: Batches, labels: Tensor | None) -> None:
        """Begin with the first micro-batch of a step."""
        self.batches, self.labels, self.next = batches, labels, 0

    def steps(self, steps: int) -> int:
        """Return how many steps the layers see of a sequence."""
        return -(-steps // self.subsampling)


def compute(model: Any, x: Tensor) -> Any:
    """Compute a stage for the next micro-batch.

    Args:
        model: a `TaskModel` with a `Stage`.
        x: the residual stream [B, T, H], or [B, T, 2 H] with what is carried beside it; the first stage has none, and is given
            something else.

    Returns:
        The residual stream, or from the last stage this micro-batch's part of the loss, a scalar, or the output.
    """
    stage = model.stage
    batch = dict(stage.batches[stage.next])
    stage.next += 1
    inputs, labels = batch.pop("input"), batch.pop("labels")
    rows = len(inputs)
    stage.given = x if stage.number > 0 else None
    if stage.number > 0 and stage.carries is not None:
        stage.given, carried = x.chunk(2, -1)
        stage.carried = carried.to(stage.carries[1])
    with stage.precision:
        if stage.number < stage.last:
            if model.window and batch.pop("cu_seqlens", None) is not None:
                inputs = in_windows(inputs, model.window)
            named = {TASKS[model.task].main_input: inputs}
            hidden = model.hf.base_model(**named, use_cache=False, **batch).last_hidden_state
            if stage.carries is not None:
                hidden = torch.cat([hidden, cast(Tensor, stage.carried)], -1)
            # What is sent may be no view, and has no gaps: tensor parallelism cuts off what it has padded.
            sent = hidden.reshape(rows, -1, hidden.shape[-1]).to(stage.dtype)
            return sent.clone(memory_format=torch.contiguous_format)
        output = model.predict(inputs, labels=labels, **batch)
        return output if stage.labels is None else model.losses.loss(output, labels).float() / stage.labels


def cut(
    model: Any,
    parallel_dims: ParallelDims,
    job: Job,
    device: torch.device,
    model_args: Any,
    parallelize: Callable[[Any, ParallelDims, Job], nn.Module],
    loss: Any,
) -> tuple[Pipeline, list[nn.Module], bool, bool]:
    """Cut a `TaskModel` into stages, and lay those of this rank over devices: torchtitan's ``pipelining_fn``.

    Raises:
        UserError: for what the model's family cannot do, as for more stages than layers, or for too few micro-batches.
    """
    families.check(model.hf.config.to_dict(), model.task, vars(job.parallelism), device.type)
    readers = parallel_dims.dp_replicate * parallel_dims.dp_shard
    microbatches = max(job.training.global_batch_size // (job.training.local_batch_size * readers), 1)
    if reason := meshes.too_few(vars(job.parallelism), microbatches):
        raise UserError(reason)
    mesh = parallel_dims.get_mesh("pp")
    degree, rank = mesh.size(), mesh.get_local_rank()
    count, family = meshes.stages(vars(job.parallelism)), find(model.hf.config.model_type)
    half = TORCH_DTYPE_MAP[job.training.mixed_precision_param]
    dtype = half if parallel_dims.fsdp_enabled else torch.float32
    ends = balance(*_costs(model, family), count)
    parts: dict[int, Any] = {}
    for number in range(rank, count, degree):
        part: Any = copy.deepcopy(model)
        subsampling = getattr(model.hf.config, "subsampling", 1)
        carries = next(((name, half) for name in family.crosses_layers if name in _CARRIED), None)
        part.stage = Stage(number, count - 1, job.debug.seed, subsampling, dtype, carries)
        _keep(part, family, range(ends[number], ends[number + 1]))
        part = parallelize(part, parallel_dims, job)
        if half != dtype:
            part.stage.precision = torch.autocast(device.type, half)
        parts[number] = part
    return (
        cast(Any, Pipeline(parts, count, job, mesh.get_group(), device, dtype)),
        list(parts.values()),
        0 in parts,
        count - 1 in parts,
    )


def copied(part: Any) -> list[nn.Parameter]:
    """Return the weights of a stage of which every other stage has a copy."""
    bounds = getattr(part.hf.base_model, "_parameters", {}).get("lower_bounds")
    return [] if bounds is None else [bounds]


def counted_elsewhere(parts: Sequence[Any]) -> set[nn.Parameter]:
    """Return the weights of a rank's stages that are counted with the first stage."""
    return {weight for part in parts if part.stage.number > 0 for weight in copied(part)}


def balance(weights: Sequence[float], first: float, last: float, count: int) -> list[int]:
    """Cut layers into stages of which the heaviest is as light as can be.

    Args:
        weights: of each layer.
        first, last: what the first and the last stage have beside layers.
        count: how many stages.

    Returns:
        For each stage where it begins, and the number of layers: count + 1 numbers.
    """
    layers = len(weights)
    sums = [0.0]
    for weight in weights:
        sums.append(sums[-1] + weight)

    def load(stage: int, start: int, end: int) -> float:
        return sums[end] - sums[start] + (first if stage == 0 else 0) + (last if stage == count - 1 else 0)

    # best[end]: the heaviest of the stages so far, and their ends, if these have the first `end` layers.
    best = {end: (load(0, 0, end), [0, end]) for end in range(1, layers + 1)}
    for stage in range(1, count):
        best = {
            end: min(
                (max(best[start][0], load(stage, start, end)), [*best[start][1], end])
                for start in range(1, end)
                if start in best
            )
            for end in range(stage + 1, layers + 1)
        }
    return best[layers][1]


def _costs(model: Any, family: Family) -> tuple[list[float], float, float]:
    """Return what each layer, the input side and the output side cost: shares of the parameters and of the operations."""
    hf, auto = model.hf, TASKS[model.task].auto_model

    def size(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    layers = [size(layer) for layer in hf.get_submodule(family.layers)]
    inputs, head = hf.get_submodule(family.inputs[auto]), hf.get_submodule(family.heads[auto])
    # A step's operations are two for each weight, but an embedding is looked up.
    looked_up = isinstance(inputs, nn.Embedding)
    stored = sum(layers) + size(inputs) + size(head)
    computed = stored - (size(inputs) if looked_up else 0)

    def cost(size: int, is_computed: bool = True) -> float:
        return size / stored + (size / computed if is_computed else 0)

    return [cost(layer) for layer in layers], cost(size(inputs), not looked_up), cost(size(head))


def _keep(part: Any, family: Family, layers: range) -> None:
    """Leave a stage's own modules in a model, and let others pass on what they are given."""
    hf, auto, stage = part.hf, TASKS[part.task].auto_model, part.stage
    stack = hf.get_submodule(family.layers)
    if stage.carries is not None:
        stack[layers[-1]].register_forward_hook(partial(_carry_on, stage))
    for index in range(len(stack)):
        if index not in layers:
            stack._modules[str(index)] = _Passing(_OUTPUTS.get(family.model_type, _fla), stage)
    if stage.number > 0:
        _replace(hf, family.inputs[auto], _Given(stage))
    if stage.number < stage.last:
        _replace(hf, family.norm, nn.Identity())
        _replace(hf, family.heads[auto], nn.Identity())


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent).register_module(child, module)


class _Given(nn.Module):
    """In place of an embedding or of what reads features: the residual stream from the stage before."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Any:
        given = cast(Tensor, self.stage.given)
        if inputs.ndim == 2:
            if self.stage.carried is not None:
                self.stage.carried = self.stage.carried.reshape(*inputs.shape, -1)
            return given.reshape(*inputs.shape, -1)
        return given, None if attention_mask is None else attention_mask[:, :: self.stage.subsampling]


class _Passing(nn.Module):
    """In place of a layer of another stage."""

    def __init__(self, output: Callable[..., Any], stage: Stage) -> None:
        super().__init__()
        self.output, self.stage = output, stage

    def forward(self, hidden: Tensor, *others: Any, **named: Any) -> Any:
        if self.stage.carries is not None and self.stage.number > 0:
            named[self.stage.carries[0]] = self.stage.carried
        return self.output(hidden, *others, **named)


def _carry_on(stage: Stage, layer: nn.Module, arguments: Any, output: tuple[Any, ...]) -> None:
    """Keep what a stage's last layer hands on to others, which is the last of its outputs."""
    stage.carried = output[-1]


def _fla(hidden: Tensor, *_: Any, past_key_values: Any = None, attnres_states: Any = None, **named: Any) -> tuple:
    return hidden, None, past_key_values, attnres_states


def _mamba(hidden: Tensor, *_: Any, past_key_values: Any = None, **named: Any) -> tuple:
    return hidden, None, past_key_values


def _rwkv7(hidden: Tensor, *_: Any, past_key_values: Any = None, v_first: Any = None, **named: Any) -> tuple:
    return hidden, None, past_key_values, v_first


# What layers return beside the residual stream that they are given, by the family.
_OUTPUTS: dict[str, Callable[..., Any]] = {
    "lt25_hgrn": lambda branch, residual, *_: (branch, residual),
    "llama": lambda hidden, *_, **named: hidden,
    "mamba": _mamba,
    "mamba2": _mamba,
    "rwkv7": _rwkv7,
}
# Of what crosses layers, that which each step of a sequence has a vector of; the rest is computed from weights, on every stage.
_CARRIED = ("v_first",)


def of_one_length(microbatches: Batches) -> Batches:
    """Pad micro-batches to one number of steps, because what travels between stages has one shape.

    Behind tokens stand steps without labels, which no step before reads, and behind features such that are masked.

    Args:
        microbatches: as `Pipeline.step` takes them; of sequences that processes share, before these take their parts.
    """
    longest = max(batch["input"].shape[1] for batch in microbatches)
    padded = []
    for batch in microbatches:
        inputs = batch["input"]
        missing = longest - inputs.shape[1]
        if missing and inputs.ndim == 2:
            labels = nn.functional.pad(batch["labels"], (0, missing), value=IGNORE)
            batch = {**batch, "input": nn.functional.pad(inputs, (0, missing)), "labels": labels}
        elif missing:
            mask = batch.get("attention_mask")
            mask = inputs.new_ones(inputs.shape[:2], dtype=torch.int64) if mask is None else mask
            inputs = nn.functional.pad(inputs, (0, 0, 0, missing))
            batch = {**batch, "input": inputs, "attention_mask": nn.functional.pad(mask, (0, missing))}
        padded.append(batch)
    return padded


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
