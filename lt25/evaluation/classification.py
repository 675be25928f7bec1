"""Accuracy, F1 and the confusion matrix of a sequence classifier."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from lt25.data.classification import collate
from lt25.evaluation.batches import sorted_batches
from lt25.evaluation.interval import bootstrap_interval
from lt25.evaluation.options import Options
from lt25.progress import track


def score(labels: np.ndarray, predictions: np.ndarray, names: list[str]) -> dict:
    """Accuracy, macro F1, precision, recall and F1 of each class, and the confusion matrix.

    labels, predictions: int [n], each in 0..len(names)-1. `confusion[i][j]` counts examples of class i taken for j.
    A ratio with nothing below the line is 0. Macro F1 is the plain mean over the classes that occur in `labels`: a
    class without examples would otherwise pull it down whatever the model does.
    """
    confusion = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    right, support, chosen = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    precision = right / np.maximum(chosen, 1)
    recall = right / np.maximum(support, 1)
    f1 = 2 * right / np.maximum(support + chosen, 1)
    return {
        "examples": len(labels),
        "correct": int(right.sum()),
        "accuracy": float(right.sum() / max(len(labels), 1)),
        "interval_95": bootstrap_interval(labels == predictions, np.ones(len(labels))),
        "macro_f1": float(f1[support > 0].mean()) if len(labels) else 0.0,
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(names)
        },
        "confusion": confusion.tolist(),
    }


@torch.inference_mode()
def evaluate_split(model, split, options: Options, what: str) -> tuple[dict, pd.DataFrame]:
    """Classify every example of a prepared split.

    model: a sequence classifier taking `input_features` [B, T, C] and `attention_mask` [B, T]; split: a
    `PreparedSplit`.
    Returns the metrics and one row an example, in the split's order: id, reference, prediction, probability (of the
    prediction), reference_probability, correct.
    """
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    n = len(split)
    probabilities = np.zeros((n, len(names)), dtype=np.float32)
    labels = np.zeros(n, dtype=np.int64)
    batches = sorted_batches(split.lengths, options.batch_size)
    for indices in track(batches, what, len(batches)):
        batch = collate([split[int(i)] for i in indices])
        labels[indices] = batch.pop("labels").numpy()
        logits = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits
        probabilities[indices] = logits.float().softmax(-1).cpu().numpy()
    predictions = probabilities.argmax(1)
    rows = np.arange(n)
    table = pd.DataFrame(
        {
            "id": split.table()["id"].to_numpy(),
            "reference": [names[i] for i in labels],
            "prediction": [names[i] for i in predictions],
            "probability": probabilities[rows, predictions],
            "reference_probability": probabilities[rows, labels],
            "correct": labels == predictions,
        }
    )
    return score(labels, predictions, names), table
