"""The command line: ``lt25 download|prepare|configure|train|export|evaluate|report``, and what is done with models and projects.

Each command is one stage of the chain and can be run by hand. A command that takes an experiment takes overrides of it too,
``--optimizer.lr 1e-3``. A command imports what it needs when it runs, so that ``--help`` answers at once.
"""

import argparse
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lt25.config.overrides import split_arguments
from lt25.errors import UserError
from lt25.launch import waiting

if TYPE_CHECKING:
    from lt25.experiment import Experiment


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status: 0, 2 after a user's error, 130 when stopped."""
    _open_closed()
    try:
        os.environ.update(waiting())
        arguments = sys.argv[1:] if arguments is None else arguments
        others, overrides = split_arguments(arguments)
        options, unknown = _parser().parse_known_args(others)
        if unknown:
            raise UserError(_unknown(others[0], unknown[0], options.takes_overrides))
        options.overrides, options.arguments = overrides, arguments
        if overrides and not options.takes_overrides:
            raise UserError(
                f"lt25 {others[0]}: takes no overrides of an experiment: leave out --{overrides[0].split('=')[0]}"
            )
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
    except Exception as error:
        from lt25 import plugins
        from lt25.files import disk_fault

        if (fault := disk_fault(error) or plugins.fault(error)) is None:
            raise
        print(f"lt25: error: {fault}", file=sys.stderr)
        return 2


