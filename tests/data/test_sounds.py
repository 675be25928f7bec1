"""Noises and responses of rooms from folders: which files, what is heard of them, and what is said of those that are bad."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lt25 import cli, dvc, files
from lt25.data.audio_augmentation import waveform_transforms
from lt25.data.batches import Item, seeded
from lt25.data.sounds import Sounds, contents
from lt25.errors import UserError
from lt25.training.job import job_of, read_job, write_job
from lt25.training.run import open_run
from tests import tiny
from tests.data import make

RATE = 16_000


def sound(path: Path, samples: np.ndarray, rate: int = RATE, **options: str) -> Path:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **{"format": path.suffix[1:].upper(), **options})
    return make.write(path, buffer.getvalue())


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return 0.2 * np.sin(2 * math.pi * hertz * np.arange(round(seconds * rate)) / rate)


def heard(samples: np.ndarray, seed: int = 0, **augment: object) -> np.ndarray:
    item: Item = {"input": torch.from_numpy(samples.astype(np.float32))}
    generator = seeded(torch.device("cpu"), seed)
    for transform in waveform_transforms(augment, RATE):
        item = transform(item, generator)
    assert item["input"].dtype == torch.float32
    return item["input"].numpy()


def loudest(samples: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples))


@pytest.fixture
def noises(tmp_path):
    """One noise a format and rate, one of them in stereo and one shorter than what it is added to."""
    sound(tmp_path / "noises/a.wav", tone(3000, 0.25))
    sound(tmp_path / "noises/in here/ü b.flac", np.stack([tone(3000, 3, 44_100)] * 2, 1), 44_100)
    sound(tmp_path / "noises/c.ogg", tone(3000, 3, 8000), 8000)
    make.write(tmp_path / "noises/README.txt", "not a sound")
    return str(tmp_path / "noises")


def test_a_piece_of_recorded_noise_is_added_at_a_ratio_between_two(noises):
    speech, files = tone(500, 2), set()
    for seed in range(30):
        added = heard(speech, seed, noise_db=[5, 15], noise_files=noises) - speech.astype(np.float32)
        ratio = 10 * math.log10(np.square(speech).mean() / np.square(added).mean())
        assert 4.99 < ratio < 15.01 and abs(loudest(added) - 3000) < 20
        files.add(round(ratio))
    assert len(files) > 5


def test_the_same_draw_hears_the_same_and_another_does_not(noises, tmp_path):
    sound(tmp_path / "rooms/hall.wav", np.exp(-np.arange(2000) / 300) * np.random.default_rng(0).normal(size=2000))
    speech = tone(500) + tone(900)
    augment = {"noise_db": [5, 15], "noise_files": noises, "rooms": str(tmp_path / "rooms"), "tempo": [0.9, 1.1]}
    first, again, other = (heard(speech, seed, **augment) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first[:9000], other[:9000])


def test_every_second_recording_is_heard_in_a_room_in_time_and_as_loud_as_before(tmp_path):
    # 10 ms of silence, what comes straight, and an echo of half of it 50 ms later, at half the rate.
    response = np.zeros(1000)
    response[[80, 480]] = 0.5, 0.25
    sound(tmp_path / "rooms/echo.wav", response, 8000)
    speech = np.zeros(RATE)
    speech[4000:4800] = tone(1000, 0.05)
    changed = [heard(speech, seed, rooms=str(tmp_path / "rooms")) for seed in range(100)]
    in_room = [one for one in changed if not np.array_equal(one, speech.astype(np.float32))]
    assert 30 < len(in_room) < 70
    power = [np.square(in_room[0][start : start + 800]).sum() for start in (3200, 4000, 4800, 5600)]
    assert power[2] / power[1] == pytest.approx(1 / 4, rel=0.03) and max(power[0], power[3]) < 1e-3 * power[1]
    assert np.square(in_room[0]).mean() == pytest.approx(np.square(speech).mean(), rel=1e-3)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_tempo_changes_the_length_alone_and_pitch_the_pitch_alone(factor):
    speech = tone(1000, 1.0)
    faster, higher = heard(speech, tempo=[factor]), heard(speech, pitch=[factor])
    assert len(faster) == round(RATE / factor) and abs(loudest(faster) - 1000) < 10
    assert len(higher) == RATE and abs(loudest(higher) - 1000 * factor) < 10
    middle = slice(4000, -4000)
    for changed in (faster, higher):
        assert np.square(changed[middle]).mean() == pytest.approx(np.square(speech).mean(), rel=0.2)
    assert np.array_equal(heard(speech, tempo=[1]), speech.astype(np.float32))


@pytest.mark.parametrize("change", ["speed", "tempo", "pitch", "noise_files", "rooms"])
def test_an_utterance_of_a_few_samples_or_of_silence_is_changed_too(noises, change):
    value = [1.25] if change in ("speed", "tempo", "pitch") else noises
    noise = {"noise_db": [5, 15]} if change == "noise_files" else {}
    for samples in (np.full(3, 0.1), np.zeros(RATE)):
        for seed in range(4):
            assert np.isfinite(heard(samples, seed, **{change: value}, **noise)).all()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "no such folder: name one with recordings"),
        ({"read.me": b"nothing"}, "no recording in it: expected .aif, .aiff, .flac"),
        ({"a.wav": make.wav(tone(500)), "b.wav": b"no audio"}, r"b.wav: no readable audio \(.*\): mend or remove it"),
        ({"a.wav": make.empty_wav()}, "a.wav: holds no samples: mend or remove it"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(tmp_path, write, message):
    for name, content in (write or {}).items():
        make.write(tmp_path / "noises" / name, content)
    with pytest.raises(UserError, match=rf"^augment.noise_files: .*{message}") as caught:
        waveform_transforms({"noise_db": [5, 15], "noise_files": str(tmp_path / "noises")}, RATE)
    assert "\n" not in str(caught.value)


def test_a_recording_that_is_damaged_in_the_middle_is_one_line(tmp_path):
    whole = make.audio(np.random.default_rng(0), 3)
    make.write(tmp_path / "noises/a.flac", whole[: len(whole) // 3] + bytes(len(whole) * 2 // 3))
    noises = Sounds(str(tmp_path / "noises"), "noise_files")
    with pytest.raises(UserError, match=r"^augment.noise_files: .*a.flac: .*: mend or remove it$"):
        noises.piece(3, lambda below: below // 2)


def test_what_is_in_a_folder_decides_and_not_where_it_is(noises, tmp_path, monkeypatch):
    augment = {"noise_db": [5, 15], "noise_files": noises}

    def identity():
        return contents(augment, ("rooms", "noise_files"))

    before = identity()
    assert set(before) == {"noise_files"}
    moved = Path(noises).rename(tmp_path / "elsewhere")
    augment["noise_files"] = str(moved)
    assert identity() == before
    make.write(moved / "README.txt", "another text")
    assert identity() == before
    sound(moved / "a.wav", tone(3001, 0.25))
    assert identity() != before
    monkeypatch.setattr(files, "sha256", lambda path: path.with_name("no file").read_text())
    make.write(moved / "d.wav", make.wav(tone(1)))
    with pytest.raises(UserError, match=r"^augment.noise_files: .*no file: cannot be read \(.*\): mend or remove it$"):
        identity()
    augment["noise_files"] = str(tmp_path / "gone")
    with pytest.raises(UserError, match=r"^augment.noise_files: .*gone: no such folder"):
        identity()


def test_another_noise_makes_another_run_of_the_same_experiment_wherever_it_lies(noises, tmp_path, monkeypatch, capsys):
    root = tiny.make_project(tmp_path / "project")
    monkeypatch.chdir(root)
    Path(noises).rename(root / "noises")
    augment = {"noise_db": [5, 15], "noise_files": "noises"}
    experiment = tiny.tiny(root, "speech_recognition", prepare={"store": "audio"}, augment=augment)

    def fingerprint():
        job = read_job(write_job(experiment))
        return open_run(job, job, 1).fingerprint

    assert cli.main(["check", "tiny"]) == 0
    before = fingerprint()
    assert fingerprint() == before and "noises" in dvc.stages([experiment])
    sound(root / "noises/c.ogg", tone(2000))
    assert fingerprint() != before
    make.write(root / "noises/d.wav", "no audio")
    capsys.readouterr()
    assert cli.main(["check", "tiny"]) == 2
    assert "tiny: augment.noise_files: " in (said := capsys.readouterr().out) and said.count("\n") == 1
    (root / "noises").rename(root / "elsewhere")
    with pytest.raises(UserError, match=r"^augment.noise_files: .*noises: no such folder"):
        job_of(experiment)


def test_noise_is_for_a_level_that_is_said(tmp_path):
    root = tiny.make_project(tmp_path)
    with pytest.raises(UserError, match=r"augment.noise_files: needs augment.noise_db, .* as \[5, 40\]$"):
        tiny.write_experiment(root, "speech_recognition", prepare={"store": "audio"}, augment={"noise_files": "noises"})
