"""Training steps of every language model of 340M: as lt25 trains it, beside the plain model under torch.compile.

    python benchmarks/architectures.py [--only gla,transformer] [--sides lt25,plain] [--seconds 540] [--limit 170] [--json FILE]
    python benchmarks/architectures.py --caches DIR    # to keep the kernel caches for another call
    python benchmarks/architectures.py --device cpu --small --only gla

A step takes 8 windows of 4096 random tokens, vocabulary 32,000: forward and backward under bfloat16 autocast with float32
weights, clipping, fused AdamW. ``lt25`` is the trainer itself, started as ``lt25 train`` starts it, and reads its data; its hgrn
is lt25_hgrn. Each window is one text there, with its boundaries (``training.varlen``); ``windows`` is the same without them, a
batch of 8, as ``plain`` has it. ``logits`` is without ``training.fused_loss``: logits lie whole in memory. ``plain`` is
flash-linear-attention's model with its own loss under torch.compile, in the shortest loop that trains it; its autotuner
compiles side by side and times briefly, as lt25's does (`lt25/compiling.py`). ``eager`` is ``plain`` without torch.compile, for a
model that torch.compile refuses. Without the packages flash-attn and mamba-ssm, and on a Hopper GPU, all have what
`lt25.models.fla` puts in place of what is missing.

Each is a process of its own with empty kernel caches and a time limit, and a line as soon as it ends: seconds from the start of
the process to the end of the first step, with empty caches and, of the trainer, in a second process with what the first left;
tokens a second over the last two thirds of the steps; MFU; peak of the memory that torch reserved. What fails is a line too, and
the rest goes on. There is no samba of 340M: it was published at 1B only.

MFU counts 6 operations for each weight of a matrix product and token, the output layer's included and the embedding's not, and
what mixes tokens: causal attention at half of the square, a state of K by V numbers at 2 K V for writing, for reading, and for
each product by which it changes. Elementwise work, convolutions and anything computed twice do not count. The peak is that of
dense bfloat16 products: 989 Tflop/s for H100 SXM and H200.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from step import REPOSITORY, write_job

sys.path.insert(0, str(REPOSITORY))

# From the surest to those whose kernels for training come in a package that lt25 does not need.
NAMES = (
    "hgrn",
    "gla",
    "transformer",
    "gated_deltanet",
    "delta_net",
    "hgrn2",
    "retnet",
    "gsa",
    "rwkv7",
    "mamba2",
    "mamba",
)
# What the sides that are the trainer change in `training`.
CHANGES: dict[str, dict[str, Any]] = {"lt25": {}, "windows": {"varlen": False}, "logits": {"fused_loss": False}}
SIDES = (*CHANGES, "plain", "eager")
# Seconds that are worth a start.
LEAST = 20
PEAK = {"H100": 989e12, "H200": 989e12}
STEPS = 24


def read_config(name: str, side: str, small: bool) -> dict[str, Any]:
    """Return the fields of a model's config.json."""
    if name == "hgrn" and side in CHANGES:
        file = f"hgrn_lm_{'tiny' if small else '340m'}"
    else:
        file = f"{name}_{'tiny' if small else '340m'}"
    folder = REPOSITORY / "config" / "models"
    if not (folder / f"{file}.json").is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob(f"{name}_*.json"))) or "nothing of that name"
        raise FileNotFoundError(f"no config/models/{file}.json: there is {there}")
    fields = json.loads((folder / f"{file}.json").read_text())
    tokens = {"vocab_size": 320 if small else 32000, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return {**fields, **tokens, "tie_word_embeddings": False}


def operations(config: Any, weights: int, length: int) -> float:
    """Count the floating-point operations of a token's training, see the head of this file.

    Args:
        config: the model's.
        weights: how many its matrix products have.
        length: steps of a window.
    """
    kind, hidden = config.model_type, config.hidden_size

    def state(heads: int, keys: float, values: float, products: int) -> float:
        return products * 2 * heads * keys * values

    if kind == "transformer":
        layer = 2 * length * hidden
    elif kind in ("hgrn", "lt25_hgrn"):
        layer = 0
    elif kind == "hgrn2":
        layer = state(config.num_heads, config.expand_ratio, hidden / config.num_heads, 2)
    elif kind in ("gla", "retnet"):
        heads = config.num_heads
        layer = state(heads, hidden * config.expand_k / heads, hidden * config.expand_v / heads, 2)
    elif kind == "gsa":
        layer = 2 * state(config.num_heads, config.num_slots, hidden / config.num_heads, 2)
    elif kind == "delta_net":
        heads = config.num_heads
        layer = state(heads, hidden * config.expand_k / heads, hidden * config.expand_v / heads, 3)
    elif kind == "gated_deltanet":
        layer = state(config.num_heads, config.head_dim, config.head_dim * config.expand_v, 3)
    elif kind == "rwkv7":
        layer = state(hidden // config.head_dim, config.head_dim, config.head_dim, 4)
    elif kind in ("mamba", "mamba2"):
        layer = state(1, hidden * config.expand, config.state_size, 2)
    else:
        raise ValueError(f"what a layer of {kind} computes is not known here")
    return 6 * weights + 3 * layer * config.num_hidden_layers


def describe(config: dict[str, Any], length: int) -> tuple[int, float]:
    """Return a model's parameters and the operations of a token's training."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lt25.models.families import find

    fields = dict(config)
    find(fields["model_type"]).load()
    built = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(built)
    weights = sum(part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Linear))
    # FLA's low-rank maps of rwkv7 and the like are Linear layers too; embeddings, norms and convolutions are not.
    return sum(parameter.numel() for parameter in model.parameters()), operations(built, weights, length)


def write_project(folder: Path, config: dict[str, Any], options: argparse.Namespace, changes: dict[str, Any]) -> None:
    """Write one document of random tokens and a job file."""
    import torch

    tokens = 64 * options.length
    torch.manual_seed(0)
    drawn = torch.randint(3, config["vocab_size"], (tokens,), dtype=torch.int32)
    # The last token is the one that texts end with: all others are drawn from above it, and are one text.
    drawn[-1] = config["eos_token_id"]
    training = {
        "steps": options.steps,
        "local_batch_size": options.batch,
        "seq_len": options.length,
        "mixed_precision_param": "bfloat16" if options.device == "cuda" else "float32",
        **changes,
    }
    tensors = {"inputs": drawn, "input_offsets": torch.tensor([0, tokens])}
    write_job(folder, "language_modeling", tensors, config, {"training": training, "optimizer": {"lr": 1e-4}})


def run_lt25(
    config: dict[str, Any], options: argparse.Namespace, environment: dict[str, str], limit: float, *, changes: dict
) -> dict:
    """Run the trainer in a process; return what it measured."""
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder, config, options, changes)
        start = "import runpy; runpy.run_module('lt25.training', run_name='__main__', alter_sys=True)"
        if options.device == "cpu":
            start = f"from tests.models import interpret; {start}"
        command = [sys.executable, "-c", start, "--job.config_file", "job.toml", *options.overrides]
        said = folder / "said"
        with said.open("w") as stream, (folder / "errors").open("w+") as errors:
            began = time.perf_counter()
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=stream, stderr=errors)
            while process.poll() is None and time.perf_counter() < began + limit:
                if "first_step_s" not in row and f"step 1/{options.steps}" in said.read_text():
                    row["first_step_s"] = time.perf_counter() - began
                time.sleep(0.02)
            row |= _end(process, errors, limit)
        for history in folder.rglob("metrics.jsonl"):
            records = [json.loads(line) for line in history.read_text().splitlines()]
            if len(records) > 1:
                seconds = [1 / record["positions_per_second"] for record in records[-2:]]
                row["tokens_per_second"] = len(seconds) / sum(seconds)
                row["memory_gib"], row["loss"] = max(r["memory_gib"] for r in records), records[-1]["loss"]
    return row


def run_plain(
    config: dict[str, Any], options: argparse.Namespace, environment: dict[str, str], limit: float, *, compiled: bool
) -> dict:
    """Run `train_plain` in a process; return what it measured."""
    with tempfile.TemporaryDirectory() as folder:
        out, errors = Path(folder) / "row", Path(folder) / "errors"
        given = {"config": config, "batch": options.batch, "length": options.length, "steps": options.steps}
        given |= {"device": options.device, "compiled": compiled, "out": str(out), "began": time.time()}
        command = [sys.executable, __file__, "--plain", json.dumps(given)]
        with errors.open("w+") as stream:
            process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
            with suppress(subprocess.TimeoutExpired):
                process.wait(limit)
            row = _end(process, stream, limit)
        return {**(json.loads(out.read_text()) if out.is_file() else {}), **row}


def measure(
    name: str, side: str, options: argparse.Namespace, environment: dict[str, str], end: float
) -> dict[str, Any]:
    """Measure one model on one side; whatever goes wrong is in the row.

    Args:
        name: one of `NAMES`.
        side: one of `SIDES`.
        options: of the command line.
        environment: of the processes, with caches that are empty or were kept.
        end: by `time.perf_counter`, when everything must be done.

    Returns:
        What was measured before anything went wrong, and ``error`` if something has.
    """
    row: dict[str, Any] = {}
    trains = side in CHANGES
    run = partial(run_lt25, changes=CHANGES[side]) if trains else partial(run_plain, compiled=side == "plain")
    try:
        config = read_config(name, side, options.small)
        if end - time.perf_counter() < LEAST:
            return {"error": "left out: no time left"}
        row |= run(config, options, environment, min(end - time.perf_counter(), options.limit))
        row["parameters"], per_token = describe(config, options.length)
        if options.peak and "tokens_per_second" in row:
            row["mfu"] = row["tokens_per_second"] * per_token / options.peak
        if "error" not in row and trains and end - time.perf_counter() > LEAST:
            again = argparse.Namespace(**{**vars(options), "steps": 2})
            warm = run(config, again, environment, min(end - time.perf_counter(), options.limit))
            row |= {"warm_step_s": warm["first_step_s"]} if "first_step_s" in warm else {"error": warm.get("error", "")}
    except Exception as error:
        row.setdefault("error", f"{type(error).__name__}: {error}"[:300])
    return row


def train_plain(given: dict[str, Any]) -> None:
    """Train a model with nothing of lt25, and write what was measured, after the first step and in the end."""
    if given["device"] == "cpu":
        from tests.models import interpret  # noqa: F401
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    # It enters FLA's models, with attention for those that lack flash-attn, and lets autotuners be quick. What it computes in
    # fewer passes is FLA's own again.
    from lt25.models.fla import give_back

    give_back()

    device = given["device"]
    # FLA's fused loss is no kernel that a CPU can interpret.
    fields, row, out = {**given["config"], "fuse_cross_entropy": device == "cuda"}, {}, Path(given["out"])
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(fields.pop("model_type"), **fields)).train()
    # A layer's number is a constant of what is compiled: each layer is a variant of its own.
    torch._dynamo.config.recompile_limit = 4 * fields["num_hidden_layers"]
    step_of = torch.compile(model) if given["compiled"] and device == "cuda" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batches = torch.randint(3, fields["vocab_size"], (8, given["batch"], given["length"]), device=device)
    warm = max(given["steps"] // 3, 1)
    for step in range(given["steps"]):
        tokens = batches[step % len(batches)]
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = step_of(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, warm - 1, given["steps"] - 1):
            row["loss"] = loss.item()  # waits for the device
            if step == 0:
                row["first_step_s"] = time.time() - given["began"]
            if step == warm - 1:
                began = time.perf_counter()
            elif step > 0:
                seconds = time.perf_counter() - began
                row["tokens_per_second"] = tokens.numel() * (step - warm + 1) / seconds
            if device == "cuda":
                row["memory_gib"] = torch.cuda.max_memory_reserved() / 2**30
            out.write_text(json.dumps(row))


def _end(process: subprocess.Popen, errors: Any, limit: float) -> dict[str, str]:
    """End a process that has not ended, and say what went wrong with it."""
    if process.poll() is None:
        process.kill()
        process.wait()
        return {"error": f"stopped after {limit:.0f} s"}
    if process.returncode:
        errors.seek(0)
        lines = [line for line in errors.read().splitlines() if line.strip()]
        # Some libraries warn after a traceback.
        raised = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
        if process.returncode < 0:
            raised = [f"{signal.Signals(-process.returncode).name} in {_stopped_in(lines)}"]
        return {"error": (raised or lines or [f"exit status {process.returncode}"])[-1][:600]}
    return {}


def _stopped_in(lines: list[str]) -> str:
    """Return the innermost lines of code that a signal met, of what Python's faulthandler writes of all threads."""
    head = next((n for n, line in enumerate(lines) if line.startswith("Current thread")), None)
    if head is None:
        return "a thread that runs no Python"
    frames = [line.strip() for line in takewhile(lambda line: line.startswith("  "), lines[head + 1 :])]
    return " < ".join(frames[:4])


def about(device: str) -> dict[str, Any]:
    """Return hardware, versions and date."""
    import importlib.util

    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU, Triton's interpreter"
    attention = "flash-attn" if importlib.util.find_spec("flash_attn") else "torch's attention"
    return {"device": name, "torch": torch.__version__, "attention": attention, "date": time.strftime("%Y-%m-%d")}


def shown(row: dict[str, Any]) -> str:
    """Return one line of the report."""
    forms = {
        "first_step_s": "first step {:.1f} s",
        "warm_step_s": "warm {:.1f} s",
        "tokens_per_second": "{:,.0f} tokens/s",
        "mfu": "MFU {:.1%}",
    }
    forms |= {"memory_gib": "{:.1f} GiB", "loss": "loss {:.3f}", "parameters": "{:,} parameters", "error": "{}"}
    parts = [form.format(row[key]) for key, form in forms.items() if key in row]
    return f"{row['model']:<15} {row['side']:<6} {', '.join(parts)}"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| model | parameters | side | first step s | warm s | tokens/s | MFU % | peak GiB | |",
        "|" + " --- |" * 9,
    ]
    for row in rows:
        numbers = (
            ("first_step_s", "{:.1f}", 1),
            ("warm_step_s", "{:.1f}", 1),
            ("tokens_per_second", "{:,.0f}", 1),
            ("mfu", "{:.1f}", 100),
        )
        cells = [form.format(row[key] * scale) if key in row else "" for key, form, scale in numbers]
        peak = f"{row['memory_gib']:.1f}" if "memory_gib" in row else ""
        parameters = f"{row['parameters'] / 1e6:.0f}M" if "parameters" in row else ""
        lines.append(
            " | ".join([f"| {row['model']}", parameters, row["side"], *cells, peak, f"{row.get('error', '')} |"])
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NAMES), help="models, with commas between")
    parser.add_argument("--sides", default="lt25,plain", help=f"of {', '.join(SIDES)}, with commas between")
    parser.add_argument("--seconds", type=float, default=540, help="time for everything; what does not fit is named")
    parser.add_argument("--limit", type=float, default=170, help="the most seconds of one process")
    parser.add_argument(
        "--caches", type=Path, help="kernel caches to use and keep; default: empty ones for each process"
    )
    parser.add_argument(
        "--overrides", nargs="*", default=[], help="of the job, for the trainer: --overrides=--compile.enable"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="the tiny models, 2 windows of 32 tokens, 3 steps")
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        train_plain(json.loads(options.plain))
        return
    if unknown := set(options.sides.split(",")) - set(SIDES):
        parser.error(f"--sides: found {', '.join(sorted(unknown))}, allowed: {', '.join(SIDES)}")
    options.batch, options.length, options.steps = (2, 32, 3) if options.small else (8, 4096, STEPS)
    end, facts, rows = time.perf_counter() + options.seconds, about(options.device), []
    print("  ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    options.peak = next((value for name, value in PEAK.items() if name in facts["device"]), None)
    environment = {
        **os.environ,
        "TRITON_CACHE_AUTOTUNING": "1",
        "PYTHONFAULTHANDLER": "1",
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    if options.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.only.split(","):
            for side in options.sides.split(","):
                caches = (options.caches or Path(temporary)) / name / side
                caches.mkdir(parents=True, exist_ok=True)
                own = {"TRITON_CACHE_DIR": str(caches / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor")}
                row = {"model": name, "side": side, **measure(name, side, options, environment | own, end)}
                rows.append(row)
                print(shown(row), flush=True)
                if options.json:
                    options.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
