"""Batches that are read ahead of their use."""

import threading

import pytest
import torch

from lt25.training.prefetch import prefetch, to_cuda


def test_batches_arrive_in_order_each_placed_once():
    assert list(prefetch(iter(range(20)), lambda n: 2 * n)) == [2 * n for n in range(20)]


def test_no_more_is_read_than_asked_for_and_ahead():
    read = []

    def source():
        for n in range(100):
            read.append(n)
            yield n

    batches = prefetch(source(), lambda n: n, depth=2)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    batches.close()
    # Three asked for, two waiting, one in the reader's hands.
    assert 3 <= len(read) <= 6
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_an_error_of_the_reader_is_the_consumers():
    def source():
        yield 1
        raise ValueError("a broken shard")

    batches = prefetch(source(), lambda n: n)
    assert next(batches) == 1
    with pytest.raises(ValueError, match="a broken shard"):
        next(batches)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_reach_the_gpu_whole():
    device = torch.device("cuda", 0)
    source = ({"input": torch.full((1000, 1000), float(n))} for n in range(50))
    for n, batch in enumerate(to_cuda(source, device)):
        assert batch["input"].device == device
        assert batch["input"].sum() == n * 1e6
