"""A recogniser hears a recording that is played louder or softer as well as the recording itself."""

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoTokenizer

from lt25.data import features
from lt25.data.audio import decode_audio, from_int16, to_int16
from lt25.data.loader import StepBatches
from lt25.data.order import Reading, Share
from lt25.data.prepared import PreparedSplit
from lt25.evaluation.speech_recognition import score, to_text
from lt25.models import HGRNConfig, HGRNForCTC
from lt25.ops import ctc_loss, greedy_ids
from tests.data import make

# Each letter is a tone, and a tone of its own loudness.
TONES = {"a": (300, 0.2), "b": (700, 0.05), "c": (1500, 0.1), "d": (3000, 0.02)}


def say(text, rng, louder):
    """Return samples float32 [n] of a text, with some noise."""
    seconds = np.arange(1280) / 16000
    parts = [np.zeros(800)]
    for letter in text:
        hz, loudness = TONES.get(letter, (1, 0))
        parts += [
            louder * loudness * np.hanning(1280) * np.sin(2 * np.pi * hz * rng.uniform(0.95, 1.05) * seconds),
            np.zeros(320),
        ]
    samples = np.concatenate(parts)
    return samples + 0.001 * rng.standard_normal(len(samples))


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    """A model that spells tones, trained at one level, and its prepared data."""
    return train(tmp_path_factory.mktemp("level"), 90)


def train(root, steps, louder=1, gain=None):
    """Train a model that spells tones, with a ``gain`` as an experiment's ``augment`` has it; return it and its data."""
    features.register()
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcd "), 6)).strip() or "a" for _ in range(300)]
    for number, text in enumerate(texts):
        make.write(root / "mine" / f"{number}.wav", make.wav(say(text, rng, louder)))
    lines = ["file_name,text", *(f"{number}.wav,{text}" for number, text in enumerate(texts))]
    make.write(root / "mine/metadata.csv", "\n".join(lines) + "\n")
    data = make.dataset("speech_recognition", {"path": "mine"})
    options = {"n_mels": 40, "alphabet": "abcd", "store": "audio" if gain else "features", "model": {"subsampling": 2}}
    folder = make.prepared(root, "speech_recognition", data, **options)

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    config = HGRNConfig(**sizes, bidirectional=True, subsampling=2, input_size=40, vocab_size=7, pad_token_id=0)
    model = HGRNForCTC(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    reading, augment = Reading(Share(16), seed=0), {"gain_db": gain}
    batches = iter(StepBatches(PreparedSplit(folder, "train"), "speech_recognition", reading, augment=augment))
    for _ in range(steps):
        inputs, labels = next(batches)
        output = model(inputs["input"], inputs["attention_mask"])
        optimizer.zero_grad()
        (ctc_loss(output.logits, output.logit_lengths, labels) / (labels >= 0).sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval(), folder


def errors_at(recogniser, decibels):
    """Return the word error rate of the test split, played at a level into a file of 16 bits."""
    model, folder = recogniser
    extractor, tokenizer = AutoFeatureExtractor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    table = PreparedSplit(folder, "test").table()
    played = [to_int16(decode_audio(data, 16000) * 10 ** (decibels / 20)) for data in table.audio]
    batch = extractor([from_int16(torch.from_numpy(x)) for x in played], sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        output = model(**batch)
    heard = [to_text(ids, tokenizer) for ids in greedy_ids(output.logits, output.logit_lengths)]
    return score(table.text.tolist(), heard)[0]


def compare_levels(recogniser):
    """Assert that the error rate of the test split is hardly another at any level."""
    plain = errors_at(recogniser, 0)
    assert plain["reference_words"] > 60 and plain["wer"] < 0.2
    for decibels in (12, -12, -24):
        # A word or two may be heard otherwise where there is hardly any error.
        assert errors_at(recogniser, decibels)["wer"] <= max(1.5 * plain["wer"], 2 / plain["reference_words"]), decibels


def test_the_word_error_rate_is_the_same_at_every_level(recogniser):
    compare_levels(recogniser)


@pytest.mark.slow
def test_the_word_error_rate_is_the_same_where_samples_are_cut_off(tmp_path):
    """Slow, because frames of audio are computed anew in every step. At +12 dB two of the four tones exceed full scale."""
    compare_levels(train(tmp_path, 220, louder=3, gain=[-24, 12]))
