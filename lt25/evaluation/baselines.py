"""What simple means reach on the same examples: a number is worth what it is better than."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool1d

TRAINING_EXAMPLES = 10_000
"""The most training examples that the linear model sees, drawn with a fixed seed: it is done in seconds."""

TRAINING_TOKENS, BLOCK = 20_000_000, 10_000
"""The most training tokens whose frequencies are counted, in blocks evenly spread over the training split."""

FEATURES, WEIGHTS = 4096, 40_960
"""The most features of the linear model, and the most weights: with many classes it has fewer features."""


def classifier_baselines(train: Any, split: Any) -> dict[str, float]:
    """Accuracy on a split of always answering the most frequent class, and of a linear model.

    The most frequent class is that of the training split. The linear model is multinomial logistic regression (scikit-learn's,
    with its default penalty) on the values of the sequence, standardised one by one; a sequence that is longer than the
    features allow is averaged over equal parts of its time, and so are all where lengths differ.

    Args:
        train, split: prepared splits, `lt25.data.prepared.PreparedSplit`, with labels int64 [n].

    Returns:
        "most frequent class" and "linear model" -> accuracy, 0 to 1; without the linear model where train has one class.
    """
    train_labels, labels = _labels(train), _labels(split)
    counts = np.bincount(train_labels)
    reached = {"most frequent class": float(np.mean(labels == counts.argmax()))}
    if np.count_nonzero(counts) > 1:
        reached["linear model"] = _linear_accuracy(train, train_labels, split, labels)
    return reached


def unigram_bits_per_byte(train: Any, documents: Iterable[torch.Tensor], size: int, vocabulary: int) -> float:
    """Bits per byte of guessing each token by its frequency in the training split alone, each counted once more.

    Args:
        train: the prepared training split of tokens.
        documents: integer tensors [T_i], the documents to predict.
        size: their bytes.
        vocabulary: how many tokens there are.
    """
    tokens = train.shards["inputs"]
    parts = [tokens]
    if len(tokens) > TRAINING_TOKENS:
        begins = np.linspace(0, len(tokens) - BLOCK, TRAINING_TOKENS // BLOCK).astype(int)
        parts = [tokens[begin : begin + BLOCK] for begin in begins]
    counts = np.sum([np.bincount(part.numpy(), minlength=vocabulary) for part in parts], axis=0) + 1.0
    bits = -np.log2(counts / counts.sum())
    return math.fsum(float(bits[document.numpy()].sum()) for document in documents) / max(size, 1)


def _linear_accuracy(train: Any, train_labels: np.ndarray, split: Any, labels: np.ndarray) -> float:
    # It takes a second to import, which only the evaluation of a final model has to wait for.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    chosen = np.arange(len(train))
    if len(chosen) > TRAINING_EXAMPLES:
        chosen = np.sort(np.random.default_rng(0).permutation(len(chosen))[:TRAINING_EXAMPLES])
    channels = train[0]["input"].shape[1]
    features = min(FEATURES, WEIGHTS // (train_labels.max() + 1))
    steps = min(int(train.lengths.max()), max(features // channels, 1))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        # Two hundred rounds are near enough to the best that it can do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(_flat(train, chosen, steps), train_labels[chosen])
    return float(np.mean(model.predict(_flat(split, np.arange(len(split)), steps)) == labels))


def _labels(split: Any) -> np.ndarray:
    return np.array([int(split[i]["label"]) for i in range(len(split))], dtype=np.int64)


def _flat(split: Any, indices: np.ndarray, steps: int) -> np.ndarray:
    """Return examples as float32 [n, steps * C], each sequence [T, C] averaged over ``steps`` parts of its time."""
    return torch.stack(
        [adaptive_avg_pool1d(split[int(i)]["input"].float().T, steps).flatten() for i in indices]
    ).numpy()
