"""The model behind the call that torchtitan's trainer makes."""

import json
from types import SimpleNamespace

import pytest
import torch

from lt25.training.spec import ModelArgs, TaskModel
from tests.tiny import MODEL


def test_windows_in_which_texts_follow_each_other_are_a_batch():
    torch.manual_seed(0)
    config = json.dumps({**MODEL, "vocab_size": 11, "dropout": 0.0})
    packed, windows = (
        TaskModel(ModelArgs(task="language_modeling", config=config, seq_len=8, packed=one)) for one in (True, False)
    )
    windows.load_state_dict(packed.state_dict())
    shapes = []
    windows.hf.base_model.register_forward_pre_hook(
        lambda module, given, named: shapes.append((tuple(given[0].shape), "cu_seqlens" in named)), with_kwargs=True
    )
    tokens = torch.randint(11, (1, 17))
    batch = {"labels": tokens[:, 1:], "cu_seqlens": torch.tensor([0, 8, 16])}
    torch.testing.assert_close(windows(tokens[:, :-1], **batch), packed(tokens[:, :-1], **batch))
    # What validation reads may fill no window.
    batch = {"labels": tokens[:, 1:6], "cu_seqlens": torch.tensor([0, 5])}
    torch.testing.assert_close(windows(tokens[:, :5], **batch), packed(tokens[:, :5], **batch))
    assert shapes == [((2, 8), False), ((1, 5), False)]


@pytest.mark.parametrize(
    ("varlen", "shared_by", "packed"), [(None, 1, True), (True, 1, True), (False, 1, False), (False, 2, True)]
)
def test_texts_are_packed_where_they_are_apart_or_processes_share_them(varlen, shared_by, packed, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    section = {"seq_len": 8, "varlen": varlen, "fused_loss": True, "z_loss": 0.0}
    job = SimpleNamespace(
        training=SimpleNamespace(**section),
        parallelism=SimpleNamespace(context_parallel_degree=shared_by),
        lt25=SimpleNamespace(model_config=str(tmp_path / "config.json"), init_from="", data="", augment="{}"),
    )
    args = ModelArgs(task="language_modeling")
    args.update_from_config(job)
    assert args.packed == packed
