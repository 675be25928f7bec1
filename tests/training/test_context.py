"""Which part of a batch a process computes with, where several share its sequences."""

from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from lt25.training import context
from lt25.training.context import Part


def parts(batch, task, main_input, ranks, window=None, **config):
    model = SimpleNamespace(task=task, window=window, hf=SimpleNamespace(config=SimpleNamespace(**config)))
    mesh = SimpleNamespace(get_group=lambda: None)
    found = []
    for rank in range(ranks):
        with patch.multiple(context.dist, get_rank=lambda _, rank=rank: rank, get_world_size=lambda _: ranks):
            found.append(Part(model, mesh)(batch, main_input))
    return found


@pytest.mark.parametrize(("steps", "length"), [(12, 4), (13, 5)])
def test_tokens_and_their_labels_are_cut_at_the_same_steps(steps, length):
    tokens = torch.arange(1, steps + 2)[None]
    batch = {"input": tokens[:, :-1], "labels": tokens[:, 1:], "cu_seqlens": torch.tensor([0, 7, steps])}
    found = parts(batch, "language_modeling", "input", 3)
    assert all(part["input"].shape == part["labels"].shape == (1, length) for part in found)
    joined = {name: torch.cat([part[name] for part in found], 1) for name in ("input", "labels")}
    missing = 3 * length - steps
    assert joined["input"][0].tolist() == [*range(1, steps + 1), *[0] * missing]
    # The label of a part's last token is the first token of the next part; padding has none.
    assert joined["labels"][0].tolist() == [*range(2, steps + 2), *[-100] * missing]
    bounds = [0, 7, steps, steps + missing] if missing else [0, 7, steps]
    assert all(part["cu_seqlens"].tolist() == bounds for part in found)
    assert batch["input"].shape == (1, steps)


@pytest.mark.parametrize("masked", [False, True])
def test_a_label_of_a_whole_sequence_is_everyones(masked):
    features, labels = torch.randn(2, 9, 3), torch.tensor([1, 2])
    batch = {"input": features, "labels": labels}
    if masked:
        batch["attention_mask"] = (torch.arange(9) < torch.tensor([[9], [5]])).long()
    found = parts(batch, "classification", "input", 2, subsampling=4)
    assert all(part["labels"] is labels and part["input"].shape == (2, 8, 3) for part in found)
    mask = torch.cat([part["attention_mask"] for part in found], 1)
    assert mask.sum(1).tolist() == ([9, 5] if masked else [9, 9])
    torch.testing.assert_close(torch.cat([part["input"] for part in found], 1)[:, :9], features)


def test_a_part_is_as_long_as_a_convolution_reads():
    batch = {"input": torch.ones(1, 4, dtype=torch.int64), "labels": torch.ones(1, 4, dtype=torch.int64)}
    found = parts(batch, "recall", "input", 4, use_short_conv=True, conv_size=4)
    assert [part["input"].sum().item() for part in found] == [3, 1, 0, 0]
    assert all(part["input"].shape == (1, 3) for part in found)


def test_windows_are_cut_each():
    tokens = torch.arange(8)[None]
    batch = {"input": tokens, "labels": tokens, "cu_seqlens": torch.tensor([0, 4, 8])}
    found = parts(batch, "language_modeling", "input", 2, window=4)
    assert [part["input"].tolist() for part in found] == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    assert [part["position_ids"].tolist() for part in found] == [[[0, 1]], [[2, 3]]]
    assert all(torch.equal(part["input"], part["labels"]) and "cu_seqlens" not in part for part in found)


@pytest.mark.parametrize("ranks", [2, 4])
def test_rows_without_boundaries_are_cut_one_behind_the_other(ranks):
    """FLA's kernels share one row of packed texts only; what is left over is a text of its own, without labels."""
    tokens = torch.arange(1, 16).view(3, 5)
    found = parts({"input": tokens, "labels": tokens}, "recall", "input", ranks)
    assert torch.cat([part["input"] for part in found], 1).tolist() == [[*range(1, 16), 0]]
    assert torch.cat([part["labels"] for part in found], 1).tolist() == [[*range(1, 16), -100]]
    assert all(part["cu_seqlens"].tolist() == [0, 5, 10, 15, 16] for part in found)
