"""Damage to every file that a stage hands on, and what the commands that follow make of it.

    python -m tests.faults.rig 200 --seed 0 --jobs 2

A fault changes one file of a chain that has arrived, or of one that was stopped on its way. The commands of the later stages
follow, as a user would type them. One that refuses says so in one line and names a command; that is run, and the refused one
again. In the end everything has to be what it was in the undisturbed chain.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults import chains

Damage = Callable[[Path, Random], None]


def _flip(file: Path, random: Random) -> None:
    content = bytearray(file.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)


def _truncate(file: Path, random: Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: random.randrange(len(content))])


def _empty(file: Path, random: Random) -> None:
    file.write_bytes(b"")


def _garbage(file: Path, random: Random) -> None:
    file.write_bytes(random.randbytes(len(file.read_bytes())))


def _delete(file: Path, random: Random) -> None:
    file.unlink()


def _replace(file: Path, random: Random) -> None:
    """Put another file of the same kind there, from elsewhere in the project."""
    project = next(parent for parent in file.parents if (parent / "Snakefile").is_file())
    others = [
        other
        for other in sorted(project.rglob(f"*{file.suffix}"))
        if other.is_file() and not other.is_symlink() and other.read_bytes() != file.read_bytes()
    ]
    file.write_bytes(random.choice(others).read_bytes() if others else b"{}")


def _number(file: Path, random: Random) -> None:
    """Change a digit, so that a text file is still of its form."""
    content = bytearray(file.read_bytes())
    digits = [at for at, byte in enumerate(content) if byte in b"0123456789"]
    if not digits:
        _flip(file, random)
        return
    at = random.choice(digits)
    content[at] = ord(random.choice([digit for digit in "123456789" if ord(digit) != content[at]]))
    file.write_bytes(content)


DAMAGES: dict[str, Damage] = {
    "flip": _flip,
    "truncate": _truncate,
    "empty": _empty,
    "garbage": _garbage,
    "delete": _delete,
    "replace": _replace,
    "number": _number,
}


@dataclass(frozen=True)
class Fault:
    """One file, and what happens to it.

    Attributes:
        experiment: whose chain.
        stage: that wrote the file.
        file: relative to the project.
        kind: of the damage.
        stopped: whether the chain was stopped after step 4, in place of one that has arrived.
        seed: of the damage.
    """

    experiment: str
    stage: str
    file: str
    kind: str
    stopped: bool
    seed: int

    def __str__(self) -> str:
        where = " (stopped)" if self.stopped else ""
        return f"{self.experiment} {self.kind} {self.file}{where}, seed {self.seed}"


def files(root: Path, experiment: str) -> Iterator[tuple[str, str]]:
    """Yield every file that a stage hands on, as the stage and its path in the project."""
    results = Path("results") / experiment
    patterns = {
        "download": ["data/raw/*/SOURCE.json"],
        "prepare": ["data/processed/*/*/*"],
        "configure": [f"{results}/job.toml", f"{results}/model/config.json"],
        "train": [
            f"{results}/*.json",
            f"{results}/*.jsonl",
            f"{results}/runs/*/*.json*",
            f"{results}/runs/*/checkpoints/*/*",
        ],
        "export": [f"{results}/hf/*", f"{results}/hf/*/*"],
        "evaluate": [f"{results}/evaluation/*", f"{results}/evaluation/*/*"],
    }
    for stage, globs in patterns.items():
        for pattern in globs:
            for file in sorted(root.glob(pattern)):
                if file.is_file() and file.stat().st_size:
                    yield stage, str(file.relative_to(root))


def faults(root: Path, experiment: str, count: int, seed: int) -> list[Fault]:
    """Draw faults: every stage in turn, a file of it, a kind of damage."""
    random, drawn = Random(f"{experiment}-{seed}"), []
    by_stage: dict[str, list[str]] = {}
    for stage, file in files(root, experiment):
        by_stage.setdefault(stage, []).append(file)
    # Most files are checkpoints'; they come twice as often as others.
    order = ["prepare", "train", "export", "evaluate", "train", "configure", "download"]
    decks: dict[str, list[tuple[str, str]]] = {}
    while len(drawn) < count:
        stage = order[len(drawn) % len(order)]
        if not decks.get(stage):
            decks[stage] = [(file, kind) for file in by_stage[stage] for kind in DAMAGES]
            random.shuffle(decks[stage])
        file, kind = decks[stage].pop()
        stopped = stage in ("prepare", "configure", "train") and random.random() < 0.5
        drawn.append(Fault(experiment, stage, file, kind, stopped, random.randrange(1 << 30)))
    return drawn


def stop(root: Path, experiment: str) -> None:
    """Take a training that has arrived back to where it is killed after step 4, in the middle of a line of its log."""
    results = root / "results" / experiment
    run = next((results / "runs").iterdir())
    for gone in (results / "train.json", run / "train.json"):
        gone.unlink()
    shutil.rmtree(run / "checkpoints" / "step-6")
    history = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(history[:4]) + history[4][:20])


def suffer(pristine: Path, work: Path, fault: Fault) -> tuple[str, str]:
    """Do to a copy of a chain what a fault says, let the commands follow, and compare.

    Returns:
        "undisturbed", "advised" (a command refused, and its advice has healed it), or "FAILED" and why.
    """
    root, experiment = chains.copy(pristine, work), fault.experiment
    if fault.stopped:
        stop(root, experiment)
    file = root / fault.file
    if not file.is_file():
        return "undisturbed", "not there where the training was stopped"
    DAMAGES[fault.kind](file, Random(fault.seed))
    advised: list[str] = []
    for command in _followers(fault):
        if wrong := _follow(root, command, advised):
            return "FAILED", wrong
    expected = chains.outcome(pristine, experiment)
    try:
        found = chains.outcome(root, experiment)
    except (OSError, ValueError) as error:
        return "FAILED", f"nothing is said of {error}"
    different = [key for key in expected if found.get(key) != expected[key]]
    if different:
        return "FAILED", f"differs silently: {', '.join(different)}; advised: {advised}"
    return ("advised" if advised else "undisturbed"), "; ".join(advised)


def _followers(fault: Fault) -> list[tuple[str, ...]]:
    """Return the commands that read what a fault has changed, in the order of the chain."""
    name = fault.experiment
    train, export, report = ("train", name), ("export", name), ("report", name)
    of_step = re.search(r"/step-([24])/", fault.file)
    at = ("--step", of_step[1]) if of_step else ()
    if fault.stopped or fault.stage == "configure":
        return [train, (*export, *at), export, ("evaluate", name), report]
    # After half of the faults the command that reads comes first, after the others that which writes.
    first = [train] if fault.seed % 2 else []
    return {
        "download": [("prepare", name), train, export, ("evaluate", name), report],
        "prepare": [*first, export, ("evaluate", name), report],
        "train": [*first, (*export, *at), export, report],
        "export": [("evaluate", name, *at), report],
        "evaluate": [report],
    }[fault.stage]


def _follow(root: Path, command: tuple[str, ...], advised: list[str], depth: int = 0) -> str | None:
    """Run a command, and what it advises, until it ends well; return what is wrong otherwise."""
    for _ in range(4):
        done = chains.lt25(root, *command)
        if "Traceback" in done.output or done.returncode not in (0, 2):
            return f"lt25 {' '.join(command)}: status {done.returncode}: {done.output[-1500:]}"
        if done.returncode == 0:
            return None
        errors = [line for line in done.output.splitlines() if line.startswith("lt25: error: ")]
        advice = re.findall(r"`lt25 ([^`]+)`", errors[0]) if len(errors) == 1 else []
        if not advice:
            return f"lt25 {' '.join(command)}: no advice: {done.output[-1500:]}"
        advised.append(errors[0].removeprefix("lt25: error: "))
        if depth > 3:
            return f"advice without end: {advised}"
        if wrong := _follow(root, tuple(advice[0].split()), advised, depth + 1):
            return wrong
    return f"lt25 {' '.join(command)}: its advice does not help: {advised}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Damage what stages hand on, and see what becomes of it.")
    parser.add_argument("count", type=int, nargs="?", default=200, help="how many faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="how many faults are tried at a time, each on one core")
    parser.add_argument("--only", help="the experiment")
    parser.add_argument("--like", default="", help="of the faults drawn only those in whose line this stands")
    options = parser.parse_args()
    names = [options.only] if options.only else list(chains.EXPERIMENTS)
    table: Counter[tuple[str, str]] = Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, experiment in enumerate(names):
            pristine = Path(folder) / experiment
            pristine.mkdir()
            chains.build(pristine, experiment)
            share = options.count // len(names) + (number < options.count % len(names))
            drawn = [one for one in faults(pristine, experiment, share, options.seed) if options.like in str(one)]

            def attempt(fault: Fault, pristine: Path = pristine) -> tuple[str, str]:
                with tempfile.TemporaryDirectory(dir=folder) as scratch:
                    return suffer(pristine, Path(scratch) / "work", fault)

            with ThreadPoolExecutor(options.jobs) as pool:
                for fault, (result, why) in zip(drawn, pool.map(attempt, drawn), strict=True):
                    table[fault.stage, result] += 1
                    failed += result == "FAILED"
                    print(f"{result:12} {fault}{f': {why}' if why else ''}", flush=True)
    print(f"\n{'written by':12} undisturbed  advised  failed")
    for stage in sorted({stage for stage, _ in table}):
        row = [table[stage, result] for result in ("undisturbed", "advised", "FAILED")]
        print(f"{stage:12} {row[0]:11}  {row[1]:7}  {row[2]:6}")
    print(f"{sum(table.values()) - failed} of {sum(table.values())}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
