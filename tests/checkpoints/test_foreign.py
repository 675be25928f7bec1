"""Models to start from that no experiment has trained: from a folder, and from a mirror of the Hub."""

import json
import shutil

import pytest
import torch

from lt25.errors import UserError
from lt25.experiment import load_experiment
from lt25.models import HGRNConfig, HGRNForCausalLM
from lt25.models.auto import make_config
from lt25.training.job import write_job
from lt25.training.start import taken
from tests import tiny

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tiny.make_project(tmp_path))
    tiny.prepare(tiny.write_experiment(tmp_path, "language_modeling"))
    return tmp_path


@pytest.fixture
def saved(project, monkeypatch):
    """A function that writes a model into the mirror, under the name lab/small, with another ``config.json`` if wished."""
    monkeypatch.setenv("LT25_HUB_MIRROR", str(project / "hub"))
    folder = project / "hub" / "lab" / "small"
    torch.manual_seed(3)
    model = HGRNForCausalLM(HGRNConfig(**SIZES, **tiny.DECIDED["language_modeling"])).to(torch.bfloat16)

    def save(**config):
        model.save_pretrained(folder, max_shard_size="2KB")
        fields = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**fields, **config}))
        return model, folder

    return save


def configure(project, start, **sections):
    experiment = tiny.write_experiment(project, "language_modeling", init_from=start, **sections)
    write_job(experiment)
    return experiment


def test_training_goes_on_from_flas_model_of_the_hub(saved, project):
    """As flash-linear-attention writes it: model type hgrn, in bfloat16 and several files."""
    model, folder = saved(model_type="hgrn", attn_mode="fused_recurrent", fuse_norm=True)
    assert len(list(folder.glob("*.safetensors"))) > 1
    experiment = configure(project, "lab/small", optimizer={"lr": 1e-12, "weight_decay": 0.0})
    assert (project / "data" / "models" / "lab" / "small" / "export.json").is_file()
    done = tiny.train(experiment)
    assert done.returncode == 0, done.stderr
    weights = dict(model.named_parameters())
    found = tiny.weights(experiment, 4)
    assert found.keys() == weights.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, weights[name].float(), atol=1e-6, rtol=0)


