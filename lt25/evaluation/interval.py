"""How far a ratio measured on a sample of examples can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959964
"""Of the normal distribution, the deviation that 95 % stay within."""


def wilson_interval(successes: float, n: int) -> list[float] | None:
    """95 % interval of a proportion (Wilson, 1927), which has a width even where all succeed or none does.

    Args:
        successes: how many of the examples succeeded, 0 to ``n``.
        n: how many examples there are.

    Returns:
        [low, high], shares from 0 to 1; None without examples.
    """
    if not n:
        return None
    share, z2 = successes / n, _Z**2 / n
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * share * (1 - share) + z2**2 / 4) / (1 + z2)
    return [0.0 if not successes else middle - half, 1.0 if successes == n else middle + half]


def bootstrap_interval(numerators, denominators, resamples: int = 1000, seed: int = 0) -> list[float] | None:
    """95 % percentile bootstrap interval of `sum(numerators) / sum(denominators)`, resampling whole examples.

    Serves word error rate (errors / words) and bits per byte (bits / bytes) alike: the example (utterance, document) is
    what was drawn at random, so it is what is drawn again (Efron, 1979; for word error rates Bisani and Ney, ICASSP
    2004). The seed is fixed: the same examples give the same interval. Examples that all have the same ratio say nothing about
    how far others are from it, so there is no interval.

    Args:
        numerators, denominators: [n] numbers.

    Returns:
        [low, high] in the ratio's unit, or None when fewer than two examples, an all-zero denominator or equal ratios leave
        nothing to say.
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
    return [float(low), float(high)] if high - low > 1e-9 * abs(high) else None


FEWEST_GROUPS = 5
"""Of fewer speakers an interval over speakers would say nothing."""


def rate_interval(counts, lengths, groups: Sequence[str] | None = None) -> list[float] | None:
    """95 % interval of a rate, counts / lengths over whole examples, such as errors / words or right / asked.

    It is `bootstrap_interval`'s. Where all examples have the same rate there is none, and Wilson's takes its place, as of a
    proportion of the examples: of those with an error, where none has one, since an example hardly has more errors than it is
    long. A rate above 1 is its own upper end.

    Args:
        counts, lengths: [n] counts.
        groups: [n], what examples share, such as a speaker: of `FEWEST_GROUPS` or more, whole groups are drawn.

    Returns:
        [low, high], or None where there is nothing to say.
    """
    if groups is not None and len(set(groups)) >= FEWEST_GROUPS:
        _, of = np.unique(np.asarray(groups), return_inverse=True)
        errors, totals = (np.bincount(of, np.asarray(numbers, np.float64)) for numbers in (counts, lengths))
        if interval := bootstrap_interval(errors, totals):
            return interval
    n, total = len(counts), sum(lengths)
    if n < 2 or not total:
        return None
    if interval := bootstrap_interval(counts, lengths):
        return interval
    rate = sum(counts) / total
    low, high = wilson_interval(min(rate, 1.0) * n, n) or (rate, rate)
    return [low, max(high, rate)]
