"""How far a ratio measured on a sample of examples can be trusted."""

from __future__ import annotations

import numpy as np


def bootstrap_interval(numerators, denominators, resamples: int = 1000, seed: int = 0) -> list[float] | None:
    """95 % percentile bootstrap interval of `sum(numerators) / sum(denominators)`, resampling whole examples.

    Serves accuracy (right / 1), word error rate (errors / words) and bits per byte (bits / bytes) alike: the example
    (image, utterance, document) is what was drawn at random, so it is what is drawn again (Efron, 1979; for word error
    rates Bisani and Ney, ICASSP 2004). The seed is fixed: the same examples give the same interval.

    numerators, denominators: [n] numbers. Returns [low, high] in the ratio's unit, or None when fewer than two examples
    or an all-zero denominator leave nothing to say.
    """
    numerators = np.asarray(numerators, dtype=np.float64)
    denominators = np.asarray(denominators, dtype=np.float64)
    n = len(numerators)
    if n < 2 or denominators.sum() <= 0:
        return None
    generator = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    for r in range(resamples):
        drawn = generator.integers(0, n, n)
        ratios[r] = numerators[drawn].sum() / max(denominators[drawn].sum(), 1e-12)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return [float(low), float(high)]
