"""The scan on a GPU by flash-linear-attention's recurrent kernel, which takes packed sequences and states.

Reverse is a scan over the flipped time axis; a packed batch flips as a whole, its sequences then come in reverse order.
"""

import torch
from torch import Tensor


def forward(
    x: Tensor, log_f: Tensor, initial_state: Tensor | None, cu_seqlens: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor]:
    """h [B, T, D] in x's dtype and the final state [N, D] in float32."""
    from fla.ops.hgrn.fused_recurrent import fused_recurrent_hgrn_fwd

    packed = cu_seqlens is not None
    with torch.cuda.device_of(x):
        h, final_state = fused_recurrent_hgrn_fwd(
            # float32 in, because the kernel writes the final state in x's dtype.
            _time(x.float(), reverse),
            _time(log_f, reverse),
            _sequences(initial_state, reverse and packed),
            output_final_state=True,
            cu_seqlens=_boundaries(cu_seqlens, reverse),
        )
    return _time(h.to(x.dtype), reverse), _sequences(final_state, reverse and packed)


def backward(
    grad_h: Tensor,
    grad_final: Tensor,
    log_f: Tensor,
    h: Tensor,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, log_f (each in its own dtype) and the initial state, from those of h and the final state."""
    from fla.ops.hgrn.fused_recurrent import fused_recurrent_hgrn_bwd

    packed = cu_seqlens is not None
    if initial_state is None:
        initial_state = torch.zeros_like(grad_final)
    with torch.cuda.device_of(h):
        grad_x, grad_log_f, grad_state = fused_recurrent_hgrn_bwd(
            g=_time(log_f, reverse),
            o=_time(h, reverse),
            do=_time(grad_h, reverse),
            dht=_sequences(grad_final, reverse and packed),
            initial_state=_sequences(initial_state, reverse and packed),
            cu_seqlens=_boundaries(cu_seqlens, reverse),
        )
    return (
        _time(grad_x.to(h.dtype), reverse),
        _time(grad_log_f.to(log_f.dtype), reverse),
        _sequences(grad_state, reverse and packed),
    )


def _time(tensor: Tensor, flip: bool) -> Tensor:
    return tensor.flip(1) if flip else tensor.contiguous()


def _sequences(state: Tensor | None, flip: bool) -> Tensor | None:
    if state is None:
        return None
    return state.float().flip(0) if flip else state.float().contiguous()


def _boundaries(cu_seqlens: Tensor | None, flip: bool) -> Tensor | None:
    if cu_seqlens is None:
        return None
    return cu_seqlens[-1] - cu_seqlens.flip(0) if flip else cu_seqlens.contiguous()
