"""The shop's year under a ranking policy: the same shoppers, the same wishes, the same dice.

Whoever asks, when and for what does not depend on the policy, and every candidate of every request has its
own random numbers (common random numbers), so that two policies that show a shopper the same product in the
same place get the same answer (but for fatigue, which is of all that was shown before), and a difference
between two policies is due to what they show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from labkit.shop.behaviour import SHOWN, Behaviour
from labkit.shop.calendar import DAYS, MIDNIGHT, MONTHS
from labkit.shop.chance import stream
from labkit.shop.crowd import DEVICES, Crowd
from labkit.shop.demand import POOL, Demand
from labkit.shop.policies import Page, Policy
from labkit.shop.prices import Prices
from labkit.shop.shelf import Shelf
from labkit.shop.visits import Visits

SURFACES = pl.Enum(["search", "home"])
SCREENS = pl.Enum(list(DEVICES))
CORE_HOUR = 0.04  # GBP for an hour of one core
RETURN_COST = 3.0  # GBP for handling one parcel that comes back
# How well a product of each grade answers a request.
GOOD = np.array([0.0, 0.0, 0.4, 0.85])

Sink = Callable[[int, pl.DataFrame], None]


@dataclass(frozen=True)
class Year:
    """Everything that stands still when the policy changes."""

    shelf: Shelf
    crowd: Crowd
    prices: Prices
    demand: Demand
    visits: Visits
    behaviour: Behaviour


@dataclass(frozen=True)
class Outcome:
    """What a policy earned and did. Expected values are exact given what was shown: no purchase is drawn.

    Attributes:
        policy: its name.
        requests, impressions, clicks, carts, purchases, returns: counts of what was drawn.
        revenue: GBP paid for what was kept, as drawn.
        expected_revenue: GBP, its expectation.
        expected_profit: GBP: commissions on it, less the handling of returns and the serving.
        satisfaction: expected share of requests whose shopper sees something that answers them, less half
            of the expected returns for each request; at most 1.
        serving_cost: GBP.
        gini: of the exposure over sellers that are in the shop: 0 all alike, 1 one has all.
        sellers: seller_id, exposure (expected looks), share, expected_revenue.
        months: month (0 to 11), requests, expected_revenue, satisfaction.
        shoppers: (S,) expected revenue of each shopper, for tests paired by shopper.
    """

    policy: str
    requests: int
    impressions: int
    clicks: int
    carts: int
    purchases: int
    returns: int
    revenue: float
    expected_revenue: float
    expected_profit: float
    satisfaction: float
    serving_cost: float
    gini: float
    sellers: pl.DataFrame = field(repr=False)
    months: pl.DataFrame = field(repr=False)
    shoppers: np.ndarray = field(repr=False)


def replay(
    year: Year,
    policy: Policy,
    seed: int,
    sink: Sink | None = None,
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Let the year happen under a policy.

    Args:
        year: the market's shoppers, products and requests.
        policy: how to rank.
        seed: of the shoppers' choices.
        sink: called with each day's number and events (one row per product shown, in time order).
        progress: called with each day's number.

    Raises:
        ValueError: the policy's scores have the wrong shape or are not numbers.
    """
    shelf, crowd, demand, visits = year.shelf, year.crowd, year.demand, year.visits
    # What the shopper was shown of each category lately; each week half of it is forgotten.
    seen = np.zeros((len(crowd.taste), len(shelf.categories)), dtype=np.float32)
    clicks = np.zeros(len(shelf.price))
    popularity = _ranked(shelf.known)
    commission = year.shelf.sellers["commission"].to_numpy()[shelf.seller]
    totals = _Totals(len(shelf.sellers), len(crowd.taste))
    month = 0
    for day in range(DAYS):
        if day * MONTHS // DAYS != month:
            month = day * MONTHS // DAYS
            popularity = _ranked(clicks + shelf.appeal)
            clicks *= 0.5
        if day % 7 == 0:
            seen *= 0.5
        rows = slice(visits.day_starts[day], visits.day_starts[day + 1])
        shopper, asked = visits.shopper[rows], visits.asked[rows]
        if len(asked):
            dice = stream(seed, "choices", day).random((5, len(asked), POOL))
            price, off = year.prices.of(day)
            pool = demand.pool[asked]  # (S, C)
            page = Page(
                day=day,
                shopper=shopper.copy(),
                query=np.where(asked < demand.queries, asked, -1).astype(np.int32),
                zh=crowd.zh[shopper],
                device=crowd.device[shopper],
                product=pool,
                match=demand.match[asked],
                guess=demand.guess[asked],
                popularity=popularity[pool],
                price=price[pool],
                price_rank=shelf.price_rank[pool],
                discount=off[pool],
                age=day - shelf.launched[pool],
                seller=shelf.seller[pool],
                noise=dice[0],
            )
            for values in vars(page).values():
                if isinstance(values, np.ndarray):
                    values.flags.writeable = False  # a policy looks, it does not touch
            there = (shelf.launched <= day) & year.prices.in_stock(day)
            places, shown = _top(_scores(policy, page), there[pool])
            product = np.take_along_axis(pool, places, axis=1)  # (S, K)
            grade = np.take_along_axis(demand.grade[asked], places, axis=1)
            kind = shelf.category[product]
            chance = year.behaviour.chances(
                day, shopper, product, grade, price[product], off[product], seen[shopper[:, None], kind]
            )
            click, cart, buy, back = (np.take_along_axis(d, places, axis=1) for d in dice[1:])
            clicked = shown & (click < chance.look * chance.click)
            carted = clicked & (cart < chance.cart)
            bought = carted & (buy < chance.buy)
            returned = bought & (back < chance.back)
            np.add.at(seen, (np.broadcast_to(shopper[:, None], kind.shape)[shown], kind[shown]), 1)
            clicks += np.bincount(product[clicked], minlength=len(clicks))
            sold = np.where(shown, chance.look * chance.click * chance.cart * chance.buy, 0.0)
            good = np.where(shown, chance.look * GOOD[grade] * (0.7 + 0.3 * shelf.quality[product]), 0.0)
            totals.add(
                month=month,
                counts=[c.sum() for c in (shown, clicked, carted, bought, returned)],
                paid=price[product][bought & ~returned].cumsum()[-1:],
                earned=sold * (1 - chance.back) * price[product],
                commission=commission[product],
                backs=sold * chance.back,
                look=np.where(shown, chance.look, 0.0),
                seller=shelf.seller[product],
                shopper=shopper,
                good=good,
            )
            if sink is not None:
                flags = (clicked, carted, bought, returned)
                sink(day, _events(year, rows, product, price[product], shown, flags))
        if progress is not None:
            progress(day)
    return totals.outcome(policy, shelf)


