"""The best number of time segments for the scan where sequences and channels are too few to fill the GPU.

    python benchmarks/segments.py

Microseconds of the GPU and percent of copy bandwidth, forward (3 passes) and backward (5), by the number of segments, at one
sequence of 65,536 steps and 1,024 channels in bfloat16, timed like benchmarks/scan.py. More segments fill the GPU better; each
begins with steps that are walked twice.
"""

from unittest.mock import patch

import device
import torch
from device import forward, microseconds
from scan import inputs

from lt25.ops.backends import triton_scan
from lt25.ops.backends.triton_scan import Plan

SHAPE = (1, 65536, 1024)
SEGMENTS = (8, 12, 16, 20, 24, 28, 33, 40, 49, 66)


def main() -> None:
    device.need_cuda()
    ceiling, way = device.copy_ceiling()
    print(f"{torch.cuda.get_device_name()}, copy ceiling {ceiling / 1e12:.3f} TB/s by {way}")
    sets = [inputs(SHAPE, torch.bfloat16) for _ in range(2)]
    (x, log_f), (grad,) = sets[0]
    h, _ = triton_scan.forward(x.detach(), log_f.detach(), None, None, False)
    for segments in SEGMENTS:
        cuts = {True: Plan(16, 4, segments=segments), False: Plan(8, 4, segments=segments)}
        with patch.object(triton_scan, "_plan", lambda way, *_, cuts=cuts: cuts[way]):
            there, _ = microseconds(forward, lambda x, f: triton_scan.forward(x, f, None, None, False), sets)
            back, _ = microseconds(
                forward, lambda x, f: triton_scan.backward(grad, None, f, h, None, None, False)[:2], sets
            )
        parts = [(3, there), (5, back)]
        rates = [100 * passes * grad.nbytes / (spent * 1e-6) / ceiling for passes, spent in parts]
        print(
            f"{segments:3} segments: forward {there:6.1f} us, {rates[0]:4.1f} %; backward {back:6.1f} us, {rates[1]:4.1f} %"
        )


if __name__ == "__main__":
    main()
