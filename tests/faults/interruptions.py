"""What happens while commands run: they are killed, the disk is full, a rank is lost, somebody gives the same command.

    python -m tests.faults.interruptions 200 --seed 0 --jobs 2 --table docs/faults.md

A command of a chain is held before one of its changes to the file system, the fault happens, and it goes on. Then the same
command is given again, and those that follow it. In the end everything has to be what it was in the undisturbed chain. Which
command, which of its changes and which fault follow from the seed. Disks are made in a mount namespace of this program's own.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace

import psutil
import yaml

from lt25.report.markdown import replace
from tests import tiny
from tests.faults import chains
from tests.workflow import chain

DISK = 64 << 20
"""Bytes that a trial's disk holds: a chain is a few megabytes."""

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate"}
"""Python's audit events, besides "open", that tell of a change to the file system."""

MARK = "<!-- interruptions -->"


@dataclass(frozen=True, eq=False)
class Chain:
    """Commands that build something, in their order.

    Attributes:
        name: of the experiment's file.
        task: the experiment's.
        runs: the names that results have: the experiment's own, or those of a sweep's runs.
        ranks: how many processes train.
        changes: sections of the experiment file.
    """

    name: str
    task: str
    runs: tuple[str, ...]
    ranks: int = 1
    changes: tuple[tuple[str, dict], ...] = ()

    def commands(self) -> list[tuple[str, ...]]:
        """Return the arguments of all commands."""
        first, *_ = self.runs
        of_each = [
            (*command[:1], run, *command[1:])
            for run in self.runs
            for command in (("train",), ("export",), ("evaluate",), ("evaluate", "--export", "--kept"))
        ]
        return [("download", tiny.DATASETS[self.task]), ("prepare", first), *of_each, ("report", self.name)]

    def environment(self) -> dict[str, str]:
        return {"NGPU": str(self.ranks)} if self.ranks > 1 else {}

    def build(self, root: Path, before: Path) -> list[int]:
        """Carry the chain out undisturbed, and keep the project as it is before each command in ``before``, by number.

        Returns:
            How many changes to the file system each command makes.
        """
        root.mkdir()
        chain.project(root)
        (root / "config" / "config.yaml").write_text(yaml.safe_dump({"experiments": [self.name]}))
        options = {"debug": {"deterministic": True}, "metrics": {"log_freq": 1}, **dict(self.changes)}
        chain.write_experiment(root, self.name, self.task, **options)
        counts, note = [], before.with_suffix(".count")
        for number, command in enumerate(self.commands()):
            chains.copy(root, before / str(number))
            note.write_text("0")
            done = chains.lt25(root, *command, before=partial(hold, 0, note), **self.environment())
            assert done.returncode == 0, done.output
            counts.append(int(note.read_text()))
        return counts


CHAINS = (
    Chain("digits", "classification", ("digits",)),
    Chain("spoken-digits", "speech_recognition", ("spoken-digits",)),
    Chain("stdlib-lm", "language_modeling", ("stdlib-lm",)),
    Chain(
        "two-ranks",
        "classification",
        ("two-ranks",),
        ranks=2,
        changes=(("training", {"local_batch_size": 2, "global_batch_size": 4}),),
    ),
    Chain(
        "rates",
        "classification",
        ("rates@optimizer.lr=0.01", "rates@optimizer.lr=0.02"),
        changes=(("optimizer", {"lr": [0.01, 0.02]}),),
    ),
)


@dataclass(frozen=True)
class Fault:
    """What happens to which command, and when.

    Attributes:
        chain: whose command.
        command: its number.
        kind: of the fault.
        at: the number of the change to the file system before which it happens.
    """

    chain: Chain
    command: int
    kind: str
    at: int

    def __str__(self) -> str:
        return f"{self.chain.name}: {self.kind}: lt25 {' '.join(self.chain.commands()[self.command])}, change {self.at}"