def _scores(policy: Policy, page: Page) -> np.ndarray:
    scores = np.asarray(policy.score(page), dtype=np.float64)
    if scores.shape != page.product.shape:
        raise ValueError(
            f"The policy {policy.name!r} returned scores of shape {scores.shape} for {page.product.shape[0]} "
            f"requests with {page.product.shape[1]} candidates each; return one score per candidate."
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"The policy {policy.name!r} returned NaN on day {page.day}; a score must be a number."
        )
    return scores


def _top(scores: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of the ten best that are there, and which of the ten exist. Returns (S, K), (S, K) bool."""
    # What a policy rules out with minus infinity still comes before what is not there.
    scores = np.where(there, np.maximum(np.round(scores, 6), np.finfo(np.float64).min), -np.inf)
    places = np.argsort(-scores, axis=1, kind="stable")[:, :SHOWN]
    return places, np.take_along_axis(there, places, axis=1)


def _ranked(score: np.ndarray) -> np.ndarray:
    """Ranks from 0 (lowest) to 1. Returns (N,) float64."""
    ranks = np.empty(len(score))
    ranks[np.argsort(score, kind="stable")] = np.arange(len(score)) / max(1, len(score) - 1)
    return ranks


def _events(
    year: Year,
    rows: slice,
    product: np.ndarray,
    price: np.ndarray,
    shown: np.ndarray,
    flags: tuple[np.ndarray, ...],
) -> pl.DataFrame:
    visits, queries = year.visits, year.demand.queries
    request, place = np.nonzero(shown)
    asked = visits.asked[rows][request]
    shopper = visits.shopper[rows][request]
    moment = np.datetime64(MIDNIGHT, "ms") + visits.second[rows][request] * np.timedelta64(1000, "ms")
    return pl.DataFrame(
        {
            "session_id": visits.session[rows][request],
            "shopper_id": shopper,
            "time": moment,
            "surface": pl.Series((asked >= queries).astype(np.uint8)).cat.to(SURFACES),
            "query_id": pl.Series(asked).set(pl.Series(asked >= queries), None),
            "device": pl.Series(year.crowd.device[shopper].astype(np.uint8)).cat.to(SCREENS),
            "product_id": product[request, place],
            "position": (place + 1).astype(np.int8),
            "price": price[request, place],
            **{
                name: flag[request, place]
                for name, flag in zip(("clicked", "carted", "bought", "returned"), flags, strict=True)
            },
        }
    )


class _Totals:
    """Adds up days. Every sum is taken in order (cumsum, bincount), which is the same on every machine."""

    def __init__(self, sellers: int, shoppers: int) -> None:
        self.counts = np.zeros(5, dtype=np.int64)
        self.requests = np.zeros(MONTHS, dtype=np.int64)
        self.earned, self.satisfied = np.zeros(MONTHS), np.zeros(MONTHS)
        self.paid = self.commissions = self.backs = 0.0
        self.exposure, self.by_seller = np.zeros(sellers), np.zeros(sellers)
        self.by_shopper = np.zeros(shoppers)

    def add(
        self,
        month: int,
        counts: list[int],
        paid: np.ndarray,
        earned: np.ndarray,
        commission: np.ndarray,
        backs: np.ndarray,
        look: np.ndarray,
        seller: np.ndarray,
        shopper: np.ndarray,
        good: np.ndarray,
    ) -> None:
        self.counts += np.array(counts)
        self.requests[month] += len(shopper)
        self.paid += float(paid[0]) if len(paid) else 0.0
        self.earned[month] += _total(earned)
        self.commissions += _total(earned * commission)
        self.backs += _total(backs)
        flat = seller.reshape(-1)
        self.exposure += np.bincount(flat, look.reshape(-1), minlength=len(self.exposure))
        self.by_seller += np.bincount(flat, earned.reshape(-1), minlength=len(self.exposure))
        self.by_shopper += np.bincount(shopper, _across(earned), minlength=len(self.by_shopper))
        missed = np.ones(len(shopper))
        for place in range(good.shape[1]):
            missed *= 1 - good[:, place]
        self.satisfied[month] += _total(1 - missed) - 0.5 * _total(backs)

    def outcome(self, policy: Policy, shelf: Shelf) -> Outcome:
        requests = int(self.requests.sum())
        cost = requests * policy.cost_ms / 3_600_000 * CORE_HOUR
        shown, clicks, carts, purchases, returns = map(int, self.counts)
        whole = _total(self.exposure)
        here = np.flatnonzero(np.bincount(shelf.seller, minlength=len(self.exposure)))
        return Outcome(
            policy=policy.name,
            requests=requests,
            impressions=shown,
            clicks=clicks,
            carts=carts,
            purchases=purchases,
            returns=returns,
            revenue=round(self.paid, 2),
            expected_revenue=round(_total(self.earned), 2),
            expected_profit=round(self.commissions - RETURN_COST * self.backs - cost, 2),
            satisfaction=round(_total(self.satisfied) / requests, 6),
            serving_cost=round(cost, 4),
            gini=round(gini(self.exposure[here]), 6),
            sellers=pl.DataFrame(
                {
                    "seller_id": here.astype(np.int32),
                    "exposure": np.round(self.exposure[here], 3),
                    "share": np.round(self.exposure[here] / whole, 6),
                    "expected_revenue": np.round(self.by_seller[here], 2),
                }
            ),
            months=pl.DataFrame(
                {
                    "month": np.arange(MONTHS, dtype=np.int8),
                    "requests": self.requests,
                    "expected_revenue": np.round(self.earned, 2),
                    "satisfaction": np.round(self.satisfied / np.maximum(self.requests, 1), 6),
                }
            ),
            shoppers=np.round(self.by_shopper, 4),
        )


def _total(values: np.ndarray) -> float:
    flat = values.reshape(-1)
    return float(np.cumsum(flat)[-1]) if len(flat) else 0.0


def _across(values: np.ndarray) -> np.ndarray:
    """The sum of each row. (S, K) -> (S,)"""
    total = np.zeros(len(values))
    for place in range(values.shape[1]):
        total += values[:, place]
    return total


def gini(values: np.ndarray) -> float:
    """0 where all have the same, close to 1 where one has all.

    Half the mean difference between two of them, relative to the mean (Gini 1912).

    Example:
        >>> gini(np.array([5, 5, 5])), gini(np.array([0, 0, 0, 4]))
        (0.0, 0.75)
    """
    ordered = np.sort(values)
    n, whole = len(ordered), _total(ordered)
    if not whole:
        return 0.0
    return float(2 * _total(np.arange(1, n + 1) * ordered) / (n * whole) - (n + 1) / n)
