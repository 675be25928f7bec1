"""Results trees such as the stages leave them, with made-up but plausible contents."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

from lt25.data.shards import SplitWriter
from lt25.evaluation import classification, style
from lt25.evaluation import language_modeling as language
from lt25.evaluation import speech_recognition as speech
from lt25.evaluation.compression import compressors
from lt25.experiment import Dataset, Experiment
from lt25.files import write_record
from lt25.tasks import TASKS

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TITLES = {
    "classification": "Scanned handwritten digits of scikit-learn",
    "speech_recognition": "Spoken digits, synthesised by eSpeak NG",
    "language_modeling": "Source of Python's standard library",
}


def make(root: Path, task: str, name: str, **evaluation) -> Experiment:
    """An experiment of a task, trained and evaluated by all appearances, under `root`."""
    experiment = Experiment(
        name=name,
        path=Path(f"config/experiments/{name}.yaml"),
        root=root,
        task=task,
        dataset=Dataset(name, TITLES[task], "BSD-3-Clause", "https://example.org", {"builder": name}, {}, {}),
        prepare={},
        model={"model_type": "lt25_hgrn"},
        init_from=None,
        evaluation=evaluation,
        job={"training": {"steps": 600}, "checkpoint": {"interval": 100, "average": 1}},
    )
    write(root / experiment.path, f"# An experiment.\ntask: {task}\ndataset: {name}  # here\nsteps: 600\n")
    write_record(
        experiment.results_dir / "train.json",
        {
            "identity": {
                "model": {"model_type": "lt25_hgrn", "num_hidden_layers": 4, "hidden_size": 128},
                "debug": {"seed": 42},
            },
            "init_from": None,
            "path": [{"from": 0, "steps": 600}],
            "experiment": name,
            "task": task,
            "steps": 600,
            "loss": 0.03,
            "fingerprint": "0123456789ab",
            "run_dir": "runs/0123456789ab",
            "checkpoints": [200, 400, 600],
            "parameters": 612_874,
            "seconds": 96.0,
            "samples_per_second": 410.0,
            "positions_per_second": 26_000.0,
            "skipped_steps": 0,
            "memory_gib": 1.4,
            "device": "CPU (2 cores)",
            "world_size": 1,
            "versions": {"lt25": "0.1.0", "torch": "2.11.0", "transformers": "5.23.0"},
        },
    )
    generator = np.random.default_rng(0)
    history = [
        {
            "step": step,
            "loss": 2.3 * math.exp(-step / 150) + 0.05 + 0.05 * generator.random(),
            "lr": 4e-3 * min(step / 60, 0.5 + 0.5 * math.cos(math.pi * step / 600)),
            "grad_norm": 0.4 + generator.random(),
            "samples_per_second": 410 + 20 * generator.random(),
            "positions_per_second": 26_000 + 900 * generator.random(),
            "seconds": step * 0.16,
            "skipped_steps": 0,
            "memory_gib": 1.4,
        }
        for step in range(1, 601, 5)
    ]
    metric = {"classification": "accuracy", "speech_recognition": "wer"}.get(task)
    held_out = [
        {
            "step": step,
            "validation": {"loss": 2.3 * math.exp(-step / 160), **({metric: 1 - 90 / step} if metric else {})},
        }
        for step in range(100, 601, 100)
    ]
    lines = sorted([*history, *held_out], key=lambda line: line["step"])
    write(
        experiment.results_dir / "metrics.jsonl",
        "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 601, "lo',
    )
    {"classification": digits, "speech_recognition": spoken, "language_modeling": source}[task](experiment)
    return experiment


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def finish(experiment: Experiment, scored: dict, stats: dict) -> None:
    """Write the evaluation's files. scored: split -> (metrics, table)."""
    folder = experiment.results_dir / "evaluation"
    for file, figure in TASKS[experiment.task].module("evaluation").plots(*scored["test"]).items():
        style.save(figure, folder / file)
    tables = []
    for split, (_, table) in scored.items():
        table.insert(0, "split", split)
        tables.append(table)
    pd.concat(tables).to_parquet(folder / "predictions.parquet")
    metrics = {
        "task": experiment.task,
        "experiment": experiment.name,
        "step": 600,
        "model": "0123456789ab-600",
        "headline": "test",
        "device": "CPU, 2 threads",
        "seconds": 7.25,
        "splits": {split: metrics for split, (metrics, _) in scored.items()},
    }
    write_record(folder / "metrics.json", metrics, sorted(folder.iterdir()))
    for step in (200, 400):
        of_step = {**metrics, "step": step, "model": f"0123456789ab-{step}"}
        write_record(folder / f"step-{step}" / "metrics.json", of_step)
    facts = {"task": experiment.task, "fingerprint": "abcd", "model": {}, "splits": stats, "shared": {"test": 1200}}
    write_record(experiment.processed_dir / "stats.json", facts)