def _open_closed() -> None:
    """Have standard input and outputs that were closed before the start lead nowhere, so that no file takes their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  (it stays open)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        parser.exit(message=f"lt25 {version('lt25')}\n")


class _Parser(argparse.ArgumentParser):
    """Answers mistakes as lt25 does.

    Attributes:
        files_anywhere: whether options may stand between the positional arguments, of which argparse otherwise takes those
            that may be left out for left out.
    """

    files_anywhere = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if not self.files_anywhere:
            return super().parse_known_args(args, namespace)
        # What argparse calls for it comes back here.
        self.files_anywhere = False
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.files_anywhere = True

    def error(self, message: str) -> NoReturn:
        if match := re.match(r"argument COMMAND: invalid choice: '([^']*)' \(choose from (.*)\)", message):
            from lt25.config.key import suggestion

            known = suggestion(match[1], re.findall(r"[\w-]+", match[2]), f"{self.prog} --help")
            raise UserError(f"no such command: {match[1]}: {known}")
        raise UserError(f"{self.prog}: {message}: see {self.prog} --help")


def _unknown(command: str, argument: str, takes_overrides: bool) -> str:
    """Say what is wrong with an argument that a command does not know; it may be meant for a key of an experiment."""
    from lt25.config.sections import EXPERIMENT, JOB

    name = argument.removeprefix("--").split("=")[0]
    if not takes_overrides or not argument.startswith("--"):
        return f"lt25 {command}: {argument}: no such option or argument: see lt25 {command} --help"
    keys = [f"--{section}.{name} VALUE" for section, keys in JOB.items() if name in keys]
    if keys:
        instead = f"write {' or '.join(keys)}"
    elif name in EXPERIMENT and EXPERIMENT[name].type == "object":
        instead = f"it is a section: set its keys, --{name}.KEY VALUE"
    elif name in EXPERIMENT:
        instead = "it makes another experiment: set it in a file of its own, see lt25 new --help"
    else:
        instead = f"options are in lt25 {command} --help, and a key of the experiment is --SECTION.KEY VALUE"
    return f"command line: --{name}: no such option: {instead}"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lt25", description="From a dataset's name to a trained, exported, evaluated and reported model."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print lt25's version")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name, run, help, overrides=True):
        sub = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog="--SECTION.KEY VALUE sets a key of the experiment for this once." if overrides else None,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run, takes_overrides=overrides)
        return sub

    experiment: dict[str, Any] = {
        "metavar": "EXPERIMENT",
        "help": "a name in config/experiments/, or a path; or of a variant, as printed",
    }

    sub = command("download", _download, "fetch a dataset, or check one that is there, into data/raw/", overrides=False)
    sub.add_argument("dataset", metavar="DATASET", help="a name in config/datasets/, or a path")

    sub = command("prepare", _prepare, "turn an experiment's dataset into what its model reads, in data/processed/")
    sub.add_argument("experiment", **experiment)

    sub = command("configure", _configure, "write an experiment's job file, results/<experiment>/job.toml")
    sub.add_argument("experiment", **experiment)

    sub = command("train", _train, "train, or go on training, an experiment; NGPU and NNODE say on how much")
    sub.add_argument("experiment", **experiment)
    sub.add_argument(
        "--time-limit",
        type=_seconds,
        help="save a checkpoint and stop after this long, at least one step on: 90s, 50m, 7.5h; exit status 124",
    )
    sub.add_argument(
        "--rung",
        type=int,
        default=0,
        metavar="N",
        help="train up to step N, one of halving.rungs, and note what validation finds",
    )
    sub.add_argument("--fresh", action="store_true", help="train from the start; what there is is moved aside")
    sub.add_argument("--wait", action="store_true", help="wait for another trainer of the same run to end")

    sub = command("halve", _halve, "choose which settings of a sweep go on from a rung", overrides=False)
    sub.add_argument("sweep", metavar="SWEEP", help="a name in config/experiments/, of a file with the section halving")
    sub.add_argument("--rung", type=int, required=True, metavar="N", help="the step, one of halving.rungs")

    sub = command("export", _export, "turn a checkpoint into a Hugging Face folder, results/<experiment>/hf/")
    sub.add_argument("experiment", nargs="?", **experiment)
    sub.add_argument(
        "--step",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="kept checkpoints, exported to hf/step-N/; default: the last, to hf/",
    )
    sub.add_argument(
        "--with-code",
        action="store_true",
        help="also the modelling code, for from_pretrained(..., trust_remote_code=True) where lt25 is not installed",
    )
    sub.add_argument(
        "--onnx",
        action="store_true",
        help="also the graph of a streaming speech recogniser, to results/<experiment>/onnx/",
    )
    sub.add_argument(
        "--to-dcp", nargs=2, metavar=("HF", "DCP"), type=Path, help="the other way: a folder into a checkpoint"
    )

    sub = command("evaluate", _evaluate, "measure an exported model, in results/<experiment>/evaluation/")
    sub.add_argument("experiment", **experiment)
    sub.add_argument(
        "--step",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="exported steps, measured on held-out training data; default: the final model",
    )
    sub.add_argument("--kept", action="store_true", help="all kept steps before the exported one")
    sub.add_argument("--export", action="store_true", help="export what is to be measured first, in the same process")

    sub = command("generate", _generate, "continue texts with an exported language model", overrides=False)
    sub.add_argument("model", metavar="MODEL", help="an experiment whose model is exported, or a model's folder")
    sub.add_argument(
        "--prompt",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="beginnings of texts; default: asked for on a terminal, else read from standard input",
    )
    sub.add_argument("--stream", action="store_true", help="print words as they are written")
    sub.add_argument("--max_new_tokens", type=int, default=256, metavar="N", help="at most; default: %(default)s")
    sub.add_argument(
        "--temperature", type=float, default=0.8, help="0: the likeliest token each time; default: %(default)s"
    )
    sub.add_argument(
        "--top_k", type=int, default=0, metavar="N", help="draw among the N likeliest tokens; default: all"
    )
    sub.add_argument(
        "--top_p", type=float, default=1.0, metavar="P", help="draw among the likeliest, as probable as P; default: all"
    )
    sub.add_argument("--seed", type=int, default=0, help="of the draws; default: %(default)s")

    sub = command("classify", _classify, "say what class images, series or recordings are of", overrides=False)
    sub.add_argument("model", metavar="MODEL", help="an experiment whose model is exported, or a model's folder")
    sub.add_argument(
        "files", nargs="*", metavar="FILE", help="files, and folders of them; - or none: a file on standard input"
    )
    sub.files_anywhere = True
    sub.add_argument("--stream", action="store_true", help="print the answer after each tenth of the sequence")
    sub.add_argument(
        "--json", action="store_true", help="print an object a line, with the probabilities of all classes"
    )

    sub = command("transcribe", _transcribe, "write down what is said in recordings", overrides=False)
    sub.add_argument("model", metavar="MODEL", help="an experiment whose model is exported, or a model's folder")
    sub.add_argument(
        "files", nargs="*", metavar="FILE", help="files, and folders of them; - or none: a recording on standard input"
    )
    sub.files_anywhere = True
    sub.add_argument(
        "--stream", action="store_true", help="hear recordings as they come, and print words when they end"
    )
    forms = sub.add_mutually_exclusive_group()
    for form, help in (
        ("json", "print objects, with the time of each word and the confidence in it"),
        ("srt", "print subtitles as SubRip does"),
        ("vtt", "print subtitles as WebVTT does"),
    ):
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, default="text", help=help)

    sub.add_argument(
        "--align",
        type=Path,
        metavar="TEXT",
        help="the file's words are known: say when each is said; with --json, --srt or --vtt",
    )
    search = sub.add_argument_group(
        "search", "the likeliest text instead of the best path, as evaluation.decoder, whose values they replace"
    )
    for option, key, kind, metavar, help in (
        ("beam", "beam", int, "N", "how many texts are kept after each frame"),
        ("lm", "language_model", str, "LM", "an ARPA file; or of an experiment's training text, words or symbols"),
        ("lm-weight", "weight", float, "W", "of the language model"),
        ("word-score", "word_score", float, "S", "what each word adds to a text's score"),
        ("boost-score", "boost_score", float, "S", "what each word of --boost adds"),
        ("alternatives", "alternatives", int, "N", "with --json, so many texts of each utterance"),
    ):
        search.add_argument(f"--{option}", dest=key, type=kind, metavar=metavar, help=help)
    search.add_argument(
        "--boost",
        action="append",
        metavar="WORD",
        help="a name, or another word, that is to be heard more readily; several times for several",
    )

    sub = command("report", _report, "write one page that shows experiments side by side")
    sub.add_argument("experiments", nargs="+", **{**experiment, "help": f"{experiment['help']}, or a sweep"})
    sub.add_argument("--output", type=Path, default=Path("results/report.html"), help="default: %(default)s")
    sub.add_argument("--table", type=Path, metavar="FILE", help="instead, renew the results table in a Markdown file")

    sub = command(
        "config",
        _config,
        "print an experiment with every value resolved, and where each comes from; of a sweep, its runs",
    )
    sub.add_argument("experiment", **experiment)

    sub = command("check", _check, "check experiments, and what they need, before anything runs")
    sub.add_argument("experiments", nargs="*", **{**experiment, "help": f"{experiment['help']}; default: all"})

    command("dvc", _dvc, "write dvc.yaml: the stages of the experiments in config/config.yaml", overrides=False)

    command("push", _push, "send what is built to DVC's remote: data, models, evaluations and report", overrides=False)

    command("pull", _pull, "fetch what was pushed, and have nothing to build again", overrides=False)

    sub = command(
        "push-to-hub",
        _push_to_hub,
        "show what a model's repository on the Hub would hold, and write it",
        overrides=False,
    )
    sub.add_argument("model", metavar="MODEL", help="an experiment whose model is exported and evaluated")
    sub.add_argument("repository", metavar="OWNER/NAME", help="on the Hugging Face Hub; a new one is private")
    sub.add_argument("--licence", metavar="LICENCE", help="of the model, as the Hub abbreviates it: apache-2.0")
    sub.add_argument("--yes", action="store_true", help="send it; without, nothing is sent")

    sub = command(
        "provenance", _provenance, "say what a model was made from, back to the downloaded files", overrides=False
    )
    sub.add_argument("model", metavar="MODEL", help="an exported model's folder, or the name of its experiment")

    sub = command("verify", _verify, "compute the hashes of all that a model was made from again", overrides=False)
    sub.add_argument("model", metavar="MODEL", help="an exported model's folder, or the name of its experiment")

    command("list", _list, "list the datasets, experiments and models of config/", overrides=False)

    sub = command("new", _new, "write an experiment file for another dataset of the same task", overrides=False)
    sub.add_argument("name", metavar="NAME", help="of the new file, config/experiments/NAME.yaml")
    sub.add_argument("--like", required=True, **{**experiment, "help": "whose settings it has"})
    sub.add_argument("--dataset", required=True, metavar="DATASET", help="a name in config/datasets/")
    return parser


def _load(options: argparse.Namespace) -> "Experiment":
    from lt25.experiment import load_experiment

    return load_experiment(options.experiment, options.overrides)


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        seconds = float(text[:-1]) * units[text[-1]]
    except (KeyError, ValueError, IndexError):
        seconds = 0
    if not seconds > 0:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number and its unit, s, m or h: 50m")
    return seconds


def _download(options: argparse.Namespace) -> None:
    from lt25.data.acquire import acquire
    from lt25.experiment import hub_mirror, load_dataset_config, project_root

    dataset = load_dataset_config(options.dataset)
    acquire(dataset, project_root() / "data" / "raw" / dataset.name, hub_mirror())


def _prepare(options: argparse.Namespace) -> None:
    experiment = _load(options)
    from lt25.data.prepare import prepare

    prepare(experiment)


def _configure(options: argparse.Namespace) -> None:
    from lt25.training.job import write_job

    experiment = _load(options)
    _say(f"{experiment.name}: {write_job(experiment).relative_to(experiment.root)} and model/config.json are written")


def _train(options: argparse.Namespace) -> int:
    from lt25 import slurm
    from lt25.launch import plan
    from lt25.training.processes import run, stop_at_once

    if batch := slurm.batch_job():
        os.environ.update(slurm.meeting(batch))
    else:
        stop_at_once()
    # What is wrong with the environment is said before anything is read.
    plan({})
    experiment = _load(options)
    from lt25.training.ahead import check_devices, settle
    from lt25.training.halving import check_rung
    from lt25.training.job import write_job

    if options.rung:
        check_rung(experiment, options.rung)
    launch = check_devices(experiment)
    job = write_job(experiment)
    if batch:
        return slurm.run(batch, launch.nodes, options.arguments)
    os.chdir(experiment.root)
    command = [sys.executable, "-m", "lt25.training", "--job.config_file", os.path.relpath(job)]
    if options.time_limit:
        command += ["--lt25.time_limit", str(options.time_limit)]
    if options.fresh:
        command += ["--lt25.fresh"]
    if options.rung:
        command += ["--lt25.rung", str(options.rung)]
    if settle(Path(os.path.relpath(job)), launch, options.fresh, options.wait, options.rung):
        return 0
    if meeting := launch.meeting():
        _say(f"{experiment.name}: {meeting}")
    sys.stdout.flush()
    environment = {**os.environ, **launch.environment()}
    if launch.world_size == 1:
        os.execve(command[0], command, environment)
    return run(launch, command, environment)


def _say(line: str) -> None:
    print(line, flush=True)


def _halve(options: argparse.Namespace) -> None:
    from lt25.experiment import load_experiments
    from lt25.training.halving import halve

    sweep, one, _ = options.sweep.partition("@")
    if one:
        raise UserError(f"lt25 halve: {options.sweep}: chooses among all runs of a sweep: name the sweep, {sweep}")
    _say(halve(load_experiments(sweep), options.rung))


def _export(options: argparse.Namespace) -> None:
    if (options.to_dcp is None) == (options.experiment is None):
        raise UserError("lt25 export: expected an experiment, or --to-dcp with a model folder and a checkpoint folder")
    if options.to_dcp:
        from lt25.checkpoints.convert import import_model

        import_model(*options.to_dcp)
        _say(f"{options.to_dcp[1]}: is written")
        return
    experiment = _load(options)
    from lt25.checkpoints.export import export

    export(experiment, options.step, options.with_code)
    if options.onnx:
        from lt25.checkpoints.onnx import export_onnx

        export_onnx(experiment)


def _evaluate(options: argparse.Namespace) -> None:
    from lt25.evaluation import evaluate, require

    experiment = _load(options)
    steps = options.step
    if options.kept:
        from lt25.checkpoints.whole import reachable_steps
        from lt25.files import read_record

        trained = read_record(experiment.results_dir / "train.json", experiment.commands("train"))
        steps = reachable_steps(experiment.results_dir, trained)
    if options.export and (steps or not options.kept):
        from lt25.checkpoints.export import export

        export(experiment, steps)
    parts = [f"step-{step}" for step in steps] or ([] if options.kept else [""])
    for part in parts:
        require(experiment, experiment.results_dir / "hf" / part)
    metrics = [
        evaluate(
            experiment, experiment.results_dir / "hf" / part, experiment.evaluation_dir / part, intermediate=bool(part)
        )
        for part in parts
    ]
    if experiment.evaluation_dir.parent != experiment.results_dir:
        from lt25.config.overrides import note

        note(experiment.overrides, experiment.evaluation_dir.parent)
    if parts == [""]:
        from lt25.publish import log_to_wandb
        from lt25.report.tracked import write_tracked

        write_tracked(experiment)
        if experiment.evaluation_dir.parent == experiment.results_dir:
            log_to_wandb(experiment)
    elif options.kept:
        from lt25.files import write_record

        write_record(experiment.evaluation_dir / "steps.json", {"steps": metrics})


def _generate(options: argparse.Namespace) -> None:
    from dataclasses import fields

    from lt25.generation import generate
    from lt25.generation.sampling import Sampling

    sampling = Sampling(**{field.name: getattr(options, field.name) for field in fields(Sampling)})
    generate(options.model, options.prompt, sampling, options.stream)


def _classify(options: argparse.Namespace) -> None:
    from lt25.evaluation.classify import classify

    classify(options.model, options.files, options.stream, options.json)


def _transcribe(options: argparse.Namespace) -> None:
    from lt25.evaluation.transcribe import transcribe
    from lt25.tasks import DECODER

    decoder = {key: value for key in DECODER if (value := getattr(options, key, None)) is not None}
    transcribe(options.model, options.files, options.stream, options.form, decoder, options.align)


def _report(options: argparse.Namespace) -> None:
    from lt25 import report
    from lt25.experiment import load_experiments

    named = [load_experiments(name, options.overrides) for name in options.experiments]
    if options.table:
        report.renew_table([one for runs in named for one in runs], options.table)
    else:
        alone = [one for runs in named for one in runs if len(runs) == 1]
        report.build(alone, options.output, sweeps=[runs for runs in named if len(runs) > 1])


def _config(options: argparse.Namespace) -> None:
    from lt25.config.describe import describe
    from lt25.experiment import load_experiments

    experiment, *others = load_experiments(options.experiment, options.overrides)
    if others:
        runs = (experiment, *others)
        differ = [key for key in experiment.swept if any(run.overrides[key] != runs[0].overrides[key] for run in runs)]
        print(f"# {experiment.path}: a sweep, {len(runs)} runs that differ in {', '.join(differ)}")
        print("\n".join(run.name for run in runs))
        return
    print(f"# {experiment.name}: {experiment.results_dir.relative_to(experiment.root)}")
    print(f"# prepared data: {experiment.processed_dir.relative_to(experiment.root)}")
    print(describe(*experiment.resolved()))


def _check(options: argparse.Namespace) -> int:
    from lt25.check import check

    return check(options.experiments, options.overrides)


def _dvc(options: argparse.Namespace) -> None:
    from lt25.dvc import write_stages

    _say(f"{write_stages()}: is written")


def _push(options: argparse.Namespace) -> None:
    from lt25.dvc import push

    push()


def _pull(options: argparse.Namespace) -> None:
    from lt25.dvc import pull

    pull()


def _push_to_hub(options: argparse.Namespace) -> None:
    from lt25.publish import push_to_hub

    print("\n".join(push_to_hub(options.model, options.repository, options.licence, options.yes)))


def _provenance(options: argparse.Namespace) -> None:
    from lt25.provenance import tell

    print("\n".join(tell(options.model)))


def _verify(options: argparse.Namespace) -> int:
    from lt25.provenance import verify

    lines, good = verify(options.model)
    print("\n".join(lines))
    return 0 if good else 1


def _list(options: argparse.Namespace) -> None:
    from lt25.listing import listing

    print(listing())


def _new(options: argparse.Namespace) -> None:
    from lt25.new import new

    path, remark = new(options.name, options.like, options.dataset)
    print(f"{path}: ok{remark}")


if __name__ == "__main__":
    sys.exit(main())
