"""Every file of config/datasets, on tiny files laid out as the dataset is published."""

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml

from lt25.data.builders import connected_digits
from lt25.data.prepared import PreparedSplit
from lt25.errors import UserError
from lt25.experiment import load_dataset_config
from tests.data import make
from tests.tiny import REPOSITORY

NAMES = sorted(path.stem for path in (REPOSITORY / "config/datasets").glob("*.yaml"))


def images(column, labels):
    return lambda rng, n: {column: {"bytes": make.random_png(rng, (6, 6, 3)), "path": None}, "label": n % labels}


def speech(rng, n):
    text = ("SOME WORDS", "other words", "DON'T")[n % 3]
    audio = {"bytes": make.audio(rng, 0.2), "path": f"{n}.flac"}
    return {
        "file": "",
        "audio": audio,
        "text": text,
        "speaker_id": n % 5,
        "chapter_id": n,
        "id": f"u{n}-{rng.integers(9**9)}",
    }


def collected(rng, n):
    row = speech(rng, n)
    return {"id": row["id"], "audio": row["audio"], "duration_ms": 200, "text": row["text"].lower()}


def said(rng, n):
    return {**speech(rng, n), "text": ("zero", "one")[n % 2], "speaker": ("george", "lucas", "nicolas")[n % 3]}


def word(rng, n):
    label, speaker = (n % 35, f"speaker{n}") if n else (35, None)
    audio = {"bytes": make.audio(rng, 0.1 + 0.9 * (n % 2), container="WAV"), "path": f"{n}.wav"}
    return {"file": f"{n}.wav", "audio": audio, "label": label, "is_unknown": label > 9, "speaker_id": speaker}


def text(rng, n):
    return {"text": f"Document {n} says {rng.integers(9**9)}.", "id": f"<urn:{n}-{rng.integers(9**9)}>", "score": 3.1}


# What the Hub or the mirror holds of a dataset: file -> a row of it; and what it holds besides.
CONNECTED = {f"connected-digits-{speaker}" for speaker in connected_digits.SPEAKERS}

PUBLISHED = {
    "mnist": {f"mnist/{s}-00000-of-00001.parquet": images("image", 10) for s in ("train", "test")},
    "cifar10": {f"plain_text/{s}-00000-of-00001.parquet": images("img", 10) for s in ("train", "test")},
    "cifar10-small": {f"data/{s}-00000-of-00001.parquet": images("img", 10) for s in ("train", "test")},
    "fsdd": {f"data/{s}-00000-of-00001.parquet": speech for s in ("train", "test")},
    "fsdd-speakers": {f"data/{s}-00000-of-00001.parquet": said for s in ("train", "test")},
    "speech-commands": {f"v0.02/{split}/0000.parquet": word for split in ("train", "validation")},
    "librispeech": {
        f"all/{split}/0000.parquet": speech
        for split in (
            *("train.clean.100", "train.clean.360", "train.other.500"),
            *("validation.clean", "test.clean", "test.other"),
        )
    },
    "librispeech-100": {
        f"all/{split}/0000.parquet": speech
        for split in ("train.clean.100", "validation.clean", "test.clean", "test.other")
    },
    "peoples-speech": {
        "clean/train-00000-of-00804.parquet": collected,
        "clean/train-00001-of-00804.parquet": collected,
        "validation/validation-00000-of-00005.parquet": collected,
        "test/test-00000-of-00009.parquet": collected,
    },
    "fineweb-edu": {
        "sample/10BT/000_00000.parquet": text,
        "sample/10BT/001_00000.parquet": text,
    },
}
NOT_WANTED = {
    "speech-commands": {"v0.01/train/0000.parquet": word, "v0.02/test/0000.parquet": word},
    "librispeech": {"all/validation.other/0000.parquet": speech},
    "librispeech-100": {"all/train.clean.360/0000.parquet": speech},
    "peoples-speech": {"dirty/train-00000-of-01234.parquet": collected},
    "fineweb-edu": {"data/CC-MAIN-2024-10/train-00000-of-00020.parquet": text},
}
OPTIONS = {
    "fineweb-edu": {"vocab_size": 300},
    "speech-commands": {"n_mels": 0, "sample_rate": 16000, "max_steps": 16000},
}
# Noise, which has no speaker: one row of each file.
LEFT_OUT = {"speech-commands": 2}


