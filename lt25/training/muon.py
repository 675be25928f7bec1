"""Muon, "an optimizer for hidden layers in neural networks" (https://kellerjordan.github.io/posts/muon/).

The step of a matrix is its momentum made orthogonal. Its size is AdamW's, as "Muon is Scalable for LLM Training"
(https://arxiv.org/abs/2502.16982) has it, so that one learning rate and weight decay serve both. `torch.optim.Muon` computes the
same, but one matrix after the other, whole ones only, and asks the device for the learning rate, which no CUDA graph can record.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from lt25.training.shards import Adam, local

MOMENTUM = 0.95
# Of the iteration that makes a matrix orthogonal: how often, and the coefficients, which raise small singular values fastest.
ITERATIONS, COEFFICIENTS = 5, (3.4445, -4.7750, 2.0315)
# The root mean square of AdamW's steps, times the learning rate.
RMS = 0.2


def hidden_matrices(model: nn.Module) -> set[Tensor]:
    """Return the weights that Muon is for: those of linear layers in a model's list of layers, so not embedding and head."""
    lists = (part for part in model.modules() if isinstance(part, nn.ModuleList))
    return {part.weight for layers in lists for part in layers.modules() if isinstance(part, nn.Linear)}


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices with the same singular vectors, whose singular values are about 1, between 0.7 and 1.2.

    Args:
        matrices: float [N, A, B].

    Returns:
        bfloat16 [N, A, B].
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(Adam):
    """Muon for some parameters and AdamW for all others.

    Parameters may be sharded by their rows (FSDP2). Each rank then gathers the momenta and makes all of them orthogonal.

    Args:
        parameters: all of them.
        matrices: those that Muon is for.
        options: `torch.optim.Adam`'s.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], matrices: set[Tensor], **options: Any) -> None:
        parameters = list(parameters)
        groups = [
            {"params": [one for one in parameters if (one in matrices) == muon], "muon": muon} for muon in (True, False)
        ]
        super().__init__([group for group in groups if group["params"]], **options, decoupled_weight_decay=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            if group["muon"]:
                self._step_of_matrices(group)
        super().step()

    def _init_group(self, group: dict, *rest: Any) -> bool:  # type: ignore[override]
        return False if group["muon"] else super()._init_group(group, *rest)

    def _step_of_matrices(self, group: dict) -> None:
        # As in torch's fused optimizers: 1 where the step is to be left out.
        found_inf = getattr(self, "found_inf", None)
        taken = 1.0 if found_inf is None else 1 - found_inf.reshape(())
        alike = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    # Adam looks for a count of steps in every state.
                    state["step"] = torch.zeros((), device=parameter.device)
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                state["step"] += taken
                alike[parameter.shape].append(parameter)
        for shape, parameters in alike.items():
            gradients = torch.stack(local([one.grad for one in parameters]))
            buffers = local([self.state[one]["momentum_buffer"] for one in parameters])
            momenta = torch.stack(buffers)
            if found_inf is not None:
                gradients = gradients.masked_fill(found_inf.reshape(()) > 0, 0)
            momenta += (1 - MOMENTUM) * taken * (gradients - momenta)
            torch._foreach_copy_(buffers, list(momenta.unbind()))
            steps = _of_whole_matrices(parameters[0], gradients.lerp(momenta, MOMENTUM))
            rate = group["lr"] * taken
            steps = steps * (-rate * RMS * math.sqrt(max(shape)))
            for weight, step in zip(local(parameters), steps.unbind(), strict=True):
                weight.mul_(1 - rate * group["weight_decay"]).add_(step)


def _of_whole_matrices(parameter: nn.Parameter, parts: Tensor) -> Tensor:
    """Return `orthogonal` of matrices, of each this rank's part, float32 [N, ...].

    Args:
        parameter: one of those that the matrices belong to; all are laid over the ranks alike.
        parts: this rank's parts of them, [N, ...].
    """
    if not isinstance(parameter, DTensor):
        return orthogonal(parts).float()
    mesh, shape = parameter.device_mesh, torch.Size((len(parts), *parameter.shape))
    # Stacked, a matrix's rows are the second dimension.
    placements = [Shard(one.dim + 1) if isinstance(one, Shard) else one for one in parameter.placements]
    stride = (parameter.numel(), parameter.shape[1], 1)
    spread = DTensor.from_local(parts, mesh, placements, run_check=False, shape=shape, stride=stride)
    whole = orthogonal(spread.full_tensor()).float().contiguous()
    return (
        DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
        .redistribute(mesh, placements)
        .to_local()
    )
