"""Shoppers that are programs, told by what they do.

A rule per kind of program, each a conjunction of plain comparisons, because a shop must be able to say why it
left somebody's clicks out. Thresholds are far from what people do rather than learned: nobody has labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from labkit.data.steps import Change, rows, without


@dataclass(frozen=True)
class BotRules:
    """What no person does.

    Attributes:
        pages: fewest pages on which regularity is judged.
        regular: largest spread of the gaps between pages (interquartile range / median). People come in
            bursts (1 and more); a timer has about 0.
        busy: this many times the median shopper's pages on an active day is a program's pace.
        hardly: a scraper clicks at most this share of the usual click rate.
        shown: fewest products shown, before a click rate means anything.
        everything: share of shown products clicked that no person reaches.
        clicks: fewest clicks, before where they fell means anything.
        one_seller: share of clicks on a single seller that no taste explains.
        flat: click rate in the lower half of the page over that in the upper: people are near .3.
        keen: this many times the usual click rate, for pages too short to have a lower half.
        narrow: a program that looks for a few products sees at most so many different ones per product shown.
    """

    pages: int = 20
    regular: float = 0.35
    busy: float = 2.5
    hardly: float = 0.35
    shown: int = 60
    everything: float = 0.6
    clicks: int = 12
    one_seller: float = 0.7
    flat: float = 0.6
    keen: float = 2.0
    narrow: float = 0.06


def behaviour(
    events: pl.LazyFrame, products: pl.DataFrame | None = None, shopper: str = "shopper_id"
) -> pl.DataFrame:
    """What each shopper does, in a few numbers.

    Three passes of the streaming engine. Pages (a tenth of the log) are held in memory.

    Args:
        events: one row per product shown: shopper_id, time, product_id, position, clicked,
            bought.
        products: product_id, seller_id; without it nothing is known of sellers.
        shopper: column that names the shopper.

    Returns:
        one row per shopper: pages (different moments), days (with a page), pace (pages per such day), spread
        (of the gaps between pages: interquartile range / median; null below 4 gaps), shown, clicks,
        click_rate, flatness (click rate at positions 6.. over that at 1..5; null without clicks above),
        bought, night (share of pages from 0 to 5 o'clock), breadth (different products / shown), one_seller
        (largest share of clicks on one seller) and its seller.

    Example:
        >>> from datetime import datetime
        >>> log = pl.LazyFrame(
        ...     {"shopper_id": [1], "time": [datetime(2026, 1, 1)], "product_id": [5],
        ...      "position": [1], "clicked": [True], "bought": [False]}
        ... )
        >>> behaviour(log).select("pages", "shown", "click_rate", "night").row(0)
        (1, 1, 1.0, 1.0)
    """
    events = events.filter(pl.col(shopper).is_not_null())  # a row that names nobody says nothing of anyone
    low, high = pl.col("position") > 5, pl.col("position") <= 5
    pages = (
        events.group_by(shopper, "time")
        .agg(
            shown=pl.len(),
            clicks=pl.col("clicked").sum(),
            bought=pl.col("bought").sum(),
            high=high.sum(),
            low=low.sum(),
            high_clicks=(pl.col("clicked") & high).sum(),
            low_clicks=(pl.col("clicked") & low).sum(),
        )
        .collect(engine="streaming")
        .sort(shopper, "time")
    )
    gap = pl.col("gap")
    per_shopper = (
        pages.with_columns(gap=pl.col("time").diff().over(shopper).dt.total_milliseconds() / 1000)
        .group_by(shopper)
        .agg(
            pages=pl.len(),
            days=pl.col("time").dt.date().n_unique(),
            spread=pl.when(gap.count() >= 4).then(
                (gap.quantile(0.75, "linear") - gap.quantile(0.25, "linear")) / gap.median()
            ),
            shown=pl.col("shown").sum(),
            clicks=pl.col("clicks").sum(),
            bought=pl.col("bought").sum(),
            upper=pl.col("high_clicks").sum() / pl.col("high").sum(),
            lower=pl.col("low_clicks").sum() / pl.col("low").sum(),
            night=(pl.col("time").dt.hour() < 5).mean(),
        )
        .with_columns(
            pace=pl.col("pages") / pl.col("days"),
            click_rate=pl.col("clicks") / pl.col("shown"),
            flatness=pl.when(pl.col("upper") > 0).then(pl.col("lower") / pl.col("upper")),
        )
    )
    breadth = (
        events.group_by(shopper, "product_id")
        .agg(pl.len())
        .group_by(shopper)
        .agg(breadth=pl.len() / pl.col("len").sum())
        .collect(engine="streaming")
    )
    table = per_shopper.join(breadth, on=shopper, how="left").drop("upper", "lower")
    if products is None:
        missing = [pl.lit(None, pl.Float64).alias("one_seller"), pl.lit(None, pl.Int32).alias("seller")]
        return table.with_columns(missing).sort(shopper)
    favourites = (
        events.filter(pl.col("clicked"))
        .select(shopper, "product_id")
        .join(products.lazy().select("product_id", "seller_id"), on="product_id")
        .group_by(shopper, "seller_id")
        .agg(pl.len())
        .collect(engine="streaming")
        .sort(shopper, "len", "seller_id", descending=[False, True, False])
        .group_by(shopper, maintain_order=True)
        .agg(one_seller=pl.col("len").first() / pl.col("len").sum(), seller=pl.col("seller_id").first())
    )
    return table.join(favourites, on=shopper, how="left").sort(shopper)


def find_bots(
    behaviour: pl.DataFrame, rules: BotRules | None = None, shopper: str = "shopper_id"
) -> pl.DataFrame:
    """Judge shoppers by `behaviour`.

    Args:
        behaviour: what each shopper does.
        rules: thresholds.

    Returns:
        shopper, score f64 (above 1 for everybody returned: the weakest of the rule's comparisons, as a
        multiple of its threshold, so 2 is twice as far from people as needed), kind str, reason str; the
        highest score first.

    Example:
        >>> people = {"pages": 30, "pace": 2.0, "spread": 1.5, "shown": 300, "clicks": 20}
        >>> people |= {"breadth": 0.6, "click_rate": 0.07, "flatness": 0.2, "bought": 3, "one_seller": 0.2}
        >>> robot = people | {"click_rate": 0.97, "clicks": 291}
        >>> log = pl.DataFrame([{"shopper_id": 1, **people}, {"shopper_id": 2, **robot}])
        >>> find_bots(log).select("shopper_id", "kind").rows()
        [(2, 'crawler')]
    """
    r = rules or BotRules()
    usual_pace = pl.col("pace").median()
    usual_rate = pl.col("clicks").sum() / pl.col("shown").sum()  # of all, as few clicks a year make medians 0

    def above(value: pl.Expr, limit: float | pl.Expr) -> pl.Expr:
        return (value / limit).fill_null(0.0).fill_nan(0.0)

    def below(value: pl.Expr, limit: float | pl.Expr) -> pl.Expr:
        return (limit / pl.max_horizontal(value, 1e-9)).fill_null(0.0).fill_nan(0.0).clip(0, 1000)

    kinds = {
        "scraper": pl.min_horizontal(
            above(pl.col("pages"), r.pages),
            above(pl.col("pace"), r.busy * usual_pace),
            below(pl.col("spread"), r.regular),
            below(pl.col("click_rate"), r.hardly * usual_rate),
        ),
        "click fraud": pl.when(pl.col("bought") == 0)
        .then(
            pl.max_horizontal(
                pl.min_horizontal(
                    above(pl.col("clicks"), r.clicks),
                    above(pl.col("one_seller"), r.one_seller),
                    pl.max_horizontal(
                        above(pl.col("flatness"), r.flat), above(pl.col("click_rate"), r.keen * usual_rate)
                    ),
                ),
                pl.min_horizontal(above(pl.col("shown"), r.shown), below(pl.col("breadth"), r.narrow)),
            )
        )
        .otherwise(0.0),
        "crawler": pl.min_horizontal(
            above(pl.col("shown"), r.shown), above(pl.col("click_rate"), r.everything)
        ),
    }
    scored = behaviour.with_columns(**kinds)
    reasons = {
        "scraper": pl.format(
            "{} pages a day at gaps that vary by {} of their median, {} % clicked",
            pl.col("pace").round(1),
            pl.col("spread").round(2),
            (pl.col("click_rate") * 100).round(1),
        ),
        "click fraud": pl.format(
            "{} clicks, {} % of them on one seller; {} % of the products shown differ; nothing bought",
            pl.col("clicks"),
            (pl.col("one_seller").fill_null(0.0) * 100).round(0).cast(pl.Int64),
            (pl.col("breadth") * 100).round(0).cast(pl.Int64),
        ),
        "crawler": pl.format(
            "clicked {} % of {} products shown", (pl.col("click_rate") * 100).round(0).cast(pl.Int64), "shown"
        ),
    }
    found = [
        scored.filter(pl.col(kind) >= 1).select(
            shopper,
            score=pl.col(kind),
            kind=pl.lit(kind),
            reason=reasons[kind],
        )
        for kind in kinds
    ]
    return (
        pl.concat(found)
        .sort("score", shopper, descending=[True, False])
        .unique(shopper, keep="first", maintain_order=True)
    )


def drop_bots(
    events: pl.LazyFrame,
    products: pl.DataFrame | None = None,
    rules: BotRules | None = None,
    shopper: str = "shopper_id",
) -> tuple[pl.LazyFrame, Change]:
    """Leave out everything that programs did.

    Returns:
        the events of people, and the change.
    """
    found = find_bots(behaviour(events, products, shopper), rules, shopper)
    kept = without(events, found[shopper], shopper)
    counts = ", ".join(f"{n} {kind}" for kind, n in found.group_by("kind").len().sort("kind").iter_rows())
    before, after = rows(events), rows(kept)
    return kept, Change("bots", before, after, before - after, counts)
