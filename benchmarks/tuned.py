"""Write down which configurations won where flash-linear-attention's kernels were tuned, for `lt25.models.fla_tuned`.

    python benchmarks/tuned.py CACHE ...        # directories of Triton's cache (TRITON_CACHE_DIR) of trainings on this GPU

A training of lt25 keeps what it has tuned in Triton's cache. This adds the winner of each kernel and key that is not known yet to
lt25/models/tuned/fla_<version>/sm_<capability of this GPU>/<kernel>.json, in flash-linear-attention's format. The format knows a
kernel by its name alone: a name that several kernels have is left out.
"""

import argparse
import ast
import importlib.util
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def named_alike() -> set[str]:
    """Return the names that more than one tuned kernel of flash-linear-attention has."""
    package = Path(importlib.util.find_spec("fla").origin).parent
    names: Counter[str] = Counter()
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and any("autotune" in ast.unparse(d) for d in node.decorator_list):
                names[node.name] += 1
    return {name for name, count in names.items() if count > 1}


def winners(caches: list[Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return kernel -> hash of the key -> key and configuration."""
    from fla.ops.utils.cache import AutotuneKey

    left_out = named_alike()
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file in sorted(file for cache in caches for file in cache.rglob("*.autotune.json")):
        kernel = file.name.removesuffix(".autotune.json")
        if kernel in left_out:
            continue
        tuned = json.loads(file.read_text())
        # Medians, or a median and two quantiles.
        config, _ = min(tuned["configs_timings"], key=lambda timed: np.ravel(timed[1])[0])
        entry = {"autotune_key": tuned["key"], "config": {k: v for k, v in config.items() if k != "pre_hook"}}
        found.setdefault(kernel, {})[AutotuneKey.key_hash(tuned["key"])] = entry
    return found


def main() -> None:
    import triton

    from lt25.models.fla_tuned import folder_of_gpu

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path, help="written into, instead of the one of this GPU")
    options = parser.parse_args()
    folder = options.folder or folder_of_gpu()
    folder.mkdir(parents=True, exist_ok=True)
    for kernel, entries in winners(options.cache).items():
        file = folder / f"{kernel}.json"
        known = json.loads(file.read_text())["autotune_entries"] if file.is_file() else {}
        table = {"kernel_name": kernel, "triton_version": triton.__version__, "autotune_entries": {**entries, **known}}
        file.write_text(json.dumps(table, indent=1) + "\n")
        print(f"{kernel}: {len(entries.keys() - known.keys())} new of {len(table['autotune_entries'])}")


if __name__ == "__main__":
    main()
