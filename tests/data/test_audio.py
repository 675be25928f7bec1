import io
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch

from lt25.data.audio import FLOOR, TooLong, decode_audio, is_silent, log_mel, resample
from tests.data import make


def noise(seconds=1.0, loudness=0.1):
    return loudness * np.random.default_rng(0).standard_normal(round(16000 * seconds)).astype(np.float32)


def speech(seconds=1.0):
    """Noise in bursts of different loudness."""
    bursts = np.repeat(np.random.default_rng(1).uniform(0.01, 1, 20), round(16000 * seconds) // 20)
    return noise(seconds)[: len(bursts)] * bursts.astype(np.float32)


def recorded(samples, n_mels=80):
    return log_mel(torch.as_tensor(samples), 16000, n_mels, "recorded")


def encoded(samples, rate=16000, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **{"format": "WAV", **options})
    return buffer.getvalue()


@pytest.mark.parametrize("level", ["recorded", "utterance", "running"])
@pytest.mark.parametrize("n_mels", [40, 80])
def test_a_tone_lights_up_its_band(n_mels, level):
    seconds = torch.arange(16000) / 16000
    tones = [torch.sin(2 * torch.pi * hz * seconds) for hz in (200, 1000, 4000)]
    bands = [log_mel(tone, 16000, n_mels, level)[10:80].mean(0).argmax() for tone in tones]
    assert bands == sorted(set(bands))


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 400, 16000, 16001])
def test_one_frame_every_hop(samples):
    for level in ("recorded", "utterance", "bands", "running"):
        frames = log_mel(torch.ones(samples), 16000, 40, level)
        assert frames.shape == (-(-samples // 160), 40) and frames.dtype == torch.float32


def test_no_band_is_empty():
    frames = recorded(noise(loudness=1))
    assert frames.std(0).min() > 0.1 and frames.min() > np.log(FLOOR) + 1


def test_a_stream_cut_at_hops_gives_the_frames_of_the_whole():
    samples = torch.from_numpy(noise())
    whole = recorded(samples)
    assert torch.equal(recorded(samples[160 * 30 :]), whole[30:])
    assert torch.equal(recorded(samples[: 160 * 60])[:57], whole[:57])


def test_silence_and_rounding_noise_look_alike():
    rounding = np.random.default_rng(0).integers(-1, 2, 16000).astype(np.float32) / 2**16
    assert (recorded(rounding) - recorded(0 * rounding)).abs().max() < 0.5
    # Measured by the loudest frame, nothing is as loud as speech.
    for level in ("utterance", "running"):
        assert log_mel(torch.from_numpy(rounding), 16000, 80, level).max() < np.log(0.1)


def test_bands_do_not_hear_the_colour_of_a_microphone():
    samples = speech()
    coloured = np.convolve(samples, [1, -0.9])[: len(samples)]
    apart = {}
    for level in ("utterance", "bands"):
        plain, other = (log_mel(torch.as_tensor(x, dtype=torch.float32), 16000, 40, level) for x in (samples, coloured))
        apart[level] = float((plain - other).abs().mean())
    assert apart["bands"] < apart["utterance"] / 2


@pytest.mark.parametrize("level", ["utterance", "bands", "running"])
@pytest.mark.parametrize("decibels", [12, -12, -24])
def test_features_do_not_hear_the_level_of_a_recording(level, decibels):
    samples = speech()
    played = np.round(samples * 10 ** (decibels / 20) * 32768) / 32768
    plain, other = (log_mel(torch.as_tensor(x, dtype=torch.float32), 16000, 40, level) for x in (samples, played))
    assert (plain - other).abs().mean() < 0.02 and (plain - other).abs().max() < 1
    assert plain.std() > 1
    # As it was recorded, everything moves by the gain.
    moved = recorded(played.astype(np.float32), 40) - recorded(samples, 40)
    assert abs(moved.median() / np.log(10) * 10 - decibels) < 0.5


def test_the_running_level_is_causal_and_follows_what_was_loudest():
    samples = torch.from_numpy(speech(2.0))
    whole = log_mel(samples, 16000, 40, "running")
    assert torch.equal(log_mel(samples[: 160 * 100], 16000, 40, "running")[:97], whole[:97])
    # Once the loudest frame has come, both levels are the same but for what a stream forgets.
    loudest = int(recorded(samples, 40).exp().mean(1).argmax())
    end = slice(loudest, loudest + 10)
    assert (whole[end] - log_mel(samples, 16000, 40, "utterance")[end]).abs().max() < 0.1


def test_a_click_does_not_deafen_a_stream_for_ever():
    samples = speech(30.0) * 0.01
    clicked = samples.copy()
    clicked[:100] = 1
    plain, other = (log_mel(torch.from_numpy(x), 16000, 40, "running")[-100:] for x in (samples, clicked))
    assert torch.allclose(plain, other, atol=1e-3)


@pytest.mark.parametrize("container", ["FLAC", "WAV", "OGG", "MP3", "AIFF"])
def test_containers(container):
    samples = decode_audio(make.audio(np.random.default_rng(0), 0.5, container=container), 16000)
    assert samples.dtype == np.float32 and abs(len(samples) - 8000) <= 1152 and 0.05 < samples.std() < 0.2


@pytest.mark.parametrize(
    "subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"]
)
def test_formats_of_samples(subtype):
    samples = 0.3 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    assert np.abs(decode_audio(encoded(samples, subtype=subtype), 16000)[:16000] - samples).mean() < 0.02


@pytest.mark.parametrize("rate", [8000, 11025, 11127, 22050, 44056, 44100, 48000, 96000, 192000, 655350])
def test_resampling_keeps_a_tone_and_lets_none_in(rate):
    def tone(hz, rate):
        return 0.5 * np.sin(2 * np.pi * hz * np.arange(rate) / rate)

    samples = decode_audio(encoded(tone(1000, rate), rate, subtype="FLOAT"), 16000)
    assert len(samples) == 16000 and samples.dtype == np.float32
    assert np.abs(samples - tone(1000, 16000))[200:-200].max() < 0.005
    if rate > 25000:
        above = decode_audio(encoded(tone(11000, rate), rate, subtype="FLOAT"), 16000)
        assert np.abs(above[200:-200]).max() < 0.001


def test_a_second_at_an_odd_rate_is_resampled_at_once():
    samples = noise()[:11127]
    resample(samples, 11127, 16000)
    started = time.perf_counter()
    resampled = resample(samples, 11127, 16000)
    assert time.perf_counter() - started < 1
    assert len(resampled) == 16000


def test_an_odd_rate_takes_little_memory():
    # The peak of a process of its own, over what importing takes.
    script = """
import resource, numpy
from lt25.data.audio import resample
resample(numpy.ones(100, numpy.float32), 8000, 16000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for rate in (11127, 44056, 655350):
    resample(numpy.ones(rate, numpy.float32), rate, 16000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300 * 1024, "KiB"


M4A = b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100)


def fake_ffmpeg(folder, monkeypatch, script):
    """Put a program in ffmpeg's place; it finds what it is asked for in ``$@``, the last of which is the file to write."""
    program = make.write(folder / "ffmpeg", f"#!/bin/sh\nfor target; do :; done\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_what_phones_write_is_decoded_by_ffmpeg(tmp_path, monkeypatch):
    make.write(tmp_path / "heard.wav", encoded(noise(), 44100, subtype="FLOAT"))
    fake_ffmpeg(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/asked; cp {tmp_path}/heard.wav "$target"')
    expected = decode_audio((tmp_path / "heard.wav").read_bytes(), 16000)
    for content in (M4A, b"#!AMR\n", b"\xff\xf1" + bytes(9), b"\x1a\x45\xdf\xa3", b"caff\0\1\0\0"):
        assert np.array_equal(decode_audio(content, 16000), expected)
    asked = (tmp_path / "asked").read_text()
    assert "-protocol_whitelist file" in asked, "no address is fetched"
    with pytest.raises(TooLong):
        decode_audio(M4A, 16000, max_seconds=0.2)
    assert "-t 1.2 " in (tmp_path / "asked").read_text()
    (tmp_path / "asked").unlink()
    with pytest.raises(ValueError, match="no readable audio"):
        decode_audio(b"#EXTM3U\nhttp://example.invalid/x.ts\n", 16000)
    assert not (tmp_path / "asked").exists(), "a list of addresses is nothing for ffmpeg"


def test_without_ffmpeg_or_without_audio_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"MPEG-4 .* is read where ffmpeg is installed: install it, or convert"):
        decode_audio(M4A, 16000)
    fake_ffmpeg(tmp_path, monkeypatch, 'echo "first line" >&2; echo "moov atom not found" >&2; exit 1')
    with pytest.raises(ValueError, match=r"no readable audio \(MPEG-4 .*: moov atom not found\)$"):
        decode_audio(M4A, 16000)


def test_channels_are_averaged_and_do_not_cancel_each_other_out():
    samples = speech()
    assert np.allclose(decode_audio(encoded(np.stack([samples, 0 * samples], 1)), 16000), samples / 2, atol=1e-4)
    assert np.allclose(decode_audio(encoded(np.stack([samples] * 8, 1)), 16000), samples, atol=1e-4)
    opposite = decode_audio(encoded(np.stack([samples, -samples], 1)), 16000)
    assert np.allclose(np.abs(opposite), np.abs(samples), atol=1e-4)


def test_samples_beyond_full_scale_are_scaled_to_it():
    samples = decode_audio(encoded(speech() * 20000, subtype="FLOAT"), 16000)
    assert np.abs(samples).max() == 1
    assert np.corrcoef(samples, speech())[0, 1] > 0.999


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"no audio at all", "no readable audio"),
        (make.empty_wav(), "holds no samples"),
        (encoded(noise())[:-1000], "truncated"),
        (encoded(noise(), format="FLAC")[:-1000], "no readable audio|truncated"),
        (encoded(np.array([0.0, np.nan, 0.1]), subtype="FLOAT"), "not finite"),
        (encoded(np.array([0.0, np.inf, 0.1]), subtype="FLOAT"), "not finite"),
        (encoded(noise(3.0)), "lasts 3.0 s"),
        (encoded(noise(), 2_000_000), "a sample rate of 2000000 Hz"),
        (make.patched(make.wav(noise()), 24, 0), "a sample rate of 0 Hz"),
        (make.patched(make.wav(noise()), 24, 4_000_000_000), "a sample rate of 4000000000 Hz"),
    ],
    ids=["nothing", "text", "empty", "cut-wav", "cut-flac", "nan", "inf", "long", "rate", "no-rate", "no-such-rate"],
)
def test_what_cannot_be_used_says_why(content, message):
    with pytest.raises(ValueError, match=message):
        decode_audio(content, 16000, max_seconds=2)


def test_a_wav_from_a_pipe_whose_header_knows_no_size_is_read():
    data = bytearray(encoded(noise()))
    for unknown in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF024):
        data[4:8] = unknown.to_bytes(4, "little")
        assert len(decode_audio(bytes(data), 16000)) == 16000


def test_silence_is_told_from_a_quiet_recording():
    assert is_silent(np.zeros(100, np.float32)) and is_silent(np.full(100, 0.3, np.float32))
    assert is_silent(np.random.default_rng(0).integers(-1, 2, 1000) / np.float32(32768))
    assert not is_silent(speech() * 0.001)
