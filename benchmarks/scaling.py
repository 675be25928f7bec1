"""Trainings on one GPU and on several of one host, by every kind of parallelism: speed, memory, communication, losses.

    python benchmarks/scaling.py [--gpus 4] [--only hgrn,gla,transformer,hgrn_1.3b,demo,context] [--seconds 570] [--json FILE]
    python benchmarks/scaling.py --gpus 4 --only hgrn --small      # small models on a CPU, by gloo
    python benchmarks/scaling.py --show FILE ... [--picture FILE.png]  # the tables of files that --json wrote

Each row is a run of the trainer as a user starts it, in bfloat16. Language models have a vocabulary of 32,000 and train on 8 x
4096 random tokens for each GPU, so a step is larger on more GPUs. DDP, FSDP2 and HSDP share the windows out; with TP or PP a
model is on two GPUs or more, and its windows are those of these GPUs together. The losses of a mesh must be those of one GPU that
takes the same windows one batch after the other ("one GPU, 4 batches"), to 1e-3 in bfloat16. ``demo`` are networks of the
sizes of the demonstration's experiments with the batch of one GPU on each; ``context`` is HGRN on one window of a million tokens,
every layer computed again in the backward pass, beside one GPU on its part of it.

A row says tokens (steps of input) a second over all GPUs in the middle of the run, how many times that is of one GPU, and on
paper (paper.py, which knows no host), MFU as in architectures.py, the peak of memory on the first GPU, and from a trace of the
last step how much of it the first GPU spends in NCCL's kernels, in all and while nothing else runs. Rows that need fewer GPUs
than there are run side by side; with ``--small`` all run one after another, half a minute each or, with eight processes, two.
What does not fit into ``--seconds`` is left out and named.
"""

import argparse
import gzip
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paper
import trainings
from architectures import PEAK, describe, read_config
from step import REPOSITORY, Case, Variant, write_job, write_project

sys.path.insert(0, str(REPOSITORY))

WINDOWS, LENGTH, LONG = 8, 4096, 2**20
# Ten losses; the speed is that of the steps between, and the last is traced.
STEPS, EVERY, FROM, TO = 20, 2, 8, 16
# With fewer seconds left a row does not begin.
LEAST = 20
REPLICAS, SHARDS = "data_parallel_replicate_degree", "data_parallel_shard_degree"
GATHERED = "fsdp_reshard_after_forward"
TENSOR, PIPELINE, CONTEXT = (f"{kind}_parallel_degree" for kind in ("tensor", "pipeline", "context"))


@dataclass(frozen=True)
class Row:
    """A training.

    Attributes:
        model: one of `NETWORKS`.
        name: of the mesh.
        gpus: how many.
        degrees: of parallelism, those that it lacks are 1, and further keys of that section.
        windows: of a micro-batch, on each GPU that reads data of its own.
        batch: windows of a step, over all GPUs.
        length: tokens of a window.
        settings: further sections of the job.
        change: of the trainer, see `program`.
    """

    model: str
    name: str
    gpus: int
    degrees: dict[str, Any] = field(default_factory=dict)
    windows: int = WINDOWS
    batch: int = WINDOWS
    length: int = LENGTH
    settings: dict[str, Any] = field(default_factory=dict)
    change: str = ""


def program(change: str = "") -> tuple[str, ...]:
    """Return arguments of Python: the trainer with a change, which waits for a file ``begin`` once it is imported."""
    return ("-c", f"{_IMPORTED}{change}{_TRAINED}")


