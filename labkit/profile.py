"""A profile of the simulated market: what is in it, how people behave, and what is wrong with the raw data.

Everything is measured on the tables, as one would with a real shop's; only the defects are counted, and the
accounts named, by ``truth``. Aggregates run in the streaming engine, so the largest market fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from labkit.shop import Market
from labkit.shop.calendar import START
from labkit.shop.market import TABLES


@dataclass(frozen=True)
class Profile:
    """What ``labkit data describe`` prints and draws.

    Attributes:
        size, seed: of the market.
        tables: table, group, rows.
        funnel: impressions, clicks, carts, purchases, returns: counts over the year.
        surfaces: surface, impressions, click_rate, purchase_rate.
        positions: device, position, impressions, click_rate.
        weeks: department, week (0 to 51), clicks, index (1 is the department's mean week).
        hours: hour, requests.
        lengths: requests in a session, sessions.
        popularity: share of products (0 to 1, the most clicked first), share of clicks.
        prices: discount (0, 0.1, ...), impressions, click_rate, purchase_rate given a click.
        defects: table, defect, rows, share.
        ratios: of each raw event's price to the product's median one, log10; counts in bins.
        clocks: hours by which a raw event's time differs from when it arrived; counts.
        accounts: shopper_id, requests, click_rate, what ("shopper", "bot", "test account").
    """

    size: str
    seed: int
    tables: pl.DataFrame
    funnel: dict[str, int]
    surfaces: pl.DataFrame
    positions: pl.DataFrame
    weeks: pl.DataFrame
    hours: pl.DataFrame
    lengths: pl.DataFrame
    popularity: pl.DataFrame
    prices: pl.DataFrame
    defects: pl.DataFrame
    ratios: pl.DataFrame
    clocks: pl.DataFrame
    accounts: pl.DataFrame

    def as_json(self) -> dict[str, Any]:
        """Plain data for ``--json``, without the points of the accounts."""
        plain: dict[str, Any] = {"size": self.size, "seed": self.seed, "funnel": self.funnel}
        for name, value in vars(self).items():
            if isinstance(value, pl.DataFrame) and name != "accounts":
                plain[name] = value.to_dicts()
        return plain


def profile(market: Market) -> Profile:
    """Measure a market; its tables are made first if need be.

    Example:
        >>> import labkit.shop
        >>> profile(labkit.shop.load("tiny")).funnel["impressions"]
        20000
    """
    events = market.scan("events")
    rate = pl.col("clicked").mean().alias("click_rate")
    bought = pl.col("bought").mean().alias("purchase_rate")
    flags = {"clicks": "clicked", "carts": "carted", "purchases": "bought", "returns": "returned"}
    counts = _run(
        events.select(pl.len().alias("impressions"), *(pl.col(c).sum().alias(n) for n, c in flags.items()))
    )
    requests = events.filter(pl.col("position") == 1)
    return Profile(
        size=market.size,
        seed=market.seed,
        tables=_tables(market),
        funnel={name: int(value) for name, value in counts.row(0, named=True).items()},
        surfaces=_run(
            events.group_by("surface").agg(pl.len().alias("impressions"), rate, bought).sort("surface")
        ),
        positions=_run(
            events.group_by("device", "position")
            .agg(pl.len().alias("impressions"), rate)
            .sort("device", "position")
        ),
        weeks=_weeks(market),
        hours=_run(requests.group_by(hour=pl.col("time").dt.hour()).agg(requests=pl.len()).sort("hour")),
        lengths=_run(
            requests.group_by("session_id")
            .agg(requests=pl.len())
            .group_by("requests")
            .agg(sessions=pl.len())
            .sort("requests")
        ),
        popularity=_popularity(events, market.products.height),
        prices=_prices(market),
        defects=_defects(market),
        ratios=_ratios(market),
        clocks=_clocks(market),
        accounts=_accounts(market),
    )


def _run(frame: pl.LazyFrame) -> pl.DataFrame:
    return frame.collect(engine="streaming")


def _tables(market: Market) -> pl.DataFrame:
    rows = [
        (name, group, market.scan(name).select(pl.len()).collect().item()) for name, group in TABLES.items()
    ]
    return pl.DataFrame(rows, schema=["table", "group", "rows"], orient="row")


def _weeks(market: Market) -> pl.DataFrame:
    week = ((pl.col("time").dt.date() - START).dt.total_days() // 7).clip(0, 51).alias("week")
    seen = market.scan("events").filter("clicked").select("product_id", week)
    named = seen.join(market.products.lazy().select("product_id", "department"), on="product_id")
    table = _run(named.group_by("department", "week").agg(clicks=pl.len()))
    grid = (
        table.select("department")
        .unique()
        .join(pl.DataFrame({"week": range(52)}).cast(pl.Int64), how="cross")
    )
    table = grid.join(table.cast({"week": pl.Int64}), on=["department", "week"], how="left")
    table = table.with_columns(pl.col("clicks").fill_null(0)).sort("department", "week")
    return table.with_columns(index=pl.col("clicks") / pl.col("clicks").mean().over("department"))


def _popularity(events: pl.LazyFrame, products: int) -> pl.DataFrame:
    clicks = _run(events.group_by("product_id").agg(clicks=pl.col("clicked").sum()))["clicks"].to_numpy()
    counts = np.zeros(products)
    counts[: len(clicks)] = np.sort(clicks)[::-1]
    share = np.cumsum(counts) / max(counts.sum(), 1)
    marks = np.unique(np.round(np.linspace(1, products, 101)).astype(int))
    return pl.DataFrame({"products": marks / products, "clicks": share[marks - 1]})


def _prices(market: Market) -> pl.DataFrame:
    listed = market.products.lazy().select("product_id", listed="price")
    off = (10 * (1 - pl.col("price") / pl.col("listed"))).round().clip(0, 4) / 10
    priced = market.scan("events").join(listed, on="product_id").with_columns(discount=off)
    return _run(
        priced.group_by("discount")
        .agg(
            pl.len().alias("impressions"),
            pl.col("clicked").mean().alias("click_rate"),
            (pl.col("bought").sum() / pl.col("clicked").sum()).alias("purchase_rate"),
        )
        .sort("discount")
    )


def _defects(market: Market) -> pl.DataFrame:
    rows = {
        name.removeprefix("raw_"): market.scan(name).select(pl.len()).collect().item()
        for name in ("raw_products", "raw_shoppers", "raw_reviews", "raw_events")
    }
    found = market.read("truth").filter(pl.col("row") >= 0)
    table = found.group_by("table", "defect").agg(rows=pl.col("row").n_unique()).sort("table", "defect")
    return table.with_columns(share=pl.col("rows") / pl.col("table").replace_strict(rows))


def _ratios(market: Market) -> pl.DataFrame:
    listed = market.products.lazy().select("product_id", listed="price")
    raw = market.scan("raw_events").select("product_id", "price").filter(pl.col("price") > 0.01)
    bins = (20 * (pl.col("price") / pl.col("listed")).log10()).round() / 20
    return _run(raw.join(listed, on="product_id").group_by(ratio=bins).agg(events=pl.len()).sort("ratio"))


def _clocks(market: Market) -> pl.DataFrame:
    # The log is in the order of arrival: each clock against the median of the requests around it.
    raw = market.scan("raw_events").filter(pl.col("position") == 1).select("row", "time")
    asked = _run(raw).sort("row").select(seconds=pl.col("time").dt.epoch("s"))
    usual = pl.col("seconds").rolling_median(15, min_samples=1, center=True)
    off = ((pl.col("seconds") - usual) / 3600).round().clip(-12, 12).cast(pl.Int32)
    return asked.group_by(hours=off).agg(requests=pl.len()).sort("hours")


def _accounts(market: Market, most: int = 4_000) -> pl.DataFrame:
    """All intruders and the first shoppers."""
    raw = market.scan("raw_events")
    table = _run(
        raw.group_by("shopper_id").agg(
            requests=(pl.col("position") == 1).sum(), click_rate=pl.col("clicked").mean()
        )
    )
    truth = market.read("truth").filter(
        (pl.col("table") == "shoppers") & pl.col("defect").is_in(["bot", "test_shopper"])
    )
    who = (
        market.scan("raw_shoppers")
        .select("row", "shopper_id")
        .collect()
        .with_columns(pl.col("row").cast(pl.Int64))
    )
    named = truth.join(who, on="row").select(
        "shopper_id", what=pl.col("defect").replace("test_shopper", "test account")
    )
    table = table.join(named, on="shopper_id", how="left").with_columns(pl.col("what").fill_null("shopper"))
    people = table.filter(pl.col("what") == "shopper").sort("shopper_id").head(most)
    return pl.concat([people, table.filter(pl.col("what") != "shopper").sort("shopper_id")])
