"""Every language model through lt25, on a CPU by Triton's interpreter; collected by test_architectures.py, in its own process.

This is the table of what works: architectures x (one step, resume, export, reload, generate). That each is initialised from the
meta device as an ordinary construction would do it is in test_initialise.py.
"""

from tests.models import interpret  # isort: skip

import json
import shutil
from pathlib import Path

import pytest
import torch

from lt25.checkpoints.export import export
from lt25.models.auto import auto_class, read_config
from lt25.models.families import FAMILIES
from tests import tiny

__all__ = ["interpret"]

CONFIGS = Path(__file__).parents[2] / "config" / "models"
NAMES = [name for name, family in FAMILIES.items() if family.source == "flash-linear-attention"]

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def train(experiment):
    done = tiny.train(experiment, before="import tests.models.interpret", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(params=NAMES)
def trained(request, tmp_path, monkeypatch):
    """A tiny model of a family that has been trained for two steps, with a checkpoint after each."""
    root = tiny.make_project(tmp_path)
    monkeypatch.chdir(root)
    fields = json.loads((CONFIGS / f"{request.param}_tiny.json").read_text())
    sections = {
        "model": fields,
        "training": {"steps": 2, "local_batch_size": 2, "seq_len": 16, "mixed_precision_param": "float32"},
        "checkpoint": {"interval": 1},
        "lr_scheduler": {"warmup_steps": 1},
    }
    monkeypatch.setattr(tiny, "MODEL", {})
    experiment = tiny.tiny(root, "language_modeling", **sections)
    train(experiment)
    return experiment


def test_it_trains_resumes_and_is_exported(trained):
    losses = [record["loss"] for record in tiny.history(trained)]
    assert len(losses) == 2 and all(0 < loss < 4 for loss in losses)
    weights = tiny.weights(trained, 2)
    assert not any(tensor.isnan().any() for tensor in weights.values())
    assert any(not torch.equal(tensor, weights[name]) for name, tensor in tiny.weights(trained, 1).items())

    run = (trained.results_dir / "checkpoints").resolve()
    shutil.rmtree(run / "step-2")
    train(trained)
    assert tiny.same_weights(tiny.weights(trained, 2), weights), "a resumed run goes elsewhere"

    export(trained)
    folder = trained.results_dir / "hf"
    config = read_config(folder)
    model = auto_class("language_modeling").from_config(config).eval()
    model.load_state_dict(weights)
    again = auto_class("language_modeling").from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(1, 11, (1, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        assert torch.equal(again(tokens, use_cache=False).logits, expected)
        written = again.generate(tokens, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        for length in range(9, 12):
            logits = again(written[:, :length], use_cache=False).logits[0, -1]
            assert logits[written[0, length]] > logits.max() - 1e-4, "generation is not that of the whole text"
