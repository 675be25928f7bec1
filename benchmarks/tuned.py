"""Collect what Triton's autotuner has found for flash-linear-attention's kernels, for the package to bring along.

    python benchmarks/architectures.py --sides lt25 --caches CACHES      # on the GPU
    python benchmarks/tuned.py CACHES --into lt25/models/tuned/sm90.json

The file has, of each kernel by name, the fastest configuration for each key, which is the sizes and dtypes that the kernel is
tuned for. What it has of other keys stays. Two kernels of one name that have the same key but other parameters are left to the
autotuner.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from lt25.files import write_text


def collect(caches: Path) -> dict[str, list[dict[str, Any]]]:
    """Return, of every kernel by name, keys with their configurations."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    ambiguous = set()
    for path in sorted(caches.rglob("*.autotune.json")):
        kernel, noted = path.name.removesuffix(".autotune.json"), json.loads(path.read_text())
        seconds, config = min(((min(times), one) for one, times in noted["configs_timings"]), key=lambda pair: pair[0])
        if math.isinf(seconds):
            continue
        said = {key: config[key] for key in ("kwargs", "num_warps", "num_ctas", "num_stages", "maxnreg")}
        key = json.dumps(noted["key"])
        earlier = found.setdefault(kernel, {}).setdefault(key, {"key": noted["key"], "config": said})
        if earlier["config"]["kwargs"].keys() != config["kwargs"].keys():
            ambiguous.add((kernel, key))
    for kernel, key in ambiguous:
        del found[kernel][key]
    return {kernel: list(entries.values()) for kernel, entries in found.items() if entries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "caches", type=Path, nargs="+", help="folders with Triton's caches, however deep; the last counts"
    )
    parser.add_argument("--into", type=Path, required=True, help="the file of one kind of GPU")
    options = parser.parse_args()
    known = json.loads(options.into.read_text()) if options.into.is_file() else {}
    for folder in options.caches:
        for kernel, entries in collect(folder).items():
            others = [one for one in known.get(kernel, ()) if one["key"] not in [entry["key"] for entry in entries]]
            known[kernel] = others + entries
    lines = []
    for kernel, entries in sorted(known.items()):
        rows = sorted(json.dumps(entry) for entry in entries)
        lines.append(f" {json.dumps(kernel)}: [\n  " + ",\n  ".join(rows) + "\n ]")
    write_text(options.into, "{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{options.into}: {len(known)} kernels, {sum(map(len, known.values()))} configurations")


if __name__ == "__main__":
    main()