def test_the_datasets_are_those_promised():
    published = {*PUBLISHED, "tinyshakespeare"}
    built = {"digits", "spoken-digits", "stdlib", "repeated-stdlib", "copying", "induction", "mqar"}
    assert set(NAMES) == built | CONNECTED | published


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_file_is_valid_and_says_what_people_ask(name):
    data = load_dataset_config(name, REPOSITORY)
    assert data.licence and data.homepage.startswith("http") and data.options["tasks"]
    published = set(data.origin.get("files", ()))
    for source in data.splits.values():
        if published and not isinstance(source, dict):
            assert {source} if isinstance(source, str) else set(source) <= published


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_dataset_is_acquired_and_prepared(tmp_path, name):
    data, rng = load_dataset_config(name, REPOSITORY), np.random.default_rng(7)
    for path, row in [*PUBLISHED[name].items(), *NOT_WANTED.get(name, {}).items()]:
        make.parquet(tmp_path / "mirror" / data.origin["hub"] / path, [row(rng, n) for n in range(40)])
    larger = {split: {**part, "fraction": 0.2} for split, part in data.splits.items() if isinstance(part, dict)}
    larger = {split: part for split, part in larger.items() if "groups" not in part}
    data = replace(data, splits={**data.splits, **larger})
    folder = make.prepared(tmp_path, data.options["tasks"][0], data, tmp_path / "mirror", **OPTIONS.get(name, {}))
    stats = json.loads((folder / "stats.json").read_text())["splits"]
    counts = {split: len(PreparedSplit(folder, split)) for split in data.splits}
    assert counts == {split: fact["examples"] for split, fact in stats.items()}
    assert sum(counts.values()) == 40 * len(PUBLISHED[name]) - LEFT_OUT.get(name, 0)
    sources = json.loads((tmp_path / "data/raw" / name / "SOURCE.json").read_text())
    assert set(sources["files"]) == set(PUBLISHED[name])


def test_tinyshakespeare_is_one_document_a_split(tmp_path):
    data = load_dataset_config("tinyshakespeare", REPOSITORY)
    play = "".join(f"ROMEO {n}:\nBut soft, line {n} breaks.\n\n" for n in range(200))
    for name in ("train.txt", "test.txt"):
        make.write(tmp_path / "mirror/tinyshakespeare" / name, play)
    folder = make.prepared(tmp_path, "language_modeling", data, tmp_path / "mirror", vocab_size=300)
    facts = json.loads((folder / "stats.json").read_text())["splits"]
    assert facts["train"]["bytes"] + facts["validation"]["bytes"] == facts["test"]["bytes"] == len(play)
    assert [facts[split]["examples"] for split in facts] == [1, 1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origin": {"hub": "a/b", "path": "c"}}, "origin"),
        (
            {"origin": {"builder": "nothing"}},
            'origin.builder: found "nothing", allowed: sklearn_digits, espeak, stdlib, repeated_stdlib, connected_digits',
        ),
        ({"splits": {"train": "train"}}, "splits.test: missing"),
        ({"splits": {"train": "a", "test": "b", "validation": {"from": "test", "fraction": 0.1}}}, "splits.validation"),
        ({"columns": {"picture": "image"}}, "columns.picture: unknown key"),
        ({"tasks": ["translation"]}, 'tasks[0]: found "translation", allowed'),
        ({"license": "MIT"}, "license: unknown key: did you mean licence"),
    ],
)
def test_a_wrong_dataset_file_is_one_line(tmp_path, change, message):
    raw = yaml.safe_load((REPOSITORY / "config/datasets/digits.yaml").read_text())
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({**raw, **change}))
    with pytest.raises(UserError) as caught:
        load_dataset_config(tmp_path / "wrong.yaml", REPOSITORY)
    assert message in str(caught.value) and "\n" not in str(caught.value)
