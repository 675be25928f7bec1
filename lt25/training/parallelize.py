"""How a model is laid over devices: tensor parallelism, activation checkpointing and compilation layer by layer, context
parallelism, then FSDP2 or replicas."""

import os
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from types import TracebackType
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torchtitan.config import TORCH_DTYPE_MAP, JobConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.activation_checkpoint import apply_ac

from lt25.errors import UserError
from lt25.models import families
from lt25.models.context import share_sequences
from lt25.training.device import DEVICE_TYPE
from lt25.training.tensor import split

# Bytes of a replica for each parameter: float32 weight and gradient, and the two moments of Adam.
STATE_BYTES = 16
# Elements of the sums of gradients that are on their way together: 100 MiB of float32.
BUCKET = 25 * 2**20
# Elements of the layers whose shards are gathered together: 256 MiB of bfloat16. Fewer gatherings are less work for the host.
UNIT = 2**27

# Ranks whose batches differ in shape replay a graph and run as usual in one and the same step. NCCL registers the buffers of what
# is recorded, for which all ranks would have to record at the same time.
os.environ.setdefault("NCCL_GRAPH_REGISTER", "0")


def choose_data_parallel(job: JobConfig, processes: int, parameters: Callable[[], int]) -> str | None:
    """Choose between replicas and shards for a job that does not say, by changing its ``parallelism`` section in place.

    Every process keeps the whole model where weights, gradients and the optimizer's state take less than half of a device's
    memory, so that there is room for activations. Otherwise they are sharded. A job with any degree of parallelism is left as
    it is. All processes choose alike as long as their devices have the same memory.

    Args:
        job: the resolved job.
        processes: on all nodes together.
        parameters: counts the parameters of the job's model; called only when there is something to choose.

    Returns:
        One line that says what was chosen and why, or None if nothing was.
    """
    degrees = job.parallelism
    rest = ("context_parallel_degree", "tensor_parallel_degree", "pipeline_parallel_degree", "expert_parallel_degree")
    given = degrees.data_parallel_shard_degree != -1 or degrees.data_parallel_replicate_degree != 1
    if processes == 1 or given or any(getattr(degrees, degree) != 1 for degree in rest):
        return None
    mean = 4 if job.optimizer.ema_decay else 0  # type: ignore[attr-defined]
    state, memory = (STATE_BYTES + mean) * parameters(), _device_memory()
    fits = state < memory / 2
    degrees.data_parallel_replicate_degree, degrees.data_parallel_shard_degree = (
        (processes, 1) if fits else (1, processes)
    )
    devices = "GPUs" if DEVICE_TYPE == "cuda" else "processes"
    how = "replicated (DDP)" if fits else "sharded (FSDP2)"
    why = "fits in" if fits else "is more than half of the"
    return f"{processes} {devices}: {how}: {_readable(state)} of state {why} {_readable(memory)} each"


def _device_memory() -> int:
    if DEVICE_TYPE == "cuda":
        return torch.cuda.get_device_properties(int(os.environ["LOCAL_RANK"])).total_memory
    return psutil.virtual_memory().total // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _readable(size: int) -> str:
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
    return f"{size / unit:.1f} {name}" if size < 10 * unit else f"{size / unit:.0f} {name}"


def is_replicated(job: JobConfig) -> bool:
    """Whether each process of a job holds the whole model: there is one process, or data parallelism without shards."""
    return dist.get_world_size() == job.parallelism.data_parallel_replicate_degree


def parallelize(model: Any, parallel_dims: ParallelDims, job_config: JobConfig) -> nn.Module:
    """Apply a job's ``activation_checkpoint``, ``compile`` and ``parallelism`` sections to a `TaskModel`, in place.

    A model that is replicated stays as it is: the trainer sums its gradients with a `GradientSum`.

    Raises:
        UserError: for what the model's family cannot do.
    """
    degrees = {**vars(job_config.parallelism), "data_parallel_shard_degree": parallel_dims.dp_shard}
    families.check(model.hf.config.to_dict(), model.task, degrees, DEVICE_TYPE)
    base, family = model.hf.base_model, families.find(model.hf.config.model_type)
    if parallel_dims.tp_enabled:
        split(model, family, parallel_dims.get_mesh("tp"), not job_config.parallelism.disable_loss_parallel)
    compiled = job_config.compile.enable and "model" in job_config.compile.components
    if job_config.activation_checkpoint.mode != "none":
        kept = _expensive_operators()
        try:
            apply_ac(base, job_config.activation_checkpoint, model_compile_enabled=compiled, op_sac_save_list=kept)
        except ValueError as error:
            raise UserError(f"activation_checkpoint: {' '.join(str(error).split())}: change it") from None
    if compiled:
        for name, layer in base.layers.named_children():
            own = torch.compile(layer, backend=job_config.compile.backend, fullgraph=family.graphs)
            base.layers.register_module(name, own)
    if parallel_dims.cp_enabled:
        if compiled:
            raise UserError("compile.enable: found true, but not with context parallelism: use false")
        share_sequences(model.hf, parallel_dims.get_mesh("cp").get_group())
    if parallel_dims.fsdp_enabled:
        _shard(model, base.layers, parallel_dims, job_config)
    return model


def _expensive_operators() -> set[torch._ops.OpOverload]:
    """Return the operators whose results selective checkpointing by operators keeps: products and what mixes over time."""
    import lt25.ops  # noqa: F401 it registers ours

    aten, own = torch.ops.aten, torch.ops.lt25
    attention = (
        aten._scaled_dot_product_efficient_attention,
        aten._scaled_dot_product_flash_attention,
        aten._scaled_dot_product_cudnn_attention,
    )
    scans = own.hgrn_mix, own.hgrn_scan, own.selective_scan, own.ssd_scan
    return {one.default for one in (aten.mm, *attention, *scans, own.joint_linear)}


