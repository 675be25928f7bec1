"""Small models with weights large enough that every part of them shows in the output."""

import json
from pathlib import Path

import torch

from lt25.models import HGRNConfig, HGRNForCausalLM, HGRNForCTC, HGRNForSequenceClassification

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "intermediate_size": 40, "initializer_range": 0.3}


def randomised(model):
    """Moves what initialisation leaves alike (norms, lower bounds, biases) apart; in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "lower_bounds" in name or name.endswith("bias"):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return model.eval()


def causal_lm(**options) -> HGRNForCausalLM:
    torch.manual_seed(0)
    return randomised(HGRNForCausalLM(HGRNConfig(**SIZES, vocab_size=50, **options)))


def ctc(**options) -> HGRNForCTC:
    torch.manual_seed(0)
    return randomised(HGRNForCTC(HGRNConfig(**{**SIZES, "vocab_size": 12, "input_size": 8, **options})))


def classifier(**options) -> HGRNForSequenceClassification:
    torch.manual_seed(0)
    return randomised(HGRNForSequenceClassification(HGRNConfig(**SIZES, num_labels=5, input_size=2, **options)))


def family_fields(name: str) -> dict:
    """The ``config.json`` of a tiny language model of a family."""
    if name == "llama":
        return {"model_type": name, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    file = {"lt25_hgrn": "hgrn_lm_tiny"}.get(name, f"{name}_tiny")
    fields = json.loads((Path(__file__).parents[2] / "config" / "models" / f"{file}.json").read_text())
    return {**fields, "hidden_size": 64}
