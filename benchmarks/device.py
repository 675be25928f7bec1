"""Shared by the GPU benchmarks: timing by CUDA graphs, the copy ceiling, a scan in float64, and the report."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")

import torch
import triton
import triton.language as tl
from torch import Tensor

REPOSITORY = Path(__file__).parents[1]
L2_BYTES = 60e6  # of an H200
# B, T, D
SHAPES = (
    (16, 1024, 1024),
    (32, 1500, 512),
    (128, 784, 256),
    (8, 4096, 2048),
    (1, 65536, 1024),
    (512, 784, 128),
)
# The arguments of a call, and the gradients of its results; the arguments that need gradients say so.
Set = tuple[tuple[Any, ...], tuple[Tensor, ...]]


def forward(call: Callable, arguments: tuple, grads: tuple) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return _tuple(call(*arguments))


def both(call: Callable, arguments: tuple, grads: tuple) -> tuple[Tensor, ...]:
    """The gradients of the arguments that need them."""
    return torch.autograd.grad(_tuple(call(*arguments)), needing(arguments), grads)


def needing(arguments: tuple) -> list[Tensor]:
    """The arguments that need gradients."""
    return [each for each in arguments if isinstance(each, Tensor) and each.requires_grad]


def sets_needed(size: int) -> int:
    """How many sets of inputs, `size` bytes each, are needed to be four times the L2 cache; 2 at least."""
    return max(2, -(-int(4 * L2_BYTES) // max(size, 1)))


def microseconds(run: Callable, call: Callable, sets: Sequence[Set], repeats: int = 9) -> tuple[float, str]:
    """Time of run(call, *set), `forward` or `both`, in turn over the sets.

    Many calls are captured in a CUDA graph whose replays are timed by events: the GPU's time without launch overhead.
    Results live as long as it takes to go through all sets, so that their memory is not warm either.

    Returns:
        The median over the replays, and how it was measured: "graph", or "calls" back to back where capture failed.
    """
    stream = torch.cuda.Stream()
    held: deque = deque(maxlen=len(sets))
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for each in sets:
            run(call, *each)  # compiles, and tunes itself where it does so
        stream.synchronize()
        started, ended = _event(), _event()
        started.record()
        for each in sets:
            run(call, *each)
        ended.record()
        ended.synchronize()
        estimate = started.elapsed_time(ended) / len(sets)
        count = len(sets) * max(1, min(-(-32 // len(sets)), round(2 / max(estimate, 1e-3) / len(sets))))
        how = "graph"
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                for n in range(count):
                    held.append(run(call, *sets[n % len(sets)]))
            replay = graph.replay
        except RuntimeError:
            torch.cuda.synchronize()
            how = "calls"

            def replay() -> None:
                for n in range(count):
                    held.append(run(call, *sets[n % len(sets)]))

        held.clear()
        for _ in range(3):
            replay()
        times = []
        for _ in range(repeats):
            started, ended = _event(), _event()
            started.record()
            replay()
            ended.record()
            ended.synchronize()
            times.append(started.elapsed_time(ended) * 1e3 / count)
    held.clear()
    return statistics.median(times), how


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)


def _tuple(results: Any) -> tuple:
    return results if isinstance(results, tuple) else (results,)


@triton.jit
def _copy(source, target, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + place, tl.load(source + place))


def copy_ceiling() -> tuple[float, str]:
    """Bytes a second, read and written, of the fastest kernel that copies 1 GiB, and which it is.

    Not tensor.copy_: in a graph that is the work of a copy engine, which is slower than the multiprocessors.
    """
    source = torch.ones(2**28, dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    ways: dict[str, Callable] = {
        "torch.add, int32": lambda: torch.add(source, 0, out=target),
        "torch.add, bfloat16": lambda: torch.add(source.view(torch.bfloat16), 0, out=target.view(torch.bfloat16)),
    }
    for block in (1024, 2048, 4096, 8192):
        ways[f"Triton, {block} int32 a program"] = lambda block=block: _copy[(2**28 // block,)](
            source, target, BLOCK=block, num_warps=min(8, block // 256)
        )
    times = {}
    for name, way in ways.items():
        times[name] = microseconds(lambda call, *_: (call() is None,), way, [((), ())] * 2)[0]
    best = min(times, key=times.__getitem__)
    return 2 * source.nbytes / (times[best] * 1e-6), best


class _Scan64(torch.autograd.Function):
    """By doubling, in float64: after pass k, step t holds the map of the 2^k steps up to it."""

    @staticmethod
    def forward(ctx, x, log_f):
        f = log_f.exp()
        h = _doubling(f, x)
        ctx.save_for_backward(f, h)
        return h

    @staticmethod
    def backward(ctx, grad):
        f, h = ctx.saved_tensors
        later = torch.cat([f[:, 1:], torch.zeros_like(f[:, :1])], 1)
        grad_x = _doubling(later.flip(1), grad.flip(1)).flip(1)
        before = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
        return grad_x, grad_x * before * f


def _doubling(f: Tensor, x: Tensor) -> Tensor:
    f, h, step = f.clone(), x.clone(), 1
    while step < x.shape[1]:
        h[:, step:] += f[:, step:] * h[:, :-step].clone()
        f[:, step:] *= f[:, :-step].clone()
        step *= 2
    return h


def scan64(x: Tensor, log_f: Tensor, cu_seqlens: Tensor | None = None, reverse: bool = False) -> Tensor:
    """hgrn_scan in float64, differentiable, in log2(T) passes; all [B, T, D].

    The state is cleared where a packed sequence starts.
    """
    if reverse:
        return scan64(x.flip(1), log_f.flip(1)).flip(1)
    if cu_seqlens is not None:
        starts = torch.zeros(x.shape[1] + 1, dtype=torch.bool, device=x.device)
        starts[cu_seqlens.long()] = True
        log_f = log_f.masked_fill(starts[:-1, None], float("-inf"))
    return _Scan64.apply(x, log_f)


def errors(call: Callable, reference: Callable, given: Set) -> tuple[float, float]:
    """Of the results and of the gradients: the largest relative error in the 2-norm to `reference`, called in float64."""
    arguments, grads = given
    wide = [_wide(each) for each in arguments]
    expected = _tuple(reference(*wide))
    found = forward(call, arguments, grads)
    result = max(_difference(a, b) for a, b in zip(found, expected, strict=True))
    expected = torch.autograd.grad(expected, needing(tuple(wide)), [grad.double() for grad in grads])
    found = both(call, arguments, grads)
    return result, max(_difference(a, b) for a, b in zip(found, expected, strict=True))


def _wide(argument: Any) -> Any:
    if not isinstance(argument, Tensor) or not argument.is_floating_point():
        return argument
    return argument.detach().double().requires_grad_(argument.requires_grad)


def _difference(found: Tensor, expected: Tensor) -> float:
    return ((found.detach().double() - expected.detach()).norm() / expected.detach().norm()).item()


class Report:
    """Lines as they are measured: printed at once, kept in a file if there is one, in the end as Markdown if wished."""

    def __init__(self, options: argparse.Namespace, columns: dict[str, str]) -> None:
        """`columns`: title -> format of the values under it."""
        self.options, self.columns = options, columns
        self.end = time.perf_counter() + options.seconds
        self.rows: list[dict[str, Any]] = []
        self.notes: list[str] = []
        versions = {"torch": torch.__version__, "triton": triton.__version__}
        for package in ("flash-linear-attention", "accelerated-scan"):
            versions[package] = _version(package)
        self.about = {"device": torch.cuda.get_device_name(), "date": date.today().isoformat(), **versions}
        self.note(", ".join(f"{key} {value}" for key, value in self.about.items()))

    def left(self) -> float:
        """Seconds."""
        return self.end - time.perf_counter()

    def add(self, **row: Any) -> None:
        if not self.rows:
            print("  ".join(f"{title:>{self._width(title)}}" for title in self.columns), flush=True)
        self.rows.append(row)
        print("  ".join(f"{cell:>{self._width(title)}}" for title, cell in self._cells(row).items()), flush=True)
        self._save()

    def note(self, line: str) -> None:
        self.notes.append(line)
        print(line, flush=True)
        self._save()

    def finish(self) -> None:
        if not self.options.markdown:
            return
        print("\n" + "\n".join(f"{note}  " for note in self.notes) + "\n")
        print("| " + " | ".join(self.columns) + " |")
        print("|" + "|".join(" --- " if not kind else " ---: " for kind in self.columns.values()) + "|")
        for row in self.rows:
            print("| " + " | ".join(self._cells(row).values()) + " |")

    def _cells(self, row: dict[str, Any]) -> dict[str, str]:
        return {title: "" if row.get(title) is None else f"{row[title]:{kind}}" for title, kind in self.columns.items()}

    def _width(self, title: str) -> int:
        return max(len(title), 9 if self.columns[title] else 22)

    def _save(self) -> None:
        if self.options.json:
            self.options.json.write_text(
                json.dumps({**self.about, "notes": self.notes, "rows": self.rows}, indent=1) + "\n"
            )


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def parser(description: str, seconds: float) -> argparse.ArgumentParser:
    """What both benchmarks are asked."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", type=Path, help="where to write the numbers as well")
    made.add_argument("--markdown", action="store_true", help="print the table once more for RESULTS.md")
    made.add_argument("--seconds", type=float, default=seconds, help="time for everything")
    made.add_argument("--shapes", default="", help="some of the shapes only, by number from 0: 0,4")
    made.add_argument("--compiled", action="store_true", help="all kernels are in the caches: compile none beforehand")
    made.add_argument("--compile", nargs=2, metavar=("WHOSE", "SHAPE"), help=argparse.SUPPRESS)
    return made