@dataclass
class Trial:
    """A fault's place: what strikes it may look at.

    Attributes:
        root: the project, on a disk of its own.
        command: the command that is held.
        go: the file that lets it go.
        again: gives the same command a second time, and returns what came of it.
    """

    root: Path
    command: chains.Command
    go: Path
    again: Callable[[], SimpleNamespace]
    fault: Fault

    def ranks(self) -> list[psutil.Process]:
        """Return the processes that train, in their order."""
        return sorted(psutil.Process(self.command.process.pid).children(), key=lambda process: process.pid)


def hold(at: int, note: Path) -> None:
    """Count this process's changes to data and results in a file, and wait before one until a file says to go on.

    Of several ranks the first counts. What a library writes without Python, as safetensors does, is not counted, but its
    renaming is.

    Args:
        at: the number of the change; 0 for none.
        note: the file; ``.held`` and ``.go`` beside it say that the change has come, and that it may go on.
    """
    held, go = note.with_suffix(".held"), note.with_suffix(".go")
    descriptor, count = os.open(note, os.O_WRONLY), 0
    folders = tuple(f"{Path.cwd() / name}{os.sep}" for name in ("data", "results"))

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event == "open":
            changes = isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            changes = event in CHANGES
        if not changes or not isinstance(arguments[0], (str, os.PathLike)) or os.environ.get("RANK", "0") != "0":
            return
        if not str(Path.cwd() / arguments[0]).startswith(folders):
            return
        count += 1
        os.pwrite(descriptor, str(count).encode(), 0)
        if count == at:
            held.touch()
            while not go.exists():
                time.sleep(0.01)

    sys.addaudithook(hook)


# What happens, by name: a function is told of the trial, and may return what came of a second command.


def _killed(trial: Trial) -> None:
    trial.command.process.kill()


def _signal(number: int, trial: Trial) -> None:
    os.kill(trial.command.process.pid, number)


def _lost_rank(rank: int, trial: Trial) -> None:
    # Where the command is held before it has started them, it is let go first.
    if not trial.ranks():
        trial.go.touch()
    while len(ranks := trial.ranks()) < trial.fault.chain.ranks:
        time.sleep(0.01)
    ranks[rank].kill()


def _full(trial: Trial) -> None:
    free = os.statvfs(trial.root)
    with (trial.root.parent / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)


def _read_only(trial: Trial) -> None:
    for name in ("data", "results"):
        # What is not there yet would be made on the disk.
        (trial.root / name).mkdir(exist_ok=True)
        folder = str(trial.root / name)
        for options in (["--bind", folder], ["-o", "remount,bind,ro"]):
            subprocess.run(["mount", *options, folder], check=True)


def _twice(trial: Trial) -> SimpleNamespace:
    return trial.again()


def _nothing(trial: Trial) -> None: ...


KINDS: dict[str, tuple[str, Callable[[Trial], SimpleNamespace | None]]] = {
    "killed": ("The command is killed.", _killed),
    "cancelled": ("It is cancelled (SIGTERM).", partial(_signal, signal.SIGTERM)),
    "interrupted": ("It is interrupted (Ctrl-C).", partial(_signal, signal.SIGINT)),
    "out of time": ("Its time is up (SIGUSR1 from Slurm).", partial(_signal, signal.SIGUSR1)),
    "first rank lost": ("The first of two ranks is killed.", partial(_lost_rank, 0)),
    "second rank lost": ("The second of two ranks is killed.", partial(_lost_rank, 1)),
    "disk full": ("The disk is full, until the command has ended.", _full),
    "disk read-only": ("The disk is read-only, until the command has ended.", _read_only),
    "given twice": ("Somebody gives the same command meanwhile.", _twice),
    "W&B out of reach": ("W&B is out of reach.", _nothing),
}

SIGNALS = {"cancelled": signal.SIGTERM, "interrupted": signal.SIGINT, "out of time": signal.SIGUSR1}

# A key of the form that W&B's have, and an address at which nobody answers.
NOBODY = {"WANDB_PROJECT": "trial", "WANDB_API_KEY": "planted0" * 5, "WANDB_BASE_URL": "http://127.0.0.1:9"}


