"""The scan beside flash-linear-attention's, accelerated-scan's, and the speed at which memory can be copied.

    python benchmarks/scan.py [--json FILE] [--markdown] [--seconds 240] [--shapes 0,4]

Microseconds of the GPU, forward and forward with backward: the median of replays of a CUDA graph of many calls, in turn over
inputs that together exceed the L2 cache four times; "calls" marks what could not be captured and was timed back to back.
Percent of copy bandwidth counts what must be moved, once: 3 passes forward (x and log f in, h out), 8 in all (backward dh, h
and log f in, dx and dlog f out). "times faster" is FLA's chunk_hgrn over the row's time; its own is 1. The errors are relative,
in the 2-norm, of h and of the gradients (the larger of the two), to the same in float64 from the same inputs.

Gates are sigmoid(2 + normal noise) unless a row says otherwise. "a + b" is an elementwise kernel that moves the same 3 passes.
accelerated-scan takes f, not log f, as contiguous [B, D, T]: it is given that, and only its scan is timed. Its CUDA version
("warp") takes no T but powers of two: it is given the next, and its bytes are counted with that.
Rows left out for lack of time are named.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import device
import torch
import torch.nn.functional as F
from device import Report, Set, both, errors, forward, microseconds, scan64
from torch import Tensor

from lt25.compiling import time_briefly
from lt25.ops import hgrn_scan

COLUMNS = {
    "B, T, D": "",
    "what": "",
    "fwd us": ".1f",
    "fwd % of copy": ".1f",
    "fwd times faster": ".2f",
    "fwd+bwd us": ".1f",
    "fwd+bwd % of copy": ".1f",
    "fwd+bwd times faster": ".2f",
    "error h": ".1e",
    "error grads": ".1e",
    "timed": "",
}
FLA = "FLA chunk_hgrn"


def inputs(shape: tuple[int, int, int], dtype: torch.dtype, gates: float | None = None) -> Set:
    """x and log f, and the gradient of h; `gates`: log f everywhere."""
    x, noise, grad = (torch.randn(shape, device="cuda") for _ in range(3))
    log_f = F.logsigmoid(noise + 2) if gates is None else torch.full_like(noise, gates)
    return (x.to(dtype).requires_grad_(), log_f.to(dtype).requires_grad_()), (grad.to(dtype),)


def transposed(given: Set, power_of_two: bool) -> Set:
    """f and x as [B, D, T], for accelerated-scan; beyond the end a gate of 1."""
    (x, log_f), (grad,) = given
    time_steps = x.shape[1]
    beyond = (1 << (time_steps - 1).bit_length()) - time_steps if power_of_two else 0

    def turn(tensor: Tensor, fill: float) -> Tensor:
        return F.pad(tensor.detach().transpose(1, 2), (0, beyond), value=fill).contiguous()

    f = turn(log_f.detach().float().exp().to(x.dtype), 1.0).requires_grad_()
    return (f, turn(x, 0.0).requires_grad_()), (turn(grad, 0.0),)


def ours(x: Tensor, log_f: Tensor) -> Tensor:
    return hgrn_scan(x, log_f)[0]


def of_accelerated(f: Tensor, x: Tensor) -> Tensor:
    """What accelerated-scan computes, in float64."""
    return scan64(x.transpose(1, 2), f.log().transpose(1, 2)).transpose(1, 2)


def fla_chunk(x: Tensor, log_f: Tensor) -> Tensor:
    from fla.ops.hgrn import chunk_hgrn

    return chunk_hgrn(x, log_f)[0]


CALLS: dict[str, Callable] = {"lt25": ours, FLA: fla_chunk}


class Bench:
    """Measures rows and adds them to a report."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.ceiling = 0.0

    def row(self, shape: tuple[int, int, int], what: str, call: Callable, reference: Callable, make: Callable[[], Set],
            backward: bool = True) -> None:  # fmt: skip
        """Measure a call on inputs that `make` makes, or say why not."""
        if self.report.left() < 8:
            self.report.note(f"left out for want of time: {what} at {shape}")
            return
        try:
            torch.manual_seed(0)
            first = make()
            size = sum(each.nbytes for part in first for each in part)
            sets = [first, *(make() for _ in range(device.sets_needed(size) - 1))]
            element = first[0][0].nbytes
            entry: dict[str, Any] = {"B, T, D": ", ".join(map(str, shape)), "what": what}
            entry["fwd us"], how = microseconds(forward, call, sets)
            entry["fwd % of copy"] = self.percent(3 * element, entry["fwd us"])
            entry["timed"] = how
            if backward:
                entry["fwd+bwd us"], how = microseconds(both, call, sets)
                entry["fwd+bwd % of copy"] = self.percent(8 * element, entry["fwd+bwd us"])
                entry["timed"] = how if how == entry["timed"] else f"{entry['timed']}, {how}"
                del sets
                entry["error h"], entry["error grads"] = errors(call, reference, first)
            self.report.add(**entry)
            torch.cuda.empty_cache()
        except Exception as error:
            self.report.note(
                f"failed: {what} at {shape}: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            )

    def percent(self, size: int, spent: float) -> float:
        return 100 * size / (spent * 1e-6) / self.ceiling

    def ratios(self, quiet: bool = False) -> None:
        """Fill in how many times faster than FLA each row of the same shape and inputs is; print ours."""
        rows = self.report.rows
        for shape in dict.fromkeys(row["B, T, D"] for row in rows):
            base = next((row for row in rows if row["B, T, D"] == shape and row["what"] == FLA), None)
            if base is None:
                continue
            for row in rows:
                if row["B, T, D"] == shape and row.get("error h") is not None and "," not in row["what"]:
                    for part in ("fwd", "fwd+bwd"):
                        row[f"{part} times faster"] = base[f"{part} us"] / row[f"{part} us"]
                    if row["what"] == "lt25" and not quiet:
                        fwd, whole = row["fwd times faster"], row["fwd+bwd times faster"]
                        self.report.note(f"lt25 at {shape}: {fwd:.2f} times as fast as FLA forward, {whole:.2f} in all")


def special() -> list[tuple]:
    """Ours with other dtypes, directions, packings, and gates that forget little or nothing: arguments of `Bench.row`."""
    shape, long, bf16 = (16, 1024, 1024), (1, 65536, 1024), torch.bfloat16
    cases: list[tuple] = []
    for dtype in (torch.float32, torch.float16):
        name = f"lt25, {str(dtype).removeprefix('torch.')}"
        cases.append((shape, name, ours, scan64, lambda dtype=dtype: inputs(shape, dtype)))

    def backwards(x: Tensor, log_f: Tensor) -> Tensor:
        return hgrn_scan(x, log_f, reverse=True)[0]

    def backwards64(x: Tensor, log_f: Tensor) -> Tensor:
        return scan64(x, log_f, reverse=True)

    for each in (shape, long):
        cases.append((each, "lt25, reverse", backwards, backwards64, lambda each=each: inputs(each, bf16)))

    inner = torch.randperm(long[1] - 1, generator=torch.Generator().manual_seed(0))[:63].sort().values + 1
    ends = torch.cat([torch.tensor([0]), inner, torch.tensor([long[1]])]).to("cuda", torch.int32)

    def packed(x: Tensor, log_f: Tensor) -> Tensor:
        return hgrn_scan(x, log_f, cu_seqlens=ends)[0]

    def packed64(x: Tensor, log_f: Tensor) -> Tensor:
        return scan64(x, log_f, ends)

    cases.append((long, "lt25, 64 packed", packed, packed64, lambda: inputs(long, bf16)))
    # Time is cut here, and the state that enters a part reaches far into it, or (f = 1) through all of it: the worst case.
    for gates in (-0.01, -0.001, 0.0):
        what = "lt25, f = 1: worst case" if gates == 0 else f"lt25, log f = {gates}"
        cases.append((long, what, ours, scan64, lambda gates=gates: inputs(long, bf16, gates)))
    return cases


def worst_case(report: Report) -> None:
    """Report the cost of gates that keep everything where time is split: the repair then scans all of it once more."""
    found = {row["what"]: row for row in report.rows if row["B, T, D"] == "1, 65536, 1024"}
    usual, worst = found.get("lt25"), found.get("lt25, f = 1: worst case")
    if usual and worst:
        fwd, whole = (worst[f"{part} us"] / usual[f"{part} us"] for part in ("fwd", "fwd+bwd"))
        report.note(f"worst case, f = 1 at 1, 65536, 1024: {fwd:.2f} times the usual time forward, {whole:.2f} in all")


def first_call(report: Report) -> None:
    """Seconds of the first forward and backward in a new process without compiled kernels."""
    script = (
        "import time, torch; from lt25.ops import hgrn_scan; torch.zeros(1, device='cuda'); torch.cuda.synchronize();"
        "x = torch.randn(16, 1024, 1024, device='cuda', dtype=torch.bfloat16, requires_grad=True);"
        "f = torch.full_like(x, -0.1).detach().requires_grad_(); start = time.perf_counter();"
        "hgrn_scan(x, f)[0].sum().backward(); torch.cuda.synchronize(); print(time.perf_counter() - start)"
    )
    if report.left() < 20:
        report.note("left out for want of time: the first call without compiled kernels")
        return
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=device.environment(TRITON_CACHE_DIR=folder),
            capture_output=True,
            text=True,
        )
    said = done.stdout.strip() if not done.returncode else (done.stderr.strip().splitlines() or ["no message"])[-1]
    report.note(f"first forward and backward in a new process with an empty kernel cache, seconds: {said}")


