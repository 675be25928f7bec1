"""Audio in chunks: what comes out is what whole recordings give."""

import numpy as np
import pytest
import torch

from lt25.data.audio import normalised_log_mel, resample
from lt25.data.audio_stream import LogMelStream, ResamplerStream

RNG = np.random.default_rng(0)


def chunks(samples, sizes):
    at = 0
    while at < len(samples):
        size = int(RNG.choice(sizes))
        yield samples[at : at + size]
        at += size


@pytest.mark.parametrize("rate", [16000, 8000, 44100, 48000, 11025, 47999])
@pytest.mark.parametrize("sizes", [[1, 7, 500], [20000]])
def test_chunks_are_resampled_as_a_whole_recording_is(rate, sizes):
    samples = RNG.standard_normal(rate // 2 + 13).astype(np.float32)
    stream = ResamplerStream(rate, 16000)
    played = [stream.feed(chunk) for chunk in chunks(samples, sizes)]
    played = np.concatenate([*played, stream.close()])
    whole = resample(samples, rate, 16000)
    assert played.shape == whole.shape and np.abs(played - whole).max() < 1e-5


def test_a_resampler_remembers_no_more_than_it_needs():
    stream = ResamplerStream(44100, 16000)
    kept = 0
    for _ in range(50):
        stream.feed(np.zeros(4410, np.float32))
        kept = max(kept, len(stream._kept))
    assert kept < 4410 + 4 * 441


@pytest.mark.parametrize("level", ["running", "recorded"])
@pytest.mark.parametrize("size", [1, 37, 160, 5000])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_frames_of_chunks_are_those_of_the_whole(level, size, rate):
    samples = torch.from_numpy(RNG.standard_normal(1 if size == 1 else rate // 3 + 5).astype(np.float32))
    samples[len(samples) // 2 :] *= 0.01
    bands = torch.full((40,), 0.5), torch.full((40,), 2.0)
    stream = LogMelStream(rate, *bands, level)
    frames = torch.cat([*(stream.feed(chunk) for chunk in samples.split(size)), stream.close()])
    torch.testing.assert_close(frames, normalised_log_mel(samples, rate, *bands, level), atol=1e-4, rtol=1e-4)