def faults(counts: dict[Chain, list[int]], count: int, seed: int) -> list[Fault]:
    """Draw faults: chains and kinds in turn, then a command and one of its changes; half of the commands are trainings."""
    random, drawn = Random(seed), []
    # W&B's being away is the same at every moment, and takes as long as one waits for it.
    kinds = [kind for kind in KINDS if kind != "W&B out of reach"]
    pairs = [(each, kind) for each in counts for kind in kinds if each.ranks > 1 or not kind.endswith("rank lost")]
    pairs += [(each, "W&B out of reach") for each in counts][:1]
    deck: list[tuple[Chain, str]] = []
    while len(drawn) < count:
        deck = deck or random.sample(pairs, len(pairs))
        each, kind = deck.pop()
        trainings = [number for number, command in enumerate(each.commands()) if command[0] == "train"]
        only = kind in ("out of time", "W&B out of reach") or kind.endswith("rank lost")
        some = trainings if only or random.random() < 0.5 else [n for n, total in enumerate(counts[each]) if total]
        command = random.choice(some)
        drawn.append(Fault(each, command, kind, random.randrange(1, counts[each][command] + 1)))
    return drawn


def suffer(before: Path, finished: Path, disk: Path, fault: Fault) -> tuple[str, str]:
    """Let a fault happen to a copy of a chain, give the commands again, and compare.

    Args:
        before: projects as they are before each command, by number.
        finished: the undisturbed chain.
        disk: a folder that is not there yet.
        fault: what happens.

    Returns:
        What became of the command, "arrived", "stopped" or "missed" (the change has not come), or "FAILED"; and what it said.
    """
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)], check=True)
    try:
        return _suffer(before, finished, disk, fault)
    finally:
        for name in ("work/data", "work/results", ""):
            subprocess.run(["umount", "--lazy", str(disk / name)], stderr=subprocess.DEVNULL)


def _suffer(before: Path, finished: Path, disk: Path, fault: Fault) -> tuple[str, str]:
    each, command = fault.chain, fault.chain.commands()[fault.command]
    root = chains.copy(before / str(fault.command), disk / "work")
    note, more = disk.with_suffix(".count"), each.environment()
    note.touch()

    def run(name: str, *arguments: str) -> SimpleNamespace:
        return chains.lt25(root, *arguments, output=disk.with_suffix(f".{name}"), **more)

    go = note.with_suffix(".go")
    away = NOBODY if fault.kind == "W&B out of reach" else {}
    held = chains.Command(
        root, *command, output=disk.with_suffix(".out"), before=partial(hold, fault.at, note), **more, **away
    )
    while not (there := note.with_suffix(".held").exists()) and not held.ended(0.01):
        pass
    second = None
    try:
        if there:
            second = KINDS[fault.kind][1](Trial(root, held, go, lambda: run("second", *command), fault))
    finally:
        go.touch()
    done = held.finish()
    (disk / "filler").unlink(missing_ok=True)
    for name in ("data", "results"):
        subprocess.run(["umount", str(root / name)], stderr=subprocess.DEVNULL)
    for ended in filter(None, (done, second)):
        if wrong := _badly_ended(fault, ended):
            return "FAILED", wrong
    for number, one in enumerate(each.commands()[fault.command :]):
        again = run("again", *one)
        if number == 0 and again.returncode == 2 and len(advice := re.findall(r"`lt25 ([^`]+)`", again.output)) == 1:
            run("advised", *advice[0].split())
            again = run("again", *one)
        if again.returncode:
            return "FAILED", f"lt25 {' '.join(one)}: {again.returncode}: {again.output[-1500:]}"
    for name in each.runs:
        expected, found = chains.outcome(finished, name), chains.outcome(root, name)
        # A signal leaves a checkpoint that no interval asked for.
        steps = expected["train"]["checkpoints"]
        found["train"]["checkpoints"] = [step for step in found["train"]["checkpoints"] if step in steps]
        if different := [key for key in expected if found.get(key) != expected[key]]:
            values = "; ".join(f"{key}: {str(expected[key])[:400]} / {str(found.get(key))[:400]}" for key in different)
            return "FAILED", f"{name} differs silently: {values}"
    said = [line for line in (done.output + (second.output if second else "")).splitlines() if line.startswith("lt25:")]
    return ("missed" if not there else "stopped" if done.returncode else "arrived"), "; ".join(said)


