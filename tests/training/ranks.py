"""A process that is one rank of several trainings in turn; run as a program, Triton's interpreter may run its kernels."""

import json
import os
import sys
import traceback
from pathlib import Path


def train_in_turn(root: Path, jobs: list[tuple[int, str]], settings: dict[str, str], rank: int) -> None:
    """Be one process that trains one job after another."""
    os.environ.update(settings)
    os.chdir(root)
    for descriptor in (1, 2):
        os.dup2(os.open(root / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    from lt25.training.__main__ import main  # isort: skip  (lt25 answers for a CPU before torchtitan asks for a device)

    import torch
    from torchtitan.protocols import train_spec

    torch.set_num_threads(1)
    for port, job in jobs:
        os.environ["MASTER_PORT"] = str(port)
        print(f"=== {job}", flush=True)
        # What a process that trains once leaves behind.
        train_spec._extra_train_specs.clear()
        for name in [name for name in os.environ if name.startswith("WANDB")]:
            del os.environ[name]
        try:
            status = main(["--job.config_file", job])
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        if status:
            os._exit(status)


def _tune_little() -> None:
    """Let Triton's autotuner choose among two configurations: what is computed is the same, and minutes go into the others."""
    from triton.runtime.autotuner import Autotuner

    prune = Autotuner.prune_configs
    Autotuner.prune_configs = lambda self, kwargs: prune(self, kwargs)[:2]


if __name__ == "__main__":
    if os.environ.get("TRITON_INTERPRET") == "1":
        from tests.models import interpret

        assert interpret
    else:
        _tune_little()
    root, jobs, rank = json.loads(sys.argv[1])
    train_in_turn(Path(root), jobs, {}, rank)