def compile_one(whose: str, n: int) -> None:
    """Compile the kernels that are timed later; of FLA's kernels only D matters, and all their configurations."""
    if whose == "warp":
        import accelerated_scan.warp  # noqa: F401
    elif whose == "special":
        _, _, call, _, make = special()[n]
        both(call, *make())
    else:
        device.tune_quickly()
        batch, steps, channels = device.SHAPES[n]
        shape = (batch, steps, channels) if whose == "lt25" else (2, 256, channels)
        both(CALLS[whose], *inputs(shape, torch.bfloat16))
    torch.cuda.synchronize()


def main() -> None:
    parser = device.parser(__doc__, 240)
    options = parser.parse_args()
    device.need_cuda()
    if options.compile:
        compile_one(options.compile[0], int(options.compile[1]))
        return

    report = Report(options, COLUMNS)
    bench = Bench(report)
    numbers = device.numbers(options)
    warp = device.Compiling("warp")
    whose = [("lt25", n) for n in numbers] + [(FLA, n) for n in numbers]
    whose += [("special", n) for n in range(len(special()))]
    if not options.compiled:
        device.compile_beforehand(whose, min(90, options.seconds / 3), report)
    time_briefly()
    bench.ceiling, way = device.copy_ceiling()
    report.note(f"copy ceiling {bench.ceiling / 1e12:.3f} TB/s read and written, 1 GiB by {way}")

    bf16 = torch.bfloat16
    for n in numbers:
        shape = device.SHAPES[n]
        bench.row(shape, "lt25", ours, scan64, lambda shape=shape: inputs(shape, bf16))
        bench.row(shape, "a + b", torch.add, torch.add, lambda shape=shape: inputs(shape, bf16), backward=False)
    for case in special():
        bench.row(*case)
    worst_case(report)
    for n in numbers:
        shape = device.SHAPES[n]
        bench.row(shape, FLA, fla_chunk, scan64, lambda shape=shape: inputs(shape, bf16))
    bench.ratios()
    first_call(report)
    # Last, since an error in a kernel of theirs would be the end of this process's GPU.
    try:
        from accelerated_scan.scalar import scan
    except ImportError as error:
        report.note(f"left out: accelerated-scan: {error}")
    else:
        for n in numbers:
            shape = device.SHAPES[n]
            bench.row(
                shape,
                "accelerated-scan Triton",
                scan,
                of_accelerated,
                lambda shape=shape: transposed(inputs(shape, bf16), False),
            )
    warp_rows(bench, numbers, warp)
    bench.ratios(quiet=True)
    report.finish()


def warp_rows(bench: Bench, numbers: list[int], compiling: device.Compiling) -> None:
    """accelerated-scan's CUDA kernels, if they could be built."""
    wrong = compiling.wait(bench.report.left() - 20)
    if wrong:
        bench.report.note(f"left out: accelerated-scan's CUDA version (warp): {wrong}")
        return
    from accelerated_scan.warp import scan

    for n in numbers:
        shape = device.SHAPES[n]
        bench.row(
            shape,
            "accelerated-scan warp",
            scan,
            of_accelerated,
            lambda shape=shape: transposed(inputs(shape, torch.bfloat16), True),
        )


if __name__ == "__main__":
    main()
