"""How fast text becomes batches: from JSON lines that are tokenized as training goes, and from prepared tokens.

    python benchmarks/data.py [--megabytes 200] [--seconds 20] [--seq_len 4096] [--batch 8] [--vocab_size 32000] [--markdown]

The corpus is `lt25.data.builders.repeated_stdlib`, with a byte-level BPE trained on its first 20 MB. "prepare" is the time from
files to tokens, tokenizer left out. The other rows count the tokens of the batches that one process gets from `StepBatches` in
the given time, the first ones left out, while nothing else is at work; their seconds are those before the first batch. Targets on
16 cores: 700,000 tokens a second from text, 10,000,000 from tokens.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from projects import project

from lt25.data import language_modeling
from lt25.data.acquire import acquire
from lt25.data.loader import StepBatches
from lt25.data.order import Reading, Share
from lt25.data.prepare import prepare
from lt25.data.prepared import PreparedSplit

DATASET = {
    "title": "Corpus",
    "licence": "PSF-2.0",
    "tasks": ["language_modeling"],
    "columns": {"text": "text"},
    "splits": {"train": "train", "validation": "test", "test": "test"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"megabytes": 200, "seconds": 20, "seq_len": 4096, "batch": 8, "vocab_size": 32000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--markdown", action="store_true", help="print a table for RESULTS.md")
    options = parser.parse_args()
    language_modeling.TRAINED_ON = 20_000_000
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        rows = list(measure(Path(folder), options))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {options.megabytes} MB")
    if options.markdown:
        print("| what | tokens a second | seconds |\n| --- | ---: | ---: |")
    for what, rate, seconds in rows:
        print(
            f"| {what} | {rate:,.0f} | {seconds:.1f} |" if options.markdown else f"{what:32}{rate:14,.0f}{seconds:8.1f}"
        )


def measure(root: Path, options: argparse.Namespace) -> Iterator[tuple[str, float, float]]:
    """Yield what was measured, tokens a second, and the seconds that it took, or for batches those before the first one."""
    for store in ("tokens", "text"):
        origin = {"builder": "repeated_stdlib", "megabytes": options.megabytes}
        prepared = {"store": store, "vocab_size": options.vocab_size}
        experiment = project(root, store, {**DATASET, "origin": origin}, prepared)
        if store == "tokens":
            acquire(experiment.dataset, experiment.raw_dir)
        spent = time.perf_counter()
        trained = timed(language_modeling, "train")
        prepare(experiment)
        spent = time.perf_counter() - spent - trained[0]
        split = PreparedSplit(experiment.processed_dir, "train")
        if store == "tokens":
            yield "prepare", len(split.shards["inputs"]) / spent, spent
        yield "batches from tokens" if store == "tokens" else "batches from text", *batches(split, options)


def batches(split: PreparedSplit, options: argparse.Namespace) -> tuple[float, float]:
    """Return tokens a second, and the seconds before the first batch."""
    begun = time.perf_counter()
    loader = StepBatches(split, "language_modeling", Reading(Share(options.batch), 0, seq_len=options.seq_len))
    stream = iter(loader)
    next(stream)
    first = time.perf_counter() - begun
    for _ in range(20):
        next(stream)
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < options.seconds:
        count += next(stream)[1].numel()
    rate = count / (time.perf_counter() - begun)
    loader.close()
    return rate, first


def timed(module: object, name: str) -> list[float]:
    """Let a function of a module add the seconds that it takes to the list that is returned."""
    spent, plain = [0.0], getattr(module, name)

    def function(*arguments):
        begun = time.perf_counter()
        try:
            return plain(*arguments)
        finally:
            spent[0] += time.perf_counter() - begun

    setattr(module, name, function)
    return spent


if __name__ == "__main__":
    main()