_IMPORTED = """
import os, sys, time
import lt25.training.__main__ as main
from lt25.training import parallelize, trainer
torch = main.torch
"""
_TRAINED = """
torch.set_float32_matmul_precision("high")
while not os.path.exists("begin"):
    time.sleep(0.02)
sys.exit(main.main())
"""
# FSDP2 gathers every layer by itself, or in smaller groups than it does.
LAYER_BY_LAYER, IN_GROUPS = (f"parallelize.UNIT = {elements}\n" for elements in (1, 2**25))
# A step of FSDP2 is recorded as a CUDA graph. Its streams begin with the step and end with it, as what is recorded must.
RECORDED = """
update = trainer.Trainer.update_weights
def joined(self, batches):
    own, here = self.model_parts[0]._get_fsdp_state()._comm_ctx, torch.cuda.current_stream()
    names = ("all_gather_copy_in_stream", "all_gather_stream", "reduce_scatter_stream", "all_reduce_stream")
    streams = [getattr(own, name) for name in names]
    for stream in streams:
        stream.wait_stream(here)
    results = update(self, batches)
    for stream in streams:
        here.wait_stream(stream)
    return results
if main.DEVICE_TYPE == "cuda":
    trainer.Trainer.update_weights = joined
    trainer.can_replay = lambda job: True
"""

# A micro-batch of the larger model is smaller: all of it must fit into one GPU.
NETWORKS = {"hgrn": WINDOWS, "gla": WINDOWS, "transformer": WINDOWS, "hgrn_1.3b": 2}
DEMO = ("digits", "fsdd", "stdlib-lm")
ONE = "one GPU"


def sharded(model: str, gpus: int, how: str = "", **options: Any) -> Row:
    """A training whose state is shared out over all GPUs."""
    name = f"FSDP2 {gpus}, {how}" if how else f"FSDP2 {gpus}"
    return Row(model, name, gpus, {SHARDS: gpus}, NETWORKS[model], WINDOWS * gpus, **options)


def replicated(model: str, gpus: int) -> Row:
    """A training whose model is on every GPU."""
    return Row(model, f"DDP {gpus}", gpus, {REPLICAS: gpus}, NETWORKS[model], WINDOWS * gpus)