def digits(experiment: Experiment) -> None:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    generator = np.random.default_rng(0)
    scored, stats = {}, {}
    experiment.processed_dir.mkdir(parents=True, exist_ok=True)
    (experiment.processed_dir / "preprocessor_config.json").write_text('{"size": [8, 8], "permutation": null}')
    for split, chosen in (("train", slice(360, None)), ("validation", slice(180)), ("test", slice(180, 360))):
        truth = labels[chosen]
        writer = SplitWriter(experiment.processed_dir, split)
        for i, image in enumerate(images[chosen]):
            writer.add({"id": f"{split}-{i}"}, inputs=image.astype(np.float32)[:, None], labels=np.int64(truth[i]))
        writer.close()
        stats[split] = {
            "examples": len(truth),
            "labels": {str(k): int(n) for k, n in enumerate(np.bincount(truth))},
            "lengths": {"edges": [64, 65], "counts": [len(truth)]},
        }
        wrong = generator.random(len(truth)) < 0.06
        guesses = np.where(wrong, (truth + generator.integers(1, 10, len(truth))) % 10, truth)
        table = pd.DataFrame(
            {
                "id": [f"{split}-{i}" for i in range(len(truth))],
                "reference": truth.astype(str),
                "prediction": guesses.astype(str),
                "probability": 0.5 + 0.5 * generator.random(len(truth)),
                "reference_probability": generator.random(len(truth)),
                "correct": truth == guesses,
            }
        )
        scored[split] = (classification.score(truth, guesses, [str(k) for k in range(10)]), table)
        scored[split][0]["baselines"] = {"most frequent class": 0.1, "linear model": 0.9}
    del scored["train"]
    metrics, table = scored["test"]
    metrics["calibration"] = classification.calibration(table["probability"].to_numpy(), table["correct"].to_numpy())
    metrics["by_part_read"] = [
        {"read": n / 10, "accuracy": 0.1 + 0.08 * n, "examples": len(table)} for n in range(1, 11)
    ]
    metrics["time_constants"] = [[0.5, 1, 2, 4, 8], [1, 3, 9, 27, 81]]
    finish(experiment, scored, stats)


def spoken(experiment: Experiment) -> None:
    import soundfile

    generator = np.random.default_rng(0)
    scored, stats = (
        {},
        {
            "train": {
                "examples": 4000,
                "seconds": 9100.0,
                "characters": 71_000,
                "speakers": {f"voice {i}": 60 for i in range(60)},
            }
        },
    )
    stats["train"]["excluded"] = {"longer than 30 s": 3}
    stats["train"]["lengths"] = {"edges": [30, 90, 150, 210, 270, 330], "counts": [400, 1200, 1400, 800, 200]}
    for split, n in (("validation", 60), ("test", 80)):
        said = [[WORDS[k] for k in generator.integers(0, 10, generator.integers(1, 8))] for _ in range(n)]
        heard = []
        for words in said:
            guess = [WORDS[int(generator.integers(10))] if generator.random() < 0.04 else word for word in words]
            guess = [word for word in guess if generator.random() > 0.03]
            heard.append(guess + (["nine"] if generator.random() < 0.05 else []))
        speakers = [f"voice {k % 6}" for k in range(n)]
        texts = [[" ".join(words) for words in some] for some in (said, heard)]
        metrics, table = speech.score(*texts, speakers)
        rates = {"wer": metrics["wer"], "interval_95": metrics["interval_95"], "cer": metrics["cer"]}
        metrics["conditions"] = {"as recorded": rates, "noise, 0 dB": {**rates, "wer": 0.4321}}
        table.insert(0, "id", [f"{split}-{i:03d}" for i in range(n)])
        table["speaker"], table["seconds"] = "en-gb-scotland+f2", 0.55 * table["words"]
        metrics |= {"seconds_of_audio": float(table["seconds"].sum()), "real_time_factor": 0.0043}
        scored[split] = (metrics, table)
        stats[split] = {
            "examples": n,
            "seconds": metrics["seconds_of_audio"],
            "characters": 900,
            "speakers": {"one": 30, "two": 30},
        }
    clip = io.BytesIO()
    tone = 0.2 * np.sin(2 * np.pi * 220 * np.arange(16_000) / 16_000)
    soundfile.write(clip, tone, 16_000, format="FLAC")
    experiment.processed_dir.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"id": scored["test"][1]["id"], "audio": [clip.getvalue()] * 80}).to_parquet(
        experiment.processed_dir / "test.parquet"
    )
    finish(experiment, scored, stats)


def source(experiment: Experiment) -> None:
    generator = np.random.default_rng(0)
    scored, stats = {}, {}
    text = Path(json.__file__).read_text()
    for split, n in (("validation", 20), ("test", 48)):
        lengths = generator.lognormal(7, 1.2, n).astype(int) + 4
        nats = [np.clip(generator.normal(3.2 / (1 + np.arange(k) / 400) ** 0.1, 0.8), 0.01, None) for k in lengths]
        sizes = [int(3.1 * k) for k in lengths]
        bits = [float(x.sum()) / math.log(2) for x in nats]
        metrics = language.score(nats, sizes)
        metrics |= {
            "documents_in_split": n + 10,
            "baselines": {"unigram": 2.9},
            "compressors": compressors(text.encode()),
            "by_position": language.by_position(nats),
        }
        scored[split] = (
            metrics,
            pd.DataFrame(
                {
                    "id": [f"module_{i}.py" for i in range(n)],
                    "tokens": lengths,
                    "bytes": sizes,
                    "bits": bits,
                    "bits_per_byte": [b / s for b, s in zip(bits, sizes, strict=True)],
                }
            ),
        )
        stats[split] = {"examples": n + 10, "tokens": 331_000, "bytes": 1_030_000}
    sample = {
        "prompt": 'def read(path):\n    """Read <all> lines.\n\n\n    Blank lines stay.\n',
        "greedy": "    return path\n" * 9,
        "sampled": '    """\n    for line in path:\n        yield line\n' * 4,
        "temperature": 0.8,
        "seed": 0,
    }
    scored["test"][0]["samples"] = [sample, sample]
    stats["train"] = {
        "examples": 560,
        "tokens": 3_300_000,
        "bytes": 10_300_000,
        "lengths": {"edges": [0, 2000, 4000, 6000, 8000], "counts": [300, 160, 70, 30]},
    }
    finish(experiment, scored, stats)


def all_three(root: Path) -> list[Experiment]:
    return [
        make(root, "classification", "digits"),
        make(root, "speech_recognition", "spoken-digits"),
        make(root, "language_modeling", "stdlib-lm"),
    ]
