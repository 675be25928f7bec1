"""The tasks as torchtitan knows them: a TrainSpec each.

A TrainSpec names a model, how to lay it over devices, its data, its loss and its optimizer; torchtitan's trainer does the rest.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torchtitan.protocols import BaseModelArgs
from torchtitan.protocols.state_dict_adapter import BaseStateDictAdapter
from torchtitan.protocols.train_spec import TrainSpec, register_train_spec
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from lt25.checkpoints.convert import PREFIX
from lt25.data.batches import in_windows
from lt25.data.loader import StepBatches
from lt25.data.prepared import PreparedSplit
from lt25.errors import UserError
from lt25.models.auto import make_model
from lt25.models.families import Family, find
from lt25.models.initialise import initialise
from lt25.models.plain import is_plain
from lt25.tasks import TASKS
from lt25.training.cuda_graphs import can_replay
from lt25.training.device import DEVICE_TYPE
from lt25.training.job_config import Job, reading_of
from lt25.training.metrics import build_metrics_processor
from lt25.training.parallelize import parallelize
from lt25.training.pipeline import Stage, compute, cut
from lt25.training.prefetch import to_cuda
from lt25.training.start import taken
from lt25.training.steps import build_optimizers, build_schedule
from lt25.training.validation import Validator


@dataclass
class ModelArgs(BaseModelArgs):
    """Which model to build, and what it starts from; filled from the job file."""

    task: str = ""
    config: str = ""
    seq_len: int = 0
    packed: bool = True
    init_from: str = ""
    data: str = ""
    fused_loss: bool = True
    z_loss: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    parameters: int = 0

    def update_from_config(self, job_config: Job, **_: Any) -> None:
        self.config = Path(job_config.lt25.model_config).read_text()
        self.seq_len = job_config.training.seq_len
        # Processes that share sequences hand on states of packed ones alone.
        shared = job_config.parallelism.context_parallel_degree > 1
        self.packed = shared or job_config.training.varlen is not False
        self.init_from, self.data = job_config.lt25.init_from, job_config.lt25.data
        self.fused_loss, self.z_loss = job_config.training.fused_loss, job_config.training.z_loss
        self.options = {**vars(job_config.training), **json.loads(job_config.lt25.augment)}

    def get_nparams_and_flops(self, model: nn.Module, seq_len: int) -> tuple[int, int]:
        """Return the number of parameters, and the floating-point operations of a token's training: 6 a parameter."""
        parameters = self.parameters = sum(parameter.numel() for parameter in model.parameters())
        return parameters, 6 * parameters


class TaskModel(nn.Module):
    """A Hugging Face model behind the call that torchtitan's trainer makes: ``model(inputs, **extra_inputs)``.

    Returns what the task's loss takes of the model's output. That is the loss itself where head and loss are computed together,
    and where training has another loss than validation.
    """

    def __init__(self, args: ModelArgs):
        super().__init__()
        fields = json.loads(args.config)
        family, task = find(fields["model_type"]), TASKS[args.task]
        # Windows that are a batch, in place of packed sequences: kernels for batches are the faster ones.
        self.window = args.seq_len if not (family.cu_seqlens and args.packed) else None
        self.task, self.z_loss = args.task, args.z_loss
        self.hf: PreTrainedModel = make_model(fields, args.task)
        names = getattr(self.losses, "OPTIONS", ())
        self.options = {name: args.options[name] for name in names if name in args.options}
        fused = args.fused_loss and family.linear_head and hasattr(self.losses, "of_head")
        self.head = family.heads[task.auto_model] if fused else None
        self.of_head = self.losses.of_head if fused else None
        if self.window is None and family.package:
            _believe_boundaries(self.hf, family)
        self.stage: Stage | None = None

    @property
    def losses(self) -> Any:
        """The task's module of losses; not an attribute, because a model is copied for each stage of a pipeline."""
        return TASKS[self.task].module("loss")

    def forward(self, inputs: torch.Tensor, **extra: Any) -> Any:
        """Compute what `predict` does, or one stage of it."""
        return self.predict(inputs, **extra) if self.stage is None else compute(self, inputs)

    def predict(self, inputs: torch.Tensor, labels: torch.Tensor | None = None, **extra: torch.Tensor) -> Any:
        """Return what the task's loss takes of the model's output for a batch."""
        if self.window and extra.pop("cu_seqlens", None) is not None:
            inputs = in_windows(inputs, self.window)
        if self.training and labels is not None and hasattr(self.losses, "of_training"):
            targets = {name: extra.pop(name) for name in self.losses.TARGETS if name in extra}
            return self.losses.of_training(partial(self.hf, inputs, **extra), labels, **self.options, **targets)
        head = self.hf.get_submodule(self.head) if self.head else None
        if labels is None or head is None or self.of_head is None or not is_plain(nn.Linear, head):
            output = self.hf(inputs, **extra)
            if not isinstance(output, ModelOutput):
                raise UserError(
                    f"{type(self.hf).__name__}: forward returns a {type(output).__name__}, expected a ModelOutput of "
                    "transformers, such as CausalLMOutput(logits=...): return one"
                )
            return self.losses.select(output)
        hidden = self.hf.base_model(inputs, use_cache=False, **extra).last_hidden_state
        # Validation measures the cross entropy alone.
        z_loss = self.z_loss if self.training else 0.0
        return self.of_head(hidden, head.weight, labels.view(hidden.shape[:-1]), z_loss)

    def init_weights(self, buffer_device: torch.device | None = None) -> None:
        if self.stage is not None:
            # Each stage takes its part of the whole model's.
            torch.manual_seed(self.stage.seed)
        initialise(self.hf)


