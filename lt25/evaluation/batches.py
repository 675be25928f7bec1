"""Batches for evaluation: examples of like length together, so that little time goes into padding."""

from __future__ import annotations

import numpy as np


def sorted_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut the examples, longest first, into batches of at most `batch_size`.

    lengths: int [n]. Returns index arrays (int64) that together hold each of 0..n-1 once. Longest first, because a
    batch that does not fit into memory then fails at once and not after an hour.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
