import io
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from lt25.data.batches import longest_first
from lt25.data.prepared import PreparedSplit
from lt25.errors import UserError
from lt25.evaluation.conditions import AS_RECORDED, CONDITIONS, Played, named
from lt25.evaluation.speech_recognition import evaluate_split, plots
from lt25.files import write_json
from lt25.models import HGRNConfig, HGRNForCTC
from tests.data import make

from .fakes import FakeSplit, options

RATE = 16_000


@pytest.fixture(scope="module")
def speech():
    """Half a second of noise of all frequencies, int16."""
    return (3000 * np.random.default_rng(0).standard_normal(RATE // 2)).astype(np.int16)


@pytest.fixture
def split(tmp_path, speech):
    write_json(tmp_path / "preprocessor_config.json", {"sampling_rate": RATE})
    return fake(tmp_path, "test", [speech, speech[:4000]], [[2], [3]])


def fake(folder, name, *inputs_and_labels, **columns) -> Any:
    found: Any = FakeSplit(*inputs_and_labels, **columns)
    found.path, found.split = folder, name
    return found


def heard(split, condition, index=0):
    return Played(split, condition)[index]["input"]


def power(samples):
    return float(np.square(np.asarray(samples, np.float64)).mean())


@pytest.mark.parametrize("decibels", [-6, -12, -20])
def test_quieter_is_quieter_in_samples_of_16_bits(split, speech, decibels):
    played = heard(split, f"{decibels} dB")
    assert played.dtype == torch.int16 and len(played) == len(speech)
    assert 10 * np.log10(power(played) / power(speech)) == pytest.approx(decibels, abs=0.05)


def test_at_8_khz_there_is_nothing_above_4(split, speech):
    played = heard(split, "8 kHz")
    assert len(played) == len(speech)
    spectrum = np.square(np.abs(np.fft.rfft(played.numpy() * np.hanning(len(played)))))
    hertz = np.fft.rfftfreq(len(played), 1 / RATE)
    assert spectrum[hertz > 4200].mean() < 1e-3 * spectrum[hertz < 3500].mean()
    write_json(split.path / "preprocessor_config.json", {"sampling_rate": 8000})
    assert named(split) == [name for name in CONDITIONS if name != "8 kHz"]


@pytest.mark.parametrize("ratio", [20, 10, 0])
def test_noise_is_as_loud_as_its_name_says_and_the_same_each_time(split, speech, ratio):
    played = heard(split, f"noise, {ratio} dB")
    added = played.numpy().astype(float) - speech
    assert 10 * np.log10(power(speech) / power(added)) == pytest.approx(ratio, abs=0.2)
    assert torch.equal(played, heard(split, f"noise, {ratio} dB"))
    other = heard(split, f"noise, {ratio} dB", 1).numpy().astype(float) - speech[:4000]
    assert abs(np.corrcoef(added[:4000], other)[0, 1]) < 0.2


def test_of_features_the_recordings_that_the_test_split_keeps_are_played(split, speech):
    file = io.BytesIO()
    soundfile.write(file, speech, RATE, format="FLAC", subtype="PCM_16")
    features = fake(split.path, "test", [np.zeros((50, 4), np.float16)], [[2]], audio=[file.getvalue()])
    assert torch.equal(heard(features, "-6 dB"), heard(split, "-6 dB"))
    # The longest still come first, and the labels are the split's.
    assert longest_first(Played(features, "-6 dB").lengths, 2)[0].tolist() == [0]
    assert Played(features, "-6 dB")[0]["label"].tolist() == [2]
    bare = fake(split.path, "validation", [np.zeros((50, 4), np.float16)], [[2]])
    with pytest.raises(UserError, match=r"evaluation.conditions: needs recordings.*found validation"):
        Played(bare, "-6 dB")


@pytest.mark.parametrize("store", ["features", "audio"])
def test_a_test_split_is_heard_under_each_condition(tmp_path, store):
    make.audio_folder(tmp_path / "mine", ["one two", "three"] * 6)
    data = make.dataset("speech_recognition", {"path": "mine"})
    folder = make.prepared(tmp_path, "speech_recognition", data, n_mels=40, store=store)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 16, "initializer_range": 0.3}
    model = HGRNForCTC(HGRNConfig(**sizes, input_size=40, vocab_size=30, pad_token_id=0)).eval()
    chosen = options("speech_recognition", conditions=True)
    metrics, table = evaluate_split(model, folder, PreparedSplit(folder, "test"), chosen, "test", True)
    assert list(metrics["conditions"]) == [AS_RECORDED, *CONDITIONS]
    assert metrics["conditions"][AS_RECORDED]["wer"] == metrics["wer"]
    assert "wer_by_condition.svg" in plots(metrics, table)
    unseen, _ = evaluate_split(model, folder, PreparedSplit(folder, "test"), chosen, "test", False)
    assert "conditions" not in unseen
