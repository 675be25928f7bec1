"""examples/stick_breaking, a model of one's own: its attention against the definition, and a tiny model through the stages."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

from lt25 import plugins
from lt25.checkpoints.export import export
from lt25.errors import UserError
from lt25.experiment import load_experiment
from lt25.models.auto import auto_class, make_config
from tests import tiny
from tests.alone import run_alone
from tests.examples.stick_breaking import check

MODEL = {
    "model_type": "stick_breaking",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.2,
}
TOKENS = {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}


@pytest.fixture(autouse=True)
def example(monkeypatch):
    from lt25.models import families

    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    sys.modules.pop("stick_breaking", None)
    plugins.load(tiny.REPOSITORY, ["examples/stick_breaking"])


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = tiny.make_project(tmp_path)
    (root / "examples").symlink_to(tiny.REPOSITORY / "examples")
    (root / "config" / "config.yaml").write_text("experiments: [tiny]\nplugins: [examples/stick_breaking]\n")
    monkeypatch.chdir(root)
    monkeypatch.setattr(tiny, "MODEL", {})
    return root


def model():
    torch.manual_seed(0)
    return auto_class("language_modeling").from_config(make_config({**MODEL, **TOKENS})).eval()


@pytest.mark.parametrize(("steps", "bounds"), [(2, None), (13, None), (20, [0, 3, 3, 11, 20])], ids=str)
def test_torchs_operators_equal_the_definition(steps, bounds):
    from stick_breaking.attention import stick_breaking_attention

    check(stick_breaking_attention, "cpu", torch.float32, steps, bounds, 1e-5)


def test_the_kernels():
    run_alone(Path(__file__).with_name("interpreted_stick_breaking.py"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bounds", [None, [0, 7, 7, 300, 400]])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_the_kernels_on_a_gpu(bounds, dtype, tolerance):
    from stick_breaking.attention import stick_breaking_attention

    check(stick_breaking_attention, "cuda", dtype, 400, bounds, tolerance)


def test_packed_texts_do_not_read_each_other():
    texts = [torch.randint(1, 11, (1, length)) for length in (4, 7)]
    with torch.no_grad():
        found = model()(torch.cat(texts, 1), cu_seqlens=torch.tensor([0, 4, 11])).logits
        expected = torch.cat([model()(text).logits for text in texts], 1)
    torch.testing.assert_close(found, expected)


def test_token_by_token_and_with_padding_it_says_what_it_says_of_the_whole_text():
    made, text = model(), torch.randint(1, 11, (2, 9))
    mask = torch.ones_like(text)
    text[1, :3], mask[1, :3] = 0, 0
    with torch.no_grad():
        found = made(text[:, :5], attention_mask=mask[:, :5])
        steps = [found.logits[:, -1]]
        for t in range(5, 9):
            found = made(text[:, t : t + 1], attention_mask=mask[:, : t + 1], past_key_values=found.past_key_values)
            steps.append(found.logits[:, -1])
        for row, start in enumerate((0, 3)):
            expected = made(text[row : row + 1, start:]).logits[0, 4 - start :]
            torch.testing.assert_close(torch.stack(steps, 1)[row], expected)


def test_it_trains_is_exported_reloads_and_generates(project):
    training = {"steps": 2, "local_batch_size": 2, "seq_len": 16, "mixed_precision_param": "float32"}
    experiment = tiny.tiny(
        project, "language_modeling", model=MODEL, training=training, lr_scheduler={"warmup_steps": 1}
    )
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    export(experiment)
    folder = experiment.results_dir / "hf"
    made = auto_class("language_modeling").from_config(make_config({**MODEL, **TOKENS})).eval()
    made.load_state_dict(tiny.weights(experiment, 2))
    again = auto_class("language_modeling").from_pretrained(folder).eval()
    tokens = torch.randint(1, 11, (1, 9))
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, made(tokens).logits)
        assert again.generate(tokens, max_new_tokens=3, min_new_tokens=3).shape == (1, 12)


def test_its_experiment_is_one_and_a_wrong_key_is_one_line(project):
    text = (tiny.REPOSITORY / "examples" / "stick_breaking" / "experiment.yaml").read_text()
    file = project / "config" / "experiments" / "stick-breaking.yaml"
    file.write_text(text)
    assert load_experiment("stick-breaking").model["num_heads"] == 6
    experiment = yaml.safe_load(text)
    experiment["model"]["num_head"] = 6
    file.write_text(yaml.safe_dump(experiment))
    with pytest.raises(UserError, match=r"model\.num_head: unknown key: did you mean num_heads\?"):
        load_experiment("stick-breaking")
