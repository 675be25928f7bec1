"""The number of chunks of packed sequences, which flash-linear-attention's kernels of states ask the GPU for.

They do so in every layer, several times, and the host waits until the GPU has come so far. The number is also the length of the
table of chunks, which is made once for a batch. Importing the module lets these kernels find it there.
"""

from typing import Any

import torch
from fla.ops.common import chunk_h
from fla.ops.utils import prepare_chunk_indices, prepare_chunk_offsets
from fla.utils import tensor_cache
from torch import Tensor

_own: Any = prepare_chunk_offsets
_kernels: Any = chunk_h


class _Offsets(Tensor):
    """Offsets whose last, the number of all chunks, the host has.

    Attributes:
        last: int64, a tensor of the host's.
    """

    last: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __getitem__(self, place: Any) -> Tensor:
        return self.last if isinstance(place, int) and place == -1 else super().__getitem__(place)


@tensor_cache
def offsets(cu_seqlens: Tensor, chunk_size: int) -> Tensor:
    """Stand for FLA's function `prepare_chunk_offsets`: how many chunks are before each of the packed sequences, [N + 1].

    Args:
        cu_seqlens: int [N + 1], boundaries of packed sequences.
        chunk_size: steps of a chunk.
    """
    made = _own(cu_seqlens, chunk_size).as_subclass(_Offsets)
    made.last = torch.tensor(len(prepare_chunk_indices(cu_seqlens, chunk_size)))
    return made


_kernels.prepare_chunk_offsets = offsets
