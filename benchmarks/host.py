"""What a call of an operator costs the host: lt25's, flash-linear-attention's and torch's of a layer without its matrix products.

    python benchmarks/host.py [--calls 500]

The tensors are so small, 1 x 16 x 64, that the GPU is done with a call before the host makes the next. Printed are microseconds
of the host for a call without gradients, and for one with its backward pass: the median of nine times so many calls. "mix",
"swiglu" and "norm" are those of layer.py.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from device import both, forward
from layer import CASES

from lt25.compiling import time_briefly

SHAPE = (1, 16, 64)


def microseconds(call: Callable[[], object], calls: int) -> float:
    """Return what a call takes the host, warm."""
    found = []
    for times in (calls // 5, *[calls] * 9):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            call()
        found.append((time.perf_counter() - began) / times * 1e6)
    return statistics.median(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=500, help="timed together; default: %(default)s")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no GPU: on a CPU the host computes as well")
    time_briefly()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print("| what | whose | us forward | us forward and backward |\n| --- | --- | ---: | ---: |")
    for operation, whose, call, _, make in CASES:
        arguments, grads = make(SHAPE)
        passes = (partial(one, call, arguments, grads) for one in (forward, both))
        plain, differentiated = (microseconds(each, options.calls) for each in passes)
        print(f"| {operation} | {whose} | {plain:.1f} | {differentiated:.1f} |", flush=True)


if __name__ == "__main__":
    main()
