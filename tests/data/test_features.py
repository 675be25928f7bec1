import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoFeatureExtractor, AutoTokenizer

from lt25.data import features
from lt25.data.audio import decode_audio
from lt25.data.prepared import PreparedSplit
from tests.data import make

features.register()
TEXTS = [f"{word} {number}" for word in ("a", "b") for number in ("one", "two", "three", "four", "five", "six")]


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    root = tmp_path_factory.mktemp("speech")
    make.audio_folder(root / "mine", TEXTS)
    return make.prepared(root, "speech_recognition", make.dataset("speech_recognition", {"path": "mine"}))


@pytest.fixture(scope="module", params=["pixels", "rows"])
def images(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    make.image_folder(root / "mine", shape=(4, 5, 3))
    data = make.dataset("classification", {"path": "mine"})
    return make.prepared(root, "classification", data, layout=request.param)


def test_the_extractor_of_speech_gives_what_was_prepared(speech):
    extractor, test = AutoFeatureExtractor.from_pretrained(speech), PreparedSplit(speech, "test")
    assert type(extractor) is features.LogMelFeatureExtractor
    recordings = [decode_audio(data, 16000) for data in test.table().audio]
    batch = extractor(recordings, sampling_rate=16000, return_tensors="pt")
    assert batch["input_features"].dtype == torch.float32
    assert batch["attention_mask"].sum(1).tolist() == test.lengths.tolist()
    for number, length in enumerate(test.lengths):
        assert torch.allclose(batch["input_features"][number, :length], test[number]["input"].float(), atol=2e-3)
        assert not batch["input_features"][number, length:].any()


def test_one_recording_or_a_batch_of_one(speech):
    extractor = AutoFeatureExtractor.from_pretrained(speech)
    samples = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    one, batch = (extractor(x, sampling_rate=16000, return_tensors="np") for x in (samples, [torch.tensor(samples)]))
    assert one["input_features"].shape == (1, 25, 80)
    assert np.array_equal(one["input_features"], batch["input_features"])


def test_an_extractor_is_saved_and_loaded(speech, tmp_path):
    extractor = AutoFeatureExtractor.from_pretrained(speech)
    extractor.save_pretrained(tmp_path)
    assert AutoFeatureExtractor.from_pretrained(tmp_path).to_dict() == extractor.to_dict()


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(100), 8000, "takes audio at 16000 Hz, not 8000: resample it first"),
        ([np.zeros((2, 100))], 16000, "mono samples"),
        (np.zeros(0), 16000, "at least one"),
    ],
)
def test_audio_of_a_wrong_kind_is_refused(speech, samples, rate, message):
    with pytest.raises(ValueError, match=message):
        AutoFeatureExtractor.from_pretrained(speech)(samples, sampling_rate=rate)


def test_the_tokenizer_of_speech_decodes_as_ctc_does(speech):
    tokenizer, test = AutoTokenizer.from_pretrained(speech), PreparedSplit(speech, "test")
    assert type(tokenizer).__name__ == "Wav2Vec2CTCTokenizer" and len(tokenizer) == 30
    assert tokenizer.pad_token_id == 0 and tokenizer.bos_token is None and tokenizer.eos_token is None
    for number, text in enumerate(test.table().text):
        labels = test[number]["label"].tolist()
        assert tokenizer(text).input_ids == labels
        frames = [token for label in labels for token in (label, label, 0)]
        assert tokenizer.decode(frames) == text


def test_the_extractor_of_images_gives_what_was_prepared(images):
    extractor, test = AutoFeatureExtractor.from_pretrained(images), PreparedSplit(images, "test")
    assert type(extractor) is features.SeriesFeatureExtractor
    files = list(test.table().image)
    pictures = [Image.open(io.BytesIO(data)) for data in files]
    for inputs in (files, pictures, [np.asarray(picture) for picture in pictures]):
        batch = extractor(inputs, return_tensors="pt")
        expected = torch.stack([test[number]["input"].float() for number in range(len(test))])
        assert torch.allclose(batch["input_features"], expected, atol=2e-3)
        assert batch["attention_mask"].shape == batch["input_features"].shape[:2]


def test_an_array_of_another_size_is_refused(images):
    with pytest.raises(ValueError, match=r"shape \[9, 9, 3\], expected \[4, 5, 3\]"):
        AutoFeatureExtractor.from_pretrained(images)(np.zeros((9, 9, 3), np.uint8))


def test_series_are_padded_to_the_longest():
    extractor = features.SeriesFeatureExtractor(2, layout="series", mean=[1, 2], std=[2, 2])
    batch = extractor([np.ones((3, 2)), np.ones((5, 2))], return_tensors="pt")
    assert batch["input_features"].shape == (2, 5, 2) and batch["attention_mask"].sum(1).tolist() == [3, 5]
    assert batch["input_features"][0].tolist() == [[0, -0.5]] * 3 + [[0, 0]] * 2
