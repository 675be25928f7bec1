"""Source, order, transforms and collation together: the batches of a training run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lt25.data import classification, language_modeling
from lt25.data.batches import Transforms
from lt25.data.loader import StepBatches
from lt25.data.order import Reading, Share
from lt25.data.packing import TokenWindows
from lt25.data.prepared import PreparedSplit
from lt25.data.shards import SplitWriter
from lt25.errors import UserError
from tests import tiny


@pytest.fixture
def split(tmp_path, monkeypatch, request):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    experiment = tiny.write_experiment(tmp_path, request.param)
    tiny.prepare(experiment, examples=23)
    return PreparedSplit(experiment.processed_dir, "train")


def batches(split, task, **options):
    defaults = {"local_batch_size": 2, "accumulation": 1, "rank": 0, "world_size": 1}
    share = Share(**{name: options.pop(name, value) for name, value in defaults.items()})
    return StepBatches(split, task, Reading(share, seed=1, seq_len=8), **options)


def take(stream, count):
    iterator = iter(stream)
    return [next(iterator) for _ in range(count)]


def same(one, two):
    inputs, labels = one
    others, other_labels = two
    return inputs.keys() == others.keys() and all(
        torch.equal(a, b) for a, b in [(labels, other_labels), *((inputs[key], others[key]) for key in inputs)]
    )


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
def test_a_loader_that_is_told_how_much_a_batch_holds_goes_on_with_that(split):
    def loader():
        # At most as many as a split may lack: what a batch holds is not known yet.
        return StepBatches(split, "speech_recognition", Reading(Share(64), seed=1, searched=True), few_shapes=True)

    stopped, resumed = loader(), loader()
    longest = stopped.repeated(stopped.longest(), 3)
    assert longest["input"].shape[:2] == (3, 24) and longest["labels"].shape[0] == 3
    stopped.hold(60)
    given = take(stopped, 20)
    assert all(inputs["input"].shape[:2].numel() <= 60 for inputs, _ in given)
    again = loader()
    again.hold(60)
    take(again, 7)
    assert again.state_dict() == {"steps": 7, "batch_steps": 60}
    resumed.load_state_dict(again.state_dict())
    assert all(same(a, b) for a, b in zip(given[7:], take(resumed, 13), strict=True))


@pytest.mark.parametrize("split", ["classification"], indirect=True)
def test_a_step_larger_than_the_split_is_refused(split):
    with pytest.raises(UserError, match="the training split has 23 examples, a step takes 24: lower"):
        batches(split, "classification", local_batch_size=24)


@pytest.mark.parametrize("split", ["speech_recognition"], indirect=True)
def test_a_step_of_more_batches_than_there_are_utterances_is_refused(split):
    """Fewer examples in a batch would make even more of them."""
    share = Share(4, accumulation=24, batch_steps=60)
    with pytest.raises(UserError, match=r"has 23 examples, a step takes 24: raise training.local_batch_size or lower"):
        StepBatches(split, "speech_recognition", Reading(share, seed=1))


@pytest.mark.parametrize("split", ["language_modeling"], indirect=True)
def test_windows_predict_the_next_token_and_begin_anew_at_the_end_token_before_each_document(split):
    tokens = split.shards["inputs"].tolist()
    ends = set((split.shards["input_offsets"][1:-1] - 1).tolist())
    for length in (5, 8):
        windows = TokenWindows(split, Reading(Share(1), 0, seq_len=length))
        assert windows.count == (len(tokens) - 1) // length
        for number in range(windows.count):
            start, window = number * length, windows[number]
            assert window["input"].tolist() == tokens[start : start + length]
            assert window["label"].tolist() == tokens[start + 1 : start + length + 1]
            begins = [at for at in range(length) if at == 0 or start + at in ends]
            assert window["starts"].tolist() == begins


@pytest.mark.parametrize(("tokens", "sequences"), [(0, None), (1, None), (2, [0, 1]), (7, [0, 3, 4, 6])])
def test_a_split_that_fills_no_window_is_one_that_is_shorter(tokens, sequences):
    shards = {"inputs": torch.arange(tokens), "input_offsets": torch.tensor([0, min(5, tokens), tokens])}
    split = SimpleNamespace(path="there", split="validation", shards=shards)
    windows = TokenWindows(split, Reading(Share(1), 0, seq_len=16, context_len=3))
    assert windows.count == (sequences is not None)
    if sequences:
        batch = language_modeling.collate([windows[0]])
        assert batch["cu_seqlens"].tolist() == sequences
        assert batch["labels"].tolist() == [list(range(1, tokens))]


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
    stream = batches(split, "classification", prefetch=greedy)
    given = take(stream, 4)
    assert stream.state_dict() == {"steps": 4}
    assert all(same(a, b) for a, b in zip(given, take(batches(split, "classification"), 4), strict=True))


def greedy(stream):
    held = [next(stream) for _ in range(3)]
    for batch in stream:
        held.append(batch)
        yield held.pop(0)


def equal_series(folder, count=7):
    """A split of series of one length."""
    writer, rng = SplitWriter(folder, "train"), np.random.default_rng(0)
    for number in range(count):
        writer.add({"id": str(number)}, rng.standard_normal((5, 2)).astype(np.float16), number)
    writer.close()
    return PreparedSplit(folder, "train")


def test_series_of_one_length_are_read_stacked_and_give_the_same(tmp_path, monkeypatch):
    split = equal_series(tmp_path)
    stacked = take(batches(split, "classification"), 9)
    monkeypatch.delattr(classification, "collate_stacked")
    assert all(same(a, b) for a, b in zip(stacked, take(batches(split, "classification"), 9), strict=True))
    for inputs, labels in stacked:
        assert all(
            torch.equal(row, split[int(label)]["input"]) for row, label in zip(inputs["input"], labels, strict=True)
        )


def noise(item, generator):
    return {**item, "input": item["input"] + torch.rand(item["input"].shape, generator=generator)}


def scale(batch, generator):
    return {**batch, "input_features": batch["input_features"] * torch.rand((), generator=generator)}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_sees_the_same_transforms_and_every_epoch_others(tmp_path, monkeypatch, workers):
    split = equal_series(tmp_path)
    monkeypatch.setattr(classification, "transforms", lambda *_: Transforms((noise,), (scale,)))
    options = {"accumulation": 2, "options": {"num_workers": workers} if workers else {}}
    stream = batches(split, "classification", prefetch=greedy, **options)
    undisturbed = take(stream, 8)
    assert stream.state_dict() == {"steps": 4}
    resumed = batches(split, "classification", accumulation=2)
    resumed.load_state_dict({"steps": 1})
    assert all(same(a, b) for a, b in zip(undisturbed[2:], take(resumed, 6), strict=True))

    monkeypatch.setattr(classification, "transforms", lambda *_: Transforms((noise,)))
    drawn = {}
    for inputs, labels in take(batches(split, "classification"), 6):
        for row, label in zip(inputs["input"], labels.tolist(), strict=True):
            added = row - split[label]["input"]
            assert added.min() >= 0 and added.max() <= 1
            assert not any(torch.equal(added, other) for other in drawn.get(label, []))
            drawn.setdefault(label, []).append(added)
    assert max(map(len, drawn.values())) == 2


def test_batch_transforms_differ_between_micro_batches_and_ranks(tmp_path, monkeypatch):
    split = equal_series(tmp_path)
    one = {name: torch.ones(1, 1) for name in ("input_features", "labels")}
    monkeypatch.setattr(classification, "collate_stacked", lambda _: dict(one))
    monkeypatch.setattr(classification, "transforms", lambda *_: Transforms((), (scale,)))
    drawn = [
        inputs["input"].item()
        for rank in range(2)
        for inputs, _ in take(batches(split, "classification", local_batch_size=1, accumulation=2, rank=rank, world_size=2), 4)
    ]  # fmt: skip
    assert len(set(drawn)) == 8


class Counting:
    """A stream without end, whose examples depend on how many were read before."""

    name, unit, count, lengths = "counting", "examples", None, None

    def __init__(self, *_):
        self.read = 0

    def __getitem__(self, index):
        self.read += 10
        return {"input": torch.full((2, 1), float(self.read + index)), "label": torch.tensor(index)}

    def state_dict(self):
        return {"read": self.read}

    def load_state_dict(self, state):
        self.read = state["read"]


def test_a_stream_goes_on_from_its_state(monkeypatch):
    monkeypatch.setattr(classification, "source", Counting)
    undisturbed = take(batches(None, "classification"), 8)
    # What is read ahead of its use is read again.
    stopped = batches(None, "classification", prefetch=greedy)
    take(stopped, 3)
    assert stopped.state_dict() == {"steps": 3, "source": {"read": 60}}
    resumed = batches(None, "classification")
    resumed.load_state_dict(stopped.state_dict())
    assert all(same(a, b) for a, b in zip(undisturbed[3:], take(resumed, 5), strict=True))
    with pytest.raises(UserError, match=r"counting has a state, .* set training.dataloader.num_workers to 0"):
        batches(SimpleNamespace(shards={}), "classification", options={"num_workers": 2})