def _shard(model: nn.Module, layers: nn.ModuleList, parallel_dims: ParallelDims, job_config: JobConfig) -> None:
    names = ["dp_replicate", "fsdp"] if parallel_dims.dp_replicate_enabled else ["fsdp"]
    training = job_config.training
    options = {
        "mesh": parallel_dims.get_mesh(names),
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=TORCH_DTYPE_MAP[training.mixed_precision_param],
            reduce_dtype=TORCH_DTYPE_MAP[training.mixed_precision_reduce],
        ),
        "reshard_after_forward": job_config.parallelism.fsdp_reshard_after_forward != "never",
    }
    if training.enable_cpu_offload:
        options["offload_policy"] = CPUOffloadPolicy()
    units = [fully_shard(unit, **options) for unit in _units(layers)]
    fully_shard(model, **options)
    # Asked for a unit earlier, weights are there even where the host is late.
    for unit, later in pairwise(units):
        unit[0].set_modules_to_forward_prefetch([later[0]])
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is already divided by the labels of all ranks.
            module.set_gradient_divide_factor(1.0)
            if DEVICE_TYPE == "cpu":
                # gloo has no reduction that multiplies beforehand.
                module.set_force_sum_reduction_for_comms(True)


def _units(layers: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """Return the layers in runs that are gathered together, each of `UNIT` elements at least, unless the layers end before."""
    units: list[list[nn.Module]] = []
    size = UNIT
    for layer in layers:
        if size >= UNIT:
            units.append([])
            size = 0
        units[-1].append(layer)
        size += sum(parameter.numel() for parameter in layer.parameters())
    return units


class GradientSum:
    """Sums the gradients of replicas while the backward pass goes on, in a way that a CUDA graph can record.

    Gradients are summed and not averaged: the loss is already divided by the labels of all ranks. They travel in float32, in
    buckets that are filled from the last parameter to the first, as the backward pass reaches them. Each bucket is one buffer,
    whose parts become the gradients of its parameters.

    Args:
        parameters: those of the model, in its order.
        group: the processes that hold replicas.
        copies: from a parameter to the copy in another precision that the model computes with and that receives the gradient.
        bucket: elements of a bucket at least, unless the parameters end before.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        group: dist.ProcessGroup,
        copies: Mapping[nn.Parameter, Tensor] | None = None,
        bucket: int = BUCKET,
    ) -> None:
        self.group, self.copies, self.active = group, copies or {}, False
        self.buckets: list[_Bucket] = []
        trained, size = [parameter for parameter in parameters if parameter.requires_grad], bucket
        members: list[list[nn.Parameter]] = []
        for parameter in reversed(trained):
            if size >= bucket:
                members.append([])
                size = 0
            members[-1].append(parameter)
            size += parameter.numel()
        self.buckets = [_Bucket(some) for some in members]
        for number, some in enumerate(members):
            for parameter in some:
                leaf = self.copies.get(parameter, parameter)
                leaf.register_post_accumulate_grad_hook(lambda _, number=number: self._arrived(number))

    def __enter__(self) -> None:
        """Sum what the backward pass that comes next brings, and what earlier ones have left: it is the last of a step."""
        self.active, self.next, self.works = True, 0, []
        for bucket in self.buckets:
            bucket.missing = len(bucket.parameters)

    def _arrived(self, number: int) -> None:
        if not self.active:
            return
        self.buckets[number].missing -= 1
        # In the same order on all ranks.
        while self.next < len(self.buckets) and self.buckets[self.next].missing == 0:
            self._send()

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Wait, on a GPU without the host, for the sums: they are the gradients of the parameters from now on."""
        if kind is not None:
            self.active = False
            return
        # Parameters that the backward pass did not reach keep their buckets waiting.
        while self.next < len(self.buckets):
            self._send()
        for work in self.works:
            work.wait()
        self.active, self.works = False, []

    @torch.no_grad()
    def _send(self) -> None:
        bucket = self.buckets[self.next]
        self.next += 1
        bucket.fill(self.copies)
        self.works.append(dist.all_reduce(bucket.buffer, group=self.group, async_op=True))


class _Bucket:
    """Parameters whose gradients are summed together.

    Attributes:
        buffer: float32 [elements], with a view of the shape of each parameter in ``views``.
        missing: how many gradients have not arrived in this step.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters, self.missing = parameters, 0
        # Each begins at a multiple of 128 bytes, as fast kernels want it.
        room = [-(-parameter.numel() // 32) * 32 for parameter in parameters]
        self.buffer = torch.zeros(sum(room), device=parameters[0].device)
        parts = zip(parameters, self.buffer.split(room), strict=True)
        self.views = [part[: parameter.numel()].view(parameter.shape) for parameter, part in parts]

    def fill(self, copies: Mapping[nn.Parameter, Tensor]) -> None:
        """Move the gradients of the parameters and of their copies into the buffer."""
        filled: list[tuple[Tensor, Tensor]] = []
        added: list[tuple[Tensor, Tensor]] = []
        for parameter, view in zip(self.parameters, self.views, strict=True):
            leaf = copies.get(parameter, parameter)
            found = [parameter.grad] if leaf is parameter else [parameter.grad, leaf.grad]
            found = [gradient for gradient in found if gradient is not None]
            if not found:
                view.zero_()
                continue
            filled.append((view, found[0]))
            added += [(view, gradient) for gradient in found[1:]]
            leaf.grad, parameter.grad = None, view
        if filled:
            torch._foreach_copy_([view for view, _ in filled], [gradient for _, gradient in filled])
        if added:
            torch._foreach_add_([view for view, _ in added], [gradient for _, gradient in added])
