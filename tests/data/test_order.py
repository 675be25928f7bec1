"""The order of examples: the same for the same seed, for ever."""

from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from lt25.data.order import FIRST, Share, draws, epoch_by_length, epoch_order, length_unit


def source(count, lengths=None):
    return SimpleNamespace(count=count, lengths=lengths)


LENGTHS = np.array([(7 * i * i + 3) % 23 + 1 for i in range(50)])
SORTED = [[35], [34], [21], [22], [42], [30], [41], [32], [10], [36], [38], [8], [29], [23]]


@pytest.mark.parametrize(
    ("source", "share", "seed", "expected"),
    [
        (source(11), Share(5), 1, [[7, 10, 5, 4, 0], [1, 8, 2, 9, 6], [7, 2, 4, 6, 1], [0, 3, 5, 9, 8]]),
        (source(50, LENGTHS), Share(1, accumulation=2, rank=1, world_size=2), 3, SORTED),
    ],
    ids=["alike", "sorted"],
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


def utterances(count, longest=3520):
    """Lengths in frames, nearly LibriSpeech's: most last 12 to 16 s, some much less, few more."""
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(count) < 0.65, rng.normal(1450, 130, count), rng.uniform(150, 1600, count))
    return np.array([longest, *lengths[1:]]).astype(np.int64)


FRAMES = utterances(5000)


@pytest.mark.parametrize(
    "share", [Share(256, batch_steps=60_000), Share(40, 2, 0, 3, 30_000)], ids=["one", "six a step"]
)
def test_batches_of_so_many_frames_are_full_hold_every_utterance_once_and_are_hardly_padded(share):
    unit = length_unit(FRAMES)
    epochs = [epoch_by_length(FRAMES, unit, share, 1, epoch) for epoch in range(3)]
    assert len({len(epoch) for epoch in epochs}) == 1
    assert len({tuple(step[0]) for epoch in epochs for step in epoch}) == 3 * len(epochs[0])
    for epoch in epochs:
        assert all(len(step) == share.micro_batches for step in epoch)
        batches = [batch for step in epoch for batch in step]
        assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(len(FRAMES)))
        padded = np.array([-(-FRAMES[batch].max() // unit) * unit * len(batch) for batch in batches])
        assert padded.max() <= share.batch_steps
        assert 1 - FRAMES.sum() / padded.sum() < 0.1
        assert len({(len(batch), -(-FRAMES[batch].max() // unit)) for batch in batches}) <= 32 + share.micro_batches
        full = [
            len(batch) in (share.local_batch_size, share.batch_steps // (-(-FRAMES[batch].max() // unit) * unit))
            for batch in batches
        ]
        assert sum(full) > len(batches) - 2 * share.micro_batches


def test_an_utterance_longer_than_a_batch_is_one_of_its_own_and_batches_that_cannot_be_divided_are_dropped():
    lengths = np.array([400, 100, 90, 85, 70, 60, 50])
    (whole,) = epoch_by_length(lengths, 16, Share(8, 3, batch_steps=340), 1, 0)
    assert [sorted(batch) for batch in whole] == [[0], [1, 2, 3], [4, 5, 6]]
    alone = epoch_by_length(lengths, 16, Share(8, 2, batch_steps=1), 1, 0)
    assert [len(batch) for step in alone for batch in step] == [1] * 6


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks_take_the_same_steps_of_so_many_frames(ranks):
    read = [
        draws(source(len(FRAMES), FRAMES), Share(64, 4 // ranks, rank, ranks, 30_000), 1, 3) for rank in range(ranks)
    ]
    steps = [sorted(tuple(next(rank).indices) for _ in range(4 // ranks) for rank in read) for _ in range(3)]
    expected = epoch_by_length(FRAMES, length_unit(FRAMES), Share(64, 4, batch_steps=30_000), 1, 0)[3:6]
    assert steps == [sorted(tuple(batch.tolist()) for batch in step) for step in expected]


@pytest.mark.parametrize(
    ("source", "share"),
    [
        (source(23), Share(2, accumulation=2)),
        (source(None), Share(2, accumulation=2)),
        (source(50, LENGTHS), Share(8, accumulation=2, batch_steps=60)),
    ],
    ids=["epochs", "stream", "by length"],
)
def test_the_order_from_a_step_on_is_the_rest_of_the_whole(source, share):
    whole = list(islice(draws(source, share, 1, 0), 30))
    assert list(islice(draws(source, share, 1, 9), 12)) == whole[18:]


@pytest.mark.parametrize("ranks", [1, 2])
def test_where_lengths_change_with_the_epoch_the_order_from_a_step_on_is_the_rest_of_the_whole(ranks):
    def played(epoch):
        return (FRAMES[:300] * np.random.default_rng(epoch).choice([0.5, 1, 2], 300)).astype(np.int64)

    read, share = source(300, FRAMES[:300]), Share(64, 2 // ranks, ranks - 1, ranks, 6_000)
    whole = list(islice(draws(read, share, 1, 0, lengths=played), 400))
    in_epoch = np.bincount([draw.epoch for draw in whole])[:-1] // share.accumulation
    assert len(set(in_epoch)) > 1 and len(in_epoch) > 2
    for step in (3, 60, 120):
        last = whole[(step - 1) * share.accumulation].began
        assert last.step == sum(in_epoch[: last.epoch])
        for began in (FIRST, last):
            rest = draws(read, share, 1, step, began, played)
            assert list(islice(rest, 5)) == whole[step * share.accumulation :][:5]
    for draw in whole:
        lengths = played(draw.epoch)[draw.indices]
        unit = length_unit(FRAMES[:300])
        assert -(-lengths.max() // unit) * unit * len(lengths) <= 6_000 or len(lengths) == 1


def test_a_stream_is_read_once_in_order():
    shares = [Share(2, accumulation=2, rank=rank, world_size=2) for rank in range(2)]
    read = [[draw.indices for draw in islice(draws(source(None), share, 1, 0), 3)] for share in shares]
    assert read == [[[0, 1], [4, 5], [8, 9]], [[2, 3], [6, 7], [10, 11]]]
