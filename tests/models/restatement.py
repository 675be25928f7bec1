"""FLA's HGRN language model written out in plain float64 operations, to check ours against.

Follows fla/layers/hgrn.py, fla/models/hgrn/modeling_hgrn.py, fla/modules/mlp.py and fla/modules/norm of
flash-linear-attention 0.6.0, whose kernels need a GPU.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def causal_convolution(x: Tensor, weight: Tensor) -> Tensor:
    padded = F.pad(x.transpose(1, 2), (weight.shape[-1] - 1, 0))
    return F.conv1d(padded, weight, groups=weight.shape[0]).transpose(1, 2)


def mixer(x: Tensor, w: dict[str, Tensor], lower_bound: Tensor | None, eps: float) -> Tensor:
    i, f = x @ w["i_proj.weight"].T, x @ w["f_proj.weight"].T
    if "i_conv1d.weight" in w:
        i, f = causal_convolution(i, w["i_conv1d.weight"]), causal_convolution(f, w["f_conv1d.weight"])
    f = F.logsigmoid(f)
    if lower_bound is not None:
        f = torch.logaddexp(lower_bound.log(), torch.log1p(-lower_bound) + f)
    i = F.silu(i) * (1 - f.exp())
    h, rows = torch.zeros_like(i[:, 0]), []
    for t in range(x.shape[1]):
        h = f[:, t].exp() * h + i[:, t]
        rows.append(h)
    o = rms_norm(torch.stack(rows, 1), w["g_norm.weight"], eps) * F.silu(x @ w["g_proj.weight"].T)
    return o @ w["o_proj.weight"].T


def causal_lm_logits(state_dict: dict[str, Tensor], input_ids: Tensor, eps: float) -> Tensor:
    """Logits float64 [B, T, V] from a checkpoint with FLA's names."""
    w = {name: tensor.double() for name, tensor in state_dict.items()}

    def under(prefix):
        return {name.removeprefix(prefix): tensor for name, tensor in w.items() if name.startswith(prefix)}

    bounds = None
    if "model.lower_bounds" in w:
        shares = w["model.lower_bounds"].softmax(0)
        bounds = shares.cumsum(0) - shares[0]
    x = w["model.embeddings.weight"][input_ids]
    for n in range(1 + max(int(name.split(".")[2]) for name in w if name.startswith("model.layers."))):
        layer = under(f"model.layers.{n}.")
        bound = None if bounds is None or n == 0 else bounds[n]
        attn = {name.removeprefix("attn."): t for name, t in layer.items() if name.startswith("attn.")}
        x = x + mixer(rms_norm(x, layer["attn_norm.weight"], eps), attn, bound, eps)
        y = rms_norm(x, layer["mlp_norm.weight"], eps)
        y = F.silu(y @ layer["mlp.gate_proj.weight"].T) * (y @ layer["mlp.up_proj.weight"].T)
        x = x + y @ layer["mlp.down_proj.weight"].T
    return rms_norm(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T
