"""The model configuration."""

import json
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

import lt25  # noqa: F401
from lt25.errors import UserError
from lt25.models import HGRNConfig

MODELS = Path(__file__).parents[2] / "config" / "models"


def test_mlp_width_follows_fla():
    assert HGRNConfig(hidden_size=1024, hidden_ratio=4).mlp_size == 2816
    assert HGRNConfig(hidden_size=1024, hidden_ratio=None).mlp_size == 2816
    assert HGRNConfig(hidden_size=1024, intermediate_size=100).mlp_size == 100


def test_samples_to_a_logit():
    assert HGRNConfig(input_size=80, subsampling=4).inputs_to_logits_ratio == 640


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": "64"},
        {"subsampling": 3},
        {"pooling": "max"},
        {"use_short_conv": "yes"},
        {"bidirectional": True, "hidden_size": 5},
    ],
    ids=str,
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises((StrictDataclassError, ValueError), match=next(iter(wrong))):
        HGRNConfig(**wrong)


@pytest.mark.parametrize("key, value", [("attn", {"layers": [1]}), ("hidden_act", "powlu"), ("attnres_block_size", 2)])
def test_fla_settings_that_compute_something_else_are_refused(key, value):
    with pytest.raises(UserError, match=key):
        HGRNConfig(**{key: value})


def test_an_fla_config_keeps_what_it_means(tmp_path):
    from fla.models.hgrn import HGRNConfig as FLAConfig

    FLAConfig(hidden_size=48, num_hidden_layers=2, norm_eps=1e-4, vocab_size=77).save_pretrained(tmp_path)
    config = HGRNConfig.from_pretrained(tmp_path)
    assert config.model_type == "lt25_hgrn"
    assert (config.hidden_size, config.num_hidden_layers, config.norm_eps, config.vocab_size) == (48, 2, 1e-4, 77)
    ours, theirs = HGRNConfig(), FLAConfig()
    for key in ("hidden_size", "num_hidden_layers", "expand_ratio", "hidden_ratio", "conv_size", "norm_eps"):
        assert getattr(ours, key) == getattr(theirs, key), f"an FLA config without {key} would change its meaning"


@pytest.mark.parametrize("path", sorted(MODELS.glob("hgrn_*.json")), ids=lambda path: path.stem)
def test_the_configs_that_come_along_are_valid(path):
    fields = json.loads(path.read_text())
    config = AutoConfig.for_model(**fields)
    assert {key: getattr(config, key) for key in fields} == fields
    decided_by_data = {"vocab_size", "num_labels", "id2label", "input_size", "pad_token_id", "bos_token_id"}
    assert not decided_by_data & set(fields)
