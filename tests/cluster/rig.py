"""What a Slurm of two nodes does to the workflow: ``make cluster``, or ``python -m tests.cluster.rig [--table FILE] [NAME ...]``.

Each scenario sends a tiny chain through ``workflow/profiles/slurm`` and something happens meanwhile. The right result at the end
is that of a run which nothing happened to. With ``--table`` the results replace what stands between two ``<!-- cluster -->``.
"""

import argparse
import atexit
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import psutil
import yaml

from lt25.report.markdown import replace
from tests import tiny
from tests.cluster import slurm
from tests.workflow import chain

# Enough steps that something can happen between them, also where they are fast: half a minute.
STEPS, INTERVAL = 1500, 100
TRAINED = "results/digits/train.json"
MARK = "<!-- cluster -->"
_HEAD = ("| scenario | result | seconds |", "| --- | --- | --- |")


def prepared(root: Path) -> Path:
    """Make a project whose experiment ``digits`` is prepared and long enough for something to happen to it."""
    root.mkdir(parents=True)
    chain.project(root)
    training = {"steps": STEPS, "local_batch_size": 32}
    options = {
        "debug": {"deterministic": True},
        "checkpoint": {"interval": INTERVAL},
        "metrics": {"log_freq": INTERVAL},
    }
    chain.write_experiment(root, "digits", "classification", training=training, **options)
    done = chain.snakemake(root, "results/digits/job.toml")
    assert done.returncode == 0, done.stdout
    return root


def profile(root: Path, nodes: int = 1, **train: Any) -> str:
    """Write the profile for this cluster, which has no accounts and little memory; ``train``: resources of the training."""
    settings = yaml.safe_load((root / "workflow/profiles/slurm/config.yaml").read_text())
    settings |= {
        "slurm-no-account": True,
        "slurm-status-command": "squeue",
        "slurm-init-seconds-before-status-checks": 1,
        "latency-wait": 10,
    }
    resources = settings["set-resources"]
    for rule in resources.values():
        rule["mem_mb"] = 2500
    resources["train_model"] |= {"nodes": nodes, "gpu": nodes, **train}
    folder = root / "workflow" / "profiles" / "test"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return str(folder.relative_to(root))


class Run:
    """A snakemake that sends its jobs to the cluster, in the background; it ends with this process at the latest."""

    def __init__(self, root: Path, *targets: str, nodes: int = 1, **train: Any) -> None:
        command = [str(Path(sys.executable).parent / "snakemake"), "--profile", profile(root, nodes, **train), *targets]
        self.root, self.log = root, root / "snakemake.log"
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=root, env=tiny.environment(PATH=path), stdout=log, stderr=log, start_new_session=True
            )
        atexit.register(self.process.kill)

    def finish(self, seconds: float = 1500) -> str:
        """Wait for its end, which has to be a good one; return what it printed."""
        status = self.process.wait(seconds)
        assert status == 0, f"snakemake ended with {status}: {self.log.read_text()[-4000:]}"
        return self.log.read_text()

    def jobs(self, seconds: float = 1500) -> int:
        """Wait for its end, which has to be a good one; return how many jobs it has sent."""
        return self.finish(seconds).count("has been submitted with SLURM jobid")


def until(what: str, true: Callable[[], object], seconds: float = 600) -> None:
    """Wait until something is so."""
    deadline = time.time() + seconds
    while not true():
        assert time.time() < deadline, f"{what}: not so after {seconds:.0f} s"
        time.sleep(0.2)


def checkpoints(root: Path) -> list[int]:
    """Return the steps of whole checkpoints of ``digits``."""
    found = (root / "results" / "digits").glob("runs/*/checkpoints/step-*/manifest.json")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in found)


def history(root: Path) -> list[tuple[int, float]]:
    """Return the steps and losses that the run of ``digits`` has recorded."""
    (file,) = (root / "results" / "digits").glob("runs/*/metrics.jsonl")
    return [(line["step"], line["loss"]) for line in map(json.loads, file.read_text().splitlines()) if "loss" in line]


def job(cluster: slurm.Cluster) -> tuple[str, str, str]:
    """Return number, state and nodes of the one training job that is queued or runs."""
    (line,) = cluster.call("squeue", "-h", "-p", "gpu", "-o", "%i %T %N").splitlines()
    number, state, *nodes = line.split()
    return number, state, nodes[0] if nodes else ""


def restarts(cluster: slurm.Cluster, number: str) -> int:
    shown = cluster.call("scontrol", "show", "job", number)
    return int(shown.split("Restarts=")[1].split()[0])


