"""The order of examples: the same for the same seed, for ever."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from lt25.data.order import Share, draws, epoch_order


def source(count, lengths=None, stride=1):
    return SimpleNamespace(count=count, lengths=lengths, stride=stride)


LENGTHS = np.array([(7 * i * i + 3) % 23 + 1 for i in range(50)])
SORTED = [[35], [34], [21], [22], [42], [30], [41], [32], [10], [36], [38], [8], [29], [23]]
WINDOWS = [[23, 7, 79], [63, 87, 47], [55, 31, 39], [0, 64, 80], [16, 24, 48], [32, 8, 40], [36, 84, 28], [68, 12, 44]]


@pytest.mark.parametrize(
    ("source", "share", "seed", "expected"),
    [
        (source(11), Share(5), 1, [[7, 10, 5, 4, 0], [1, 8, 2, 9, 6], [7, 2, 4, 6, 1], [0, 3, 5, 9, 8]]),
        (source(50, LENGTHS), Share(1, accumulation=2, rank=1, world_size=2), 3, SORTED),
        (source(11, stride=8), Share(3), 2, WINDOWS),
    ],
    ids=["alike", "sorted", "windows"],
)
def test_the_order_of_a_seed_is_what_it_always_was(source, share, seed, expected):
    assert [draw.indices for draw in islice(draws(source, share, seed, 0), len(expected))] == expected


def test_an_epoch_shows_every_example_at_most_once_and_the_next_another_order():
    first, second = (epoch_order(source(23), 2, 1, epoch) for epoch in (0, 1))
    assert first.shape == (11, 2)
    assert len(np.unique(first)) == first.size
    assert not np.array_equal(first, second)
    assert np.array_equal(first, epoch_order(source(23), 2, 1, 0))
    assert not np.array_equal(first, epoch_order(source(23), 2, 2, 0))


def test_ranks_and_microbatches_share_out_the_same_steps():
    whole = epoch_order(source(23), 8, 1, 0)
    parts = []
    for rank in range(2):
        share = Share(2, accumulation=2, rank=rank, world_size=2)
        parts.append([index for draw in islice(draws(source(23), share, 1, 0), 4) for index in draw.indices])
    assert sorted(parts[0] + parts[1]) == sorted(whole[:2].flatten())
    assert not set(parts[0]) & set(parts[1])


def test_steps_gather_examples_of_like_length():
    order = epoch_order(source(50, LENGTHS), 2, 1, 0)
    assert np.ptp(LENGTHS[order], axis=1).mean() < np.ptp(LENGTHS) / 4


@pytest.mark.parametrize("source", [source(23), source(None)], ids=["epochs", "stream"])
def test_the_order_from_a_step_on_is_the_rest_of_the_whole(source):
    share = Share(2, accumulation=2)
    whole = list(islice(draws(source, share, 1, 0), 30))
    assert list(islice(draws(source, share, 1, 9), 12)) == whole[18:]


def test_a_stream_is_read_once_in_order():
    shares = [Share(2, accumulation=2, rank=rank, world_size=2) for rank in range(2)]
    read = [[draw.indices for draw in islice(draws(source(None), share, 1, 0), 3)] for share in shares]
    assert read == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10, 11]]]


def test_every_window_of_every_epoch_lies_within_the_stream():
    tokens, seq_len = 300, 16
    for epoch in range(20):
        order = epoch_order(source((tokens - 1) // seq_len - 1, stride=seq_len), 2, 1, epoch)
        assert order.min() >= 0
        assert order.max() + seq_len < tokens
