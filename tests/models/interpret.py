"""Triton's interpreter made fit for flash-linear-attention's kernels. Import before any of them."""

import ast

from tests.ops import interpret  # isort: skip

from triton.runtime import interpreter
from triton.runtime.autotuner import Autotuner

__all__ = ["interpret"]

# Which configuration is the fastest is of no account: the first is taken, and nothing is timed.
Autotuner.do_bench = property(lambda tuner: lambda call, quantiles: [1.0, 1.0, 1.0])


def _tensors(*bounds):
    """What a loop of a kernel counts by: compiled, the number is a tensor, which has `.to`."""
    return map(interpreter._implicit_cvt, range(*map(int, bounds)))


# Whatever is global there can be seen by interpreted kernels.
interpreter._tensors = _tensors


class _Ranges(interpreter.ASTTransformer):
    def visit_Name(self, node):
        return ast.copy_location(ast.Name("_tensors", node.ctx), node) if node.id == "range" else node


interpreter.FunctionRewriter.ast_transformer = _Ranges()
