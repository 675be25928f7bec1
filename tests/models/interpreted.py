"""What every language model can do, on a CPU by Triton's interpreter; run by test_architectures.py, in processes of its own.

One test for each ability of `lt25.models.families.ABILITIES` but "meta init", named after it. The models are trained once.
"""

from tests.models import interpret  # isort: skip

import json
import shutil

import pytest
import torch

from lt25.checkpoints.export import export
from lt25.models.auto import auto_class, make_config, read_config
from lt25.models.families import FAMILIES
from lt25.training.spec import ModelArgs, TaskModel
from tests import tiny
from tests.models.tiny import family_fields

__all__ = ["interpret"]

TOKENS = {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def model_of(name: str, seed: int = 0):
    """Return a tiny model whose every part shows in what it says."""
    config = make_config({**family_fields(name), **TOKENS})
    torch.manual_seed(seed)
    model = auto_class("language_modeling").from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def tokens(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 11, (1, count), generator=torch.Generator().manual_seed(seed))


def train(experiment):
    done = tiny.train(experiment, limit=500, before="import tests.models.interpret", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def trained(name, tmp_path_factory):
    """The experiment of a tiny model that was trained for two steps, with a checkpoint after each."""
    root = tiny.make_project(tmp_path_factory.mktemp(name))
    sections = {
        "model": family_fields(name),
        "training": {"steps": 2, "local_batch_size": 2, "seq_len": 16, "mixed_precision_param": "float32"},
        "checkpoint": {"interval": 1},
        "lr_scheduler": {"warmup_steps": 1},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(tiny, "MODEL", {})
        experiment = tiny.tiny(root, "language_modeling", **sections)
        train(experiment)
        yield experiment


@pytest.fixture(scope="module")
def exported(trained):
    export(trained)
    return trained.results_dir / "hf"


@pytest.fixture(scope="module")
def reloaded(exported):
    return auto_class("language_modeling").from_pretrained(exported, dtype=torch.float32).eval()


def test_one_step(trained):
    losses = [record["loss"] for record in tiny.history(trained)]
    assert len(losses) == 2 and all(0 < loss < 4 for loss in losses)
    before, after = tiny.weights(trained, 1), tiny.weights(trained, 2)
    assert not any(tensor.isnan().any() for tensor in after.values())
    assert any(not torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_resume(trained):
    after = tiny.weights(trained, 2)
    shutil.rmtree((trained.results_dir / "checkpoints").resolve() / "step-2")
    train(trained)
    assert tiny.same_weights(tiny.weights(trained, 2), after)


def test_export(trained, reloaded):
    written = dict(reloaded.named_parameters(remove_duplicate=False))
    weights = tiny.weights(trained, 2)
    assert weights and all(torch.equal(written[name], tensor) for name, tensor in weights.items())


def test_reload(trained, exported, reloaded):
    model = auto_class("language_modeling").from_config(read_config(exported)).eval()
    model.load_state_dict(tiny.weights(trained, 2), strict=False)
    model.tie_weights()
    with torch.no_grad():
        expected = model(tokens(9), use_cache=False).logits
        assert torch.equal(reloaded(tokens(9), use_cache=False).logits, expected)


def test_generate(name):
    model, prompt = model_of(name), tokens(9)
    with torch.no_grad():
        written = model.generate(prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False)
        for length in range(9, 13):
            logits = model(written[:, :length], use_cache=False).logits[0, -1]
            logits[0] = -torch.inf  # the end of a text, which was not to come so soon
            assert logits[written[0, length]] > logits.max() - 1e-4, "not what it says of the whole text"


def test_varlen(name):
    model, lengths = model_of(name), (5, 11)
    texts = [tokens(length, seed) for seed, length in enumerate(lengths)]
    packed, bounds = torch.cat(texts, 1), torch.tensor([0, 5, 16])
    with torch.no_grad():
        if FAMILIES[name].cu_seqlens:
            found = model(packed, cu_seqlens=bounds, use_cache=False).logits
            expected = [model(text, use_cache=False).logits for text in texts]
            torch.testing.assert_close(found, torch.cat(expected, 1), atol=2e-4, rtol=1e-3)
        else:
            config = json.dumps({**family_fields(name), **TOKENS})
            task = TaskModel(ModelArgs(task="language_modeling", config=config, seq_len=8))
            task.hf = model
            found = task(packed, cu_seqlens=bounds)
            torch.testing.assert_close(found.view(2, 8, -1), model(packed.view(2, 8), use_cache=False).logits)
