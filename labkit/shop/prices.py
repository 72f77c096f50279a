"""What each product costs on each day, and when it is out of stock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from labkit.shop.calendar import CAMPAIGNS, DAYS, START
from labkit.shop.chance import stream
from labkit.shop.shelf import Shelf

STEPS = 4  # list prices move so many times a year at most, each time by a few per cent
GONE_SHARE = 0.3  # products that are out of stock once in the year


@dataclass(frozen=True)
class Prices:
    """Prices as ``of(day)`` and as a table of changes; stock as one gap a product."""

    listed: np.ndarray  # (STEPS + 1, N) float64: the list price after each change
    changes: np.ndarray  # (STEPS, N) int64: the day of each change, in order; DAYS for never
    promoted: np.ndarray  # (N, 2) int64: first day and length of the seller's own promotion
    depth: np.ndarray  # (N,) float64: its discount
    joins: np.ndarray  # (campaigns, N) bool: takes part
    gone: np.ndarray  # (N, 2) int64: first day without stock, and the day it is back

    def discount(self, day: int) -> np.ndarray:
        """The share taken off the list price on a day, the best offer counting. Returns (N,) float64."""
        first, length = self.promoted.T
        off = np.where((day >= first) & (day < first + length), self.depth, 0.0)
        for campaign, joins in zip(CAMPAIGNS, self.joins, strict=True):
            if campaign.first <= day <= campaign.last:
                off = np.maximum(off, campaign.discount * joins)
        return off

    def list_price(self, day: int) -> np.ndarray:
        """The price without promotions. Returns (N,) float64, GBP."""
        step = (self.changes <= day).sum(axis=0)
        return self.listed[step, np.arange(self.listed.shape[1])]

    def of(self, day: int) -> tuple[np.ndarray, np.ndarray]:
        """What a shopper pays on a day, and the discount in it. Returns (N,) GBP with whole pence, (N,)."""
        off = self.discount(day)
        return np.round(self.list_price(day) * (1 - off), 2), off

    def in_stock(self, day: int, products: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Whether each of the products (all when left out) can be bought. Returns a bool for each."""
        gone, back = self.gone[products].T
        return (day < gone) | (day >= back)


def make_prices(shelf: Shelf, seed: int) -> Prices:
    """Draw a year of prices and stock.

    A list price is what the catalogue says at first; up to four times it moves by -4 to +6 % (costs rise). A
    third of the products have a promotion of their own, and those of a campaign's departments join it every
    second time.
    """
    n = len(shelf.price)
    rng = stream(seed, "prices")
    listed = [shelf.price]
    days = np.sort(np.floor(rng.random((STEPS, n)) * 1.6 * DAYS), axis=0)
    for _ in range(STEPS):
        listed.append(np.maximum(np.round(listed[-1] * (0.96 + 0.1 * rng.random(n)), 2), 0.5))
    has_own = rng.random(n) < 0.33
    first = np.where(has_own, np.floor(rng.random(n) * DAYS), 2 * DAYS)
    length = 7 + np.floor(rng.random(n) * 21)
    depth = 0.1 + 0.05 * np.floor(rng.random(n) * 5)
    joins = np.zeros((len(CAMPAIGNS), n), dtype=bool)
    for number, campaign in enumerate(CAMPAIGNS):
        invited = [name in campaign.departments or not campaign.departments for name in shelf.departments]
        joins[number] = np.array(invited)[shelf.department] & (rng.random(n) < 0.5)
    leaves = np.where(rng.random(n) < GONE_SHARE, np.floor(rng.random(n) * DAYS), 2 * DAYS)
    back = leaves + 5 + np.floor(rng.random(n) * 35)
    return Prices(
        listed=np.stack(listed),
        changes=days.astype(np.int64),
        promoted=np.stack([first, length], axis=1).astype(np.int64),
        depth=depth,
        joins=joins,
        gone=np.stack([leaves, back], axis=1).astype(np.int64),
    )


def price_table(prices: Prices, launched: np.ndarray) -> pl.DataFrame:
    """Every change of what a shopper pays: product_id i32, since Date, price f64, reason (str).

    The first row of a product is its price on the first day of the year or on the day of its launch.
    """
    before, was_off = np.full(launched.shape, -1.0), np.zeros(launched.shape)
    parts = []
    for day in range(DAYS):
        now, off = prices.of(day)
        rows = np.flatnonzero((launched <= day) & (now != before))
        if not len(rows):
            continue
        why = np.where(off[rows] > was_off[rows], 2, np.where(off[rows] < was_off[rows], 3, 1))
        why[before[rows] < 0] = 0
        parts.append((rows, np.full(len(rows), day), now[rows], why))
        before[rows], was_off[rows] = now[rows], off[rows]
    ids, days, price, why = (np.concatenate(column) for column in zip(*parts, strict=True))
    reasons = pl.Enum(["listed", "list price changed", "promotion", "promotion over"])
    return pl.DataFrame(
        {
            "product_id": ids.astype(np.int32),
            "since": np.datetime64(START) + days.astype("timedelta64[D]"),
            "price": price,
            "reason": pl.Series(why.astype(np.uint8)).cat.to(reasons),
        }
    ).sort("product_id", "since")


def stock_table(prices: Prices, launched: np.ndarray) -> pl.DataFrame:
    """When a product could not be bought: product_id i32, gone Date, back Date (the first day it is back)."""
    first = prices.gone[:, 0]
    rows = np.flatnonzero((first < DAYS) & (first > launched))
    gone, back = prices.gone[rows].T
    return pl.DataFrame(
        {
            "product_id": rows.astype(np.int32),
            "gone": np.datetime64(START) + gone.astype("timedelta64[D]"),
            "back": np.datetime64(START) + back.astype("timedelta64[D]"),
        }
    )


def campaign_table() -> pl.DataFrame:
    """campaign_id i32, name, name_zh, departments (list; empty for all), discount f64, start and end Date."""
    return pl.DataFrame(
        {
            "campaign_id": np.arange(len(CAMPAIGNS), dtype=np.int32),
            "name": [c.name for c in CAMPAIGNS],
            "name_zh": [c.name_zh for c in CAMPAIGNS],
            "departments": pl.Series([list(c.departments) for c in CAMPAIGNS], dtype=pl.List(pl.String)),
            "discount": [c.discount for c in CAMPAIGNS],
            "start": np.datetime64(START) + np.array([c.first for c in CAMPAIGNS], dtype="timedelta64[D]"),
            "end": np.datetime64(START) + np.array([c.last for c in CAMPAIGNS], dtype="timedelta64[D]"),
        }
    )
