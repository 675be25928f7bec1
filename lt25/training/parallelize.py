"""How a model is laid over devices: activation checkpointing and compilation layer by layer, then FSDP2 or DDP."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._composable.replicate import replicate
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torchtitan.config import TORCH_DTYPE_MAP, JobConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.activation_checkpoint import apply_ac

from lt25.models import families
from lt25.training.device import DEVICE_TYPE


def parallelize(model: nn.Module, parallel_dims: ParallelDims, job_config: JobConfig) -> nn.Module:
    """Apply a job's ``activation_checkpoint``, ``compile`` and ``parallelism`` sections to a `TaskModel`, in place.

    Raises:
        UserError: for what the model's family cannot do.
    """
    families.check(model.hf.config.to_dict(), model.task, vars(job_config.parallelism), DEVICE_TYPE)
    base = model.hf.base_model
    compiled = job_config.compile.enable and "model" in job_config.compile.components
    if job_config.activation_checkpoint.mode != "none":
        apply_ac(base, job_config.activation_checkpoint, model_compile_enabled=compiled)
    if compiled:
        for name, layer in base.layers.named_children():
            base.layers.register_module(name, torch.compile(layer, backend=job_config.compile.backend, fullgraph=True))
    if parallel_dims.fsdp_enabled:
        _shard(model, base.layers, parallel_dims, job_config)
    elif parallel_dims.dp_replicate_enabled:
        _replicate(model, parallel_dims)
    return model


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
    for layer in layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The loss is already divided by the labels of all ranks.
            module.set_gradient_divide_factor(1.0)
            if DEVICE_TYPE == "cpu":
                # gloo has no reduction that multiplies beforehand.
                module.set_force_sum_reduction_for_comms(True)


def _replicate(model: nn.Module, parallel_dims: ParallelDims) -> None:
    mesh = parallel_dims.get_mesh("dp_replicate")
    replicate(model, device_mesh=mesh, bucket_cap_mb=100)
    # The loss is already divided by the labels of all ranks, so gradients are summed; DDP alone would average them.
    model.register_comm_hook(mesh.get_group(), _sum_gradients)


def _sum_gradients(group: dist.ProcessGroup, bucket: dist.GradBucket):
    return dist.all_reduce(bucket.buffer(), group=group, async_op=True).get_future().then(lambda done: done.value()[0])
