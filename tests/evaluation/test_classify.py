"""`lt25 classify`: what it prints of images, series and recordings, and of what it cannot read."""

import io
import json

import numpy as np
import pytest
import torch

from lt25 import cli
from lt25.data.features import LogMelFeatureExtractor, SeriesFeatureExtractor
from lt25.models import HGRNConfig, HGRNForSequenceClassification
from tests.data import make


def exported(folder, extractor):
    torch.manual_seed(0)
    names = {0: "cat", 1: "dog", 2: "bird"}
    config = HGRNConfig(
        hidden_size=8, num_hidden_layers=2, intermediate_size=8, input_size=extractor.feature_size, id2label=names,
        label2id={name: number for number, name in names.items()}, initializer_range=0.5, bidirectional=True,
    )  # fmt: skip
    HGRNForSequenceClassification(config).save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture
def images(tmp_path):
    return exported(tmp_path / "model", SeriesFeatureExtractor(1, layout="pixels", size=[4, 5]))


def test_images_in_folders_one_by_one_and_as_json(images, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for number in range(3):
        make.write(tmp_path / f"mine/{number}.png", make.random_png(rng, (4, 5)))
    assert cli.main(["classify", str(images), str(tmp_path / "mine"), "--json"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["file"] for answer in answers] == [str(tmp_path / f"mine/{number}.png") for number in range(3)]
    for answer in answers:
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert (
            answer["probability"] == answer["probabilities"][answer["label"]] == max(answer["probabilities"].values())
        )

    assert cli.main(["classify", str(images), str(tmp_path / "mine/1.png"), "--stream"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and "after  10%" in lines[0] and "after 100%" in lines[-1]
    assert answers[1]["label"] in lines[-1] and f"{answers[1]['probability']:.1%}" in lines[-1]


def test_standard_input_and_what_cannot_be_read(images, tmp_path, capsys, monkeypatch):
    image = make.random_png(np.random.default_rng(0), (4, 5))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(image)))
    make.write(tmp_path / "no.png", b"no image")
    assert cli.main(["classify", str(images), str(tmp_path / "no.png"), "-"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("-  ") and len(captured.out.splitlines()) == 1
    assert f"{tmp_path / 'no.png'}: no readable image" in captured.err and "Traceback" not in captured.err
    assert cli.main(["classify", str(images), str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such file or folder" in capsys.readouterr().err


def test_series_and_recordings(tmp_path, capsys):
    series = exported(tmp_path / "series", SeriesFeatureExtractor(2, layout="series", mean=[0, 0], std=[1, 1]))
    values = np.random.default_rng(0).standard_normal((7, 2))
    np.save(tmp_path / "a.npy", values)
    np.savetxt(tmp_path / "a.csv", values, delimiter=",")
    assert cli.main(["classify", str(series), str(tmp_path / "a.npy"), str(tmp_path / "a.csv")]) == 0
    first, second = (line.split("csv" if "csv" in line else "npy")[1] for line in capsys.readouterr().out.splitlines())
    assert first == second
    np.save(tmp_path / "a.npy", values[:, :1])
    assert cli.main(["classify", str(series), str(tmp_path / "a.npy")]) == 2
    assert "a.npy: " in capsys.readouterr().err

    single = exported(tmp_path / "single", SeriesFeatureExtractor(1, layout="series", mean=[0], std=[1]))
    make.write(tmp_path / "row.csv", b"1,2,3\n")
    make.write(tmp_path / "column.csv", b"1\n2\n3\n")
    assert cli.main(["classify", str(single), str(tmp_path / "row.csv"), str(tmp_path / "column.csv")]) == 0
    first, second = (line.split("csv")[1] for line in capsys.readouterr().out.splitlines())
    assert first == second

    speech = exported(tmp_path / "speech", LogMelFeatureExtractor(40, level="running"))
    make.write(tmp_path / "a.wav", make.audio(np.random.default_rng(0), 0.3, rate=8000, container="WAV"))
    assert cli.main(["classify", str(speech), str(tmp_path / "a.wav")]) == 0
    assert capsys.readouterr().out.split()[1] in ("cat", "dog", "bird")


def test_another_model_is_one_line(tmp_path, capsys):
    make.write(
        tmp_path / "lm/config.json", json.dumps({"model_type": "lt25_hgrn", "architectures": ["HGRNForCausalLM"]})
    )
    assert cli.main(["classify", str(tmp_path / "lm"), "x"]) == 2
    assert "found HGRNForCausalLM, expected a classifier (...ForSequenceClassification)" in capsys.readouterr().err
