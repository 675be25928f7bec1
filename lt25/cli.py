"""The command line: ``lt25 download|prepare|configure|train|export|evaluate|report|...``.

Each command is one stage of the chain and can be run by hand. A command imports what it needs when it runs, so that ``--help``
answers at once.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from lt25.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 2 after a user's error, 130 when stopped."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except UserError as error:
        print(f"lt25: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lt25: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lt25", description="From a dataset's name to a trained, exported, evaluated and reported model."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name, run, help):
        sub = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        sub.set_defaults(run=run)
        return sub

    experiment = {"metavar": "EXPERIMENT", "help": "a name in config/experiments/, or a path"}

    sub = command("download", _download, "fetch a dataset, or check one that is there, into data/raw/")
    sub.add_argument("dataset", metavar="DATASET", help="a name in config/datasets/, or a path")

    sub = command("prepare", _prepare, "turn an experiment's dataset into what its model reads, in data/processed/")
    sub.add_argument("experiment", **experiment)

    sub = command("configure", _configure, "write an experiment's job file, results/<experiment>/job.toml")
    sub.add_argument("experiment", **experiment)

    sub = command("train", _train, "train, or go on training, an experiment; NGPU and NNODE say on how much")
    sub.add_argument("experiment", **experiment)

    sub = command("export", _export, "turn a checkpoint into a Hugging Face folder, results/<experiment>/hf/")
    sub.add_argument("experiment", nargs="?", **experiment)
    sub.add_argument(
        "--step", type=int, help="a kept checkpoint's step, exported to hf/step-N/; default: the last, to hf/"
    )
    sub.add_argument(
        "--to-dcp", nargs=2, metavar=("HF", "DCP"), type=Path, help="the way back: a folder into a checkpoint"
    )

    sub = command("evaluate", _evaluate, "measure an exported model, in results/<experiment>/evaluation/")
    sub.add_argument("experiment", **experiment)
    sub.add_argument("--step", type=int, help="an exported step, on held-out training data; default: the final model")

    sub = command("report", _report, "write one page that shows experiments side by side")
    sub.add_argument("experiments", nargs="+", **experiment)
    sub.add_argument("--output", type=Path, default=Path("results/report.html"), help="default: %(default)s")
    sub.add_argument("--table", type=Path, metavar="FILE", help="instead, renew the results table in a Markdown file")
    return parser


def _download(options: argparse.Namespace) -> None:
    from lt25.data.acquire import acquire
    from lt25.experiment import hub_mirror, load_dataset_config, project_root

    dataset = load_dataset_config(options.dataset)
    acquire(dataset, project_root() / "data" / "raw" / dataset.name, hub_mirror())


def _prepare(options: argparse.Namespace) -> None:
    from lt25.data.prepare import prepare
    from lt25.experiment import load_experiment

    prepare(load_experiment(options.experiment))


def _configure(options: argparse.Namespace) -> None:
    from lt25.experiment import load_experiment
    from lt25.training.job import write_job

    write_job(load_experiment(options.experiment))


def _train(options: argparse.Namespace) -> None:
    from lt25.experiment import load_experiment
    from lt25.training.job import write_job

    experiment = load_experiment(options.experiment)
    job = write_job(experiment)
    os.chdir(experiment.root)
    command = [*_launcher(), "-m", "lt25.training", "--job.config_file", os.path.relpath(job)]
    sys.stdout.flush()
    os.execv(command[0], command)


def _launcher() -> list[str]:
    """Return the command that starts every rank of this node: plain Python for one, torchrun for several.

    The environment decides: NGPU processes on each of NNODE nodes, that meet at MASTER_ADDR:MASTER_PORT.
    """
    processes, nodes = int(os.environ.get("NGPU") or _visible_gpus() or 1), int(os.environ.get("NNODE") or 1)
    if processes == nodes == 1:
        return [sys.executable]
    meet = ["--standalone"]
    if nodes > 1:
        place = f"{os.environ.get('MASTER_ADDR', 'localhost')}:{os.environ.get('MASTER_PORT', 29500)}"
        meet = ["--nnodes", str(nodes), "--rdzv_backend", "c10d", "--rdzv_endpoint", place, "--rdzv_id", "lt25"]
    return [sys.executable, "-m", "torch.distributed.run", *meet, "--nproc_per_node", str(processes)]


def _visible_gpus() -> int:
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0


def _export(options: argparse.Namespace) -> None:
    if (options.to_dcp is None) == (options.experiment is None):
        raise UserError("lt25 export: expected an experiment, or --to-dcp with a model folder and a checkpoint folder")
    if options.to_dcp:
        from lt25.checkpoints.convert import import_model

        import_model(*options.to_dcp)
        return
    from lt25.checkpoints.export import export
    from lt25.experiment import load_experiment

    export(load_experiment(options.experiment), options.step)


def _evaluate(options: argparse.Namespace) -> None:
    from lt25.evaluation import evaluate
    from lt25.experiment import load_experiment

    experiment, step = load_experiment(options.experiment), options.step
    part = "" if step is None else f"step-{step}"
    evaluate(
        experiment, experiment.results_dir / "hf" / part, experiment.results_dir / "evaluation" / part, step is not None
    )


def _report(options: argparse.Namespace) -> None:
    from lt25 import report
    from lt25.experiment import load_experiment

    experiments = [load_experiment(name) for name in options.experiments]
    if options.table:
        report.renew_table(experiments, options.table)
    else:
        report.build(experiments, options.output)


if __name__ == "__main__":
    sys.exit(main())
