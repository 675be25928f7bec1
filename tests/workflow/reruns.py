"""What Snakemake and DVC run again after a change: each kind of change in a copy of its own of a project that is built.

    python -m tests.workflow.reruns --table docs/dvc.md

Snakemake is asked by a dry run. DVC runs: its own dry run does not follow what a stage would leave to the next. What it starts is
Snakemake, which may find that a stage has nothing to do; the table names those stages too. After it nothing may be left to do.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from lt25.report.markdown import replace
from tests.faults.chains import copy
from tests.workflow import chain

MARK = "<!-- reruns -->"
_HEAD = ("| what changes | Snakemake runs | DVC runs |", "| --- | --- | --- |")


def _experiment(**sections: object) -> Callable[[Path], None]:
    return lambda root: chain.write_experiment(root, "digits", "classification", **sections)


def _splits(root: Path) -> None:
    file = root / "config" / "datasets" / "digits.yaml"
    said = yaml.safe_load(file.read_text())
    said["splits"]["test"]["fraction"] = 0.3
    file.write_text(yaml.safe_dump(said))


def _comment(root: Path) -> None:
    for folder in ("experiments", "datasets"):
        file = root / "config" / folder / "digits.yaml"
        file.write_text(f"# A comment.\n{file.read_text()}")


def _image(root: Path) -> None:
    one = sorted((root / "images" / "cat").iterdir())[0]
    one.with_name("new.png").write_bytes(one.read_bytes())


def _another(root: Path, name: str = "third") -> None:
    chain.write_experiment(root, name, "classification", debug={"seed": 2})
    (root / "config" / "config.yaml").write_text(f"experiments: [digits, second, {name}]\n")
    done = chain.run(root, "lt25", "dvc")
    assert done.returncode == 0, done.stdout


def _earlier(root: Path) -> None:
    _another(root, "Earlier")


def _caption(root: Path) -> None:
    file = root / "workflow" / "report" / "report.rst"
    file.write_text(f"{file.read_text()}\nMore.\n")


CHANGES: dict[str, Callable[[Path], None]] = {
    "a comment in the experiment's and the dataset's file": _comment,
    "the learning rate (`optimizer.lr`)": _experiment(optimizer={"lr": 2e-2}),
    "the seed (`debug.seed`)": _experiment(debug={"seed": 1}),
    "more steps (`training.steps`)": _experiment(training={"steps": 8}),
    "the mean of the last checkpoints (`checkpoint.average`)": _experiment(checkpoint={"average": 2}),
    "a key of the model (`model.hidden_size`)": _experiment(model={"hidden_size": 24}),
    "how often is logged (`metrics.log_freq`)": _experiment(metrics={"log_freq": 3}),
    "a setting of the evaluation (`evaluation.batch_size`)": _experiment(evaluation={"batch_size": 7}),
    "a setting of the preparation (`prepare.layout`)": _experiment(prepare={"layout": "rows"}),
    "the dataset's splits (`splits`, in its file)": _splits,
    "an image more in the dataset's folder": _image,
    "an experiment more, of the same data": _another,
    "an experiment more, of the same data, whose name comes first": _earlier,
    "the caption of the report in `snakemake --report`": _caption,
}


def build(root: Path) -> Path:
    """Make a repository of two experiments that share their data, and have DVC build it."""
    root.mkdir()
    chain.project(root)
    chain.write_experiment(root, "second", "classification", debug={"seed": 1})
    (root / "config" / "config.yaml").write_text("experiments: [digits, second]\n")
    chain.repository(root)
    done = chain.run(root, "dvc", "repro")
    assert done.returncode == 0, done.stdout
    return root


def rules(printed: str) -> dict[str, int]:
    """Return how often each rule runs, as the table says that Snakemake prints before it runs, and once more after a dry run."""
    tables = re.findall(r"^Job stats:\n(.*?)^total +\d+$", printed, re.MULTILINE | re.DOTALL)
    found = re.findall(r"^(\w+) +(\d+)$", tables[-1], re.MULTILINE) if tables else []
    return {rule: int(number) for rule, number in found if rule != "all"}


def reruns(root: Path) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """Ask both what they run again.

    Args:
        root: a project that was built and changed; DVC builds it anew.

    Returns:
        The rules of a dry run of Snakemake; the rules that ran for DVC; its stages in which none did.
    """
    planned = chain.snakemake(root, "--dry-run")
    assert planned.returncode == 0, planned.stdout
    assert rules(planned.stdout) or chain.NOTHING in planned.stdout, planned.stdout
    done = chain.run(root, "dvc", "repro")
    assert done.returncode == 0, done.stdout
    ran: dict[str, int] = {}
    idle = []
    for stage, printed in re.findall(
        r"^Running stage '([^']+)':\n(.*?)(?=^Running stage|\Z)", done.stdout, re.M | re.S
    ):
        for rule, number in (of_stage := rules(printed)).items():
            ran[rule] = ran.get(rule, 0) + number
        if not of_stage:
            assert chain.NOTHING in printed, printed
            idle.append(stage)
    left = chain.snakemake(root, "--dry-run")
    assert chain.NOTHING in left.stdout, left.stdout
    assert json.loads(chain.run(root, "dvc", "status", "--json").stdout) == {}
    return rules(planned.stdout), ran, idle


def _say(found: dict[str, int], idle: Sequence[str] = ()) -> str:
    named = [f"`{rule}`" + (f" {number} times" if number > 1 else "") for rule, number in found.items()]
    looked = f"; `{'`, `'.join(idle)}` {'finds' if len(idle) == 1 else 'find'} nothing to do" if idle else ""
    return (", ".join(named) or "nothing") + looked


def main() -> None:
    """Try every change and print the table."""
    parser = argparse.ArgumentParser(description="Change something, and see what Snakemake and DVC run again.")
    parser.add_argument("--like", default="", help="only the changes in whose name this stands")
    parser.add_argument("--table", type=Path, metavar="FILE", help="where the table is written, between two marks")
    options = parser.parse_args()
    changes = {name: change for name, change in CHANGES.items() if options.like in name}
    if not changes:
        parser.error(f"--like {options.like}: in the name of no change: {'; '.join(CHANGES)}")
    rows = _rows(options.table) if options.table else {}
    with tempfile.TemporaryDirectory(prefix="lt25-reruns-") as scratch:
        built = build(Path(scratch) / "built")
        for number, (name, change) in enumerate(changes.items()):
            root = copy(built, Path(scratch) / f"changed-{number}")
            change(root)
            planned, ran, idle = reruns(root)
            rows[name] = f"| {name} | {_say(planned)} | {_say(ran, idle)} |"
            print(rows[name], flush=True)
    if options.table:
        replace(options.table, MARK, "\n".join([*_HEAD, *(rows[name] for name in CHANGES if name in rows), ""]))


def _rows(file: Path) -> dict[str, str]:
    """Return the rows of a file's table by change: those of changes that are not tried stay as they are."""
    lines = file.read_text().split(MARK)[1].strip().splitlines()
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[len(_HEAD) :]}


if __name__ == "__main__":
    main()
