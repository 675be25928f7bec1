import csv
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from lt25.data.builders import connected_digits, digits, espeak, repeated_stdlib, stdlib
from lt25.data.espeak import Espeak
from lt25.data.images import decode_image
from tests.data import make


def test_digits_are_scikit_learns_and_the_split_is_stratified(tmp_path):
    from sklearn.datasets import load_digits

    assert digits.build(tmp_path, {}).startswith("scikit-learn ")
    original, seen = load_digits(), set()
    for split, share in (("train", 0.8), ("test", 0.2)):
        rows = pq.read_table(tmp_path / f"{split}.parquet").to_pylist()
        counts = Counter(row["label"] for row in rows)
        for label in range(10):
            assert counts[label] == pytest.approx(share * (original.target == label).sum(), abs=1)
        for row in rows[::10]:
            number = int(row["id"].removeprefix("digit-"))
            assert original.target[number] == row["label"]
            pixels = decode_image(row["image"]["bytes"])[:, :, 0]
            assert np.array_equal(np.round(pixels * (16 / 255)), original.images[number])
        seen |= {row["id"] for row in rows}
    assert len(seen) == 1797


COUNTS = {"train": 16, "validation": 4, "test": 4}


@pytest.fixture(scope="module")
def of_a_command():
    """Processes that are started import lt25 as those of `lt25 download` do, without its models, which take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lt25", "download"])
        yield


@pytest.fixture(scope="module")
def spoken(tmp_path_factory, of_a_command):
    folders = [tmp_path_factory.mktemp("spoken") for _ in range(2)]
    for folder in folders:
        espeak.build(folder, {"utterances": COUNTS})
    return folders


def lines(folder, split):
    with (folder / split / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_spoken_digits_say_one_to_seven_digits(spoken):
    for split, count in COUNTS.items():
        rows = lines(spoken[0], split)
        assert len(rows) == count == len(list((spoken[0] / split).glob("*.flac")))
        for row in rows:
            words = row["text"].split()
            assert 1 <= len(words) <= 7 and set(words) <= set(espeak.WORDS)
            samples, rate = soundfile.read(spoken[0] / split / row["file_name"])
            assert rate == 16000 and 0.15 * len(words) < len(samples) / rate < 1.5 * len(words) + 0.5
            assert 0.01 < np.abs(samples).max() < 1


def test_spoken_digits_are_the_same_at_every_build(spoken):
    for path in spoken[0].rglob("*.*"):
        assert path.read_bytes() == (spoken[1] / path.relative_to(spoken[0])).read_bytes(), path


def test_no_voice_is_heard_in_two_splits():
    speakers = [set(names) for names in espeak.SPEAKERS.values()]
    assert sum(map(len, speakers)) == len(set.union(*speakers))
    for split, names in espeak.SPEAKERS.items():
        script = espeak.script(split, espeak.UTTERANCES[split])
        assert {line["speaker"] for line in script} == set(names)


@pytest.fixture
def four_speakers(tmp_path, monkeypatch):
    """A mirror with four speakers, three takes of each digit for training and one for test: tones as loud as their number."""
    digits = [(digit, speaker) for digit in range(10) for speaker in range(4)]
    for split, takes in (("train", 3), ("test", 1)):
        rows = []
        for digit, speaker in takes * digits:
            tone = 0.1 * (speaker + 1) * np.sin(2 * np.pi * (300 + 100 * digit) * np.arange(1600) / 8000)
            row = {"text": espeak.WORDS[digit], "speaker": connected_digits.SPEAKERS[speaker]}
            rows.append({"audio": {"bytes": make.wav(tone, 8000), "path": None}, **row})
        make.parquet(tmp_path / f"mirror/free-spoken-digit-dataset/data/{split}-00000-of-00001.parquet", rows)
    monkeypatch.setenv("LT25_HUB_MIRROR", str(tmp_path / "mirror"))
    return tmp_path


@pytest.mark.parametrize("left_out", connected_digits.SPEAKERS)
def test_connected_digits_are_strung_by_one_speaker_and_tested_on_another(four_speakers, left_out):
    folders = [four_speakers / name for name in ("one", "other")]
    counts = {"train": 70, "validation": 21, "test": 14}
    for folder in folders:
        folder.mkdir()
        assert connected_digits.build(folder, {"left_out": left_out, "utterances": counts}) == "mirror"
    assert sorted(path.name for path in folders[0].iterdir()) == sorted(counts)
    for path in folders[0].rglob("*.*"):
        assert path.read_bytes() == (folders[1] / path.relative_to(folders[0])).read_bytes()
    others = set(connected_digits.SPEAKERS) - {left_out}
    for split, count in counts.items():
        rows = lines(folders[0], split)
        assert len(rows) == count and {row["speaker"] for row in rows} == ({left_out} if split == "test" else others)
        assert Counter(len(row["text"].split()) for row in rows) == dict.fromkeys(range(1, 8), count // 7)
        for row in rows:
            samples, rate = soundfile.read(folders[0] / split / row["file_name"])
            words, loudness = row["text"].split(), 0.1 * (connected_digits.SPEAKERS.index(row["speaker"]) + 1)
            assert rate == 8000 and np.abs(samples[:1600]).max() == pytest.approx(loudness, rel=0.05)
            assert 1600 * len(words) + 160 * (len(words) - 1) <= len(samples) <= 4000 * len(words)
            for at, word in ((samples[:800], words[0]), (samples[-800:], words[-1])):
                hz = 10 * np.abs(np.fft.rfft(at)).argmax()
                assert espeak.WORDS[round((hz - 300) / 100)] == word


def test_voices_of_espeak_are_added_to_the_connected_digits_of_training(four_speakers, of_a_command):
    folder = four_speakers / "built"
    folder.mkdir()
    counts = {"train": 7, "validation": 7, "test": 7}
    connected_digits.build(folder, {"utterances": counts, "synthetic": 4})
    rows = lines(folder, "train")
    assert [row["file_name"] for row in rows] == [f"{n:05d}.flac" for n in range(11)]
    assert [row["text"] for row in rows[7:]] == [line["text"] for line in espeak.script("train", 4)]
    assert {row["speaker"] for row in rows[7:]} == {"espeak m1"}
    assert all(soundfile.info(folder / "train" / row["file_name"]).samplerate == 16000 for row in rows[7:])
    assert [len(lines(folder, split)) for split in ("validation", "test")] == [7, 7]


def test_every_voice_and_accent_speaks():
    synthesizer = Espeak()
    assert synthesizer.sample_rate == 22050
    said = {}
    for accent in espeak.ACCENTS:
        for speaker in [name for names in espeak.SPEAKERS.values() for name in names]:
            said[speaker] = synthesizer.say("three", f"{accent}+{speaker}").tobytes()
    assert len(set(said.values())) == len(said)


def test_rate_and_pitch_are_heard():
    synthesizer = Espeak()
    slow, fast = (synthesizer.say("nine nine nine", "en-us+m1", rate=rate) for rate in (120, 240))
    assert len(slow) > 1.4 * len(fast)
    low, high = (synthesizer.say("nine nine nine", "en-us+m1", pitch=pitch).astype(float) for pitch in (10, 90))

    def fundamental(samples):
        spectrum = np.abs(np.fft.rfft(samples))
        hertz = np.fft.rfftfreq(len(samples), 1 / synthesizer.sample_rate)
        voice = (hertz > 50) & (hertz < 300)
        return (spectrum * hertz)[voice].sum() / spectrum[voice].sum()

    assert fundamental(low) < fundamental(high) - 10


def test_a_voice_that_espeak_does_not_have():
    with pytest.raises(ValueError, match="no voice 'xx'"):
        Espeak().say("one", "xx")


def test_the_standard_library_without_tests_and_packages(tmp_path):
    import json
    import platform

    assert stdlib.build(tmp_path, {}) == f"{platform.python_implementation()} {platform.python_version()}"
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"json/decoder.py", "argparse.py"} <= names and len(names) > 400
    assert all(name.endswith(".py") for name in names)
    assert not any({"test", "tests", "site-packages", "idle_test"} & set(name.split("/")) for name in names)
    assert (tmp_path / "json/decoder.py").read_text() == Path(json.decoder.__file__).read_text()


def test_the_repeated_library_is_documents_of_the_size_asked_for_and_the_same_at_every_build(tmp_path):
    for number in range(2):
        (folder := tmp_path / str(number)).mkdir()
        repeated_stdlib.build(folder, {"megabytes": 1})
    texts = [json.loads(line)["text"] for line in (tmp_path / "0/train-000.jsonl").read_text().splitlines()]
    texts = [text for text in texts if text]
    assert 1e6 < (tmp_path / "0/train-000.jsonl").stat().st_size < 2e6 and len(set(texts)) == len(texts) > 20
    assert sum("\n" not in text for text in texts) > len(texts) / 12
    for path in (tmp_path / "0").iterdir():
        assert path.read_bytes() == (tmp_path / "1" / path.name).read_bytes()
