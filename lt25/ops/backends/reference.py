"""The scan as its definition reads, slowly: a loop over time in float64 that autograd differentiates. What tests trust."""

import torch
from torch import Tensor


def scan(
    x: Tensor, log_f: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """Arguments and results of :func:`lt25.ops.hgrn_scan`; the final state comes in float64, h in x's dtype."""
    if cu_seqlens is None:
        sequences = list(zip(x.double(), log_f.double(), strict=True))
    else:
        lengths = cu_seqlens.diff().tolist()
        sequences = list(zip(x[0].double().split(lengths), log_f[0].double().split(lengths), strict=True))

    outputs, finals = [], []
    for n, (x_n, log_f_n) in enumerate(sequences):
        state = x_n.new_zeros(x.shape[-1]) if initial_state is None else initial_state[n].double()
        rows: list[Tensor] = [state] * len(x_n)
        for t in reversed(range(len(x_n))) if reverse else range(len(x_n)):
            state = log_f_n[t].exp() * state + x_n[t]
            rows[t] = state
        outputs.append(torch.stack(rows) if rows else x_n)
        finals.append(state)
    h = torch.stack(outputs) if cu_seqlens is None else torch.cat(outputs)[None]
    return h.to(x.dtype), torch.stack(finals)
