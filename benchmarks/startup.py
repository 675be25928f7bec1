"""How long commands take to start: ``python benchmarks/startup.py`` in the project, after `make demo`.

Prints a Markdown table: seconds of a quiet machine, the least of the runs that fit into two minutes, and the same in units of
``python -c "import torch"``, by which machines compare. What has not been made yet is left out.
"""

import subprocess
import sys
import time
from pathlib import Path

SECONDS = 120
BIN = Path(sys.executable).parent
COMMANDS = (
    ("python", "-c", "import torch"),
    ("python", "-c", "import lt25.training.__main__"),
    ("lt25", "--help"),
    ("lt25", "export", "nosuch"),
    ("lt25", "export", "digits"),
    ("lt25", "evaluate", "digits"),
    ("lt25", "evaluate", "digits", "--export", "--step", "100", "200", "300"),
    ("lt25", "report", "digits", "--output", "results/startup.html"),
    ("snakemake", "--dry-run", "--quiet", "all"),
)
REFUSED = ("lt25", "export", "nosuch")


def measure(command: tuple[str, ...]) -> float | None:
    """Return the seconds that a command takes, or None if it does not succeed (where it should)."""
    started = time.perf_counter()
    done = subprocess.run([str(BIN / command[0]), *command[1:]], capture_output=True)
    return time.perf_counter() - started if (done.returncode == 0) == (command != REFUSED) else None


def main() -> None:
    """Measure every command in turn, as often as the time allows, and print the table."""
    deadline, times = time.perf_counter() + SECONDS, {command: [] for command in COMMANDS}
    while time.perf_counter() < deadline:
        for command in times:
            if time.perf_counter() < deadline and (seconds := measure(command)) is not None:
                times[command].append(seconds)
    Path("results/startup.html").unlink(missing_ok=True)
    torch = min(times[COMMANDS[0]])
    print("| command | seconds | imports of torch |\n| --- | --- | --- |")
    for command, runs in times.items():
        if runs:
            print(f"| `{' '.join(command)}` | {min(runs):.2f} | {min(runs) / torch:.2f} |")


if __name__ == "__main__":
    main()
