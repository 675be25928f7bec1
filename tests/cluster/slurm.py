"""A real Slurm of two nodes on this machine, from Debian's packages slurm-wlm and munge: ``with running(folder) as cluster:``.

Everything is below one folder, with ports and keys of its own, but for the link /etc/slurm/slurm.conf: Snakemake's executor
takes SLURM_CONF out of the environment of its steps. Both nodes are daemons on this host, which share its memory and claim more
processors and GPUs than there are. There is no accounting.

    python -m tests.cluster.slurm /tmp/slurm -- sinfo     # runs a command beside a fresh cluster, then takes it down
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from getpass import getuser
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "scontrol")
NODES = ("node1", "node2")
LINK = Path("/etc/slurm/slurm.conf")
"""Where Slurm's commands look for the configuration if no variable names another."""

CPUS, GPUS = 64, 8
"""What each node claims to have; there is no device behind the GPUs."""

SEARCH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONFIG = """\
ClusterName=lt25
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,batch_sched_delay=1,sched_interval=2
SlurmdParameters=config_overrides
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
ReturnToService=2
SlurmdTimeout=20
SlurmctldTimeout=20
InactiveLimit=0
KillWait=5
MinJobAge=600
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=gpu Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def obstacle() -> str:
    """Return why no cluster can be set up on this machine, "" if it can."""
    if lacking := [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]:
        return f"{', '.join(lacking)} missing: on Debian, apt-get install slurm-wlm munge"
    if LINK.is_symlink() and not LINK.exists():
        return ""
    if LINK.exists():
        return f"{LINK} is there: the machine has a Slurm of its own, or another test runs one"
    return "" if os.access(LINK.parent, os.W_OK) else f"{LINK.parent} cannot be written: run as root"


@dataclass
class Cluster:
    """A Slurm that runs.

    Attributes:
        folder: its configuration, state and logs.
        daemons: name -> process: munged, slurmctld and each node's slurmd.
    """

    folder: Path
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which Slurm's commands are found."""
        return {**os.environ, "PATH": SEARCH}

    def call(self, *command: str, environment: Mapping[str, str] | None = None) -> str:
        """Run one of Slurm's commands, in another environment if one is given; return what it prints."""
        done = subprocess.run(command, env=environment or self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def start(self, name: str) -> None:
        """Start a daemon: munged, slurmctld, or the slurmd of the node of that name."""
        conf = str(self.folder / "slurm.conf")
        commands = {
            "munged": [
                "munged",
                "--foreground",
                "--force",
                f"--key-file={self.folder}/munge.key",
                f"--socket={self.folder}/munge.socket",
                f"--pid-file={self.folder}/munged.pid",
                f"--seed-file={self.folder}/munge.seed",
            ],
            "slurmctld": ["slurmctld", "-D", "-f", conf],
        }
        command = commands.get(name, ["slurmd", "-D", "-N", name, "-f", conf])
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                command, env={**self.environment, "SLURM_CONF": conf}, stdout=out, stderr=out, start_new_session=True
            )

    def stop(self, name: str) -> None:
        """Stop a daemon at once, as if its machine had lost its power; jobs on a node are killed with it."""
        daemon = self.daemons.pop(name)
        for process in [daemon.pid, *(_processes_of(name) if name in NODES else [])]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        daemon.wait()

    def wait(self, what: str, true: Callable[[], object], seconds: float = 60) -> None:
        """Wait until ``true()`` is so; it may raise meanwhile what a command of Slurm raises."""
        deadline, error = time.time() + seconds, ""
        while time.time() < deadline:
            try:
                if true():
                    return
            except RuntimeError as problem:
                error = str(problem)
            time.sleep(0.5)
        raise TimeoutError(f"{what}: not so after {seconds:.0f} s {error}; logs are in {self.folder}")

    def idle_nodes(self) -> int:
        return self.call("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T").split().count("idle")


def _processes_of(node: str) -> list[int]:
    """Return the processes of a node's job steps, after Slurm's own that look after them and would report their end."""
    keepers, steps = set(), set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if f"SLURMD_NODENAME={node}".encode() not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            steps.add(int(entry.name))
            parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            if Path("/proc", parent, "comm").read_text().strip() == "slurmstepd":
                keepers.add(int(parent))
        except OSError:
            continue
    return [*keepers, *(steps - keepers)]


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Set up a cluster below ``folder``, which must not exist; take it down, with all jobs, at the end."""
    if problem := obstacle():
        raise RuntimeError(f"no Slurm: {problem}")
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(64))
    ports = _free_ports(1 + len(NODES))
    host = socket.gethostname().split(".")[0]
    # Together the two have what this machine has, so that jobs wait rather than exhaust it.
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 * 9 // 10 // len(NODES)
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory={memory} Gres=gpu:{GPUS}"
        for name, port in zip(NODES, ports[1:], strict=True)
    )
    for number in range(GPUS):
        (folder / f"gpu{number}").touch()
    # Another maker's, so that Slurm tells nobody of devices of CUDA.
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}] Flags=amd_gpu_env\n")
    (folder / "slurm.conf").write_text(
        CONFIG.format(folder=folder, host=host, ports=ports, user=getuser(), nodes=nodes)
    )
    cluster = Cluster(folder)
    # A link that leads nowhere is of a cluster that was killed.
    LINK.unlink(missing_ok=True)
    LINK.symlink_to(folder / "slurm.conf")
    try:
        cluster.start("munged")
        cluster.wait("munge's socket", (folder / "munge.socket").exists)
        for name in ("slurmctld", *NODES):
            cluster.start(name)
        cluster.wait("two idle nodes", lambda: cluster.idle_nodes() == len(NODES))
        yield cluster
    finally:
        for name in [*NODES, "slurmctld", "munged"]:
            if name in cluster.daemons:
                cluster.stop(name)
        LINK.unlink()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    with running(Path(sys.argv[1])) as _cluster:
        sys.exit(subprocess.run(sys.argv[3:], env=_cluster.environment).returncode)
