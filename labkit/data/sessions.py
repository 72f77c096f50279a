"""Cuts a shopper's events into sessions where nothing happened for a while."""

from __future__ import annotations

import polars as pl


def sessionise(
    events: pl.LazyFrame,
    gap_minutes: float = 30,
    shopper: str = "shopper_id",
    time: str = "time",
    into: str = "visit_id",
) -> pl.LazyFrame:
    """Number the visits: a new one begins where a shopper was silent for longer than the gap.

    A gap of exactly ``gap_minutes`` does not split (the usual rule of web analytics). Only the two columns
    that decide are sorted; the other columns stay in the order in which they came.

    Args:
        events: any table with a shopper and a time, in any order.
        gap_minutes: the longest silence inside a visit.
        shopper: column that names the shopper; null is a shopper of its own.
        time: Datetime column; rows without a time are no part of any visit (null).
        into: name of the new column.

    Returns:
        the events with ``into`` u32: 0, 1, … in the order of shopper and time, consecutive without gaps.

    Raises:
        ValueError: the gap is not above zero.

    Example:
        >>> from datetime import datetime
        >>> day = [datetime(2026, 1, 1, 9, minute) for minute in (0, 30, 0)] + [datetime(2026, 1, 1, 12)]
        >>> log = pl.LazyFrame({"shopper_id": [1, 1, 2, 1], "time": day})
        >>> sessionise(log).collect()["visit_id"].to_list()
        [0, 0, 2, 1]
    """
    if not gap_minutes > 0:
        raise ValueError(f"A visit ends after some minutes of silence; {gap_minutes} is not above zero.")
    gap = pl.duration(microseconds=round(gap_minutes * 60e6))
    place = "__place"
    order = (
        events.select(shopper, time)
        .with_row_index(place)
        .filter(pl.col(time).is_not_null())
        .sort(shopper, time, place, nulls_last=True)
    )
    new_shopper = pl.col(shopper).ne_missing(pl.col(shopper).shift()) | (pl.int_range(pl.len()) == 0)
    silent = (pl.col(time) - pl.col(time).shift()) > gap
    visit = (new_shopper | silent).cast(pl.UInt32).cum_sum() - 1
    numbered = order.select(place, visit.cast(pl.UInt32).alias(into))
    return (
        events.with_row_index(place).join(numbered, on=place, how="left", maintain_order="left").drop(place)
    )


def session_lengths(events: pl.LazyFrame, visit: str = "visit_id", time: str = "time") -> pl.DataFrame:
    """Events and duration of every visit: visit, events u32, seconds f64, ordered by visit.

    Example:
        >>> from datetime import datetime
        >>> at = [datetime(2026, 1, 1, 9, 0), datetime(2026, 1, 1, 9, 1)]
        >>> session_lengths(pl.LazyFrame({"visit_id": [0, 0], "time": at})).rows()
        [(0, 2, 60.0)]
    """
    return (
        events.filter(pl.col(visit).is_not_null())
        .group_by(visit)
        .agg(
            events=pl.len(),
            seconds=(pl.col(time).max() - pl.col(time).min()).dt.total_milliseconds() / 1000,
        )
        .sort(visit)
        .collect(engine="streaming")
    )
