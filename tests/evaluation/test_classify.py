"""`lt25 classify`: what it prints of images, series and recordings, and of what it cannot read."""

import io
import json
import os
import re
from threading import Thread

import numpy as np
import pytest
import torch

from lt25 import cli
from lt25.data.features import LogMelFeatureExtractor, SeriesFeatureExtractor
from lt25.evaluation.answers import Classifier
from lt25.models import HGRNConfig, HGRNForSequenceClassification
from tests.data import make


def exported(folder, extractor, **more):
    torch.manual_seed(0)
    names = {0: "cat", 1: "dog", 2: "bird"}
    config = HGRNConfig(
        hidden_size=8, num_hidden_layers=2, intermediate_size=8, input_size=extractor.feature_size, id2label=names,
        label2id={name: number for number, name in names.items()}, initializer_range=0.5, bidirectional=True, **more,
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
    os.mkfifo(tmp_path / "pipe")
    Thread(target=(tmp_path / "pipe").write_bytes, args=(image,)).start()
    assert cli.main(["classify", str(images), str(tmp_path / "pipe")]) == 0
    assert capsys.readouterr().out.split()[1:] == captured.out.split()[1:]


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


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n1,2.5\n-3,4\n",
        "\ufeffx;y\r\n1;2,5\r\n-3;4\r\n",
        '"x"\t"y"\n1\t2.5\n-3\t4\n',
        "1 2.5\n\n-3  4\n",
        "1,2.5\n-3,4",
    ],
)
def test_numbers_as_text_with_and_without_a_header(tmp_path, text):
    model = exported(tmp_path / "model", SeriesFeatureExtractor(2, layout="series", mean=[0, 0], std=[1, 1]))
    assert Classifier(model).features(text.encode()).tolist() == [[1, 2.5], [-3, 4]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there are none"),
        ("x,y\n", "there are none"),
        ("x,y\nm,s\n1,2\n", "line 2: found 'm', expected a number"),
        ("x,y\n1,2\n3,\n", "line 3: found '', expected a number"),
        ("1,2\n3,nan\n", "line 2: found 'nan', expected a number"),
        ("1,2\n3\n", "line 2: 1 fields, expected 2"),
        ("1,2\n3,inf\n", "not a list of finite numbers"),
        ("1,2\n3,-1e40\n", "the value -1e+40 is too far from the training split's mean"),
        ("1,2,3\n", "3 values a step, the model takes 2"),
        ("1,2\n" * 9, "9 steps, the model takes 8 at most"),
    ],
)
def test_text_that_is_no_series_of_the_model_is_one_line(tmp_path, text, message):
    extractor = SeriesFeatureExtractor(2, layout="series", mean=[0, 0], std=[1, 1])
    model = exported(tmp_path / "model", extractor, position_embeddings=8)
    with pytest.raises(ValueError, match=re.escape(message)):
        Classifier(model).features(text.encode())


def test_gaps_of_a_model_that_knows_them(tmp_path):
    model = exported(
        tmp_path / "model", SeriesFeatureExtractor(4, layout="series", mean=[0, 0], std=[1, 1], missing=True)
    )
    found = Classifier(model).features(b"x,y\n1,\n,\n2,nan\n").tolist()
    assert found == [[1, 0, 1, 0], [1, 0, 0, 0], [2, 0, 1, 0]]


def test_another_model_is_one_line(tmp_path, capsys):
    make.write(
        tmp_path / "lm/config.json", json.dumps({"model_type": "lt25_hgrn", "architectures": ["HGRNForCausalLM"]})
    )
    assert cli.main(["classify", str(tmp_path / "lm"), "x"]) == 2
    assert "found HGRNForCausalLM, expected a classifier (...ForSequenceClassification)" in capsys.readouterr().err
