"""A checkpoint that was written on one mesh of processes is gone on from on any other."""

import shutil

import pytest
import torch

from tests import tiny

MODEL = {**tiny.MODEL, "num_hidden_layers": 4, "hidden_size": 32, "dropout": 0.0}
INTERVAL = 2
SHARDS = {"data_parallel_shard_degree": 2}
TENSOR = {"tensor_parallel_degree": 2}
STAGES = {"pipeline_parallel_degree": 2}


@pytest.mark.parametrize(
    ("task", "options", "meshes"),
    [
        ("language_modeling", {}, [SHARDS, TENSOR, STAGES, {}]),
        ("language_modeling", {"tie_word_embeddings": True}, [TENSOR, SHARDS, {}]),
        ("classification", {"bidirectional": True, "use_short_conv": True}, [{}, TENSOR, {}]),
    ],
    ids=["every kind", "tied weights", "both directions"],
)
def test_a_training_goes_on_from_mesh_to_mesh(tmp_path, monkeypatch, task, options, meshes):
    """Each mesh finds the checkpoint of two steps later than the one before; positions in the data are in it."""
    monkeypatch.chdir(tiny.make_project(tmp_path))
    model = {**MODEL, **options}
    last = INTERVAL * len(meshes)
    settings = {"checkpoint": {"interval": INTERVAL}, "optimizer": {"lr": 5e-3, "eps": 1e-4}}
    whole = {"steps": last, "local_batch_size": 8, "global_batch_size": 8}
    one = tiny.tiny(tmp_path, task, "one", model=model, training=whole, **settings)
    done = tiny.train(one)
    assert done.returncode == 0, done.stderr

    for number, mesh in enumerate(meshes):
        local = {**whole, "local_batch_size": 2 if mesh is STAGES else 4 if mesh is SHARDS else 8}
        several = tiny.tiny(tmp_path, task, "several", model=model, training=local, parallelism=mesh, **settings)
        done = tiny.train(several, processes=2 if mesh else 1)
        assert done.returncode == 0, done.stderr
        checkpoints = several.results_dir / "checkpoints"
        assert len(list(checkpoints.resolve().parent.parent.iterdir())) == 1, "it is one run"
        if number + 1 < len(meshes):
            for step in range(INTERVAL * (number + 2), last + 1, INTERVAL):
                shutil.rmtree(checkpoints / f"step-{step}")
            (several.results_dir / "train.json").unlink()

    losses, expected = ([record["loss"] for record in tiny.history(each)] for each in (several, one))
    assert losses == pytest.approx(expected, abs=1e-4)
    weights = tiny.weights(several, last)
    for name, tensor in tiny.weights(one, last).items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-4, rtol=0)