def test_a_folder_is_one_too_and_is_brought_anew_when_it_changes(saved, project):
    _, folder = saved()
    here = project / "models" / "mine"
    here.parent.mkdir()
    folder.rename(here)
    experiment = configure(project, "models/mine")
    record = project / str(experiment.start) / "export.json"
    before = json.loads(record.read_text())
    configure(project, "models/mine")
    assert json.loads(record.read_text()) == before
    weights = next(here.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    configure(project, "models/mine")
    assert json.loads(record.read_text())["fingerprint"] != before["fingerprint"]


@pytest.mark.parametrize(
    ("start", "config", "said"),
    [
        ("./nowhere", {}, "init_from: ./nowhere: no such folder: correct the path"),
        (
            "lab/small",
            {"model_type": "gla"},
            "init_from: lab/small is of the model type gla, this experiment of lt25_hgrn",
        ),
        (
            "lab/small",
            {"use_lower_bound": False},
            "init_from: model.use_lower_bound is True, but lab/small was trained with False: set it to that",
        ),
    ],
)
def test_what_cannot_be_started_from_is_one_line(saved, project, start, config, said):
    saved(**config)
    with pytest.raises(UserError) as caught:
        configure(project, start)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_without_safetensors_is_one_line(saved, project):
    _, folder = saved()
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    with pytest.raises(UserError, match=r"init_from: lab/small: no config\.json with weights in \*\.safetensors"):
        configure(project, "lab/small")
    assert not (project / "data" / "models" / "lab" / "small").exists()


def test_weights_that_are_missing_or_cut_short_are_one_line(saved, project):
    _, folder = saved()
    shard = folder / "model-00002-of-00008.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=rf"init_from: lab/small: {shard.name}: no whole file of weights"):
        configure(project, "lab/small")
    shard.unlink()
    for start in ("lab/small", str(folder)):
        with pytest.raises(
            UserError, match=rf"init_from: .*: {shard.name} is not there, which model\.safetensors\.index"
        ):
            configure(project, start)
    shard.write_bytes(whole)
    configure(project, "lab/small")


@pytest.mark.parametrize(
    "published",
    [
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_theta": 5e5},
        {"rope_scaling": {"type": "linear", "factor": 4.0}},
    ],
)
def test_what_an_experiment_leaves_out_is_compared_too(saved, project, published):
    """As transformers writes it today, and as it did when most models were published."""
    sizes = {"model_type": "llama", "num_attention_heads": 2, **SIZES}
    _, folder = saved()
    (folder / "config.json").write_text(json.dumps({**sizes, **published}))
    with pytest.raises(UserError, match=r"init_from: model\.rope_parameters is .*, but lab/small was trained with"):
        configure(project, "lab/small", model=sizes)
    shutil.rmtree(project / "data/models")
    (folder / "config.json").write_text(json.dumps({**sizes, "rope_theta": 1e4, "head_dim": 8}))
    configure(project, "lab/small", model=sizes)


def test_an_embedding_of_more_rows_than_tokens_is_kept_where_the_tokens_are_the_same(saved, project):
    """As Qwen's and GPT-NeoX's, whose vocabularies are padded for the sake of the hardware."""
    tokens = {"model": {"vocab": {f"t{number}": number for number in range(11)}}}
    data = load_experiment("tiny").processed_dir
    (data / "tokenizer.json").write_text(json.dumps(tokens))
    folder = project / "hub" / "lab" / "small"
    wide = HGRNForCausalLM(HGRNConfig(**SIZES, **{**tiny.DECIDED["language_modeling"], "vocab_size": 16}))
    wide.save_pretrained(folder)
    for there, size in ((tokens, 16), ({"model": {"vocab": {"other": 0}}}, 11)):
        (folder / "tokenizer.json").write_text(json.dumps(there))
        shutil.rmtree(project / "data/models", ignore_errors=True)
        experiment = configure(project, "lab/small")
        config = json.loads((experiment.results_dir / "model" / "config.json").read_text())
        assert config["vocab_size"] == size == experiment.resolved()[0]["model"]["vocab_size"]
        weights = dict(HGRNForCausalLM(HGRNConfig(**config)).named_parameters())
        read, line = taken(weights, project / str(experiment.start), data, config, "language_modeling")
        assert (line is None) == (size == 16) == (read.keys() == weights.keys())


def test_a_published_config_is_a_base_and_the_data_is_read_over_it(project):
    """As a Llama's lies on the Hub: with its vocabulary, and with names of former versions of transformers."""
    published = {
        "_name_or_path": "/home/somebody/llama",
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "bfloat16",
        "model_type": "llama",
        "vocab_size": 32000,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pretraining_tp": 1,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "rope_theta": 500000.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "use_cache": True,
    }
    (project / "published.json").write_text(json.dumps(published))
    model = {"model_type": "llama", "base": "published.json"}
    experiment = tiny.write_experiment(project, "language_modeling", model=model)
    write_job(experiment)
    written = json.loads((experiment.results_dir / "model" / "config.json").read_text())
    decided = tiny.DECIDED["language_modeling"]
    assert {key: written[key] for key in decided} == decided and written["dtype"] == "bfloat16"
    # transformers keeps the old name beside the new one.
    assert make_config(written).rope_parameters | {"type": "linear"} == make_config(published).rope_parameters
    values, origins = experiment.resolved()
    assert values["model"]["vocab_size"] == 11 and origins["model.vocab_size"] == "the prepared data"


def test_longer_texts_are_attended_to_if_the_experiment_says_so_itself(saved, project, capsys):
    """What its base says it may not know of, and what it changes is said."""
    sizes = {"model_type": "llama", "num_attention_heads": 2, **SIZES}
    _, folder = saved()
    (folder / "config.json").write_text(json.dumps({**sizes, "rope_theta": 1e4, "max_position_embeddings": 32}))
    scaled = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    longer = {"rope_parameters": scaled, "max_position_embeddings": 128}
    (project / "base.json").write_text(json.dumps({**sizes, **longer}))
    with pytest.raises(
        UserError, match=r"max_position_embeddings is 128, .* with 32: set it to that, or name it in the"
    ):
        configure(project, "lab/small", model={"model_type": "llama", "base": "base.json"})
    assert capsys.readouterr().out == ""
    configure(project, "lab/small", model={**sizes, **longer})
    length, rope = capsys.readouterr().out.splitlines()
    assert length.endswith("model.max_position_embeddings is 128, but lab/small was trained with 32")
    assert "model.rope_parameters is" in rope and "'factor': 4.0" in rope and "was trained with" in rope
    with pytest.raises(UserError, match=r"model\.rms_norm_eps is 0\.1"):
        configure(project, "lab/small", model={**sizes, **longer, "rms_norm_eps": 0.1})
