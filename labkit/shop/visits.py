"""Who comes when, and for what: the searches of the year, before anybody has shown them anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labkit.shop.calendar import DAYS, HOURS, MONTHS, season, traffic
from labkit.shop.chance import stream
from labkit.shop.crowd import EVENT_DAYS, LIFE_EVENTS, Crowd
from labkit.shop.demand import Demand
from labkit.shop.shelf import Shelf

GO_ON = 0.62  # chance of another search in the same session
HOME_SHARE = 0.28  # pages that are not a search but the shop's own suggestions
GAP = 5  # session numbers to choose one from
_CHUNK = 20_000


@dataclass(frozen=True)
class Visits:
    """The M requests of the year in time order; every ranking policy answers the same ones.

    Attributes:
        session: (M,) i32, in order of the sessions' start, with gaps.
        shopper: (M,) i32.
        second: (M,) i64 since the first midnight of the year.
        asked: (M,) i32, row of :class:`Demand`: a typed query or a category's home page.
        day_starts: (DAYS + 1,) i64: the requests of day d are ``day_starts[d]:day_starts[d + 1]``.
    """

    session: np.ndarray
    shopper: np.ndarray
    second: np.ndarray
    asked: np.ndarray
    day_starts: np.ndarray


def make_visits(count: int, crowd: Crowd, demand: Demand, shelf: Shelf, seed: int) -> Visits:
    """Draw about ``count`` requests (exactly that many, the last session being cut short).

    A session has one category in mind; its length is geometric, with a heavier tail for those who like to
    browse; a shopper who searches on types a query for the same category, mostly another one.

    Args:
        count: how many requests.
        crowd: who can come.
        demand: what can be asked.
        shelf: departments and categories.
        seed: of the market.
    """
    rng = stream(seed, "visits")
    sessions = count  # more than enough; cut below
    stop = GO_ON + 0.3 * (rng.random(sessions) - 0.5)
    length = np.ones(sessions, dtype=np.int64)
    going = np.ones(sessions, dtype=bool)
    for _ in range(24):
        going &= rng.random(sessions) < stop
        length += going
    ends = np.cumsum(length)
    sessions = int(np.searchsorted(ends, count)) + 1
    length = length[:sessions]
    length[-1] -= ends[sessions - 1] - count

    levels = np.cumsum(traffic())
    day = np.minimum(np.searchsorted(levels, levels[-1] * rng.random(sessions), side="right"), DAYS - 1)
    hours = np.cumsum(np.array(HOURS, dtype=np.float64))
    hour = np.searchsorted(hours, hours[-1] * rng.random(sessions), side="right")
    start = day * 86_400 + hour * 3_600 + np.floor(3_600 * rng.random(sessions)).astype(np.int64)
    start = np.sort(start, kind="stable")
    day = start // 86_400
    shopper = _shoppers(crowd, day, rng)
    wanted = _categories(crowd, shelf, shopper, day, rng)

    session = np.repeat(np.arange(sessions, dtype=np.int64), length)
    place = np.arange(count) - np.repeat(np.cumsum(length) - length, length)
    pause = 15 + np.floor(90 * rng.random(count) * rng.random(count) + 60 * rng.random(count))
    run = np.cumsum(np.where(place == 0, 0, pause))
    first = np.repeat(run[np.flatnonzero(place == 0)], length)
    second = np.repeat(start, length) + (run - first).astype(np.int64)
    # Nobody searches on into the next year: who would, came a little earlier.
    late = np.maximum(second[np.cumsum(length) - 1] - (DAYS * 86_400 - 1), 0)
    second -= np.repeat(late, length)
    asked = _queries(demand, crowd, shopper[session], wanted[session], second // 86_400, rng)
    order = np.argsort(second, kind="stable")
    second = second[order]
    return Visits(
        session=session_ids(sessions, seed)[session[order]],
        shopper=shopper[session][order].astype(np.int32),
        second=second,
        asked=asked[order].astype(np.int32),
        day_starts=np.searchsorted(second, 86_400 * np.arange(DAYS + 1)),
    )


def session_ids(count: int, seed: int) -> np.ndarray:
    """One number out of each five, so that others find a free one in between. Returns (count,) i32."""
    place = np.floor(GAP * stream(seed, "session ids").random(count))
    return (GAP * np.arange(count) + place).astype(np.int32)


def _shoppers(crowd: Crowd, day: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Those who come often, among those who have joined by the day. Returns (sessions,) int64."""
    order = np.argsort(crowd.joined, kind="stable")
    edges = np.cumsum(crowd.activity[order])
    here = np.searchsorted(crowd.joined[order], day, side="right")  # how many have joined
    return order[
        np.searchsorted(edges, edges[here - 1] * rng.random(len(day)), side="right").clip(0, here - 1)
    ]


def _categories(
    crowd: Crowd, shelf: Shelf, shopper: np.ndarray, day: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """What each session is about: the shopper's affinity, the season, and what happens in life."""
    homes = shelf.department_of()
    seasonal = np.stack([season(name) for name in shelf.departments], axis=1)[:, homes]  # (DAYS, C)
    boosts = np.ones((len(LIFE_EVENTS) + 1, len(homes)))  # the last row for those to whom nothing happens
    for row, (_, wanted) in enumerate(LIFE_EVENTS.values()):
        for name, factor in wanted.items():
            if name in shelf.departments:
                boosts[row, homes == shelf.departments.index(name)] = factor
    chosen = np.empty(len(shopper), dtype=np.int64)
    for begin in range(0, len(shopper), _CHUNK):
        rows = slice(begin, begin + _CHUNK)
        who, when = shopper[rows], day[rows]
        since = when - crowd.event_day[who]
        shows = (crowd.event[who] >= 0) & (since >= 0) & (since < EVENT_DAYS)
        weights = crowd.affinity[who] * seasonal[when] * boosts[np.where(shows, crowd.event[who], -1)]
        edges = np.cumsum(weights, axis=1)
        target = edges[:, -1:] * rng.random((len(who), 1))
        chosen[rows] = np.minimum((edges <= target).sum(axis=1), len(homes) - 1)
    return chosen


def _queries(
    demand: Demand,
    crowd: Crowd,
    shopper: np.ndarray,
    wanted: np.ndarray,
    day: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """A typed query of the category in the shopper's language, or the category's home page."""
    count = len(shopper)
    categories = len(demand.category) - demand.queries
    asked = demand.queries + wanted  # the home page
    typed = rng.random(count) >= HOME_SHARE
    roll = rng.random(count)
    month = day * MONTHS // DAYS
    # What is asked drifts: each query has a level of its own in each month.
    drift = 0.5 + rng.random((MONTHS, demand.queries))
    # All queries sorted into groups (month by month) of one category and language.
    group = 2 * demand.category[: demand.queries] + demand.zh[: demand.queries]
    order = np.argsort(group, kind="stable")
    limits = np.searchsorted(group[order], np.arange(2 * categories + 1))
    mine = 2 * wanted + crowd.zh[shopper]
    empty = limits[mine + 1] == limits[mine]
    for m in range(MONTHS):
        rows = np.flatnonzero(typed & ~empty & (month == m))
        edges = np.concatenate([[0.0], np.cumsum((demand.weight[: demand.queries] * drift[m])[order])])
        low, high = limits[mine[rows]], limits[mine[rows] + 1]
        target = edges[low] + (edges[high] - edges[low]) * roll[rows]
        place = np.searchsorted(edges, target, side="right") - 1
        asked[rows] = order[np.clip(place, low, high - 1)]
    return asked
