"""How sure a mean over queries is, and whether two systems differ on the same queries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def bootstrap_interval(
    values: np.ndarray, level: float = 0.95, seed: int = 0, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over queries.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979. The interval speaks about other
    *queries* drawn like these; it knows nothing of wrong judgements.

    Args:
        values: (Q,) one value per query.
        level: coverage wanted, between 0 and 1.
        seed: of the resampling.
        resamples: how many samples of Q queries to draw with replacement.

    Returns:
        The interval's low and high end.

    Raises:
        ValueError: no values, values that are not finite, or a level outside (0, 1).

    Example:
        >>> low, high = bootstrap_interval(np.array([0.2, 0.4, 0.6, 0.8]))
        >>> low < 0.5 < high
        True
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(
            f"A bootstrap needs one value per query in a flat array, not the shape {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ValueError("A bootstrap needs finite values; leave the queries without one out.")
    if not 0 < level < 1:
        raise ValueError(f"The level is a probability between 0 and 1, not {level}.")
    generator = np.random.default_rng(seed)
    chances = np.full(len(values), 1 / len(values))
    means = np.empty(resamples)
    block = max(1, 2**22 // len(values))  # resamples at once, to keep the memory small
    for start in range(0, resamples, block):
        part = means[start : start + block]
        # How often each query was drawn says everything about a resample: (block, Q) counts.
        part[:] = generator.multinomial(len(values), chances, size=len(part)) @ values / len(values)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_permutation_test(
    a: np.ndarray, b: np.ndarray, seed: int = 0, permutations: int = 100_000
) -> float:
    """Two-sided p-value of the hypothesis that two systems are exchangeable, query by query.

    Under it, each query's difference could as well have the other sign. All 2^Q sign patterns are tried when
    there are no more of them than ``permutations``; otherwise that many random ones, and the observed pattern
    counts as one more, so that p is never 0. Source: Fisher 1935; Smucker, Allan and Carterette, "A
    comparison of statistical significance tests for information retrieval evaluation", CIKM 2007.

    Args:
        a: (Q,) values of one system.
        b: (Q,) values of the other, on the same queries in the same order.
        seed: of the random sign patterns.
        permutations: how many sign patterns to try.

    Returns:
        The p-value, in (0, 1].

    Raises:
        ValueError: the arrays differ in length, are empty or hold values that are not finite.

    Example:
        >>> paired_permutation_test(np.array([0.5, 0.7, 0.9]), np.array([0.4, 0.6, 0.8]))
        0.25
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(
            f"A paired test needs two flat arrays over the same queries, not shapes {a.shape} and {b.shape}."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("A paired test needs finite values; leave the queries without one out of both.")
    difference = a - b
    difference = difference[difference != 0]  # a zero has no sign to flip
    count = len(difference)
    # Sums that are equal on paper may differ in the last bits: they count as "at least as large".
    threshold = abs(difference.sum()) - 1e-9 * np.abs(difference).sum()
    if count < 60 and 2**count <= permutations:
        patterns = (np.arange(2**count)[:, None] >> np.arange(count)) & 1  # (2^Q, Q)
        return float(np.mean(np.abs((2 * patterns - 1) @ difference) >= threshold))
    generator = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, permutations, 4096):  # in blocks, to keep the memory small
        size = min(4096, permutations - start)
        signs = generator.integers(0, 2, size=(size, count), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ difference) >= threshold).sum())
    return (extreme + 1) / (permutations + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Correct the p-values of several tests, so that the chance of one false alarm among them stays at p.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Example:
        >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    corrected, floor = [0.0] * len(p), 0.0
    for rank, i in enumerate(np.argsort(p)):
        floor = max(floor, min(1.0, p[i] * (len(p) - rank)))
        corrected[i] = floor
    return corrected
