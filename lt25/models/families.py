"""The model families. Nothing here imports torch."""

from dataclasses import dataclass

from lt25.config.key import OPTIONAL, Key, Section, suggestion
from lt25.errors import UserError


@dataclass(frozen=True)
class Family:
    """One model type: the tasks it is for, and what its configuration may say."""

    model_type: str
    tasks: tuple[str, ...]
    parallelism: tuple[str, ...]
    keys: Section | None

    def model_keys(self) -> Section | None:
        """Return the keys of the ``model`` section; None: any."""
        return self.keys


_POSITIVE = {"minimum": 1}
_IDS = Key(("integer", "null"), None, "number of a token; the data decides it", True, {"minimum": 0})

FAMILIES = {
    "lt25_hgrn": Family(
        "lt25_hgrn",
        ("classification", "speech_recognition", "language_modeling"),
        ("data",),
        {
            "hidden_size": Key("integer", 2048, "width of the residual stream", True, _POSITIVE),
            "num_hidden_layers": Key("integer", 24, "layers", True, _POSITIVE),
            "expand_ratio": Key("number", 1, "recurrent channels per unit of width", True, {"exclusiveMinimum": 0}),
            "hidden_ratio": Key(("number", "null"), 4, "width of the gated MLP", True, {"exclusiveMinimum": 0}),
            "intermediate_size": Key(("integer", "null"), None, "width of the gated MLP", True, _POSITIVE),
            "use_short_conv": Key("boolean", False, "a causal convolution before the gates", True),
            "conv_size": Key("integer", 4, "steps of that convolution", True, _POSITIVE),
            "use_lower_bound": Key("boolean", True, "forget gates have a learned lower bound", True),
            "bidirectional": Key("boolean", False, "half of the channels read from the end", True),
            "dropout": Key("number", 0.0, "probability", True, {"minimum": 0, "exclusiveMaximum": 1}),
            "norm_eps": Key("number", 1e-6, "of the RMS norms", True, {"exclusiveMinimum": 0}),
            "initializer_range": Key("number", 0.02, "deviation of initial weights", True, {"exclusiveMinimum": 0}),
            "vocab_size": Key("integer", 32000, "tokens", True, _POSITIVE),
            "num_labels": Key("integer", OPTIONAL, "classes; the data decides it", True, _POSITIVE),
            "tie_word_embeddings": Key("boolean", False, "the output layer is the embedding", True),
            "use_cache": Key("boolean", True, "return the recurrent state when not training", False),
            "pad_token_id": _IDS,
            "bos_token_id": _IDS,
            "eos_token_id": _IDS,
            "input_size": Key(("integer", "null"), None, "channels of a step", True, _POSITIVE),
            "subsampling": Key("integer", 1, "steps of input to one of the model", True, {"enum": [1, 2, 4]}),
            "hop_length": Key("integer", 160, "audio samples to one step of input", True, _POSITIVE),
            "pooling": Key("string", "mean", "what a classifier reads", True, {"enum": ["mean", "last"]}),
        },
    )
}


def find(model_type: str) -> Family:
    """Return the family of a model type.

    Raises:
        UserError: if there is none, with the one that is close.
    """
    if model_type not in FAMILIES:
        hint = suggestion(model_type, FAMILIES) or f"there are: {', '.join(FAMILIES)}"
        raise UserError(f"unknown model type {model_type}: {hint.strip()}")
    return FAMILIES[model_type]
