"""Collect what Triton's autotuner has found for flash-linear-attention's kernels, for the package to bring along.

    python benchmarks/architectures.py --sides lt25 --caches CACHES      # on the GPU; both must see the same CACHES
    python benchmarks/tuned.py CACHES --into lt25/models/tuned/sm90

Each kernel has a file, in the form in which flash-linear-attention reads it: the fastest configuration for each key, which is the
sizes and dtypes that the kernel is tuned for. What the folder has of other keys stays. Two kernels of one name that have the same
key but other parameters are left to the autotuner, since a file could serve only one of them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import triton
from fla.ops.utils.cache import AutotuneKey

from lt25.files import write_json

KEPT = ("kwargs", "num_warps", "num_ctas", "num_stages", "maxnreg")


def collect(caches: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return, of every kernel by name, entries by the hash of their key."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    ambiguous = set()
    for path in sorted(caches.rglob("*.autotune.json")):
        kernel, noted = path.name.removesuffix(".autotune.json"), json.loads(path.read_text())
        timed = [(min(times), config) for config, times in noted["configs_timings"]]
        seconds, config = min(timed, key=lambda pair: pair[0])
        if seconds == float("inf"):
            continue
        digest = AutotuneKey.key_hash(noted["key"])
        entry = {"autotune_key": noted["key"], "config": {key: config[key] for key in KEPT}}
        earlier = found.setdefault(kernel, {}).setdefault(digest, entry)
        if earlier["config"]["kwargs"].keys() != config["kwargs"].keys():
            ambiguous.add((kernel, digest))
    for kernel, digest in ambiguous:
        del found[kernel][digest]
    return {kernel: entries for kernel, entries in found.items() if entries}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("caches", type=Path, help="a folder with Triton's caches, however deep")
    parser.add_argument("--into", type=Path, required=True, help="the folder of one kind of GPU")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    for kernel, entries in collect(options.caches).items():
        path = options.into / f"{kernel}.json"
        there = json.loads(path.read_text())["autotune_entries"] if path.is_file() else {}
        merged = dict(sorted({**there, **entries}.items()))
        write_json(path, {"kernel_name": kernel, "triton_version": triton.__version__, "autotune_entries": merged})
        print(f"{kernel}: {len(entries)} found, {len(merged)} in {path}")


if __name__ == "__main__":
    main()
