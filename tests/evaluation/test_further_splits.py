"""Further test splits of a dataset: prepared, evaluated and shown beside `test`, and never learnt from."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import lt25  # noqa: F401
from lt25 import report
from lt25.config.key import resolve
from lt25.data.acquire import acquire
from lt25.data.builders import recall
from lt25.data.documents import TextCorpus
from lt25.data.prepare import prepare
from lt25.data.prepared import PreparedSplit
from lt25.evaluation import evaluate, splits_of
from lt25.experiment import load_experiment
from lt25.models.configuration import HGRNConfig
from lt25.report.collect import collect
from lt25.report.sweep import measure
from lt25.tasks import TASKS
from tests.data import make

SPLITS = ["train", "validation", "test", "test-far", "test-other"]


def test_a_further_test_split_goes_from_the_data_to_the_report(tmp_path):
    """Of the other test split every image has the wrong label, so that the two cannot be taken for each other."""
    rng = np.random.default_rng(1)
    for split, count in (("train", 20), ("test", 5), ("test-other", 7)):
        for label in ("cat", "dog"):
            for number in range(count):
                brightness = 50 if (label == "cat") == (split != "test-other") else 200
                picture = make.png((brightness + rng.integers(0, 20, (4, 5))).astype(np.uint8))
                make.write(tmp_path / "raw" / split / label / f"{number}.png", picture)
    splits = {
        "train": "train",
        "validation": {"from": "train", "fraction": 0.2},
        "test": "test",
        "test-other": "test-other",
    }
    data = make.dataset("classification", {"path": str(tmp_path / "raw")}, splits=splits)
    experiment = make.experiment(tmp_path, "classification", data, {"model_type": "lt25_hgrn"})
    experiment = replace(experiment, evaluation=resolve({}, TASKS["classification"].evaluation))
    make.write(tmp_path / experiment.path, "task: classification\ndataset: tiny\n")
    acquire(data, experiment.raw_dir, None)
    prepare(experiment)
    sizes = {split: len(PreparedSplit(experiment.processed_dir, split)) for split in splits}
    assert (sizes["train"] + sizes["validation"], sizes["test"], sizes["test-other"]) == (40, 10, 14)

    torch.manual_seed(0)
    config = HGRNConfig(hidden_size=16, num_hidden_layers=1, input_size=1, num_labels=2, id2label={0: "cat", 1: "dog"})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "hf")
    metrics = evaluate(experiment, tmp_path / "hf", experiment.evaluation_dir)
    assert list(metrics["splits"]) == ["validation", "test", "test-other"]
    assert metrics["headline"] == "test" and metrics["splits"]["test-other"]["examples"] == 14
    assert "baselines" not in metrics["splits"]["test-other"]
    assert splits_of(experiment, intermediate=True) == ["validation"]
    assert splits_of(replace(experiment, evaluation={"splits": ["validation"]}), False) == ["validation"]

    report.build([experiment], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "of 14 test-other examples right" in page
    # A sweep compares runs on the splits that every dataset has.
    assert list(measure(collect(experiment)).said) == ["validation", "test"]


@pytest.mark.parametrize("store", ["text", "tokens"])
def test_held_out_texts_are_evaluated_and_not_learnt(tmp_path, store):
    documents = {f"{number:03d}": f"text {number:03d}" for number in range(200)}
    for number, text in documents.items():
        make.write(tmp_path / "texts" / f"{number}.txt", text)
    parts = {split: {"from": "train", "fraction": 0.2} for split in SPLITS[1:]}
    data = make.dataset("language_modeling", {"path": str(tmp_path / "texts")}, splits={"train": "all", **parts})
    folder = make.prepared(tmp_path, "language_modeling", data, tokenizer="bytes", store=store)
    stats = json.loads((folder / "stats.json").read_text())
    assert list(stats["splits"]) == SPLITS
    held_out = {
        split: {Path(path).stem for path in PreparedSplit(folder, split).table()["path"]} for split in SPLITS[1:]
    }
    if store == "text":
        corpus = TextCorpus(PreparedSplit(folder, "train"))
        learnt = sum(len(corpus[chunk]) for chunk in range(corpus.count))
        corpus.close()
    else:
        learnt = len(PreparedSplit(folder, "train"))
    assert all(10 <= len(names) < 60 for names in held_out.values())
    assert sum(map(len, held_out.values())) == len(set().union(*held_out.values())) == 200 - learnt


def test_of_several_datasets_each_may_have_some(tmp_path):
    published = {"train": "train", "validation": {"from": "train", "fraction": 0.3}, "test": "test"}
    datasets = []
    for name, further, size in (("near", "test-other", 4), ("away", "test-far", 3)):
        root = tmp_path / name
        for split, count in (("train", 60), ("test", 5), (further, size)):
            for number in range(count):
                make.write(root / split / f"{number}.txt", f"{name}, {split} {number}")
        data = make.dataset("language_modeling", {"path": str(root)}, splits={**published, further: further})
        datasets.append(replace(data, name=name))
    first, second = datasets
    experiment = make.experiment(tmp_path, "language_modeling", first, tokenizer="bytes")
    experiment = replace(experiment, further=(second,), probabilities=(0.5, 0.5))
    for data in datasets:
        acquire(data, experiment.raw_dir_of(data), None)
    prepare(experiment)
    assert list(experiment.splits) == SPLITS
    sizes = {split: len(PreparedSplit(experiment.processed_dir, split)) for split in SPLITS}
    assert sizes["train"] + sizes["validation"] == 120
    assert (sizes["test"], sizes["test-far"], sizes["test-other"]) == (10, 3, 4)


def test_recall_has_them_too(tmp_path, monkeypatch):
    monkeypatch.setattr(recall, "EXAMPLES", {"train": 40, "validation": 16, "test": 16})
    splits = {**{split: split for split in recall.EXAMPLES}, "test-other": {"from": "train", "fraction": 0.5}}
    data = make.dataset("recall", {"builder": "recall", "kind": "copying"}, splits=splits)
    folder = make.prepared(tmp_path, "recall", data)
    sizes = {split: len(PreparedSplit(folder, split)) for split in splits}
    assert sizes["train"] + sizes["test-other"] == 40 and sizes["test-other"] > 10


def test_a_dataset_without_them_is_prepared_as_ever():
    for name in ("digits", "spoken-digits", "stdlib-lm"):
        experiment = load_experiment(name)
        assert experiment.splits == ("train", "validation", "test")
        assert list(experiment.dataset.shape["splits"]) == ["train", "validation", "test"]
    other = load_experiment("librispeech-100")
    assert other.splits == ("train", "validation", "test", "test-other")
    alone = {name: source for name, source in other.dataset.splits.items() if name != "test-other"}
    assert replace(other, dataset=replace(other.dataset, splits=alone)).preparation != other.preparation
