"""Makes the search log: what an imperfect production ranker showed and what shoppers clicked.

The click model is the position-based model: a shopper examines position k with probability ``PROPENSITIES[k -
1]``, and clicks what is examined with probability ``attraction(grade, price)``. Both factors are known here,
as they never are in real logs, so an inverse-propensity estimate can be checked against the truth.

Source: Craswell et al., An experimental comparison of click position-bias models, WSDM 2008; Joachims et al.,
Unbiased learning-to-rank with biased feedback, WSDM 2017.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl

from labkit.shop.chance import stream
from labkit.shop.products import Product
from labkit.shop.queries import Query
from labkit.shop.relevance import Facts
from labkit.shop.titles import TitleMatch

SHOWN = 10
CANDIDATES = 60  # the production ranker's first stage
START = datetime(2026, 3, 1)
DAYS = 60
PROPENSITIES = (1.0, 0.78, 0.62, 0.5, 0.42, 0.35, 0.3, 0.26, 0.23, 0.21)
_BY_GRADE = np.array([0.03, 0.12, 0.36, 0.7])
# A head query is typed far more often than something with five conditions.
_TRAFFIC = {
    "plain": 4.0,
    "synonym": 2.5,
    "attribute": 1.5,
    "brand": 2.0,
    "vague": 0.8,
    "typo": 0.8,
    "long_tail": 0.6,
}


def attraction(grade: np.ndarray, price_rank: np.ndarray) -> np.ndarray:
    """P(click | examined): rises with the grade, falls with the price's rank in its category (0 to 1).

    Example:
        >>> attraction(np.array([3]), np.array([0.5]))
        array([0.7])
    """
    return _BY_GRADE[grade] * (1.15 - 0.3 * price_rank)


def price_ranks(products: list[Product]) -> np.ndarray:
    """Each price's rank within its category, from 0 to 1. Returns (N,) float64."""
    prices = np.array([p.price for p in products])
    names = np.array([p.category for p in products])
    ranks = np.zeros(len(products))
    for name in sorted(set(names.tolist())):
        rows = np.flatnonzero(names == name)
        order = np.argsort(prices[rows], kind="stable")
        ranks[rows[order]] = np.arange(len(rows)) / max(1, len(rows) - 1)
    return ranks


def make_sessions(products: list[Product], queries: list[Query], count: int, seed: int) -> pl.DataFrame:
    """Simulate ``count`` searches over 60 days, ten products each.

    What is shown comes from an imperfect ranker (words of the title, popularity, a guess at the category, a
    little noise); what is clicked has the chance examination(position) * attraction(grade, price).

    Args:
        products: the catalogue; its order gives the product ids.
        queries: what shoppers type; their order gives the query ids.
        count: how many searches.
        seed: of the market.

    Returns:
        session_id i32, query_id i32, time datetime, position i16 (from 1), product_id i32, clicked bool;
        ordered by time.
    """
    facts = Facts(products)
    cheap = price_ranks(products)
    popularity = stream(seed, "popularity").random(len(products))
    titles = TitleMatch([p.title for p in products])
    asked = _query_of_sessions(queries, count, seed)  # (S,)

    shown = np.empty((count, SHOWN), dtype=np.int32)
    clicked = np.empty((count, SHOWN), dtype=bool)
    for query_id, query in enumerate(queries):
        rows = np.flatnonzero(asked == query_id)
        if not len(rows):
            continue
        rng = stream(seed, "sessions", query_id)
        grades = facts.grades(query.intent)
        score = _production_score(query, facts, products, titles, popularity, rng)
        candidates = np.argsort(-np.round(score, 6), kind="stable")[:CANDIDATES]
        noisy = score[candidates] + 0.3 * rng.random(
            (len(rows), len(candidates))
        )  # (s, C) the ranker explores a little
        places = np.argsort(-np.round(noisy, 6), axis=1, kind="stable")[:, :SHOWN]
        shown[rows] = candidates[places]
        chance = np.array(PROPENSITIES) * attraction(grades[shown[rows]], cheap[shown[rows]])
        clicked[rows] = rng.random(chance.shape) < chance
    seconds = _times(count, seed)
    order = np.argsort(seconds, kind="stable")
    moments = np.datetime64(START, "us") + (seconds[order] * 1_000_000).astype("timedelta64[us]")
    return pl.DataFrame(
        {
            "session_id": np.repeat(np.arange(count, dtype=np.int32), SHOWN),
            "query_id": np.repeat(asked[order].astype(np.int32), SHOWN),
            "time": np.repeat(moments, SHOWN),
            "position": np.tile(np.arange(1, SHOWN + 1, dtype=np.int16), count),
            "product_id": shown[order].reshape(-1),
            "clicked": clicked[order].reshape(-1),
        }
    )


def _query_of_sessions(queries: list[Query], count: int, seed: int) -> np.ndarray:
    rng = stream(seed, "traffic")
    # 1 / (0.08 + u) is a long tail made with exact arithmetic: a few queries carry much of the traffic.
    weights = np.array([_TRAFFIC[q.kind] for q in queries]) / (0.08 + rng.random(len(queries)))
    edges = np.cumsum(weights)  # summed in order, unlike np.sum, whose order depends on the processor
    return np.minimum(np.searchsorted(edges, edges[-1] * rng.random(count), side="right"), len(queries) - 1)


def _times(count: int, seed: int) -> np.ndarray:
    """Whole seconds after START: any day alike, evenings busier than mornings. Returns (S,) int64."""
    rng = stream(seed, "times")
    day = np.floor(rng.random(count) * DAYS)
    hour = 24 * np.maximum(rng.random(count), rng.random(count))
    return (day * 86_400 + np.floor(hour * 3_600)).astype(np.int64)


def _production_score(
    query: Query,
    facts: Facts,
    products: list[Product],
    titles: TitleMatch,
    popularity: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Title words, popularity and a query classifier that is right three times in four. Returns (N,)."""
    best = [name for name, grade in query.intent.categories.items() if grade == 3]
    guess = best[int(rng.random() * len(best))]
    if rng.random() > 0.75:
        department = next(p.department for p in products if p.category == guess)
        nearby = sorted({p.category for p in products if p.department == department})
        guess = nearby[int(rng.random() * len(nearby))]
    in_guess = facts.category.map(slice(None), {guess: 1}, otherwise=0, missing=0)
    return 0.9 * titles.fit(query.text) + 0.5 * in_guess + 0.35 * popularity
