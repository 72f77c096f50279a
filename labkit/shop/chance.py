"""Random choices that come out the same on every machine and in every NumPy version.

NumPy promises that the raw stream of a bit generator never changes (NEP 19); it does not promise that of
``choice``, ``shuffle`` or ``normal``. So everything random in the shop is made here from uniform doubles,
with exact arithmetic.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A child generator with a name, independent of every other name.

    A new stage of the market (reviews, pictures, defects) takes a new name and so leaves the older stages as
    they were.

    Example:
        >>> float(stream(0, "products").random()) == float(stream(0, "products").random())
        True
    """
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    words = np.frombuffer(digest[:16], dtype="<u4")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *map(int, words)])))


class Dice:
    """Everyday choices on top of one named stream."""

    def __init__(self, seed: int, *names: str | int) -> None:
        self.rng = stream(seed, *names)

    def happens(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def below(self, n: int) -> int:
        """A whole number in [0, n)."""
        return min(int(self.rng.random() * n), n - 1)

    def one(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def ranked(self, items: Sequence[T], steepness: float = 1.0) -> T:
        """One of items listed from most to least usual: the k-th has weight 1 / (1 + steepness * (k - 1))."""
        return items[self.weighted([1.0 / (1.0 + steepness * k) for k in range(len(items))])]

    def weighted(self, weights: Sequence[float]) -> int:
        """An index, drawn in proportion to its weight."""
        total = 0.0
        for weight in weights:
            total += weight
        target = float(self.rng.random()) * total
        for index, weight in enumerate(weights):
            target -= weight
            if target < 0:
                return index
        return len(weights) - 1

    def some(self, items: Sequence[T], k: int) -> list[T]:
        """k different items (all of them when there are fewer), in random order."""
        order = np.argsort(self.rng.random(len(items)), kind="stable")
        return [items[i] for i in order[:k]]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        return self.some(items, len(items))
