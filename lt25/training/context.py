"""Context parallelism: processes that share the sequences of a batch.

All of them load the same batch, and each computes with its part of every sequence (`lt25.ops.context`): the first process with
the first steps, and so on. Labels of single steps are cut in the same way. A label of a whole sequence is everyone's, and then
each process computes the loss of all of it.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from lt25.data.batches import in_windows
from lt25.tasks import TASKS
from lt25.training.losses import IGNORE

Batch = dict[str, Tensor]

# What padding is filled with, 0 unless it is here.
_PADDING = {"labels": IGNORE}


class Part:
    """The part of each batch that this process computes with.

    Args:
        model: a `TaskModel`.
        mesh: the processes that share its sequences.
    """

    def __init__(self, model: Any, mesh: DeviceMesh) -> None:
        group, config = mesh.get_group(), model.hf.config
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        # A language model's labels are of single steps.
        self.cut = ["labels"] if TASKS[model.task].auto_model == "AutoModelForCausalLM" else []
        self.window = model.window
        self.subsampling = getattr(config, "subsampling", 1)
        # A short convolution reads so far back, and no further than to the process before.
        self.least = config.conv_size - 1 if getattr(config, "use_short_conv", False) else 1

    def __call__(self, batch: Batch, main_input: str) -> Batch:
        """Return this process's part of a batch, whose sequences are padded so that all parts have one length.

        Args:
            batch: arguments of the model's forward, and ``labels``.
            main_input: which of them has the steps.
        """
        batch = dict(batch)
        if self.window and batch.pop("cu_seqlens", None) is not None:
            for name in (main_input, "labels"):
                batch[name] = in_windows(batch[name], self.window)
        elif self.cut and not self.window and "cu_seqlens" not in batch:
            # One behind the other, as texts come: FLA's kernels share nothing else.
            rows, steps = batch[main_input].shape
            batch["cu_seqlens"] = torch.arange(0, rows * steps + 1, steps, device=batch[main_input].device)
            for name in (main_input, "labels"):
                batch[name] = batch[name].view(1, -1)
        steps, unit = batch[main_input].shape[1], self.ranks * self.subsampling
        length = self.subsampling * max(-(-steps // unit), self.least)
        missing, start = length * self.ranks - steps, self.rank * length
        if self.window:
            batch["position_ids"] = torch.arange(start, start + length, device=batch[main_input].device)[None]
        bounds = batch.get("cu_seqlens")
        if missing and bounds is not None:
            batch["cu_seqlens"] = F.pad(bounds, (0, 1), value=steps + missing)
        elif missing and not self.cut and "attention_mask" not in batch:
            batch["attention_mask"] = batch[main_input].new_ones(batch[main_input].shape[:2]).long()
        for name in (main_input, "attention_mask", *self.cut):
            if name in batch:
                whole = batch[name]
                after = (0, 0) * (whole.ndim - 2) + (0, missing)
                padded = F.pad(whole, after, value=_PADDING.get(name, 0)) if missing else whole
                batch[name] = padded[:, start : start + length].contiguous()
        return batch
