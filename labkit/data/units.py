"""Values in the wrong unit: pence for pounds, grams for kilograms, yuan for pounds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from labkit.data.steps import Change, corrected, rows

PENCE = 100.0
GRAMS = 1000.0
YUAN = 9.1  # yuan to a pound in the shop's year
TOLERANCE = 1.6  # a unit is recognised within this factor: discounts and price changes stay below it


def shown_prices(events: pl.LazyFrame, item: str = "product_id", price: str = "price") -> pl.DataFrame:
    """What each product usually costs in the log: item, usual f64 (the median), shown u32.

    A median stands as long as fewer than half of a product's rows are wrong, whatever they say.

    Example:
        >>> log = pl.LazyFrame({"product_id": [1, 1, 1], "price": [5.0, 5.0, 500.0]})
        >>> shown_prices(log).rows()
        [(1, 5.0, 3)]
    """
    seen = events.filter(pl.col(price) > 0).group_by(item, price).agg(count=pl.len())
    # Few distinct prices per product: the weighted median needs these alone, not the log in memory.
    counted = seen.collect(engine="streaming").sort(item, price)
    total = pl.col("count").sum().over(item)
    reached = pl.col("count").cum_sum().over(item) * 2 >= total
    return (
        counted.with_columns(shown=total)
        .filter(reached)
        .group_by(item, maintain_order=True)
        .agg(usual=pl.col(price).first(), shown=pl.col("shown").first())
    )


def pence_in_events(
    events: pl.LazyFrame,
    factor: float = PENCE,
    usual: pl.DataFrame | None = None,
    row: str = "row",
    item: str = "product_id",
    price: str = "price",
) -> pl.DataFrame:
    """Find log lines whose price is about ``factor`` times what the product usually costs.

    Args:
        events: the log.
        factor: of the mix-up.
        usual: item and usual; by default `shown_prices` of the log itself.
        row, item, price: names of the columns.

    Returns:
        row i64, column str, factor f64, value f64 (the corrected one), ordered by row.

    Example:
        >>> log = pl.LazyFrame({"row": range(4), "product_id": [1] * 4, "price": [5.0, 5.0, 4.5, 500.0]})
        >>> pence_in_events(log).rows()
        [(3, 'price', 100.0, 5.0)]
    """
    if usual is None:
        usual = shown_prices(events, item, price)
    ratio = pl.col(price) / pl.col("usual") / factor
    return (
        events.select(row, item, price)
        .join(usual.lazy().select(item, "usual"), on=item)
        .filter(ratio.is_between(1 / TOLERANCE, TOLERANCE))
        .select(
            pl.col(row).cast(pl.Int64),
            column=pl.lit(price),
            factor=pl.lit(factor),
            value=(pl.col(price) / factor).round(2),
        )
        .collect(engine="streaming")
        .sort(row)
        .rename({row: "row"})
    )


def grams_in_products(
    products: pl.DataFrame,
    factor: float = GRAMS,
    group: str = "category",
    weight: str = "weight_kg",
    row: str = "row",
) -> pl.DataFrame:
    """Find products that weigh about ``factor`` times what their category weighs.

    The category's median and spread are taken on the logarithm, where a mix-up is a shift by log(factor);
    what is nearer to the shifted centre than to the centre is a mix-up.

    Args:
        products: one row per product; null weights are passed over.
        factor: of the mix-up.
        group: column within which weights are alike.
        weight, row: names of the columns.

    Returns:
        row i64, column str, factor f64, value f64, ordered by row.

    Example:
        >>> weight = [40.0, 50.0, 60.0, 45.0, 45000.0]
        >>> sofas = pl.DataFrame({"row": range(5), "category": ["sofa"] * 5, "weight_kg": weight})
        >>> grams_in_products(sofas).rows()
        [(4, 'weight_kg', 1000.0, 45.0)]
    """
    known = products.filter(pl.col(weight) > 0)
    centre = pl.col(weight).median().over(group)
    # log(w / centre) > log(factor) / 2, without the logarithm.
    wrong = known.filter(pl.col(weight) / centre > factor**0.5)
    return wrong.select(
        pl.col(row).cast(pl.Int64).alias("row"),
        column=pl.lit(weight),
        factor=pl.lit(float(factor)),
        value=(pl.col(weight) / factor).round(6),
    ).sort("row")


def yuan_in_products(
    products: pl.DataFrame,
    shown: pl.DataFrame,
    factor: float = YUAN,
    item: str = "product_id",
    price: str = "price",
    seller: str = "seller_id",
    row: str = "row",
    least: float = 0.5,
) -> pl.DataFrame:
    """Find sellers who state their prices in another currency, and their products.

    The log shows what shoppers were asked to pay. A seller is suspected when most of those of their products
    that were shown stand in the catalogue at about ``factor`` times that price; then all their listings are
    mixed up, also those that nobody has seen.

    Args:
        products: the catalogue.
        shown: product_id, usual (see `shown_prices`).
        factor: of the mix-up.
        item, price, seller, row: names of the columns.
        least: the share of a seller's shown products that makes the seller suspect.

    Returns:
        row i64, column str, factor f64, value f64, ordered by row.

    Example:
        >>> goods = {"row": [0, 1, 2], "product_id": [0, 1, 2], "seller_id": [7, 7, 8]}
        >>> goods["price"] = [91.0, 18.2, 3.0]
        >>> shown = pl.DataFrame({"product_id": [0, 2], "usual": [10.0, 3.0]})
        >>> yuan_in_products(pl.DataFrame(goods), shown).rows()
        [(0, 'price', 9.1, 10.0), (1, 'price', 9.1, 2.0)]
    """
    known = products.join(shown.select(item, "usual"), on=item, how="left", maintain_order="left")
    off = (pl.col(price) / pl.col("usual") / factor).is_between(1 / TOLERANCE, TOLERANCE)
    share = off.cast(pl.Float64).mean().over(seller)  # of the shown ones: null elsewhere, and mean skips null
    return (
        known.filter(share >= least)
        .select(
            pl.col(row).cast(pl.Int64).alias("row"),
            column=pl.lit(price),
            factor=pl.lit(float(factor)),
            value=(pl.col(price) / factor).round(2),
        )
        .sort("row")
    )


def correct_units(
    frame: pl.LazyFrame, found: pl.DataFrame, names: Mapping[str, str] | None = None, row: str = "row"
) -> tuple[pl.LazyFrame, Change]:
    """Replace wrong values by the corrected ones that a detector returned.

    Args:
        frame: the table.
        found: row, column, factor, value.
        names: words for the note by column; by default the factors.
        row: name of the key column.

    Example:
        >>> log = pl.LazyFrame({"row": [0, 1], "price": [5.0, 500.0]})
        >>> found = pl.DataFrame({"row": [1], "column": ["price"], "factor": [100.0], "value": [5.0]})
        >>> correct_units(log, found)[0].collect()["price"].to_list()
        [5.0, 5.0]
    """
    count = rows(frame)
    notes = []
    for (column, factor), part in found.group_by("column", "factor", maintain_order=True):
        frame = corrected(frame, str(column), part.select(pl.col("row").alias(row), "value"), row)
        notes.append((names or {}).get(str(column), f"{column} / {factor:g}: {part.height}"))
    return frame, Change("units", count, count, found["row"].n_unique(), "; ".join(notes))


def looks_scaled(values: np.ndarray, factor: float, least: float = 0.001) -> bool:
    """Whether some of a column's values look like ``factor`` times the others: a first look at a new table.

    Two humps apart by the factor, with a gap between: the values above centre * sqrt(factor) have a median
    near ``factor`` times the centre.

    Args:
        values: positive f64; others are passed over.
        factor: to look for.
        least: the smallest share that counts as some.

    Example:
        >>> looks_scaled(np.array([1.0, 1.2, 0.9, 1.1, 1100.0]), 1000)
        True
    """
    kept = values[np.isfinite(values) & (values > 0)]
    if not len(kept):
        return False
    centre = float(np.median(kept))
    high = kept[kept > centre * factor**0.5]
    if len(high) < max(least * len(kept), 1):
        return False
    return bool(1 / TOLERANCE**2 < np.median(high) / centre / factor < TOLERANCE**2)
