"""Copies of weights give autocast's numbers."""

from contextlib import nullcontext

import pytest
import torch

from lt25.models import HGRNConfig, HGRNForCausalLM, HGRNForCTC, HGRNForSequenceClassification
from lt25.training.precision import LowPrecision

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