def rows(gpus: int) -> list[Row]:
    """Return all rows for so many GPUs, 2, 4 or 8, the most telling first."""
    batch, half = WINDOWS * gpus, gpus // 2
    compiled = {"compile": {"enable": True, "components": ["model"]}}
    # What is recorded may not ask for the state of the generator, and these models draw no random numbers.
    no_state = {"activation_checkpoint": {"mode": "full", "preserve_rng_state": False}}

    def split(name: str, kind: str, degree: int, windows: int) -> Row:
        shards = gpus // degree
        beside = f" x FSDP2 {shards}" if shards > 1 else ""
        return Row("hgrn", f"{name} {degree}{beside}", gpus, {kind: degree, SHARDS: shards}, windows, batch)

    # The first step of gla takes long: beside it, on more than two GPUs, runs what needs one.
    found = [Row(model, ONE, 1, {}, NETWORKS[model]) for model in ("gla", "hgrn")]
    found += [Row("hgrn", f"one GPU, {gpus} batches", 1, {}, WINDOWS, batch)]
    found += [Row(name, ONE, 1) for name in DEMO]
    found += [sharded("hgrn", gpus), sharded("hgrn", gpus, "recorded", change=RECORDED), replicated("hgrn", gpus)]
    found += [sharded("gla", gpus), *(Row(name, f"by default, {gpus}", gpus) for name in DEMO)]
    found += [Row("hgrn", f"FSDP2 {gpus}, gathered once", gpus, {SHARDS: gpus, GATHERED: "never"}, WINDOWS, batch)]
    found += [sharded("hgrn", gpus, "compiled", settings=compiled), replicated("gla", gpus)]
    # Nothing runs beside it.
    found += [sharded("hgrn", 2, "alone")] if gpus > 2 else []
    found += [split("TP", TENSOR, 4, 4 * WINDOWS), split("PP", PIPELINE, 4, 2)] if gpus > 2 else []
    found += [sharded("hgrn", gpus, "in groups of 32 M", change=IN_GROUPS)]
    found += [sharded("hgrn", gpus, "layer by layer", change=LAYER_BY_LAYER)]
    found += [Row("hgrn_1.3b", ONE, 1, {}, NETWORKS["hgrn_1.3b"]), Row("transformer", ONE, 1)]
    found += [Row("transformer", f"one GPU, {gpus} batches", 1, {}, WINDOWS, batch)]
    found += [sharded("hgrn_1.3b", gpus), sharded("hgrn_1.3b", gpus, "recorded", change=RECORDED, settings=no_state)]
    found += [Row("hgrn", f"HSDP 2 x {half}", gpus, {REPLICAS: 2, SHARDS: half}, WINDOWS, batch)] if gpus > 2 else []
    found += [split("TP", TENSOR, 2, 2 * WINDOWS), split("PP", PIPELINE, 2, 2)]
    found += [sharded("transformer", gpus), replicated("transformer", gpus)]
    found += [
        Row("context", ONE, 1, {}, 1, 1, LONG // gpus),
        Row("gla", f"one GPU, {gpus} batches", 1, {}, WINDOWS, batch),
    ]
    found += [sharded("hgrn", 2), replicated("hgrn", 2)] if gpus > 2 else []
    return [*found, Row("context", f"CP {gpus}", gpus, {CONTEXT: gpus}, 1, 1, LONG)]


def config_of(row: Row, small: bool) -> dict[str, Any]:
    """Return the fields of a row's config.json."""
    if row.model in ("gla", "transformer") or small:
        return read_config("hgrn" if row.model in ("hgrn_1.3b", "context") else row.model, "lt25", small)
    config = read_config("hgrn", "lt25", small)
    if row.model == "hgrn_1.3b":
        config["hidden_size"] = json.loads((REPOSITORY / "config/models/hgrn_1.3b.json").read_text())["hidden_size"]
    return {**config, "use_short_conv": True, "vocab_size": 1024} if row.model == "context" else config


def write(folder: Path, row: Row, small: bool) -> tuple[Path, dict[str, Any] | None]:
    """Write a row's data and job; return the job's file, and the config of a language model of `NETWORKS`."""
    import torch

    metrics = {"log_freq": EVERY}
    if row.model in DEMO:
        case, task, base, steps = demo(row.model)
        settings = {"training": {"mixed_precision_param": "bfloat16"}, "optimizer": {"lr": 1e-3}}
        steps = STEPS if small else steps
        return write_project(folder, case, steps, Variant(task, settings, base)), None
    config, length = config_of(row, small), row.length // 64 if small else row.length
    # Rows are written at the same time, so each draws from a generator of its own.
    own = torch.Generator().manual_seed(0)
    drawn = torch.randint(3, config["vocab_size"], (8 * row.batch * length,), generator=own, dtype=torch.int32)
    training: dict[str, Any] = {
        "steps": STEPS,
        "local_batch_size": row.windows,
        "global_batch_size": row.batch,
        "seq_len": length,
    }
    training["mixed_precision_param"] = "float32" if small else "bfloat16"
    profiling = {"enable_profiling": True, "profile_freq": STEPS, "profiler_active": 1, "profiler_warmup": 2}
    if row.model == "context":
        training |= {"steps": 8, "varlen": False}
        metrics, profiling = {"log_freq": 2}, {"enable_profiling": False}
    settings = {"training": training, "optimizer": {"lr": 1e-4}, "metrics": metrics, "profiling": profiling}
    if row.model in ("context", "hgrn_1.3b"):
        settings["activation_checkpoint"] = {"mode": "full"}
    degrees = {REPLICAS: 1, SHARDS: 1, TENSOR: 1, PIPELINE: 1, CONTEXT: 1} | row.degrees
    settings = {**settings, **row.settings, "parallelism": degrees}
    tensors = {"inputs": drawn, "input_offsets": torch.tensor([0, len(drawn)])}
    return write_job(folder, "language_modeling", tensors, config, settings), config


def demo(name: str) -> tuple[Case, str, dict[str, Any], int]:
    """Return size, task, further fields of the model, and steps of one of the demonstration's experiments."""
    if name == "digits":
        case = Case(hidden=64, layers=4, batch=64, steps=64, channels=1, classes=10)
        return case, "classification", _base("hgrn_classifier_tiny"), 900
    if name == "fsdd":
        case = Case(hidden=128, layers=4, batch=32, steps=50, channels=40, classes=20, labels=5)
        return case, "speech_recognition", _base("hgrn_ctc_tiny"), 900
    case = Case(hidden=256, layers=3, batch=4, steps=256, channels=0, classes=2048)
    return case, "language_modeling", _base("hgrn_lm_tiny"), 900


def _base(name: str) -> dict[str, Any]:
    fields = json.loads((REPOSITORY / "config" / "models" / f"{name}.json").read_text())
    left_out = ("model_type", "architectures", "dropout", "hidden_size", "num_hidden_layers", "vocab_size")
    return {key: value for key, value in fields.items() if key not in left_out}


def measure(row: Row, devices: list[int], begin: Callable[[], float], options: argparse.Namespace) -> dict[str, Any]:
    """Run a row, as soon as ``begin`` returns how long it may take; return what is measured, or an error."""
    small = options.small
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        job, config = write(folder, row, small)
        degrees = {} if row.model in DEMO else row.degrees
        try:
            places = None if small else devices
            records, _ = trainings.train(job, row.gpus, degrees, 0, places, program(row.change), begin)
        except trainings.Failed as error:
            return {"error": str(error)}
        found: dict[str, Any] = {"memory_gib": max(record["memory_gib"] for record in records)}
        found["losses"] = [record["loss"] for record in records]
        if config is None or row.model == "context":
            found["per_second"] = records[-1]["positions_per_second"]
            return found
        seconds = {record["step"]: record["seconds"] for record in records}
        tokens = row.batch * (row.length // 64 if small else row.length)
        found["per_second"] = tokens * (TO - FROM) / (seconds[TO] - seconds[FROM])
        found["step_s"] = [
            round((seconds[n] - seconds[n - EVERY]) / EVERY, 4) for n in range(2 * EVERY, STEPS + 1, EVERY)
        ]
        parameters, operations = describe(config, row.length)
        found |= {"parameters": parameters, "operations": operations}
        # On a CPU a trace has no kernels.
        if trace := next(folder.rglob("rank0_trace.json"), None):
            found |= communication(trace)
            if options.traces:
                kept = options.traces / f"{row.model}-{row.name}.json.gz".replace(" ", "-").replace(",", "")
                kept.write_bytes(gzip.compress(trace.read_bytes(), 3))
        return found


def communication(trace: Path) -> dict[str, float]:
    """Return which part of the traced time NCCL's kernels run: in all, ``nccl``, and with nothing beside them, ``exposed``."""
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("cat") == "kernel"]
    spans = {True: [], False: []}
    for event in events:
        spans["nccl" in event["name"].lower()].append((event["ts"], event["ts"] + event["dur"]))
    everything = union(spans[True] + spans[False])
    if not everything:
        return {}
    whole = everything[-1][1] - everything[0][0]
    busy = sum(end - begin for begin, end in everything)
    alone = busy - sum(end - begin for begin, end in union(spans[False]))
    sending = sum(end - begin for begin, end in union(spans[True]))
    return {"nccl": sending / whole, "exposed": alone / whole, "idle": 1 - busy / whole, "kernels": len(events)}


def union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the union of intervals, as intervals that do not meet."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def run(chosen: list[Row], gpus: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run rows, each as soon as there are GPUs for it, and write what is known after each.

    Each GPU brings its share of the cores. Whoever waits for all GPUs imports meanwhile.
    """
    end, free, done = time.perf_counter() + options.seconds, set(range(gpus)), []
    ready, cores = threading.Condition(), sorted(os.sched_getaffinity(0))
    share = max(len(cores) // gpus, 1)

    def work(row: Row, devices: list[int], begins: threading.Event) -> None:
        # Holds for what this thread starts.
        os.sched_setaffinity(0, {cores[(device * share + n) % len(cores)] for device in devices for n in range(share)})
        started = end

        def begin() -> float:
            nonlocal started
            begins.wait()
            started = time.perf_counter()
            left = end - started if end - started >= LEAST else 0
            return left if options.small else min(left, 150)

        found = {"model": row.model, "mesh": row.name, "gpus": row.gpus, "tokens": row.batch * row.length}
        try:
            found |= measure(row, devices, begin, options)
        except Exception as error:
            found["error"] = f"{type(error).__name__}: {error}"[:300]
        begins.wait()
        found["took_s"] = round(time.perf_counter() - started, 1)
        with ready:
            free.update(devices)
            done.append(found)
            keep(done, options)
            print(line(found), flush=True)
            ready.notify()

    threads = []
    for row in chosen:
        needed, begins = gpus if options.small or "alone" in row.name else row.gpus, threading.Event()
        if end - time.perf_counter() < LEAST:
            done.append({"model": row.model, "mesh": row.name, "gpus": row.gpus, "error": "left out: no time left"})
            continue
        if needed == gpus:
            threads.append(threading.Thread(target=work, args=(row, list(range(gpus)), begins), daemon=True))
            threads[-1].start()
        with ready:
            ready.wait_for(lambda needed=needed: len(free) >= needed)
            devices = sorted(free)[:needed]
            free.difference_update(devices)
        if needed < gpus:
            threads.append(threading.Thread(target=work, args=(row, devices, begins), daemon=True))
            threads[-1].start()
        begins.set()
    for thread in threads:
        thread.join()
    keep(done, options)
    return done


def keep(done: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write the rows so far."""
    if options.json:
        draft = options.json.with_suffix(".part")
        draft.write_text(json.dumps(done, indent=1) + "\n")
        draft.replace(options.json)


def compared(done: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each row how it compares.

    Args:
        done: rows; each gets ``times`` one GPU, ``predicted`` times, ``share`` of as many as there are GPUs, ``mfu``, and
            ``off``, the largest difference of a loss, where these are known.
    """
    planned = {(row.model, row.name, row.gpus): row for gpus in (2, 4, 8) for row in rows(gpus)}
    ones = {row["model"]: row for row in done if row["mesh"] == ONE and "per_second" in row}
    same = {(row["model"], row.get("tokens")): row for row in done if "batches" in row["mesh"] and "losses" in row}
    for row in done:
        one, beside = ones.get(row["model"]), same.get((row["model"], row.get("tokens")))
        if "per_second" in row and one:
            row["times"] = row["per_second"] / one["per_second"]
            row["share"] = row["times"] / row["gpus"]
            plan = planned.get((row["model"], row["mesh"], row["gpus"]))
            if plan and row["gpus"] > 1 and (times := predicted(plan)):
                row["predicted"] = times
        if "operations" in row:
            row["mfu"] = row["per_second"] * row["operations"] / row["gpus"] / PEAK["H100"]
        if "losses" in row and beside and beside is not row:
            row["off"] = max(abs(a - b) for a, b in zip(row["losses"], beside["losses"], strict=True))
    return done


def predicted(row: Row) -> float | None:
    """Return how many times one GPU a mesh of several is on paper, see paper.py; None for what that does not know."""
    if row.model not in NETWORKS:
        return None
    replicas, shards, tensor, pipeline = (row.degrees.get(key, 1) for key in (REPLICAS, SHARDS, TENSOR, PIPELINE))
    mesh = paper.Mesh(replicas, shards, tensor, pipeline, row.windows)
    large = row.model == "hgrn_1.3b"
    return paper.times(paper.SIZES["1.3B" if large else "340M"], mesh, row.batch * row.length, recomputed=large)


FORMS = {
    "per_second": ("tokens a second", "{:,.0f}", 1),
    "times": ("times one GPU", "{:.2f}", 1),
    "predicted": ("on paper", "{:.2f}", 1),
    "share": ("% of linear", "{:.0f}", 100),
    "mfu": ("MFU %", "{:.1f}", 100),
    "memory_gib": ("GiB", "{:.1f}", 1),
    "nccl": ("NCCL %", "{:.0f}", 100),
    "exposed": ("alone %", "{:.0f}", 100),
    "idle": ("idle %", "{:.0f}", 100),
    "off": ("loss off by", "{:.1g}", 1),
}


def line(row: dict[str, Any]) -> str:
    """Return a row as one line."""
    shown = [f"{form.format(row[key] * scale)} {title}" for key, (title, form, scale) in FORMS.items() if key in row]
    shown += [row["error"]] if "error" in row else []
    return f"{row['model']:<12} {row['mesh']:<22} {', '.join(shown)} ({row.get('took_s', 0)} s)"


def table(done: list[dict[str, Any]]) -> str:
    """Return rows in Markdown."""
    lines = ["| model | mesh | " + " | ".join(title for title, _, _ in FORMS.values()) + " |"]
    lines += ["| --- | --- |" + " ---: |" * len(FORMS)]
    for row in done:
        cells = [form.format(row[key] * scale) if key in row else "" for key, (_, form, scale) in FORMS.items()]
        if "error" in row:
            cells[0] = row["error"]
        lines.append(f"| {row['model']} | {row['mesh']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(done: list[dict[str, Any]], path: Path) -> None:
    """Draw how many times one GPU each mesh of the language models is, beside as many as there are GPUs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = [row for row in done if "times" in row and row["gpus"] > 1 and row["model"] not in DEMO]
    figure, axes = plt.subplots(figsize=(7, 0.32 * len(shown) + 0.8))
    names = [f"{row['model']}, {row['mesh']}" for row in shown]
    axes.barh(names, [row["gpus"] for row in shown], color="#dddddd", label="as many as GPUs")
    axes.barh(names, [row["times"] for row in shown], height=0.5, color="#2a6fbb", label="measured")
    known = [(name, row["predicted"]) for name, row in zip(names, shown, strict=True) if "predicted" in row]
    axes.plot([times for _, times in known], [name for name, _ in known], "k|", markersize=12, label="on paper")
    axes.invert_yaxis()
    axes.set_xlabel("times the tokens a second of one GPU")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def select(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Row]:
    """Return the rows that are asked for; end with one line where there are none, or not enough GPUs."""
    chosen = rows(options.gpus)
    if options.only:
        models, there = options.only.split(","), dict.fromkeys([*NETWORKS, "demo", *DEMO, "context"])
        if wrong := [name for name in models if name not in there]:
            parser.error(f"--only: there is no {', '.join(wrong)}: choose from {', '.join(there)}")
        models += DEMO if "demo" in models else ()
        chosen = [row for row in chosen if row.model in models]
    if options.meshes:
        chosen = [row for row in chosen if row.name.startswith(tuple(options.meshes.split(",")))]
    if not chosen:
        parser.error(
            f"--meshes: no mesh begins with that: {', '.join(dict.fromkeys(r.name for r in rows(options.gpus)))}"
        )
    if not options.small:
        import torch

        if (there := torch.cuda.device_count()) < options.gpus:
            parser.error(f"--gpus: there are {there} GPUs, expected {options.gpus}; --small runs on a CPU")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2, choices=(2, 4, 8))
    parser.add_argument("--only", help="models, with commas between")
    parser.add_argument("--meshes", help="what the names of meshes begin with, with commas between")
    parser.add_argument("--seconds", type=float, default=570, help="time for everything")
    parser.add_argument("--small", action="store_true", help="small models, in float32, on a CPU")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--traces", type=Path, help="a folder for the traces")
    parser.add_argument("--show", type=Path, nargs="+", help="files of --json, to print their tables")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    for folder in (options.traces, *(file.parent for file in (options.json, options.picture) if file)):
        if folder and not folder.is_dir():
            parser.error(f"{folder} is not a folder: make it first")
    if options.show:
        try:
            files = {file.stem: json.loads(file.read_text()) for file in options.show}
        except (OSError, ValueError) as error:
            parser.error(f"--show: expected files that --json wrote: {error}")
    else:
        chosen = select(parser, options)
        try:
            files = {"": run(chosen, options.gpus, options)}
        except KeyboardInterrupt:
            trainings.stop()
            sys.exit(f"stopped; the rows so far are in {options.json}" if options.json else "stopped")
    order, every = [*NETWORKS, "context", *DEMO], []
    for name, done in files.items():
        done = sorted(compared(done), key=lambda row: (order.index(row["model"]), row["gpus"]))
        print(f"{name}\n\n{table(done)}\n")
        every += [row | {"mesh": f"{row['mesh']}, {name}"} if len(files) > 1 else row for row in done]
    if options.picture:
        picture(sorted(every, key=lambda row: order.index(row["model"])), options.picture)


if __name__ == "__main__":
    main()
