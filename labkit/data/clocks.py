"""Times that a wrong clock wrote, set right by the order in which the log arrived."""

from __future__ import annotations

from bisect import bisect_right
from datetime import timedelta

import numpy as np
import polars as pl

from labkit.data.steps import Change, rows

LATE = timedelta(minutes=20)  # delivery delays and long sessions stay below it
EPOCH_YEAR = 1971  # what a clock that was never set says


def find_skew(
    events: pl.LazyFrame,
    session: str = "session_id",
    time: str = "time",
    row: str = "row",
    app: str | None = "app",
    late: timedelta = LATE,
) -> pl.DataFrame:
    """Find sessions whose clock disagrees with those that arrived just before and after them.

    The log is ordered by arrival, so right clocks tell times that rise. The longest rising run of sessions
    (most sessions that can be kept so that times rise) is taken as right; whoever is not in it and lies
    outside the times of those around it by more than ``late`` has a wrong clock. Unlike a moving average,
    this needs no window and works alike for five sessions a day and for a million.

    Sessions of one app version get that version's median offset when it is steady, so that the time
    inside them stays exact; a clock in 1970 says nothing, and such a session gets a time between its
    neighbours'.

    Args:
        events: the log; one row per product shown.
        session, time, row, app: names of the columns; ``app`` None corrects each session by itself.
        late: what still counts as agreeing.

    Returns:
        session, offset Duration("ms") to be added to its times (null for 1970: take ``arrived``), arrived
        Datetime("ms") (between those of the right clocks around it), ordered by session.

    Example:
        >>> from datetime import datetime
        >>> times = [datetime(2026, 1, 1, 9, minute) for minute in range(30)]
        >>> times[15] += timedelta(hours=5)
        >>> log = pl.LazyFrame({"row": range(30), "session_id": range(30), "time": times})
        >>> log = log.with_columns(app=pl.lit("web"))
        >>> find_skew(log).select("session_id", "offset").rows()
        [(15, datetime.timedelta(days=-1, seconds=68400))]
    """
    keys = [session, *([app] if app else [])]
    sessions = (
        events.group_by(keys)
        .agg(first=pl.col(row).min(), start=pl.col(time).min().cast(pl.Datetime("ms")))
        .collect(engine="streaming")
        .sort("first")
    )
    sound = sessions["start"].dt.year().fill_null(0) >= EPOCH_YEAR
    moment = sessions["start"].dt.timestamp("ms").fill_null(0).to_numpy()
    trusted = np.flatnonzero(sound.to_numpy())
    trusted = trusted[longest_rising(moment[trusted])]
    if not len(trusted):
        return sessions.select(session, offset=pl.lit(None, pl.Duration("ms")), arrived="start").clear()
    place = np.searchsorted(trusted, np.arange(len(moment)))
    before = moment[trusted[np.maximum(place - 1, 0)]]
    after = moment[trusted[np.minimum(place, len(trusted) - 1)]]
    slack = late.total_seconds() * 1000
    wrong = (moment < before - slack) | (moment > after + slack) | ~sound.to_numpy()
    wrong[trusted] = False
    arrived = (before + after) // 2
    table = sessions.with_columns(
        arrived=pl.Series(arrived).cast(pl.Datetime("ms")),
        offset=pl.when(sound).then(pl.Series(arrived - moment)),
        sound=sound,
    )
    off = table.filter(pl.Series(wrong))
    if app:
        # A version whose offsets lie within two hours of each other has one wrong clock, not many.
        typical = pl.col("offset").median().over(app)
        steady = ((pl.col("offset") - typical).abs().median() < 7_200_000).over(app)
        off = off.with_columns(
            offset=pl.when(steady).then(typical).otherwise("offset").round().cast(pl.Int64)
        )
    return (
        off.with_columns(offset=pl.when("sound").then("offset").cast(pl.Duration("ms")))
        .select(session, "offset", "arrived")
        .sort(session)
    )


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
    joined = events.join(found.lazy(), on=session, how="left", maintain_order="left")
    moved = (
        pl.when(pl.col("arrived").is_null())
        .then(pl.col(time))
        .when(pl.col("offset").is_null())
        .then(pl.col("arrived"))
        .otherwise(pl.col(time) + pl.col("offset"))
    )
    return joined.with_columns(moved.cast(kind).alias(time)).drop("offset", "arrived")


def repair_clocks(events: pl.LazyFrame, late: timedelta = LATE) -> tuple[pl.LazyFrame, Change]:
    """Find skewed sessions and set their times right.

    Example:
        >>> from datetime import datetime
        >>> times = [datetime(2026, 1, 1, 9, minute) for minute in range(30)]
        >>> times[15] = datetime(1970, 1, 1)
        >>> log = pl.LazyFrame({"row": range(30), "session_id": range(30), "time": times})
        >>> log = log.with_columns(app=pl.lit("web"))
        >>> repair_clocks(log)[0].collect()["time"][15]
        datetime.datetime(2026, 1, 1, 9, 15)
    """
    found = find_skew(events, late=late)
    count = rows(events)
    changed = rows(events, pl.col("session_id").is_in(found["session_id"].implode()))
    note = f"{found.height} sessions, {found['offset'].null_count()} of them said 1970"
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
