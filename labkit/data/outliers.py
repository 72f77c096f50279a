"""Values far from the rest: found by robust distance, pulled in or marked."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from labkit.data.steps import Change, rows

NORMAL = 1.4826  # median absolute deviation times this is the standard deviation of a normal sample


def robust_z(column: str, group: str | None = None) -> pl.Expr:
    """How many robust standard deviations a value is from the median; 0 where there is no spread.

    Median and median absolute deviation stand when nearly half of the values are wild, mean and standard
    deviation fall to a single one. Source: Iglewicz and Hoaglin, "How to detect and handle outliers", 1993.

    Args:
        column: a number.
        group: column within which values are compared.

    Example:
        >>> goods = pl.DataFrame({"price": [1.0, 2.0, 3.0, 100.0]})
        >>> goods.select(robust_z("price").round(1))["price"].to_list()
        [-1.0, -0.3, 0.3, 65.8]
    """
    value = pl.col(column)
    centre = value.median() if group is None else value.median().over(group)
    distance = (value - centre).abs()
    spread = (distance.median() if group is None else distance.median().over(group)) * NORMAL
    return pl.when(spread > 0).then((value - centre) / spread).otherwise(0.0).alias(column)


def fences(frame: pl.LazyFrame, columns: Sequence[str], reach: float = 3.0) -> dict[str, tuple[float, float]]:
    """Tukey's fences: quartiles widened by ``reach`` times the interquartile range.

    Fit them on the training part and hand them to `winsorise` for all parts.

    Args:
        frame: the table.
        columns: numbers.
        reach: 1.5 marks the unusual, 3 the extreme (Tukey, 1977).

    Example:
        >>> fences(pl.LazyFrame({"price": [1.0, 2.0, 3.0, 4.0, 5.0]}), ["price"], reach=1.0)
        {'price': (0.0, 6.0)}
    """
    quartiles = frame.select(
        pl.col(column).quantile(q, "linear").alias(f"{column}/{q}")
        for column in columns
        for q in (0.25, 0.75)
    ).collect(engine="streaming")
    limits = {}
    for column in columns:
        low, high = quartiles[f"{column}/0.25"].item(), quartiles[f"{column}/0.75"].item()
        limits[column] = (low - reach * (high - low), high + reach * (high - low))
    return limits


def winsorise(frame: pl.LazyFrame, limits: dict[str, tuple[float, float]]) -> tuple[pl.LazyFrame, Change]:
    """Pull values beyond the limits in to the nearest limit; nulls stay.

    Example:
        >>> frame, change = winsorise(pl.LazyFrame({"price": [1.0, 900.0]}), {"price": (0.0, 10.0)})
        >>> frame.collect()["price"].to_list(), change.changed
        ([1.0, 10.0], 1)
    """
    outside = pl.any_horizontal(
        *[(pl.col(name) < low) | (pl.col(name) > high) for name, (low, high) in limits.items()], False
    ).fill_null(False)
    count, changed = rows(frame), rows(frame, outside)
    pulled = [pl.col(name).clip(low, high) for name, (low, high) in limits.items()]
    note = ", ".join(f"{name} in {low:g}..{high:g}" for name, (low, high) in limits.items())
    return frame.with_columns(pulled), Change("outliers", count, count, changed, note)
