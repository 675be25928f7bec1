"""How threads should wait: steps of a CPU training under different policies of OpenMP, with idle cores and with busy ones.

    python benchmarks/threads.py [--rounds 3] [--seconds 1] [--busy 8] [--markdown]

The step is that of ``config/experiments/fsdd.yaml`` on synthetic batches: its model, forward and backward in float32, clipping
and AdamW. Each policy has a process of its own, in which all threads of torch and numba follow it. The processes take turns of
``--seconds``, all others asleep, first on cores that nothing else uses, then beside ``--busy`` processes that do nothing but
count. A number is the median over the rounds, in frames a second. The fair share is what
idle cores give, times the cores that each process or thread gets if all get the same.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
POLICIES = {
    "default": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
}
BATCH, FRAMES, CHANNELS, CHARACTERS, LABELS = 32, 50, 40, 20, 5


def train() -> None:
    """Take steps for as many seconds as each line of the input says, and answer with positions a second."""
    import torch
    from torch import nn

    from lt25.models import HGRNConfig, HGRNForCTC
    from lt25.ops import ctc_loss

    torch.manual_seed(0)
    fields = json.loads((REPOSITORY / "config" / "models" / "hgrn_ctc_tiny.json").read_text())
    fields = {key: value for key, value in fields.items() if key not in ("model_type", "architectures")}
    model = HGRNForCTC(HGRNConfig(**fields, input_size=CHANNELS, vocab_size=CHARACTERS, pad_token_id=0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    features = torch.randn(BATCH, FRAMES, CHANNELS)
    mask = torch.ones(BATCH, FRAMES, dtype=torch.int64)
    labels = torch.randint(1, CHARACTERS, (BATCH, LABELS))

    def step() -> None:
        optimizer.zero_grad()
        output = model(features, attention_mask=mask)
        (ctc_loss(output.logits, output.logit_lengths, labels) / labels.numel()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()

    for _ in range(3):
        step()
    print(torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < float(line):
            step()
            count += 1
        print(count * BATCH * FRAMES / (time.perf_counter() - started), flush=True)


def spin() -> None:
    """Keep a core busy as long as the process that started this one is there."""
    parent = os.getppid()
    while os.getppid() == parent:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a turn")
    parser.add_argument("--busy", type=int, default=8, help="busy processes")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train()
        return

    kept = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    kept |= {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join([str(REPOSITORY), kept.get("PYTHONPATH", "")])}
    command = [sys.executable, __file__, "--train"]
    found: dict[str, dict[str, list[float]]] = {name: {"idle": [], "busy": []} for name in POLICIES}
    with ExitStack() as stack:
        trainers = {}
        for name, policy in POLICIES.items():
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": {**kept, **policy}}
            trainers[name] = stack.enter_context(subprocess.Popen(command, **pipes))
            stack.callback(trainers[name].kill)
        threads, *_ = [int(trainer.stdout.readline()) for trainer in trainers.values()]

        def rounds(load: str) -> None:
            for _ in range(options.rounds):
                for name, trainer in trainers.items():
                    trainer.stdin.write(f"{options.seconds}\n")
                    trainer.stdin.flush()
                    found[name][load].append(float(trainer.stdout.readline()))

        rounds("idle")
        for _ in range(options.busy):
            busy = multiprocessing.Process(target=spin, daemon=True)
            busy.start()
            stack.callback(busy.kill)
        rounds("busy")

    share = min(len(os.sched_getaffinity(0)) / (threads + options.busy), 1)
    border = "| " if options.markdown else ""
    print(f"{threads} threads, {options.busy} busy processes, fair share {share:.0%} of idle")
    rows = [["policy", "idle", "busy", "busy, of its fair share"]]
    for name, loads in found.items():
        idle, busy = (statistics.median(loads[load]) for load in ("idle", "busy"))
        rows.append([name, f"{idle:,.0f}", f"{busy:,.0f}", f"{busy / (share * idle):.0%}"])
    if options.markdown:
        rows.insert(1, ["---", "---:", "---:", "---:"])
    for row in rows:
        print(border + " | ".join(f"{cell:>24}" for cell in row) + border[::-1])


if __name__ == "__main__":
    main()
