import numpy as np
import pytest
import torch

from lt25.data.audio import FLOOR, decode_audio, log_mel
from tests.data import make


@pytest.mark.parametrize("n_mels", [40, 80])
def test_a_tone_lights_up_its_band(n_mels):
    time = torch.arange(16000) / 16000
    bands = [
        log_mel(torch.sin(2 * torch.pi * hz * time), 16000, n_mels)[10:80].mean(0).argmax() for hz in (200, 1000, 4000)
    ]
    assert bands == sorted(set(bands))


@pytest.mark.parametrize("samples", [1, 159, 160, 161, 400, 16000, 16001])
def test_one_frame_every_hop(samples):
    frames = log_mel(torch.ones(samples), 16000, 40)
    assert frames.shape == (-(-samples // 160), 40) and frames.dtype == torch.float32


def test_no_band_is_empty():
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(16000).astype(np.float32))
    assert log_mel(noise, 16000, 80).std(0).min() > 0.1 and log_mel(noise, 16000, 80).min() > np.log(FLOOR) + 1


def test_a_stream_cut_at_hops_gives_the_frames_of_the_whole():
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(16000).astype(np.float32))
    whole = log_mel(noise, 16000, 80)
    assert torch.equal(log_mel(noise[160 * 30 :], 16000, 80), whole[30:])
    assert torch.equal(log_mel(noise[: 160 * 60], 16000, 80)[:57], whole[:57])


def test_silence_and_rounding_noise_look_alike():
    rounding = torch.from_numpy(np.random.default_rng(0).integers(-1, 2, 16000) / 2**16).float()
    assert (log_mel(rounding, 16000, 80) - log_mel(torch.zeros(16000), 16000, 80)).abs().max() < 0.5


@pytest.mark.parametrize("container", ["FLAC", "WAV", "OGG", "MP3"])
def test_containers(container):
    samples = decode_audio(make.audio(np.random.default_rng(0), 0.5, container=container), 16000)
    assert samples.dtype == np.float32 and abs(len(samples) - 8000) <= 1152 and 0.05 < samples.std() < 0.2


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_resampling_keeps_a_tone(rate):
    import io

    import soundfile

    buffer = io.BytesIO()
    soundfile.write(
        buffer, 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate), rate, format="WAV", subtype="FLOAT"
    )
    samples = decode_audio(buffer.getvalue(), 16000)
    assert len(samples) == 16000
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(samples - expected)[100:-100].max() < 0.01


def test_samples_that_are_not_finite():
    import io

    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.array([0.0, np.nan, 0.1]), 16000, format="WAV", subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        decode_audio(buffer.getvalue(), 16000)
