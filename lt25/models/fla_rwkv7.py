"""RWKV-7 without what delays its first step: functions under `torch.compile`, and first weights written number by number.

FLA hands two functions to the compiler, which takes seconds at each start: the gradients of the weights by which a layer mixes
each token with the one before, and the square in its MLP. Here both are kernels; that of the mixtures computes the gradients of
tokens and of weights in one pass over memory. FLA writes the vectors among the first weights in a loop over channels, which takes
seconds too.

Importing the module puts what is here in the places of FLA's; it computes the same numbers, and draws the same ones at random.
A compiler that is handed the whole model is shown no kernels of lt25's, which it cannot read.
"""

from typing import Any

import torch
from fla.layers.rwkv7 import RWKV7Attention
from fla.models.rwkv7.modeling_rwkv7 import RWKV7FeedForward
from fla.modules.activations import ops
from fla.ops.rwkv7.fused_addcmul import Rwkv7FusedAddcmul
from torch import Tensor, nn

from lt25.ops.backends import triton_rwkv7

# What is assigned to them is no method to a type checker.
_activations: Any = ops
_mix: Any = Rwkv7FusedAddcmul
_mixer: Any = RWKV7Attention
_mlp: Any = RWKV7FeedForward
_own_mix_backward: Any = _mix.backward
_sqrelu: Any = _activations.sqrelu_fwd, _activations.sqrelu_bwd


def mix_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    """Stand for `Rwkv7FusedAddcmul.backward`, of mixtures x + delta * weight.

    Args:
        ctx: has x and delta [B, T, D] and six weights [1, 1, D], the last of which may be None.
        grads: of the mixtures, [B, T, D].

    Returns:
        The gradients of x, of delta and of the weights.
    """
    if torch.compiler.is_compiling():
        return _own_mix_backward(ctx, *grads)
    _, delta, *weights = ctx.saved_tensors
    given = [weight for weight in weights if weight is not None]
    grad_x, grad_delta, sums = triton_rwkv7.mix_backward([grad for grad in grads if grad is not None], delta, given)
    of_weights = [total.view(weight.shape).to(weight.dtype) for weight, total in zip(given, sums, strict=True)]
    return grad_x, grad_delta, *of_weights, *[None] * (len(weights) - len(given))


def squared_relu(x: Tensor) -> Tensor:
    """Stand for `sqrelu_fwd`: max(x, 0)^2, in the shape and dtype of x."""
    # Not FLA's own: torch 2.11 compiles gradients of zero of it in float32.
    return x.relu().square() if torch.compiler.is_compiling() else triton_rwkv7.squared_relu(x)


def squared_relu_backward(g: Tensor, x: Tensor) -> Tensor:
    """Stand for `sqrelu_bwd`, where g is the gradient of what that gives of x."""
    return 2.0 * g * x.relu() if torch.compiler.is_compiling() else triton_rwkv7.squared_relu_backward(g, x)


@torch.no_grad()
def initialise_mixer(self: Any, module: nn.Module) -> None:
    """Stand for `RWKV7Attention._initialize_weights`."""
    if getattr(module, "_is_hf_initialized", False):
        return
    module._is_hf_initialized = True  # type: ignore[assignment]
    if not isinstance(module, RWKV7Attention) or self.layer_idx is None:
        return
    size, head, device = self.hidden_size, self.head_dim, self.x_r.device
    depth = self.layer_idx / (self.num_hidden_layers - 1)
    left = 1.0 - self.layer_idx / self.num_hidden_layers

    def vector(values: Any) -> Tensor:
        return torch.tensor(list(values), device=device)

    place = vector(n / size for n in range(size))
    for name, power in (("x_r", 0.2), ("x_w", 0.9), ("x_k", 0.7), ("x_v", 0.7), ("x_a", 0.9), ("x_g", 0.2)):
        mix = getattr(self, name)
        mix.data = (1.0 - torch.pow(place, power * left)).to(mix.dtype).view(1, 1, -1)
    linear = vector(n / (size - 1) - 0.5 for n in range(size))
    zigzag = vector((n % head - (head - 1) / 2) / ((head - 1) / 2) for n in range(size))
    zigzag = zigzag * zigzag.abs()
    decay = vector(-6 + 6 * (n / (size - 1)) ** (1 + depth**0.3) for n in range(size))
    nn.init.constant_(self.k_a, 1.02)
    nn.init.constant_(self.r_k, -0.04)
    self.k_k.copy_(0.71 - linear * 0.1)
    self.w_lora.set_bias_value(decay + 0.5 + zigzag * 2.5)
    self.a_lora.set_bias_value(-0.19 + zigzag * 0.3 + linear * 0.4)
    if self.layer_idx != 0:
        self.v_lora._initialize_weights(self.v_lora)
        self.v_lora.set_bias_value(0.73 - linear * 0.4)
    self.g_norm.weight.fill_(((self.layer_idx + 1) / self.num_hidden_layers) ** 0.7)
    self._orthogonal_init(self.r_proj.weight)
    self._orthogonal_init(self.k_proj.weight, gain=0.1)
    self._orthogonal_init(self.v_proj.weight)
    self.o_proj.weight.zero_()


@torch.no_grad()
def initialise_mlp(self: Any, module: nn.Module) -> None:
    """Stand for `RWKV7FeedForward._initialize_weights`."""
    if not isinstance(module, RWKV7FeedForward):
        return
    made: Any = module
    size, left = made.hidden_size, 1.0 - made.layer_idx / made.num_hidden_layers
    made.x_k.data = 1.0 - torch.pow(torch.tensor([n / size for n in range(size)]), left**4)
    key = made.key.weight
    key.data = nn.init.orthogonal_(key.data.float()).to(key.dtype)
    made.value.weight.zero_()


def give_back() -> None:
    """Let FLA compute the square and the mixtures' gradients itself."""
    _activations.sqrelu_fwd, _activations.sqrelu_bwd = _sqrelu
    _mix.backward = staticmethod(_own_mix_backward)


_activations.sqrelu_fwd, _activations.sqrelu_bwd = squared_relu, squared_relu_backward
_mix.backward = staticmethod(mix_backward)
_mixer._initialize_weights, _mlp._initialize_weights = initialise_mixer, initialise_mlp
