"""The order of examples, and what batches look like."""

import numpy as np
import pytest
import torch

from lt25.data.loader import IGNORE, Grid, StepBatches, TokenWindows, collate
from lt25.data.prepared import PreparedSplit
from lt25.errors import UserError
from tests import tiny


@pytest.fixture
def split(tmp_path, monkeypatch, request):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    experiment = tiny.write_experiment(tmp_path, request.param)
    tiny.prepare(experiment, examples=23)
    return PreparedSplit(experiment.processed_dir, "train")


def batches(split, task, **options):
    defaults = {"seq_len": 8, "local_batch_size": 2, "accumulation": 1, "rank": 0, "world_size": 1, "seed": 1}
    return StepBatches(split, task, **{**defaults, **options})


def take(stream, count):
    iterator = iter(stream)
    return [next(iterator) for _ in range(count)]


def same(one, two):
    inputs, labels = one
    others, other_labels = two
    return inputs.keys() == others.keys() and all(
        torch.equal(a, b) for a, b in [(labels, other_labels), *((inputs[key], others[key]) for key in inputs)]
    )


@pytest.mark.parametrize("split", ["classification"], indirect=True)
def test_an_epoch_shows_every_example_at_most_once_and_the_next_another_order(split):
    stream = batches(split, "classification")
    first, second = stream.epoch_order(0), stream.epoch_order(1)
    assert first.shape == (11, 2)
    assert len(np.unique(first)) == first.size
    assert not np.array_equal(first, second)
    assert np.array_equal(first, batches(split, "classification").epoch_order(0))
    assert not np.array_equal(first, batches(split, "classification", seed=2).epoch_order(0))


@pytest.mark.parametrize("split", ["classification"], indirect=True)
def test_ranks_and_microbatches_share_out_the_same_steps(split):
    whole = batches(split, "classification", local_batch_size=8).epoch_order(0)
    parts = [
        [index for micro in take_indices(batches(split, "classification", accumulation=2, rank=rank, world_size=2), 4)
         for index in micro]
        for rank in range(2)
    ]  # fmt: skip
    assert sorted(parts[0] + parts[1]) == sorted(whole[:2].flatten())
    assert not set(parts[0]) & set(parts[1])


def take_indices(stream, count):
    iterator = stream._indices(0)
    return [next(iterator) for _ in range(count)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["speech_recognition"], indirect=True)
def test_a_loader_that_is_set_back_serves_what_an_undisturbed_one_serves(split, workers):
    options = {"num_workers": workers} if workers else {}
    undisturbed = take(batches(split, "speech_recognition", accumulation=2, options=options), 30)
    stopped = batches(split, "speech_recognition", accumulation=2, options=options)
    take(stopped, 12)
    resumed = batches(split, "speech_recognition", accumulation=2)
    resumed.load_state_dict(stopped.state_dict())
    assert stopped.state_dict() == {"steps": 6}
    assert all(same(a, b) for a, b in zip(undisturbed[12:], take(resumed, 18), strict=True))


@pytest.mark.parametrize("split", ["speech_recognition"], indirect=True)
def test_batches_gather_examples_of_like_length(split):
    order = batches(split, "speech_recognition").epoch_order(0)
    spread = np.ptp(split.lengths[order], axis=1).mean()
    assert spread < np.ptp(split.lengths) / 4


@pytest.mark.parametrize("split", ["classification"], indirect=True)
def test_a_step_larger_than_the_split_is_refused(split):
    with pytest.raises(UserError, match="23 examples, a step takes 24: lower"):
        batches(split, "classification", local_batch_size=24)


@pytest.mark.parametrize("split", ["language_modeling"], indirect=True)
def test_windows_predict_the_next_token_and_begin_anew_at_the_end_token_before_each_document(split):
    windows, tokens = TokenWindows(split, 8), split.shards["inputs"].tolist()
    ends = set((split.shards["input_offsets"][1:-1] - 1).tolist())
    for start in range(len(tokens) - 9):
        window = windows[start]
        assert window["input"].tolist() == tokens[start : start + 8]
        assert window["label"].tolist() == tokens[start + 1 : start + 9]
        begins = [at for at in range(8) if at == 0 or start + at in ends]
        assert window["starts"].tolist() == begins


