"""Sequences that several processes share: each has an equal part of every one, in the order of the ranks of a process group.

A recurrence reads a part from the state that enters it. With P the product of a part's gates, and E its last state if it were
entered by zero, the state that leaves it is E + P * state; so all parts are computed at once, and the processes exchange P and E
alone. Gradients cross in the same way against time: with G the gradient of the entering state if nothing came from later parts,
what leaves is G + P * gradient.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the x [N, ...] of every rank, [ranks, N, ...]; no gradient passes."""
    every = x.new_empty(dist.get_world_size(group), *x.shape)
    dist.all_gather_into_tensor(every.flatten(0, 1), x.contiguous(), group=group)
    return every


def of_first(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the x of the first rank; no gradient passes."""
    x = x.contiguous()
    dist.broadcast(x, group=group, group_src=0)
    return x


def whole(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the parts x [B, T, ...] of all ranks one after the other, [B, ranks * T, ...]; no gradient passes."""
    return torch.cat(tuple(gather(x, group)), 1)


class Carry:
    """What crosses the borders of this process's part of a recurrence over time.

    Args:
        group: the processes that share the sequences.
        x: [B, T, ...], this one's part of T steps.
        cu_seqlens: int [N + 1] or None, boundaries of sequences packed along time, counted over all parts; then B is 1.
        reverse: for each of one or more equal blocks of channels, whether it goes through time from the end to the start.

    Attributes:
        cu_seqlens: int [N + 1] or None, the boundaries in this part; sequences of other parts are empty.
        inner: int64 [2], where the part's last sequence begins and its first one ends; None without cu_seqlens.
    """

    def __init__(self, group: dist.ProcessGroup, x: Tensor, cu_seqlens: Tensor | None, *reverse: bool) -> None:
        self.group, self.reverse = group, reverse
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        self.cu_seqlens = self.inner = None
        if cu_seqlens is None:
            return
        steps, bounds = x.shape[1], cu_seqlens.long()
        self.cu_seqlens = part_of(cu_seqlens, self.rank * steps, steps)
        borders = torch.arange(self.ranks + 1, device=x.device) * steps
        # Whether a sequence goes on across the border before each rank, and across the end.
        self.joined = ~torch.isin(borders, bounds)
        ends = torch.stack((borders[self.rank], borders[self.rank + 1] - 1))
        # The sequences of the part's first and last step.
        self.rows = torch.searchsorted(bounds, ends, right=True) - 1
        self.alone = self.rows[0] == self.rows[1]
        begin, end = bounds[self.rows[1]] - ends[0], bounds[self.rows[0] + 1] - ends[0]
        self.inner = torch.stack((begin.clamp_min(0), end.clamp_max(steps)))

    def enter(self, product: Tensor, end: Tensor) -> Tensor:
        """Return the state [N, D] that each sequence of the part starts from.

        Args:
            product: [B, D], of the gates of the part's last sequence, or for channels that are reversed of its first.
            end: [B, D], the last state of the same steps if they were entered by zero.
        """
        return self._place(self._exchange(product, end, False), False)

    def leave(self, product: Tensor, grad_state: Tensor) -> Tensor:
        """Return the gradient [N, D] of each sequence's final state that comes from later parts.

        Args:
            product: as of `enter`.
            grad_state: [N, D], the gradient of the states that `enter` returned, without what comes from later parts.
        """
        return self._place(self._exchange(product, self.take(grad_state, False), True), True)

    def take(self, states: Tensor, last: bool) -> Tensor:
        """Return [B, D], of states [N, D] those of the sequences that time, for the channel, enters first, or comes to last."""
        if self.cu_seqlens is None:
            return states
        halves = enumerate(states.chunk(len(self.reverse), -1))
        return torch.cat([half[self._row(way, last)] for way, half in halves], -1)

    def _exchange(self, product: Tensor, value: Tensor, against: bool) -> Tensor:
        """Return [B, D] what arrives from the ranks before, or with ``against`` from those after."""
        if self.cu_seqlens is not None:
            product = product * self.alone
        maps, arriving = gather(torch.stack((product, value)), self.group), []
        for way, half in enumerate(maps.chunk(len(self.reverse), -1)):
            upward = self.reverse[way] == against
            state = torch.zeros_like(half[0, 0])
            for rank in range(self.rank) if upward else range(self.ranks - 1, self.rank, -1):
                state = torch.addcmul(half[rank, 1], half[rank, 0], state)
                if self.cu_seqlens is not None:
                    state = state * self.joined[rank + upward]
            arriving.append(state)
        return torch.cat(arriving, -1)

    def _place(self, state: Tensor, last: bool) -> Tensor:
        if self.cu_seqlens is None:
            return state
        sequences, placed = len(self.cu_seqlens) - 1, []
        for way, half in enumerate(state.chunk(len(self.reverse), -1)):
            placed.append(half.new_zeros(sequences, half.shape[1]).index_copy(0, self._row(way, last), half))
        return torch.cat(placed, -1)

    def _row(self, way: int, last: bool) -> Tensor:
        """The sequence, int64 [1], that time enters first, or comes to last."""
        return self.rows[1:] if self.reverse[way] != last else self.rows[:1]


def part_of(cu_seqlens: Tensor, start: int, steps: int) -> Tensor:
    """Return the boundaries of packed sequences in the steps from ``start`` on; those outside become empty."""
    return (cu_seqlens - start).clamp(0, steps)


class _Neighbour(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, distance: int, group: dist.ProcessGroup) -> Tensor:
        ctx.distance, ctx.group = distance, group
        return _of_rank(x, dist.get_rank(group) + distance, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _of_rank(grad, dist.get_rank(ctx.group) - ctx.distance, ctx.group), None, None


def neighbour(x: Tensor, distance: int, group: dist.ProcessGroup) -> Tensor:
    """Return the x of the rank that is ``distance`` further in the group, zero where there is none; with its gradient."""
    return _Neighbour.apply(x, distance, group)


def _of_rank(x: Tensor, rank: int, group: dist.ProcessGroup) -> Tensor:
    every = gather(x, group)
    return every[rank].clone() if 0 <= rank < len(every) else torch.zeros_like(x)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _summed(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _summed(grad, ctx.group), None


def total(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the sum of x over all ranks, on each; its gradient is the sum of the ranks' gradients."""
    return _Total.apply(x, group)


def _summed(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    x = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(x, group=group)
    return x


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group, ctx.steps = group, x.shape[1]
        return whole(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        own = dist.get_rank(ctx.group) * ctx.steps
        return _summed(grad, ctx.group)[:, own : own + ctx.steps], None


def joined(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return what `whole` returns, with its gradient: the sum of the ranks' gradients."""
    return _Joined.apply(x, group)
