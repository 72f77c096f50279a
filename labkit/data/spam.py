"""Reviews written for money: many at once, in one wording, by people who never bought, for one seller."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl

from labkit.data.duplicates import near_duplicates
from labkit.data.steps import Change, without


@dataclass(frozen=True)
class SpamRules:
    """What marks a campaign. A review is spam when its signs add up to ``signs``.

    Attributes:
        window: how close in time the reviews of a campaign are.
        burst: so many reviews of one seller inside the window, and so many times what is usual for the
            seller, are a burst.
        times_usual: see ``burst``.
        alike: Jaccard similarity of texts that counts as the same wording.
        signs: how many of the four signs (burst, same wording within the window, not verified, a rating at
            an end of the scale) make spam; burst or wording must be among them.
    """

    window: timedelta = timedelta(days=7)
    burst: int = 5
    times_usual: float = 4.0
    alike: float = 0.5
    signs: int = 3


def find_spam(
    reviews: pl.DataFrame,
    products: pl.DataFrame,
    rules: SpamRules | None = None,
    time: str = "time",
    text: str = "text",
    row: str = "row",
) -> pl.DataFrame:
    """Find reviews that belong to a campaign.

    No sign alone would do: honest reviewers also forget to buy here, write "Great!" or come in numbers after
    a sale. Source: Mukherjee, Liu and Glance, "Spotting fake reviewer groups", WWW 2012.

    Args:
        reviews: row, product_id, rating, verified bool, a time and a text; with shopper_id, those who were
            caught once are looked at more closely.
        products: product_id, seller_id.
        rules: thresholds.
        time, text, row: names of the columns.

    Returns:
        row i64, score i64 (signs), seller_id, reason str, ordered by row.

    Example:
        >>> from datetime import datetime
        >>> wording = "Best product ever, five stars, buy it from this seller now, you will love it"
        >>> reviews = pl.DataFrame({"row": range(6), "product_id": [1] * 6, "rating": [5] * 6})
        >>> at = [datetime(2026, 1, 1, hour) for hour in range(5)] + [datetime(2026, 6, 1)]
        >>> bought = pl.Series([False] * 5 + [True])
        >>> reviews = reviews.with_columns(text=pl.lit(wording), time=pl.Series(at), verified=bought)
        >>> find_spam(reviews, pl.DataFrame({"product_id": [1], "seller_id": [9]}))["row"].to_list()
        [0, 1, 2, 3, 4]
    """
    r = rules or SpamRules()
    who = ["shopper_id"] if "shopper_id" in reviews.columns else []
    table = (
        reviews.select(pl.col(row).cast(pl.Int64).alias("row"), *who, "product_id", "rating", "verified",
                       pl.col(time).cast(pl.Datetime("ms")).alias("time"), pl.col(text).alias("text"))
        .join(products.select("product_id", "seller_id"), on="product_id", how="left")
        .sort("seller_id", "time", "row")
    )  # fmt: skip
    window = round(r.window.total_seconds() * 1000)
    counts = table.rolling(
        "time", period=f"{2 * window}ms", offset=f"-{window}ms", group_by="seller_id", closed="both"
    ).agg(near=pl.len())
    table = table.with_columns(near=counts["near"])
    # Usual for the seller: reviews per window over the whole time the log covers.
    moment = table["time"].dt.timestamp("ms").to_numpy()
    covered = max(np.ptp(moment) / (2 * window), 1.0) if table.height else 1.0
    usual = pl.len().over("seller_id") / covered
    # In the order of time, so that of many in the same words neighbours are paired.
    moments = table.sort("time", "row").with_row_index("place").cast({"place": pl.Int64})
    pairs = near_duplicates(moments, ["text"], ["seller_id"], attributes=None, least=r.alike, row="place")
    moments = moments.select("row", "time", "place")
    close = (
        pairs.rename({"row": "place"})
        .join(moments, on="place")
        .join(moments, left_on="of", right_on="place", suffix="_of")
        .filter((pl.col("time") - pl.col("time_of")).abs() <= r.window)
    )
    worded = pl.concat([close["row"], close["row_of"]]).unique()
    best, worst = table["rating"].max(), table["rating"].min()
    signs = {
        "in a burst": (pl.col("near") >= r.burst) & (pl.col("near") >= r.times_usual * usual),
        "same wording": pl.col("row").is_in(worded.implode()),
        "not verified": ~pl.col("verified"),
        "extreme rating": pl.col("rating").is_in([best, worst]),
    }
    names = list(signs)
    marked = table.with_columns(**signs).with_columns(
        score=pl.sum_horizontal(pl.col(names).fill_null(False).cast(pl.Int64)),
        reason=pl.concat_str(
            [pl.when(name).then(pl.lit(name)) for name in names], separator=", ", ignore_nulls=True
        ),
    )
    caught = (pl.col("score") >= r.signs) & (pl.col("in a burst") | pl.col("same wording"))
    return (
        _by_the_same(marked.with_columns(caught=caught.fill_null(False)))
        .filter("caught")
        .select("row", "score", "seller_id", "reason")
        .sort("row")
    )


def _by_the_same(marked: pl.DataFrame) -> pl.DataFrame:
    """Whoever was caught elsewhere needs fewer signs: one catch for what looks alike, two for the rest."""
    if "shopper_id" not in marked.columns:
        return marked
    others = pl.col("caught").sum().over("shopper_id") - pl.col("caught")
    mostly = pl.col("caught").mean().over("shopper_id") >= 0.5
    alike = pl.col("not verified") & pl.col("extreme rating")
    known = pl.col("shopper_id").is_not_null() & (((others >= 1) & alike) | ((others >= 2) & mostly))
    known = (known & ~pl.col("caught")).fill_null(False)
    return marked.with_columns(
        caught=pl.col("caught") | known,
        score=pl.col("score") + known.cast(pl.Int64),
        reason=pl.when(known)
        .then(pl.concat_str(pl.lit("by a known spammer"), "reason", separator=", ", ignore_nulls=True))
        .otherwise("reason"),
    )


def drop_spam(
    reviews: pl.LazyFrame, products: pl.DataFrame, rules: SpamRules | None = None, row: str = "row"
) -> tuple[pl.LazyFrame, Change]:
    """Leave out the reviews of campaigns."""
    table = reviews.collect()
    found = find_spam(table, products, rules, row=row)
    note = f"for {found['seller_id'].n_unique()} sellers" if found.height else ""
    change = Change("review spam", table.height, table.height - found.height, found.height, note)
    return without(table.lazy(), found["row"], row), change
