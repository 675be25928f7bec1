"""How Triton's kernels are compiled: side by side, and once; and how they are tuned: briefly. None of it changes a number."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lt25.replaced import replaced

ahead = False
"""Whether kernels are compiled just now, and not launched."""


def keep_kernels() -> None:
    """Keep compiled kernels for the next start in Triton's own directory; inductor would choose another in mid-run.

    Saves 5 to 13 s of the next start, see "The trainer itself" in benchmarks/RESULTS.md.
    """
    # An account without a home directory keeps nothing.
    with suppress(RuntimeError):
        home = os.environ.get("TRITON_HOME") or Path.home()
        os.environ.setdefault("TRITON_CACHE_DIR", str(Path(home, ".triton", "cache")))
    # So that kernels which are tuned, as flash-linear-attention's are, are tuned once.
    os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")


def compile_ahead(function: Callable[[], Any]) -> None:
    """Compile the Triton kernels that a function launches, side by side, without launching them.

    The first step would compile them one after the other. What the kernels should have written is left as it was. The function
    may run on several threads, as a backward pass does. Of a kernel that is tuned when it is first called, as
    flash-linear-attention's are, every configuration is compiled, unless the right one is known; the step itself then only
    times them, and briefly.
    """
    from triton.runtime import JITFunction
    from triton.runtime._async_compile import AsyncCompileMode, active_mode
    from triton.runtime.autotuner import Autotuner

    launch, seen = JITFunction.run, set()

    def only_compile(self: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        before = active_mode.set(mode)
        try:
            return launch(self, *arguments, grid=grid, warmup=True, **options)
        finally:
            active_mode.reset(before)

    def compile_all(self: Autotuner, *arguments: Any, **options: Any) -> None:
        self.nargs = dict(zip(self.arg_names, arguments, strict=False))
        given = {name: value for name, value in {**self.nargs, **options}.items() if name in self.arg_names}
        sizes = [given[name] for name in self.keys if name in given]
        known = self.cache.get((*sizes, *(str(value.dtype) for value in given.values() if hasattr(value, "dtype"))))
        # Layers call it alike.
        call = id(self), *(getattr(value, "dtype", value) for value in (*arguments, *options.values()))
        if call not in seen:
            seen.add(call)
            for config in self.prune_configs(options) if known is None else [known]:
                self.fn.run(*arguments, **options, **config.all_kwargs())

    with _workers() as workers:
        mode = AsyncCompileMode(workers)
        with (
            replaced(JITFunction, "run", only_compile),
            replaced(Autotuner, "run", compile_all),
            replaced(sys.modules[__name__], "ahead", True),
        ):
            function()
        signatures = {}
        for kernel in list(mode.future_kernels.values()):
            # What cannot be compiled is left to the step: a tuner passes over such a configuration.
            with suppress(Exception):
                compiled = kernel.result()
                signatures[tuple(map(str, compiled.src.signature.values()))] = compiled
        # Each signature has a launcher in C, which the first launch would have a compiler make.
        for made in [workers.submit(_make_launcher, kernel) for kernel in signatures.values()]:
            made.result()
    time_briefly()


def _make_launcher(kernel: Any) -> None:
    """Have the function that launches a compiled kernel made, so that Triton's directory has it."""
    from triton.runtime import driver

    with suppress(Exception):
        active: Any = driver.active
        active.launcher_cls(kernel.src, kernel.metadata)


def tune_quickly() -> None:
    """Let autotuners compile the configurations of a kernel side by side, and time each for 25 ms in place of 125.

    It is for what no `compile_ahead` comes before: whoever evaluates a model, or lets it write, calls kernels with other sizes
    and dtypes than those of training, and each of them is tuned anew.
    """
    from triton.runtime._async_compile import AsyncCompileMode
    from triton.runtime.autotuner import Autotuner

    tuner: Any = Autotuner
    time_one = tuner._bench

    def compile_all_and_time_one(self: Autotuner, *arguments: Any, config: Any, **options: Any) -> list[float]:
        configs = self.prune_configs(options)
        if config is configs[0]:
            with _workers() as workers, AsyncCompileMode(workers, ignore_errors=True):
                for each in configs:
                    self.fn.run(*arguments, **{**options, "warmup": True}, **each.all_kwargs())
        return time_one(self, *arguments, config=config, **options)

    tuner._bench = compile_all_and_time_one
    time_briefly()


def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)))


def time_briefly() -> None:
    """Let autotuners time a configuration for 25 ms in place of 125: flash-linear-attention's have hundreds of them."""
    from triton.runtime import driver
    from triton.runtime.autotuner import Autotuner

    tuner: Any = Autotuner
    tuner.do_bench = property(lambda self: partial(driver.active.get_benchmarker(), warmup=5, rep=20))
