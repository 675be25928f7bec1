"""Recording and replaying, with a recorder that stands in for CUDA's."""

import json
from contextlib import nullcontext
from functools import partial

import pytest
import torch

from lt25.cuda_graphs import CUDAGraphWrapper
from lt25.data.batches import Grid
from lt25.data.speech_recognition import collate
from lt25.training.losses import speech_recognition
from lt25.training.precision import LowPrecision
from lt25.training.spec import ModelArgs, TaskModel


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


def heard_twice(frames, seed):
    """A batch of four utterances in two views on the GPU, padded to a number of frames."""
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randint, generator=generator)
    items = []
    for length in (frames, frames - 3, frames - 8, frames // 2):
        views = {name: torch.randn(length, 8, generator=generator) for name in ("input", "second")}
        items.append({**views, "label": draw(1, 11, (int(draw(3, 7, ())),), dtype=torch.int32)})
    batch = collate(items, Grid(labels=8))
    return {"input": batch.pop("input_features"), **batch}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("low", [False, True], ids=["float32", "bfloat16"])
def test_a_recorded_step_with_further_losses_of_speech_has_the_losses_and_gradients_of_one_that_is_not(low):
    """Lengths, masks and labels of each batch are read by the recording, as are the seeds of dropout."""
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 128, "dropout": 0.1, "subsampling": 2}
    data = {"input_size": 8, "vocab_size": 11, "pad_token_id": 0}
    config = json.dumps({"model_type": "lt25_hgrn", "bidirectional": True, **sizes, **data})
    options = {"intermediate_ctc": 0.3, "consistency": 0.2}
    torch.manual_seed(0)
    model = TaskModel(ModelArgs(task="speech_recognition", config=config, options=options)).to("cuda").train()
    assert model.options == options
    weights, copies = list(model.parameters()), LowPrecision(model, torch.bfloat16) if low else nullcontext()

    def gradients(batches):
        for weight in weights:
            weight.grad = None
        (batch,) = batches
        with copies:
            with torch.autocast("cuda", torch.bfloat16, enabled=low):
                loss = speech_recognition.loss(
                    model(batch["input"], **{k: v for k, v in batch.items() if k != "input"}), batch["labels"]
                )
            loss.backward()
        return loss.detach(), *(torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights)

    recorded = CUDAGraphWrapper(gradients)
    for number in range(8):
        batch = {name: one.to("cuda") for name, one in heard_twice((48, 64)[number % 2], number).items()}
        found = []
        for function in (recorded, gradients):
            torch.manual_seed(number)
            found.append([one.clone() for one in function([batch])])
        assert found[0][0].isfinite()
        names = ["loss", *(name for name, _ in model.named_parameters())]
        for name, one, other in zip(names, *found, strict=True):
            difference = (one - other).norm() / other.norm().clamp_min(1e-6)
            assert difference < (1e-2 if low else 1e-5), f"{name}, batch {number}: {difference:.1e}"
    assert len(recorded.recorded) == 2
