"""Forward and backward pass of language models of 340M on a GPU, as the trainer runs them, and the kernels that take longest.

    python benchmarks/breakdown.py gla transformer [--windows] [--kernels 30]

A step has 8 windows of 4096 random tokens, vocabulary 32,000, in bfloat16 beside float32 weights, the loss computed from the
head; no optimizer. Windows are packed with their boundaries; with ``--windows``, and of models that take none, they are a batch
without. Printed are milliseconds of a step, the mean of eight, tokens a second, the most memory, and the sum and the number of
kernels of one more step, which is traced.
"""

import argparse
import time

import architectures
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from lt25.compiling import compile_ahead
from lt25.models.families import find
from lt25.ops import linear_cross_entropy
from lt25.training.precision import LowPrecision, embed_in

WINDOWS, LENGTH, STEPS = 8, 4096, 8


def measure(name: str, windows: bool, kernels: int) -> None:
    """Print what one model takes."""
    began = time.perf_counter()
    fields = architectures.read_config(name, "lt25", False)
    family = find(fields["model_type"])
    family.load()
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields)).train()
    embed_in(model, torch.bfloat16)
    low = LowPrecision(model, torch.bfloat16)
    windows = windows or not family.cu_seqlens
    shape = (WINDOWS, LENGTH) if windows else (1, WINDOWS * LENGTH)
    tokens, bounds = torch.randint(3, 32_000, shape, device="cuda"), {}
    if not windows:
        bounds = {"cu_seqlens": torch.arange(0, WINDOWS * LENGTH + 1, LENGTH, device="cuda")}

    def step() -> None:
        with low:
            with torch.autocast("cuda", torch.bfloat16):
                hidden = model.base_model(input_ids=tokens, use_cache=False, **bounds)[0]
                loss = linear_cross_entropy(hidden, model.lm_head.weight, tokens).float().mean()
            loss.backward()
        model.zero_grad()

    compile_ahead(step)
    step()
    torch.cuda.synchronize()
    first = time.perf_counter() - began
    torch.cuda.reset_peak_memory_stats()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    step()
    start.record()
    for _ in range(STEPS):
        step()
    end.record()
    torch.cuda.synchronize()
    ms, peak = start.elapsed_time(end) / STEPS, torch.cuda.max_memory_allocated() / 2**30
    rate = WINDOWS * LENGTH / ms * 1000
    print(f"{name}: {ms:.1f} ms, {rate:,.0f} tokens/s, {peak:.1f} GiB; first step after {first:.0f} s")
    with profile(activities=[ProfilerActivity.CUDA]) as traced:
        step()
        torch.cuda.synchronize()
    rows = sorted(traced.key_averages(), key=lambda row: -row.self_device_time_total)
    total = sum(row.self_device_time_total for row in rows) / 1e3
    print(f"  {total:8.2f} ms in {sum(row.count for row in rows):,} kernels")
    for row in rows[:kernels]:
        print(f"  {row.self_device_time_total / 1e3:8.2f} ms in {row.count:4d} of {row.key[:100]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=architectures.NAMES)
    parser.add_argument("--windows", action="store_true", help="without boundaries of texts")
    parser.add_argument("--kernels", type=int, default=30, help="how many are listed; default: %(default)s")
    options = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name in options.models:
        measure(name, options.windows, options.kernels)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