class Scenarios:
    """Each public method is one; it returns what was seen, a phrase for the table.

    Args:
        cluster: runs, with both nodes idle.
        folder: for projects.
    """

    def __init__(self, cluster: slurm.Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder

    @cached_property
    def _original(self) -> Path:
        return prepared(self.folder / "original")

    def _undisturbed(self, ranks: int) -> list[tuple[int, float]]:
        """Return the losses of a run on this machine, without Slurm."""
        root = self.folder / f"reference-{ranks}"
        if not (root / TRAINED).is_file():
            done = chain.run(self._project(root.name), "lt25", "train", "digits", NGPU=str(ranks))
            assert done.returncode == 0, done.stdout
        return history(root)

    def _project(self, name: str) -> Path:
        return Path(shutil.copytree(self._original, self.folder / name, symlinks=True))

    def _training(self, name: str, **train: Any) -> tuple[Path, Run, str, str]:
        """Have a project's experiment trained by a job, up to the first checkpoint.

        Returns:
            The project, its snakemake, and the number and the node of the job.
        """
        root = self._project(name)
        run = Run(root, TRAINED, **train)
        self._gone_on(root, run, 0)
        number, _, node = job(self.cluster)
        return root, run, number, node

    def _requeued(self, number: str) -> None:
        until("requeued", lambda: restarts(self.cluster, number) == 1)

    def _arrived(self, root: Path, ranks: int = 1) -> None:
        assert json.loads((root / TRAINED).read_text())["steps"] == STEPS
        assert history(root) == self._undisturbed(ranks), "other losses than the undisturbed run"

    def _stopped_with(self, line: str, root: Path, run: Run) -> None:
        """Wait until the job has failed, which has to be said in a line of its log, with nothing of Python's."""
        assert run.process.wait(600) == 1, run.log.read_text()[-4000:]
        said = "".join(file.read_text() for file in (root / ".snakemake" / "slurm_logs").rglob("*.log"))
        assert line in said and "Traceback" not in said, said[-4000:]

    def _stopped_by_the_signal(self, root: Path, run: Run, seen: int) -> str:
        run.finish()
        self._arrived(root)
        assert seen % INTERVAL, f"step {seen} is no step at which one is saved anyway"
        return f"checkpoint of step {seen} on the signal, requeued, same losses"

    def the_whole_chain(self) -> str:
        """Three experiments, from data to report, every job on the cluster."""
        root = self.folder / "whole"
        root.mkdir()
        chain.project(root)
        jobs = Run(root).jobs()
        assert (root / "results" / "report.html").is_file()
        assert chain.NOTHING in chain.snakemake(root, "--dry-run").stdout
        return f"{jobs} jobs, then nothing to be done"

    def two_nodes(self) -> str:
        """Two nodes train what one node trains with as many processes."""
        losses = {}
        for nodes in (1, 2):
            root = self._project(f"nodes-{nodes}")
            chain.write_experiment(
                root,
                "digits",
                "classification",
                debug={"deterministic": True},
                training={"steps": 50},
                metrics={"log_freq": 1},
            )
            Run(root, TRAINED, nodes=nodes, gpu=2).finish()
            losses[nodes] = history(root)
            assert json.loads((root / TRAINED).read_text())["world_size"] == 2
        assert losses[1] == losses[2]
        return f"{len(losses[1])} recorded losses are equal bit for bit"

    def a_killed_node(self) -> str:
        """The node on which training runs loses its power."""
        root, run, number, node = self._training("node")
        self.cluster.stop(node)
        seen = checkpoints(root)[-1]
        self._requeued(number)
        run.finish()
        self._arrived(root)
        self.cluster.start(node)
        return f"stopped after step {seen}, requeued on the other node, same losses"

    def the_time_limit(self) -> str:
        """A job's time is up before its training has arrived."""
        root, run, number, _ = self._training("limit", runtime=60, slurm_extra="'--signal=USR1@600'")
        # Now less is left than what the signal goes ahead by.
        self.cluster.call("scontrol", "update", f"JobId={number}", "TimeLimit=5")
        self._requeued(number)
        seen = checkpoints(root)[-1]
        self.cluster.call("scontrol", "update", f"JobId={number}", "TimeLimit=60")
        return self._stopped_by_the_signal(root, run, seen)

    def preemption(self) -> str:
        """A job of a higher partition takes both nodes."""
        root, run, number, _ = self._training("preempted")
        self.cluster.call("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
        self._requeued(number)
        return self._stopped_by_the_signal(root, run, checkpoints(root)[-1])

    def a_stopped_controller(self) -> str:
        """slurmctld is killed while a job runs, and comes back half a minute later."""
        root, run, *_ = self._training("controller")
        self.cluster.stop("slurmctld")
        time.sleep(30)
        self.cluster.start("slurmctld")
        run.finish()
        self._arrived(root)
        return "the run went on, same losses"

    def a_killed_snakemake(self) -> str:
        """The snakemake that sent the jobs is killed, and the same command is given again."""
        root, run, *_ = self._training("snakemake")
        run.process.kill()
        run.process.wait()
        Run(root, TRAINED).finish()
        self._arrived(root)
        return "the second waited for the first's trainer, same losses"

    def a_cancelled_job(self) -> str:
        """Somebody cancels the training, and the same command is given again."""
        root, run, number, _ = self._training("cancelled")
        self.cluster.call("scancel", number)
        status = run.process.wait(600)
        assert status == 1 and "status is: 'CANCELLED'" in run.log.read_text(), run.log.read_text()[-4000:]
        Run(root, TRAINED).finish()
        self._arrived(root)
        return "snakemake says CANCELLED; the same command goes on, same losses"

    def a_lost_rank(self) -> str:
        """One of the two processes that train is killed, and the same command is given again."""
        root, run, *_ = self._training("rank", gpu=2)
        (lost,) = (one for one in psutil.process_iter() if _is_rank(one, 1, root))
        lost.kill()
        self._stopped_with("process 1 of this node was ended by SIGKILL: the same command goes on", root, run)
        Run(root, TRAINED, gpu=2).finish()
        self._arrived(root, ranks=2)
        return "the job's log names the process; the same command goes on, same losses"

    def a_read_only_disk(self) -> str:
        """The disk with the results is read-only for a while, and the same command is given again after that."""
        root, run, *_ = self._training("read-only")
        folder = str(root / "results")
        subprocess.run(["mount", "--bind", folder, folder], check=True)
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
            self._stopped_with("the disk is read-only: make it writable", root, run)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
        Run(root, TRAINED).finish()
        self._arrived(root)
        return "the job's log says so in a line; the same command goes on, same losses"

    def several_faults(self) -> str:
        """Six faults, which seed 0 draws, happen to one training, one after another."""
        root, random, happened = self._project("several"), Random(0), Counter()
        kinds = [self._the_trainer_is_killed, self._it_is_cancelled, self._its_time_is_up]
        kinds += [self._its_node_dies, self._the_controller_is_killed]
        run = Run(root, TRAINED)
        for _ in range(6):
            self._gone_on(root, run, max(checkpoints(root), default=0))
            time.sleep(random.random())
            number, _, node = job(self.cluster)
            strike = random.choice(kinds)
            happened[strike.__name__.strip("_").replace("_", " ")] += 1
            if strike(root, number, node):
                assert run.process.wait(600) == 1, run.log.read_text()[-4000:]
                run = Run(root, TRAINED)
        run.finish()
        self._arrived(root)
        return f"{', '.join(f'{kind} ({count})' for kind, count in happened.items())}; same losses"

    def _gone_on(self, root: Path, run: Run, step: int) -> None:
        """Wait for a checkpoint after a step."""
        until("a checkpoint", lambda: max(checkpoints(root), default=0) > step or run.process.poll() is not None)
        assert run.process.poll() is None, f"it ended before anything happened to it: {run.log.read_text()[-4000:]}"

    # Of these, those that return True end the job, and so the snakemake that has sent it.

    def _the_trainer_is_killed(self, root: Path, number: str, node: str) -> bool:
        (lock,) = (root / "results" / "digits").glob("runs/*/lock.json")
        psutil.Process(json.loads(lock.read_text())["pid"]).kill()
        return True

    def _it_is_cancelled(self, root: Path, number: str, node: str) -> bool:
        self.cluster.call("scancel", number)
        return True

    def _its_time_is_up(self, root: Path, number: str, node: str) -> bool:
        before = restarts(self.cluster, number)
        self.cluster.call("scancel", "--signal=USR1", number)
        until("requeued", lambda: restarts(self.cluster, number) > before)
        return False

    def _its_node_dies(self, root: Path, number: str, node: str) -> bool:
        before = restarts(self.cluster, number)
        self.cluster.stop(node)
        until("requeued", lambda: restarts(self.cluster, number) > before)
        self.cluster.start(node)
        return False

    def _the_controller_is_killed(self, root: Path, number: str, node: str) -> bool:
        self.cluster.stop("slurmctld")
        time.sleep(5)
        self.cluster.start("slurmctld")
        self.cluster.wait("the controller", lambda: self.cluster.call("squeue", "-h"))
        return False

    def a_second_snakemake(self) -> str:
        """A colleague gives the same command in the same folder meanwhile."""
        root, run, *_ = self._training("second")
        second = chain.snakemake(root, "--profile", "workflow/profiles/test", TRAINED)
        assert second.returncode == 1 and "Directory cannot be locked" in second.stdout, second.stdout
        run.finish()
        self._arrived(root)
        return "the second says that the folder is locked; the first goes on, same losses"

    def a_colleagues_morning(self) -> str:
        """A colleague clones, pulls, changes a seed and runs on two nodes."""
        built = self.folder / "built"
        built.mkdir()
        chain.project(built)
        settings = {"experiments": ["digits"], "learning_curves": True}
        (built / "config" / "config.yaml").write_text(yaml.safe_dump(settings))
        chain.repository(built)
        for command in (("dvc", "remote", "add", "--default", "folder", str(self.folder / "remote")), ("snakemake",)):
            done = chain.run(built, *command)
            assert done.returncode == 0, done.stdout
        clone = chain.hand_on(built, self.folder / "clone")
        before = json.loads((clone / "results/digits/evaluation/headline.json").read_text())
        chain.write_experiment(clone, "digits", "classification", debug={"seed": 1})
        jobs = Run(clone, nodes=2, gpu=2).jobs()
        assert json.loads((clone / TRAINED).read_text())["world_size"] == 2
        planned = chain.snakemake(clone, "--dry-run")
        assert chain.NOTHING in planned.stdout, planned.stdout
        after = json.loads((clone / "results/digits/evaluation/headline.json").read_text())
        told = json.loads(chain.run(clone, "dvc", "metrics", "diff", "--json", "--all").stdout)
        both = told["results/digits/evaluation/headline.json"]["test.accuracy_percent"]
        assert (both["old"], both["new"]) == (before["test"]["accuracy_percent"], after["test"]["accuracy_percent"])
        return f"nothing to do at first; {jobs} jobs; dvc metrics diff shows {both['old']} % and {both['new']} %"

    def forty_experiments(self) -> str:
        """Forty experiments that share their data are queued at once."""
        root = self._project("forty")
        names = [f"digits-{number}" for number in range(40)]
        for number, name in enumerate(names):
            chain.write_experiment(root, name, "classification", debug={"seed": number})
        started = time.time()
        jobs = Run(root, *(f"results/{name}/train.json" for name in names)).jobs(5400)
        losses = {json.loads((root / "results" / name / "train.json").read_text())["loss"] for name in names}
        assert len(losses) > 1
        return f"{jobs} jobs in {time.time() - started:.0f} s"


def _is_rank(process: psutil.Process, rank: int, root: Path) -> bool:
    """Whether a process is one that trains in a project, of that rank."""
    try:
        return process.cwd() == str(root) and process.environ().get("RANK") == str(rank)
    except psutil.Error:
        return False


NAMES = [name for name in vars(Scenarios) if not name.startswith("_")]


def main() -> int:
    """Run scenarios, print a table; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--table", type=Path, metavar="FILE", help="where the results are written, between two marks")
    options = parser.parse_args()
    if problem := slurm.obstacle():
        print(f"no Slurm can be set up here: {problem}", file=sys.stderr)
        return 2
    rows, failed = _rows(options.table) if options.table else {}, False
    with tempfile.TemporaryDirectory(prefix="lt25-cluster-") as folder, slurm.running(Path(folder, "slurm")) as cluster:
        scenarios = Scenarios(cluster, Path(folder))
        for name in options.names or NAMES:
            started = time.time()
            until("two idle nodes", lambda: cluster.idle_nodes() == len(slurm.NODES))
            what = getattr(Scenarios, name).__doc__
            try:
                result = getattr(scenarios, name)()
            except Exception as error:
                result, failed = f"FAILED: {' '.join(str(error).split())[:300]}", True
                cluster.call("scancel", "--user", slurm.getuser())
                print(error, file=sys.stderr)
            rows[what] = f"| {what} | {result} | {time.time() - started:.0f} |"
            print(rows[what], flush=True)
            if options.table:
                replace(options.table, MARK, "\n".join([*_HEAD, *rows.values(), ""]))
    return int(failed)


def _rows(file: Path) -> dict[str, str]:
    """Return the rows of a file's table by scenario: those of which nothing is run stay as they are."""
    lines = file.read_text().split(MARK)[1].strip().splitlines()
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines[len(_HEAD) :]}


if __name__ == "__main__":
    sys.exit(main())
