"""The HGRN scan on a CPU beside a loop over time in torch, nn.GRU of the same width, and copying memory.

    python benchmarks/scan_cpu.py

Prints milliseconds for forward, and forward with backward, the best of several runs each, and how many times as long as
the scan the loop and the GRU take. GB/s counts the traffic that the scan cannot do without: 3 passes over [B, T, D]
forward, 8 in all, for copying 2. The GRU multiplies matrices besides; it is what the scan stands in for in a network.
"""

import argparse
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lt25.ops import hgrn_scan

SHAPES = ((64, 64, 64), (32, 400, 128), (8, 1500, 256), (1, 4096, 256), (1, 16384, 64))
SECONDS = 1.0


def best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of at least two runs, after one to warm up."""
    run()
    times, start = [], time.perf_counter()
    while len(times) < 2 or time.perf_counter() - start < SECONDS:
        before = time.perf_counter()
        run()
        times.append(time.perf_counter() - before)
    return min(times)


def loop(x: Tensor, log_f: Tensor) -> Tensor:
    """The scan as one writes it in torch."""
    f, h, rows = log_f.exp(), torch.zeros_like(x[:, 0]), []
    for f_t, x_t in zip(f.unbind(1), x.unbind(1), strict=True):
        h = f_t * h + x_t
        rows.append(h)
    return torch.stack(rows, 1)


def measure(function: Callable[..., Tensor], *inputs: Tensor, parameters: Iterable[Tensor] = ()) -> tuple[float, float]:
    """Seconds for forward without gradients, and for forward and backward."""
    gradient, wanted = torch.ones(inputs[0].shape), (*inputs, *parameters)
    with torch.no_grad():
        forward = best(lambda: function(*inputs))
    return forward, best(lambda: torch.autograd.grad(function(*inputs), wanted, gradient))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)

    source = torch.randn(64 * 2**20 // 4)
    target = torch.empty_like(source)
    copying = 2 * source.nbytes / best(lambda: target.copy_(source)) / 1e9
    print(f"float32, {torch.get_num_threads()} threads; copying 64 MiB: {copying:.1f} GB/s\n")
    print(
        f"{'B, T, D':>16}  {'':8} {'scan ms':>9} {'GB/s':>6} {'loop ms':>9} {'x scan':>7} {'GRU ms':>9} {'x scan':>7}"
    )
    for shape in SHAPES:
        torch.manual_seed(0)
        x = torch.randn(shape, requires_grad=True)
        log_f = torch.rand(shape).log().requires_grad_()
        gru = nn.GRU(shape[-1], shape[-1], batch_first=True)
        scan = measure(lambda x, log_f: hgrn_scan(x, log_f)[0], x, log_f)
        slow = measure(loop, x, log_f)
        recurrent = measure(lambda x, gru=gru: gru(x)[0], x, parameters=gru.parameters())
        for n, (name, passes) in enumerate((("forward", 3), ("both", 8))):
            rate = passes * x.nbytes / scan[n] / 1e9
            print(
                f"{str(shape)[1:-1] if n == 0 else '':>16}  {name:8} {scan[n] * 1e3:9.2f} {rate:6.1f} "
                f"{slow[n] * 1e3:9.1f} {slow[n] / scan[n]:7.1f} {recurrent[n] * 1e3:9.1f} {recurrent[n] / scan[n]:7.1f}"
            )


if __name__ == "__main__":
    main()
