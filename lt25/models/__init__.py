"""HGRN and its models, each a transformers `PreTrainedModel`. Imported on first use, since torch takes a second."""

import importlib

_MODULES = {
    "HGRNConfig": "configuration",
    "HGRNForCTC": "ctc",
    "HGRNForCausalLM": "causal_lm",
    "HGRNForSequenceClassification": "classifier",
    "HGRNModel": "hgrn",
}
__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
