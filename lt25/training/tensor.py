"""Tensor parallelism: the processes of a group share each layer's channels or heads, and between the layers the sequence.

A norm is computed on this rank's part of the steps, and its output is gathered for the mixer or MLP behind it. There each rank
has some of the channels, all steps of them, and what it adds to the residual stream is a summand, which is summed and shared out
over the steps again. So every tensor that a layer computes with is an ordinary one, and no kernel has to know of the mesh: the
parameters are DTensors, and a module that is asked for one of them while the model computes answers with this rank's part.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.utils.checkpoint import checkpoint

from lt25.errors import UserError
from lt25.models.families import Family
from lt25.models.forward import call_others, own_forward
from lt25.ops.context import total
from lt25.training.losses import IGNORE

_NORMS = ("attn_norm", "mlp_norm", "norm", "input_layernorm", "post_attention_layernorm")
_BLOCKS = ("attn", "self_attn", "mixer", "mlp")
# Modules whose outputs are shared out, and those whose inputs are.
_OUTPUTS = {
    *("q_proj", "k_proj", "v_proj", "i_proj", "f_proj", "g_proj", "a_proj", "b_proj", "gk_proj.1"),
    *("q_conv1d", "k_conv1d", "v_conv1d", "i_conv1d", "f_conv1d", "gate_proj", "up_proj"),
}
_INPUTS = {"o_proj", "out_proj", "down_proj"}
# What counts the heads of a mixer, what counts the channels of all of them, and its parameters for each head.
_HEADS = ("num_heads", "num_kv_heads", "num_v_heads")
_WIDTHS = ("key_dim", "value_dim")
_OF_HEADS = ("A_log", "dt_bias", "D")
# Logits of this rank in one piece of the loss.
_PIECE = 2**27


class _Computing:
    """Notes by hooks that a model, or one of its layers again in the backward pass, is at work: ``depth`` is then above 0."""

    depth = 0

    @classmethod
    def watch(cls, module: nn.Module) -> None:
        module.register_forward_pre_hook(cls.begin)
        module.register_forward_hook(cls.end, always_call=True)

    @classmethod
    def begin(cls, *_: Any) -> None:
        cls.depth += 1

    @classmethod
    def end(cls, *_: Any) -> None:
        cls.depth -= 1


def split(model: Any, family: Family, mesh: DeviceMesh, loss_parallel: bool) -> None:
    """Share out the layers of a `TaskModel` in place, and of a language model the vocabulary.

    Args:
        model: on the meta device.
        family: its family.
        mesh: the "tp" dimension.
        loss_parallel: whether the vocabulary is shared out, where head and loss are computed together; otherwise every rank
            computes all logits.

    Raises:
        UserError: if something cannot be shared out evenly.
    """
    hf = model.hf
    sequence, layers = _Sequence(mesh), hf.get_submodule(family.layers)
    ranks, rank = mesh.size(), mesh.get_local_rank()
    # Of several stages, the first has the embedding, and the last the head.
    is_last = model.stage is None or model.stage.number == model.stage.last
    classes = hf.config.vocab_size if model.head else 0
    shares_vocabulary = loss_parallel and model.head is not None and -(-classes // ranks) * (ranks - 1) < classes
    layers[0].register_forward_pre_hook(sequence.share_out)
    for module in (model, *layers):
        _Computing.watch(module)
    for layer in layers:
        for name, child in layer.named_children():
            if name in _NORMS:
                child.register_forward_hook(partial(sequence.gather, gradient=Partial()))
            elif name in _BLOCKS:
                _split_block(child, mesh)
                child.register_forward_hook(sequence.sum_up)
        _answer_all(layer, mesh, Partial())
    norm = hf.get_submodule(family.norm)
    summed = shares_vocabulary and is_last
    norm.register_forward_hook(partial(sequence.gather, gradient=Partial() if summed else Replicate()))
    _answer_all(norm, mesh, Partial())
    if getattr(hf.base_model, "lower_bounds", None) is not None:
        _answer(hf.base_model, "lower_bounds", mesh, Shard(1))
    if shares_vocabulary:
        embedding: Any = hf.get_input_embeddings()
        head: Any = hf.get_submodule(model.head)
        start = rank * -(-classes // ranks)
        tied = getattr(head, "weight", None) is getattr(embedding, "weight", embedding)
        if hasattr(embedding, "weight"):
            _answer(embedding, "weight", mesh, Shard(0))
            embedding.forward = partial(_embed, embedding, start=start, group=mesh.get_group())
        if is_last:
            _answer(head, "weight", mesh, embedding._parameters["weight"] if tied else Shard(0))
            model.of_head = partial(split_cross_entropy, start=start, group=mesh.get_group())
    _answer_all(hf, mesh, Replicate())


def _split_block(block: Any, mesh: DeviceMesh) -> None:
    """Share out a mixer's heads or channels, or an MLP's channels."""
    ranks, rank = mesh.size(), mesh.get_local_rank()
    for name, module in block.named_modules():
        dim = 0 if name in _OUTPUTS else 1 if name in _INPUTS else None
        if dim is None:
            continue
        for parameter, value in list(module.named_parameters(recurse=False)):
            if dim == 1 and value.ndim == 1:
                raise UserError(
                    f"parallelism.tensor_parallel_degree: found {ranks}, but {name} has a bias, which cannot be shared out: use 1"
                )
            _answer(module, parameter, mesh, Shard(dim))
    for name in _HEADS:
        if (heads := getattr(block, name, ranks)) % ranks:
            raise UserError(
                f"parallelism.tensor_parallel_degree: found {ranks}, which does not divide the {heads} heads of a layer: use 1"
            )
    for name in _OF_HEADS:
        if name in block._parameters:
            _answer(block, name, mesh, Shard(0))
    for name in _WIDTHS:
        if hasattr(block, name):
            setattr(block, name, getattr(block, name) // ranks)
    if hasattr(block, "in_proj"):
        _split_mamba2(block, mesh)
    norm, out = getattr(block, "g_norm", None), getattr(block, "o_proj", None)
    if norm is not None and out is not None and norm.weight.numel() == out._parameters["weight"].shape[1]:
        width = norm.weight.numel()
        _answer(norm, "weight", mesh, Shard(0))
        normalise = partial(_rms_norm, width=width, group=mesh.get_group())
        norm.forward = partial(_norm, norm, normalise)
        _take_apart(block, normalise)
    if getattr(block, "bidirectional", False):
        # The first half of the channels reads forwards: so do the first half of the ranks, whose number is even.
        block.directions = (rank >= ranks // 2,)


def _split_mamba2(block: Any, mesh: DeviceMesh) -> None:
    """Share out the heads of a Mamba-2 mixer, and its groups if there are several; a single one all ranks compute.

    The rows of its first product and of its convolution are channels of five kinds. Of each a rank reads its part, so the weights
    are whole on all ranks, and each has a summand of the gradient.
    """
    import lt25.models.fla_mamba2 as fla_mamba2

    ranks, rank, groups = mesh.size(), mesh.get_local_rank(), block.n_groups
    shares = ranks if groups > 1 else 1
    inner, heads, states = (
        (block.intermediate_size, ranks),
        (block.num_heads, ranks),
        (groups * block.ssm_state_size, shares),
    )

    def own(*kinds: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        rows, start = [], 0
        for width, parts in kinds:
            first = start + rank % parts * (width // parts)
            rows.append((first, first + width // parts))
            start += width
        return tuple(rows)

    mixed = (inner, states, states)
    for module, kinds in ((block.in_proj, (inner, *mixed, heads)), (block.conv1d, mixed)):
        for name, _ in list(module.named_parameters(recurse=False)):
            _answer(module, name, mesh, Replicate(), Partial(), own(*kinds))
    width = block.intermediate_size
    block.intermediate_size, block.num_heads, block.n_groups = (
        width // ranks,
        block.num_heads // ranks,
        groups // shares,
    )
    block.conv_dim = block.intermediate_size + 2 * block.n_groups * block.ssm_state_size
    block.conv1d.groups = block.conv_dim
    # The kernel for all at once knows no other ranks.
    block.cuda_kernels_forward = partial(fla_mamba2.forward, block)
    if block.norm is not None:
        _answer(block.norm, "weight", mesh, Shard(0))
        if groups == 1:
            normalise = partial(_rms_norm, width=width, group=mesh.get_group())
            norm = _norm if block.norm.norm_before_gate else _norm_behind_gate
            block.norm.forward = partial(norm, block.norm, normalise)


def _take_apart(block: Any, normalise: Callable[..., Tensor]) -> None:
    """Let an FLA mixer compute its last norm and product one after the other: the kernel for both knows no other ranks."""
    if "rms_norm_linear" not in own_forward(block).__globals__:
        return

    def apart(x: Tensor, weight: Tensor, _: None, matrix: Tensor, bias: None, eps: float = 1e-5) -> Tensor:
        return F.linear(normalise(x, weight, eps), matrix)

    call_others(block, rms_norm_linear=apart)


class _Sequence:
    """The steps of the sequences in a group: hooks that gather and share them out.

    Attributes:
        length: steps of the whole sequences.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh, self.length = mesh, 0

    def share_out(self, module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give the first layer this rank's steps of its first argument, [B, T, H], which all ranks have."""
        x, *others = arguments
        self.length = x.shape[1]
        return DTensor.from_local(x, self.mesh, [Replicate()], run_check=False).redistribute(
            placements=[Shard(1)]
        ).to_local(), *others

    def gather(self, module: nn.Module, arguments: Any, output: Any, gradient: Placement) -> Any:
        """Give what follows a norm all steps; of the gradient, each rank then has a summand, or all of it."""
        x, *others = output if isinstance(output, tuple) else (output,)
        shape = torch.Size((x.shape[0], self.length, x.shape[2]))
        stride = (self.length * x.shape[2], x.shape[2], 1)
        parts = DTensor.from_local(x, self.mesh, [Shard(1)], run_check=False, shape=shape, stride=stride)
        whole = parts.redistribute(placements=[Replicate()]).to_local(grad_placements=[gradient])
        return (whole, *others) if isinstance(output, tuple) else whole

    def sum_up(self, module: nn.Module, arguments: Any, output: Any) -> Any:
        """Sum what the ranks' channels add to the residual stream, and keep this rank's steps."""
        x, *others = output if isinstance(output, tuple) else (output,)
        summed = DTensor.from_local(x, self.mesh, [Partial()], run_check=False).redistribute(placements=[Shard(1)])
        return (summed.to_local(), *others) if isinstance(output, tuple) else summed.to_local()


def _answer_all(module: nn.Module, mesh: DeviceMesh, gradient: Placement) -> None:
    """Make all parameters that are not DTensors yet the same on every rank."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            if not isinstance(parameter, DTensor):
                _answer(part, name, mesh, Replicate(), gradient)


def _answer(
    module: nn.Module,
    name: str,
    mesh: DeviceMesh,
    placement: Placement | nn.Parameter,
    gradient: Placement | None = None,
    rows: tuple[tuple[int, int], ...] = (),
) -> None:
    """Make a parameter a DTensor, and let the module's attribute be this rank's part of it, an ordinary tensor.

    Args:
        module: the parameter's.
        name: of the attribute.
        mesh: one-dimensional.
        placement: how the parameter is spread; or the parameter of another module that it shall be.
        gradient: of a parameter that all ranks have whole, whether each gets its gradient or a summand (`Partial`).
        rows: of a parameter that all ranks have whole, the rows that this one reads: where each run begins and ends; all, if ().

    Raises:
        UserError: if a dimension cannot be shared out evenly.
    """
    parameter = module._parameters[name]
    if isinstance(placement, nn.Parameter):
        module._parameters[name] = placement
    elif parameter is not None:
        if isinstance(placement, Shard) and parameter.ndim > placement.dim and not isinstance(module, nn.Embedding):
            size = parameter.shape[placement.dim]
            if size % mesh.size() and size < 2 * mesh.size():
                raise UserError(
                    f"parallelism.tensor_parallel_degree: found {mesh.size()}, which does not divide the {size} of {name}: use 1"
                )
        spread = distribute_tensor(parameter.detach(), mesh, [placement], src_data_rank=None)
        module._parameters[name] = nn.Parameter(spread, requires_grad=parameter.requires_grad)
    read = _own if gradient is None else _summed if gradient.is_partial() else _same
    read = _Rows(rows, read) if rows else read
    answers = getattr(type(module), "answers", {})
    kind = _answering(getattr(type(module), "plain_kind", type(module)), (*answers.items(), (name, read)))
    module.__class__ = kind  # type: ignore[assignment]


@cache
def _answering(kind: type[nn.Module], answers: tuple[tuple[str, Callable[[Any], Tensor]], ...]) -> type[nn.Module]:
    """Return a class of modules whose parameters are read through functions.

    `lt25.models.plain.is_plain` takes it for the class it was made of.
    """
    properties = {name: property(partial(_read, name=name, read=read)) for name, read in answers}
    return type(kind.__name__, (kind,), {"plain_kind": kind, "answers": dict(answers), **properties})


def _read(module: Any, name: str, read: Callable[[Any], Tensor]) -> Any:
    parameter = module._parameters[name]
    return read(parameter) if _Computing.depth and parameter is not None else parameter


def _own(parameter: DTensor) -> Tensor:
    return parameter.to_local()


def _same(parameter: DTensor) -> Tensor:
    return parameter.to_local(grad_placements=[Replicate()])


def _summed(parameter: DTensor) -> Tensor:
    # In the forward pass the redistribution does nothing; in the backward pass it sums.
    return parameter.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])


@dataclass(frozen=True)
class _Rows:
    """Reads runs of a parameter's rows."""

    runs: tuple[tuple[int, int], ...]
    read: Callable[[Any], Tensor]

    def __call__(self, parameter: DTensor) -> Tensor:
        whole = self.read(parameter)
        return torch.cat([whole[start:end] for start, end in self.runs])


class _Sum(torch.autograd.Function):
    """The sum over the ranks, which all of them get, and whose gradient is the same on all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        summed = x.clone()
        dist.all_reduce(summed, group=group)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def _rms_norm(x: Tensor, weight: Tensor | None, eps: float, width: int, group: dist.ProcessGroup) -> Tensor:
    """Normalise over channels of which this rank has some, x [..., width / ranks]."""
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    mean = total(wide.square().sum(-1, keepdim=True), group) / width
    y = wide * (mean + eps).rsqrt()
    return (y if weight is None else y * weight).to(x.dtype)


def _norm(norm: Any, normalise: Callable[..., Tensor], x: Tensor, gate: Tensor | None = None, *_: Any) -> Tensor:
    """What a norm of `torch.nn`, of lt25 or of FLA computes, the latter with a gate."""
    y = normalise(x, norm.weight, norm.eps)
    return y if gate is None else y * F.silu(gate)


def _norm_behind_gate(norm: Any, normalise: Callable[..., Tensor], x: Tensor, gate: Tensor) -> Tensor:
    """What Mamba-2's norm computes."""
    return normalise(x.float() * F.silu(gate.float()), norm.weight, norm.eps).to(x.dtype)


def _embed(embedding: nn.Embedding, tokens: Tensor, start: int, group: dist.ProcessGroup) -> Tensor:
    """Look tokens up, each on the rank that has its row of the vocabulary."""
    weight = embedding.weight
    places = tokens - start
    elsewhere = (places < 0) | (places >= len(weight))
    padding = None if embedding.padding_idx is None else embedding.padding_idx - start
    padding = padding if padding is not None and 0 <= padding < len(weight) else None
    rows = F.embedding(places.masked_fill(elsewhere, 0), weight, padding)
    return _Sum.apply(rows.masked_fill(elsewhere[..., None], 0), group)


def split_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float, start: int, group: dist.ProcessGroup
) -> Tensor:
    """Return what :func:`lt25.ops.linear_cross_entropy` does, on every rank, of which each has some rows of the head's weight.

    Args:
        hidden: float [..., H], the same on all ranks; of its gradient each gets a summand.
        weight: float [V / ranks, H].
        labels: int64 [...] in [0, V), or -100 where there is none.
        z_loss: as there.
        start: the number of the class that the weight's first row is for.
        group: the ranks.
    """
    hidden, labels = hidden.flatten(0, -2), labels.flatten()
    pieces = -(-len(hidden) * len(weight) // _PIECE)
    losses: list[Any] = [
        checkpoint(_piece, part, weight, of_part, z_loss, start, group, use_reentrant=False, preserve_rng_state=False)
        for part, of_part in zip(hidden.chunk(pieces), labels.chunk(pieces), strict=True)
    ]
    return torch.stack(losses).sum()


def _piece(
    hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float, start: int, group: dist.ProcessGroup
) -> Tensor:
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    largest = logits.detach().amax(-1)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group)
    norms = _Sum.apply((logits - largest[:, None]).exp().sum(-1), group).log() + largest
    places = labels - start
    here = (places >= 0) & (places < len(weight))
    picked = logits.gather(1, places.masked_fill(~here, 0)[:, None])[:, 0].masked_fill(~here, 0)
    losses = norms - _Sum.apply(picked, group)
    if z_loss:
        losses = losses + z_loss * norms.square()
    return losses.masked_fill(labels == IGNORE, 0).sum()
