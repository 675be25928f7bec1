"""Seeded transforms of an example and of a batch."""

import pytest
import torch

from lt25.data.transforms import Transforms, seeded

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
