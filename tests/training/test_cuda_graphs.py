"""Recording and replaying, with a recorder that stands in for CUDA's."""

import pytest
import torch

from lt25.cuda_graphs import CUDAGraphWrapper


class Recorder:
    """Replays by calling again, and writes the results where the first ones were, as a graph does."""

    def __init__(self):
        self.count = 0

    def __call__(self, function, batches):
        self.count += 1
        results = [torch.empty_like(result) for result in function(batches)]

        def replay():
            for kept, result in zip(results, function(batches), strict=True):
                kept.copy_(result)

        return replay, tuple(results)


def batch(length, value, labels=2):
    return {"input": torch.full((2, length), float(value)), "labels": torch.full((labels,), value)}


def total(batches):
    return sum(one["input"].sum() for one in batches), sum(one["labels"].sum() for one in batches)


@pytest.fixture
def replayed():
    return CUDAGraphWrapper(total, most=2, warm=lambda function, batches: function(batches), record=Recorder())


def test_a_shape_is_recorded_when_it_is_seen_again_and_replayed_with_new_inputs(replayed):
    for value in range(1, 6):
        found = replayed([batch(3, value)])
        assert [int(result) for result in found] == [6 * value, 2 * value]
        assert replayed.record.count == (value > 1)


def test_what_was_recorded_reads_inputs_of_its_own(replayed):
    given = batch(3, 1)
    replayed([given])
    replayed([given])
    assert replayed([batch(3, 7)])[0] == 42
    assert given["input"].sum() == 6


def test_shapes_names_and_numbers_of_batches_are_told_apart_and_only_so_many_recorded(replayed):
    kinds = [
        [batch(3, 1)],
        [batch(4, 1)],
        [batch(3, 1), batch(3, 2)],
        [batch(3, 1, labels=1)],
        [{**batch(3, 1), "attention_mask": torch.ones(2, 3)}],
    ]
    for _ in range(3):
        for kind in kinds:
            assert [result.item() for result in replayed(kind)] == [result.item() for result in total(kind)]
    assert replayed.record.count == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_replayed_dropout_follows_the_seed():
    weight = torch.ones(1000, device="cuda")

    def drop(batches):
        return (torch.nn.functional.dropout(weight * batches[0]["input"], 0.5),)

    graphs, seen = CUDAGraphWrapper(drop), []
    for function in (graphs, drop):
        for seed in (1, 2, 3, 4, 3):
            torch.manual_seed(seed)
            seen.append(function([{"input": torch.ones(1, device="cuda")}])[0].clone())
    assert len(graphs.recorded) == 1
    assert all(torch.equal(a, b) for a, b in zip(seen[:5], seen[5:], strict=True))
    assert not torch.equal(seen[2], seen[3])
    assert torch.equal(seen[2], seen[4])
