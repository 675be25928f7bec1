"""What batches of each task look like."""

import torch

from lt25.data import classification, language_modeling, speech_recognition
from lt25.data.collation import IGNORE, Grid


def test_language_batches_are_packed_with_every_document_in_cu_seqlens():
    items = [
        {"input": torch.arange(4), "label": torch.arange(4), "starts": torch.tensor([0, 2])},
        {"input": torch.arange(4), "label": torch.arange(4), "starts": torch.tensor([0])},
    ]
    batch = language_modeling.collate(items)
    assert batch["input_ids"].shape == batch["labels"].shape == (1, 8)
    assert batch["cu_seqlens"].tolist() == [0, 2, 4, 8]


def test_padding_is_masked_and_labels_are_padded_with_ignore():
    items = [
        {"input": torch.ones(3, 2), "label": torch.tensor([1, 2])},
        {"input": torch.ones(5, 2), "label": torch.tensor([3])},
    ]
    batch = speech_recognition.collate(items)
    assert batch["input_features"].shape == (2, 5, 2)
    assert batch["attention_mask"].sum(1).tolist() == [3, 5]
    assert not batch["input_features"][0, 3:].any()
    assert batch["labels"].tolist() == [[1, 2], [3, IGNORE]]


def test_equal_lengths_need_no_mask():
    items = [{"input": torch.ones(3, 2), "label": torch.tensor(1)} for _ in range(2)]
    batch = classification.collate(items)
    assert set(batch) == {"input_features", "labels"}
    assert batch["labels"].tolist() == [1, 1]


def test_stacked_examples_are_collated_as_single_ones_are():
    items = [{"input": torch.rand(3, 2).half(), "label": torch.tensor(number)} for number in range(4)]
    stacked = classification.collate_stacked({name: torch.stack([item[name] for item in items]) for name in items[0]})
    batch = classification.collate(items)
    assert batch.keys() == stacked.keys()
    for name, tensor in batch.items():
        assert torch.equal(tensor, stacked[name]) and tensor.dtype == stacked[name].dtype


def test_batches_on_a_grid_hold_the_same_and_padding():
    items = [
        {"input": torch.ones(3, 2, dtype=torch.float16), "label": torch.tensor([1, 2])},
        {"input": torch.ones(5, 2, dtype=torch.float16), "label": torch.tensor([3])},
    ]
    plain = speech_recognition.collate(items)
    batch = speech_recognition.collate(items, Grid(time=8, labels=4))
    assert batch["input_features"].dtype == torch.float32
    assert torch.equal(batch["input_features"][:, :5], plain["input_features"])
    assert not batch["input_features"][:, 5:].any()
    assert batch["attention_mask"].tolist() == [[1] * 3 + [0] * 5, [1] * 5 + [0] * 3]
    assert batch["labels"].tolist() == [[1, 2, IGNORE, IGNORE], [3, IGNORE, IGNORE, IGNORE]]

    series = [{"input": torch.ones(6, 1), "label": torch.tensor(1)} for _ in range(2)]
    assert classification.collate(series, Grid(time=4))["attention_mask"].sum(1).tolist() == [6, 6]
    text = [{"input": torch.arange(4), "label": torch.arange(4), "starts": torch.tensor([0, 2])}]
    batch = language_modeling.collate(text, Grid(boundaries=8))
    assert batch["cu_seqlens"].tolist() == [0, 2, 4, 4, 4, 4, 4, 4]
