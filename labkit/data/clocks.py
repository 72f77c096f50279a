"""Times that a wrong clock wrote, set right by the order in which the log arrived."""

from __future__ import annotations

from bisect import bisect_right
from datetime import timedelta

import numpy as np
import polars as pl

from labkit.data.steps import Change, rows

LATE = timedelta(minutes=20)  # delivery delays and long sessions stay below it
APART = timedelta(minutes=90)  # offsets further apart than this are different mistakes
HOUR = 3_600_000  # ms
EPOCH_YEAR = 1971  # what a clock that was never set says


def find_skew(
    events: pl.LazyFrame,
    session: str = "session_id",
    time: str = "time",
    row: str = "row",
    late: timedelta = LATE,
) -> pl.DataFrame:
    """Find sessions whose clock disagrees with those that arrived just before and after them.

    The log is ordered by arrival, so right clocks tell times that rise. The longest rising run of sessions
    (most sessions that can be kept so that times rise) is taken as right; whoever is not in it and lies
    outside the times of those around it by more than ``late`` has a wrong clock. Unlike a moving average,
    this needs no window and works alike for five sessions a day and for a million.

    How wrong a clock is can only be told to within the silence around the session. But wrong clocks are wrong
    in a few ways (another time zone), so offsets that lie close together are one way, and all take its
    median, to the full hour. A clock in 1970 says nothing: its session begins midway between its neighbours.

    Args:
        events: the log; one row per product shown.
        session, time, row: names of the columns.
        late: what still counts as agreeing.

    Returns:
        session, offset Duration("ms") to be added to its times, unset bool (the clock said 1970), ordered by
        session.

    Example:
        >>> from datetime import datetime
        >>> times = [datetime(2026, 1, 1, 9, minute) for minute in range(30)]
        >>> times[15] += timedelta(hours=5)
        >>> log = pl.LazyFrame({"row": range(30), "session_id": range(30), "time": times})
        >>> find_skew(log).select("session_id", "offset").rows()
        [(15, datetime.timedelta(days=-1, seconds=68400))]
    """
    sessions = (
        events.group_by(session)
        .agg(first=pl.col(row).min(), start=pl.col(time).min().cast(pl.Datetime("ms")))
        .collect(engine="streaming")
        .sort("first")
    )
    sound = (sessions["start"].dt.year().fill_null(0) >= EPOCH_YEAR).to_numpy()
    moment = sessions["start"].dt.timestamp("ms").fill_null(0).to_numpy()
    trusted = np.flatnonzero(sound)
    trusted = trusted[longest_rising(moment[trusted])]
    if len(trusted):
        place = np.searchsorted(trusted, np.arange(len(moment)))
        before = moment[trusted[np.maximum(place - 1, 0)]]
        after = moment[trusted[np.minimum(place, len(trusted) - 1)]]
    else:  # nobody's clock can be believed, so nothing can be set right
        before, after, sound = moment, moment, np.ones(len(moment), dtype=bool)
    slack = late.total_seconds() * 1000
    wrong = (moment < before - slack) | (moment > after + slack) | ~sound
    offset = (before + after) // 2 - moment
    offset[sound & wrong] = _usual_offsets(offset[sound & wrong])
    table = sessions.select(
        session, offset=pl.Series(offset).cast(pl.Duration("ms")), unset=pl.Series(~sound)
    )
    return table.filter(pl.Series(wrong)).sort(session)


def _usual_offsets(offset: np.ndarray) -> np.ndarray:
    """Offsets in ms, each replaced by the full hour nearest to the median of those close to it."""
    order = np.argsort(offset, kind="stable")
    edges = np.flatnonzero(np.diff(offset[order]) > APART.total_seconds() * 1000) + 1
    usual = offset.copy()
    for group in np.split(order, edges):
        if len(group) >= 3 and np.ptp(offset[group]) <= 8 * HOUR:
            usual[group] = round(float(np.median(offset[group])) / HOUR) * HOUR
    return usual


def correct_skew(
    events: pl.LazyFrame,
    found: pl.DataFrame,
    session: str = "session_id",
    time: str = "time",
) -> pl.LazyFrame:
    """Events with the times of skewed sessions set right; the time type stays.

    Args:
        events: the log.
        found: from `find_skew`.
    """
    kind = events.collect_schema()[time]
    joined = events.join(
        found.lazy().select(session, "offset"), on=session, how="left", maintain_order="left"
    )
    moved = pl.col(time) + pl.col("offset").fill_null(pl.duration(milliseconds=0))
    return joined.with_columns(moved.cast(kind).alias(time)).drop("offset")


def repair_clocks(events: pl.LazyFrame, late: timedelta = LATE) -> tuple[pl.LazyFrame, Change]:
    """Find skewed sessions and set their times right.

    Example:
        >>> from datetime import datetime
        >>> times = [datetime(2026, 1, 1, 9, minute) for minute in range(30)]
        >>> times[15] = datetime(1970, 1, 1)
        >>> log = pl.LazyFrame({"row": range(30), "session_id": range(30), "time": times})
        >>> repair_clocks(log)[0].collect()["time"][15]
        datetime.datetime(2026, 1, 1, 9, 15)
    """
    found = find_skew(events, late=late)
    count = rows(events)
    changed = rows(events, pl.col("session_id").is_in(found["session_id"].implode()))
    note = f"{found.height} sessions, {found['unset'].sum()} of them said 1970"
    return correct_skew(events, found), Change("clock skew", count, count, changed, note)


def longest_rising(values: np.ndarray) -> np.ndarray:
    """Places of a longest run of values that never fall, in order.

    n log n; two million take about two seconds. Source: Fredman, "On computing the length of longest
    increasing subsequences", 1975.

    Args:
        values: (N,) numbers.

    Example:
        >>> longest_rising(np.array([1, 2, 90, 4, 5, 3])).tolist()
        [0, 1, 3, 4]
    """
    tails: list[float] = []  # tails[k]: the smallest last value of a rising run of k + 1
    last: list[int] = []  # and its place
    before = [-1] * len(values)
    for place, value in enumerate(values.tolist()):
        length = bisect_right(tails, value)
        if length:
            before[place] = last[length - 1]
        if length == len(tails):
            tails.append(value)
            last.append(place)
        else:
            tails[length], last[length] = value, place
    run = []
    place = last[-1] if last else -1
    while place >= 0:
        run.append(place)
        place = before[place]
    return np.array(run[::-1], dtype=np.int64)
