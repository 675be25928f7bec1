"""What batches of each task look like, and seeded transforms of an example and of a batch."""

import numpy as np
import pytest
import torch

from lt25.data import classification, language_modeling, speech_recognition
from lt25.data.batches import IGNORE, Grid, Transforms, longest_first, seeded

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def draw(values, generator):
    (name,) = values.keys() - {"labels"}
    drawn = torch.rand(3, generator=generator, device=generator.device)
    return {**values, name: torch.cat([values[name], drawn])}


def double(values, generator):
    return {name: 2 * tensor for name, tensor in values.items()}


def test_a_generator_depends_on_its_place_and_on_nothing_else():
    def drawn(*place):
        return torch.rand(4, generator=seeded(torch.device("cpu"), *place)).tolist()

    torch.manual_seed(1)
    before = drawn(0, 1, 2)
    torch.manual_seed(2)
    assert drawn(0, 1, 2) == before
    assert len({tuple(drawn(*place)) for place in [(0, 1, 2), (1, 1, 2), (0, 2, 1), (0, 1, 3)]}) == 4


def test_transforms_come_in_order_and_draw_by_seed_epoch_and_example():
    transforms = Transforms(item=(draw, double))
    item = {"input": torch.ones(1)}
    once = transforms.of_item(item, 1, 2, 3)["input"]
    assert once[0] == 2 and once[1:].max() > 1
    assert torch.equal(once, transforms.of_item(item, 1, 2, 3)["input"])
    for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4)]:
        assert not torch.equal(once, transforms.of_item(item, *other)["input"])
    assert item["input"].tolist() == [1]


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_is_transformed_on_its_device_by_seed_step_and_part(device):
    transforms = Transforms(batch=(draw, double))
    batch = {"input_features": torch.ones(1, device=device), "labels": torch.ones(1, device=device)}
    once = transforms.of_batch(batch, 1, 2, 3)["input_features"]
    assert once.device.type == device
    assert torch.equal(once, transforms.of_batch(batch, 1, 2, 3)["input_features"])
    for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4)]:
        assert not torch.equal(once, transforms.of_batch(batch, *other)["input_features"])


def test_no_transforms_leave_everything_as_it_is():
    values = {"labels": torch.ones(1)}
    assert Transforms().of_item(values) is values
    assert Transforms().of_batch(values, 1, 2, 3) is values


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


def test_batches_of_like_length_hold_each_example_once_the_longest_first():
    batches = longest_first(np.array([3, 9, 1, 9, 4]), 2)
    assert [batch.tolist() for batch in batches] == [[1, 3], [4, 0], [2]]
