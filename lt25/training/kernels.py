"""Triton's kernels, compiled side by side before the first step, which would compile them one after the other."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch


def compile_ahead(function: Callable[[], Any]) -> None:
    """Compile the kernels that a function launches, without launching them; what they should have written is left as it was.

    The function may run on several threads, as backward does.
    """
    from triton.runtime import JITFunction
    from triton.runtime._async_compile import AsyncCompileMode, active_mode

    launch = JITFunction.run

    def only_compile(self: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        before = active_mode.set(mode)
        try:
            return launch(self, *arguments, grid=grid, warmup=True, **options)
        finally:
            active_mode.reset(before)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as workers:
        mode = AsyncCompileMode(workers)
        with patch.object(JITFunction, "run", only_compile):
            function()
        for kernel in list(mode.future_kernels.values()):
            kernel.result()
