"""Ranking policies: what a shop may do with a page of candidates. Write your own in the same shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Page:
    """The requests of one day with their candidates, as the shop sees them: S requests, C candidates.

    Nothing here is hidden truth: no grade, no taste, no quality.

    Attributes:
        day: days since the first day of the year.
        shopper: (S,) i32 ids.
        query: (S,) i32 query ids of ``typed_queries``; -1 on the home page.
        zh: (S,) bool, the shopper shops in Chinese.
        device: (S,) index into ``crowd.DEVICES``.
        product: (S, C) i32 ids of the candidates.
        match: (S, C) in [0, 1], how well title and query agree.
        guess: (S, C) bool, in the category that the query classifier guesses.
        popularity: (S, C) in [0, 1], rank by clicks of the months before; in the first month by what was
            counted before the year, with noise.
        price: (S, C) GBP, to be paid today.
        price_rank: (S, C) in [0, 1], rank of the list price in the category.
        discount: (S, C) in [0, 1).
        age: (S, C) days since the launch.
        seller: (S, C) ids.
        noise: (S, C) uniform in [0, 1), the policy's own dice, the same for every policy on the same seed.
    """

    day: int
    shopper: np.ndarray
    query: np.ndarray
    zh: np.ndarray
    device: np.ndarray
    product: np.ndarray
    match: np.ndarray
    guess: np.ndarray
    popularity: np.ndarray
    price: np.ndarray
    price_rank: np.ndarray
    discount: np.ndarray
    age: np.ndarray
    seller: np.ndarray
    noise: np.ndarray


class Policy(Protocol):
    """Anything with a name, a cost and a score."""

    @property
    def name(self) -> str: ...

    @property
    def cost_ms(self) -> float:
        """Computing time for one request."""
        ...

    def score(self, page: Page) -> np.ndarray:
        """(S, C) float; the ten highest are shown, highest first. What is not available is left out later.

        Scores that differ by less than a millionth count as equal, so that rounding on another machine
        changes nothing: scale what is smaller.
        """
        ...


@dataclass(frozen=True)
class Production:
    """What the shop runs: words, a guess at the category, popularity, and a little exploration."""

    name: str = "production"
    cost_ms: float = 3.0
    words: float = 0.9
    category: float = 0.5
    popularity: float = 0.5
    explore: float = 0.12

    def score(self, page: Page) -> np.ndarray:
        return (
            self.words * page.match
            + self.category * page.guess
            + self.popularity * page.popularity
            + self.explore * page.noise
        )


@dataclass(frozen=True)
class Shuffled:
    """Candidates in random order: the log that an off-policy estimate likes best and shoppers least."""

    name: str = "shuffled"
    cost_ms: float = 1.0

    def score(self, page: Page) -> np.ndarray:
        return page.noise


@dataclass(frozen=True)
class Cheapest:
    """What fits the words, the cheapest first."""

    name: str = "cheapest"
    cost_ms: float = 2.0

    def score(self, page: Page) -> np.ndarray:
        return 1.0 * (page.match >= 0.5) + 0.5 * page.guess - page.price_rank


@dataclass(frozen=True)
class BestSellers:
    """Popularity alone, within what fits: the rich get richer."""

    name: str = "best sellers"
    cost_ms: float = 1.5

    def score(self, page: Page) -> np.ndarray:
        return 1.0 * (page.match >= 0.5) + 0.5 * page.guess + page.popularity


@dataclass(frozen=True)
class FreshFirst:
    """Production with a hand for what is new: exploration with a purpose."""

    name: str = "fresh first"
    cost_ms: float = 3.2
    boost: float = 0.5
    days: int = 45

    def score(self, page: Page) -> np.ndarray:
        new = np.clip(1 - page.age / self.days, 0, 1)
        return Production().score(page) + self.boost * new


POLICIES: tuple[Policy, ...] = (Production(), Shuffled(), Cheapest(), BestSellers(), FreshFirst())