@pytest.mark.parametrize("split", ["language_modeling"], indirect=True)
def test_every_window_of_every_epoch_lies_within_the_stream(split):
    stream = batches(split, "language_modeling", seq_len=16)
    for epoch in range(20):
        order = stream.epoch_order(epoch)
        assert order.min() >= 0
        assert order.max() + 16 < len(split.shards["inputs"])


def test_language_batches_are_packed_with_every_document_in_cu_seqlens():
    items = [
        {"input": torch.arange(4), "label": torch.arange(4), "starts": torch.tensor([0, 2])},
        {"input": torch.arange(4), "label": torch.arange(4), "starts": torch.tensor([0])},
    ]
    batch = collate("language_modeling", items)
    assert batch["input_ids"].shape == batch["labels"].shape == (1, 8)
    assert batch["cu_seqlens"].tolist() == [0, 2, 4, 8]


def test_padding_is_masked_and_labels_are_padded_with_ignore():
    items = [
        {"input": torch.ones(3, 2), "label": torch.tensor([1, 2])},
        {"input": torch.ones(5, 2), "label": torch.tensor([3])},
    ]
    batch = collate("speech_recognition", items)
    assert batch["input_features"].shape == (2, 5, 2)
    assert batch["attention_mask"].sum(1).tolist() == [3, 5]
    assert not batch["input_features"][0, 3:].any()
    assert batch["labels"].tolist() == [[1, 2], [3, IGNORE]]


def test_equal_lengths_need_no_mask():
    items = [{"input": torch.ones(3, 2), "label": torch.tensor(1)} for _ in range(2)]
    batch = collate("classification", items)
    assert set(batch) == {"input_features", "labels"}
    assert batch["labels"].tolist() == [1, 1]


def test_batches_on_a_grid_hold_the_same_and_padding():
    items = [
        {"input": torch.ones(3, 2, dtype=torch.float16), "label": torch.tensor([1, 2])},
        {"input": torch.ones(5, 2, dtype=torch.float16), "label": torch.tensor([3])},
    ]
    plain = collate("speech_recognition", items)
    batch = collate("speech_recognition", items, Grid(time=8, labels=4))
    assert batch["input_features"].dtype == torch.float32
    assert torch.equal(batch["input_features"][:, :5], plain["input_features"])
    assert not batch["input_features"][:, 5:].any()
    assert batch["attention_mask"].tolist() == [[1] * 3 + [0] * 5, [1] * 5 + [0] * 3]
    assert batch["labels"].tolist() == [[1, 2, IGNORE, IGNORE], [3, IGNORE, IGNORE, IGNORE]]

    series = [{"input": torch.ones(6, 1), "label": torch.tensor(1)} for _ in range(2)]
    assert collate("classification", series, Grid(time=4))["attention_mask"].sum(1).tolist() == [6, 6]
    text = [{"input": torch.arange(4), "label": torch.arange(4), "starts": torch.tensor([0, 2])}]
    assert collate("language_modeling", text, Grid(boundaries=8))["cu_seqlens"].tolist() == [0, 2, 4, 4, 4, 4, 4, 4]


@pytest.mark.parametrize("split", ["classification", "speech_recognition", "language_modeling"], indirect=True)
def test_few_shapes_are_few(split):
    speech = "label_offsets" in split.shards
    task = "speech_recognition" if speech else "classification" if "labels" in split.shards else "language_modeling"
    shapes = {
        (inputs["input"].shape[1], labels.shape[1:], inputs.get("cu_seqlens", labels).shape)
        for inputs, labels in take(batches(split, task, few_shapes=True), 60)
    }
    assert len(shapes) <= 3


@pytest.mark.parametrize("split", ["classification"], indirect=True)
def test_a_feed_that_reads_ahead_does_not_move_the_place_in_the_epoch(split):
    def greedy(stream):
        held = [next(stream) for _ in range(3)]
        for batch in stream:
            held.append(batch)
            yield held.pop(0)

    stream = batches(split, "classification", feed=greedy)
    given = take(stream, 4)
    assert stream.state_dict() == {"steps": 4}
    assert all(same(a, b) for a, b in zip(given, take(batches(split, "classification"), 4), strict=True))
