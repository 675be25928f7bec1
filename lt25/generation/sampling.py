"""How the tokens of a text are chosen. Nothing here imports torch."""

from dataclasses import dataclass

from lt25.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; names and meaning as in transformers.

    Attributes:
        max_new_tokens: the most tokens of a continuation.
        temperature: what the logits are divided by; 0 for the likeliest token each time.
        top_k: draw among so many of the likeliest tokens; 0 for all.
        top_p: draw among the likeliest tokens that together are as probable as this; 1 for all.
        seed: of the draws: the same seed gives the same text on the same device.

    Raises:
        UserError: for a value out of bounds.
    """

    max_new_tokens: int = 256
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed, expected in (
            ("max_new_tokens", self.max_new_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "at least 0, which takes the likeliest token"),
            ("top_k", self.top_k >= 0, "at least 0, which leaves no token out"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1, which leaves no token out"),
            ("seed", 0 <= self.seed < 2**63, "at least 0 and below 2^63"),
        ):
            if not allowed:
                raise UserError(f"--{name}: found {getattr(self, name)}, expected {expected}")