def _believe_boundaries(model: nn.Module, family: Family) -> None:
    """Refuse a plugin's model for packed texts if no code of its modules speaks of their boundaries.

    Such a model would take ``cu_seqlens`` among arguments that it ignores, and read all texts of a batch as one.
    """
    files = {str(getattr(sys.modules[type(module).__module__], "__file__", None)) for module in model.modules()}
    if not any("cu_seqlens" in Path(file).read_text(errors="replace") for file in files if file.endswith(".py")):
        raise UserError(
            f"model.model_type: found {family.model_type}, which is given packed texts and reads no cu_seqlens, their "
            f"boundaries: have its forward take them, or its Family say lacks={{'varlen': 'why'}} in {family.package}"
        )


def count_parameters(job: Job) -> int:
    """Count the parameters of a job's model, without memory for them."""
    with torch.device("meta"):
        model = TaskModel(ModelArgs(task=job.model.name, config=Path(job.lt25.model_config).read_text()))
    return sum(parameter.numel() for parameter in model.parameters())


def _build_loss(job_config: Job, **_: Any) -> Any:
    losses = TASKS[job_config.model.name].module("loss")
    if job_config.compile.enable and "loss" in job_config.compile.components and losses.COMPILES:
        return torch.compile(losses.loss, backend=job_config.compile.backend)
    return losses.loss


def _build_batches(dp_world_size: int, dp_rank: int, tokenizer: Any, job_config: Job) -> StepBatches:
    options = {key: value for key, value in vars(job_config.training.dataloader).items() if value}
    return StepBatches(
        PreparedSplit(Path(job_config.lt25.data), "train"),
        job_config.model.name,
        reading_of(job_config, dp_rank, dp_world_size, training=True),
        augment=json.loads(job_config.lt25.augment),
        options=options,
        few_shapes=can_replay(job_config),
        prefetch=partial(to_cuda, device=torch.device("cuda", torch.cuda.current_device()))
        if DEVICE_TYPE == "cuda"
        else iter,
    )


class HuggingFaceAdapter(BaseStateDictAdapter):
    """The names of a `TaskModel`'s parameters, with and without `PREFIX`."""

    def __init__(self, model_args: ModelArgs, hf_assets_path: str | None):
        self.hf_assets_path, self.fqn_to_index_mapping, self.args = hf_assets_path, None, model_args

    def to_hf(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the weights to read from the model that training starts from, which is all that torchtitan asks for."""
        names = {name.removeprefix(PREFIX): value for name, value in state_dict.items()}
        config = json.loads(self.args.config)
        family = find(config["model_type"])
        if family.tied(config):
            names.pop(f"{family.heads[TASKS[self.args.task].auto_model]}.weight", None)
        names, remark = taken(names, Path(self.args.init_from), Path(self.args.data), config, self.args.task)
        if remark and dist.get_rank() == 0:
            print(remark, flush=True)
        return names

    def from_hf(self, hf_state_dict: dict[str, Any]) -> dict[str, Any]:
        return {PREFIX + name: value for name, value in hf_state_dict.items()}

    def get_hf_storage_reader(self, path: str, from_quantized: bool = False) -> HuggingFaceStorageReader:
        return HuggingFaceStorageReader(path)


def register() -> None:
    """Make every task known to torchtitan."""
    for task in TASKS:
        register_train_spec(
            task,
            TrainSpec(
                model_cls=cast(Any, TaskModel),
                model_args={"experiment": ModelArgs(task=task)},
                parallelize_fn=parallelize,
                pipelining_fn=cast(Any, cut),
                build_optimizers_fn=build_optimizers,
                build_lr_schedulers_fn=cast(Any, build_schedule),
                build_dataloader_fn=cast(Any, _build_batches),
                build_tokenizer_fn=None,
                build_loss_fn=_build_loss,
                build_metrics_processor_fn=build_metrics_processor,
                build_validator_fn=Validator,
                state_dict_adapter=HuggingFaceAdapter,
            ),
        )