def numbers(options: argparse.Namespace) -> list[int]:
    """Places in SHAPES."""
    return [int(n) for n in options.shapes.split(",")] if options.shapes else list(range(len(SHAPES)))


def need_cuda() -> None:
    if not torch.cuda.is_available():
        sys.exit(f"{Path(sys.argv[0]).name}: needs a CUDA device, found none; run it on a machine with one")


def environment(**settings: str) -> dict[str, str]:
    """For a process that imports this package."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **settings}


class Compiling:
    """This script with --compile in a process of its own, so that kernels are in the caches when they are timed."""

    def __init__(self, whose: str, n: int = 0) -> None:
        self.name = f"{whose} {n}"
        # Kernels tuned while others run are tuned badly, so only the binaries are kept.
        settings = environment(TRITON_CACHE_AUTOTUNING="0", FLA_CACHE_RESULTS="0")
        command = [sys.executable, sys.argv[0], "--compile", whose, str(n)]
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  open as long as the process writes
        self.process = subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=self.said)

    def wait(self, seconds: float) -> str:
        """What went wrong, or nothing."""
        try:
            code = self.process.wait(timeout=max(seconds, 0.1))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"compiling {self.name}: not done in time"
        self.said.seek(0)
        lines = self.said.read().strip().splitlines() or ["no message"]
        return f"compiling {self.name}: {lines[-1][:200]}" if code else ""


def compile_beforehand(whose: Sequence[tuple[str, int]], seconds: float, report: Report) -> None:
    """Compile all at once; report how long it took and what went wrong."""
    started = time.perf_counter()
    for each in [Compiling(*each) for each in whose]:
        wrong = each.wait(started + seconds - time.perf_counter())
        if wrong:
            report.note(wrong)
    report.note(f"compiled beforehand in {time.perf_counter() - started:.0f} s, in {len(whose)} processes")


def tune_quickly() -> None:
    """Let Triton's autotuner, in a process that only compiles, run each configuration once instead of timing it."""
    from triton.runtime.autotuner import Autotuner

    def once(kernel_call: Callable, quantiles: Any = None) -> list[float]:
        kernel_call()
        return [1.0, 1.0, 1.0]

    Autotuner.do_bench = property(lambda self: once)
