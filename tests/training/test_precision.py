"""Copies of weights give autocast's numbers."""

from contextlib import nullcontext

import pytest
import torch

from lt25.models import HGRNConfig, HGRNForCausalLM, HGRNForCTC, HGRNForSequenceClassification
from lt25.training.precision import LowPrecision, embed_in

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
MODELS = {
    "speech": (HGRNForCTC, {"input_size": 4, "vocab_size": 7, "subsampling": 2, "bidirectional": True}),
    "series": (HGRNForSequenceClassification, {"input_size": 4, "num_labels": 3, "use_short_conv": True}),
    "text": (HGRNForCausalLM, {"vocab_size": 11}),
    "tied text": (HGRNForCausalLM, {"vocab_size": 11, "tie_word_embeddings": True}),
}


@pytest.mark.parametrize("name", MODELS)
def test_losses_and_gradients_are_those_of_autocast(name):
    kind, fields = MODELS[name]
    found = []
    for low in (False, True):
        torch.manual_seed(0)
        model = kind(HGRNConfig(**SIZE, **fields)).train()
        copies = LowPrecision(model, torch.bfloat16) if low else nullcontext()
        for scale in (1.0, 2.0):
            inputs = torch.randint(0, 11, (2, 9)) if "vocab_size" in fields and "input_size" not in fields else None
            given = {"input_ids": inputs} if inputs is not None else {"input_features": torch.randn(2, 9, 4)}
            with copies:
                with torch.autocast("cpu", torch.bfloat16):
                    loss = model(**given).logits.float().square().sum() * scale
                loss.backward()
            found.append(loss.detach())
        found.append([parameter.grad for parameter in model.parameters()])
        assert low is False or len(copies.copies) > 8
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert found[:2] == found[3:5]
    for (parameter, one), other in zip(zip(model.named_parameters(), found[2], strict=True), found[5], strict=True):
        assert torch.equal(one, other), parameter[0]


@pytest.mark.parametrize("name", ["text", "series"])
def test_the_residual_stream_of_an_embedding_is_as_that_of_a_linear_map(name):
    kind, fields = MODELS[name]
    torch.manual_seed(0)
    model = kind(HGRNConfig(**SIZE, **fields)).train()
    embed_in(model, torch.bfloat16)
    seen = []
    model.base_model.layers[1].mlp_norm.register_forward_hook(lambda norm, given, normed: seen.append(given[0].dtype))
    given = {"input_ids": torch.randint(0, 11, (2, 9))} if name == "text" else {"input_features": torch.randn(2, 9, 4)}
    with torch.autocast("cpu", torch.bfloat16):
        model(**given).logits.float().square().sum().backward()
    assert seen == [torch.bfloat16]
    if name == "text":
        assert model.get_input_embeddings().weight.grad.dtype == torch.float32
