"""The losses that differ between training and validation."""

import torch
import torch.nn.functional as F

from lt25.training.losses import classification


def test_soft_targets_of_a_classifier() -> None:
    logits, labels, partners = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([3, 3, 0, 0, 1, 1])
    shares = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    hard = F.one_hot(labels, 4) * (1 - shares)[:, None] + F.one_hot(partners, 4) * shares[:, None]
    expected = F.cross_entropy(logits, 0.9 * hard + 0.1 / 4, reduction="sum")
    torch.testing.assert_close(classification.of_training(logits, labels, 0.1, partners, shares), expected)
    plain = classification.of_training(logits, labels, 0.0)
    torch.testing.assert_close(plain, classification.loss(logits, labels))
    assert classification.loss(plain, labels) is plain