def _badly_ended(fault: Fault, ended: SimpleNamespace) -> str:
    """Say what is wrong with the end of a command that something happened to, "" if nothing is."""
    status, output = ended.returncode, ended.output
    errors = [line for line in output.splitlines() if line.startswith("lt25: error:")]
    shown = f"status {status}: {output[-3000:]}"
    if "Traceback" in output:
        return f"a traceback: {shown}"
    if status == 2:
        return "" if len(errors) == 1 else f"{len(errors)} lines say what is wrong: {shown}"
    by_signal = {"killed": {-9}, "interrupted": {130}, "cancelled": {143, -15}, "out of time": {124}}
    expected = by_signal.get(fault.kind, {137} if fault.kind.endswith("rank lost") else set())
    if fault.kind.endswith("rank lost") and status:
        rank = 0 if fault.kind.startswith("first") else 1
        if f"lt25: process {rank} of this node was ended by SIGKILL: the same command goes on" not in output:
            return f"the rank is not named: {shown}"
    return "" if status in {0, *expected} else f"an end that is not expected: {shown}"


def in_own_namespace() -> None:
    """Start this program again where what it mounts is seen by nobody else and is gone with it."""
    if os.environ.get("LT25_NAMESPACE"):
        return
    owner = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *owner, "--mount", sys.executable, "-m", "tests.faults.interruptions", *sys.argv[1:]]
    os.execvpe("unshare", command, {**os.environ, "LT25_NAMESPACE": "1"})


def table(results: Counter[tuple[str, str]], seed: int) -> str:
    """Return the summary: what happened how often, and what became of the command that it happened to."""
    columns = ("arrived", "stopped", "missed", "FAILED")
    head = "| what happens | times | the command arrives all the same | it stops | it had ended before | wrong in the end |"
    rows = [head, "| --- | --- | --- | --- | --- | --- |"]
    for kind, (what, _) in KINDS.items():
        numbers = [results[kind, column] for column in columns]
        rows.append(f"| {what} | {sum(numbers)} | {' | '.join(map(str, numbers))} |")
    numbers = [sum(count for (_, found), count in results.items() if found == column) for column in columns]
    rows.append(f"| all, seed {seed} | {sum(numbers)} | {' | '.join(map(str, numbers))} |")
    return "\n".join(rows)


def main() -> int:
    """Try faults, print a line for each and a table; return 1 if one failed."""
    parser = argparse.ArgumentParser(description="Let something happen to commands, and see what becomes of it.")
    parser.add_argument("count", type=int, nargs="?", default=200, help="how many faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="how many faults are tried at a time, each on one core")
    parser.add_argument("--like", default="", help="of the faults drawn only those in whose line this stands")
    parser.add_argument("--table", type=Path, metavar="FILE", help="where the table is written, between two marks")
    options = parser.parse_args()
    in_own_namespace()
    results: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="lt25-faults-") as scratch, ThreadPoolExecutor(options.jobs) as pool:
        folder = Path(scratch)
        built = pool.map(lambda each: each.build(folder / each.name, folder / f"before-{each.name}"), CHAINS)
        counts = dict(zip(CHAINS, built, strict=True))

        def attempt(numbered: tuple[int, Fault]) -> tuple[str, str]:
            number, fault = numbered
            disk, name = folder / f"disk-{number}", fault.chain.name
            try:
                return suffer(folder / f"before-{name}", folder / name, disk, fault)
            except Exception:
                return "FAILED", traceback.format_exc()
            finally:
                for left in folder.glob(f"disk-{number}.*"):
                    left.unlink()
                disk.rmdir()

        drawn = [one for one in faults(counts, options.count, options.seed) if options.like in str(one)]
        for fault, (result, why) in zip(drawn, pool.map(attempt, enumerate(drawn)), strict=True):
            results[fault.kind, result] += 1
            print(f"{result:8} {fault}{f': {why}' if why else ''}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    text = table(results, options.seed)
    print(f"\n{text}")
    if options.table:
        replace(options.table, MARK, f"{text}\n")
    return int(any(result == "FAILED" for _, result in results))


if __name__ == "__main__":
    sys.exit(main())
