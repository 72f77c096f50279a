"""Visits against a loop, and the order of the log."""

from datetime import datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.data.sessions import session_lengths, sessionise

START = datetime(2026, 1, 1)
EVENTS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(0, 3)),
        st.one_of(st.none(), st.sampled_from([0, 1, 29, 30, 31, 59, 60, 61, 90, 91, 122])),
    ),
    max_size=30,
)


def frame(events):
    times = [None if minute is None else START + timedelta(minutes=minute) for _, minute in events]
    schema = {"shopper_id": pl.Int32, "time": pl.Datetime("ms"), "n": pl.Int64}
    return pl.LazyFrame(
        {"shopper_id": [e[0] for e in events], "time": times, "n": range(len(events))}, schema
    )


def by_hand(events, gap):
    visits = [None] * len(events)
    number = -1
    shoppers = sorted({e[0] for e in events if e[1] is not None}, key=lambda s: (s is None, s))
    for shopper in shoppers:
        last = None
        mine = [(e[1], i) for i, e in enumerate(events) if e[0] == shopper and e[1] is not None]
        for minute, place in sorted(mine):
            if last is None or minute - last > gap:
                number += 1
            visits[place], last = number, minute
    return visits


@given(EVENTS, st.sampled_from([30, 1, 60.5]))
def test_visits_are_those_of_a_loop(events, gap):
    result = sessionise(frame(events), gap).collect()
    assert result["visit_id"].to_list() == by_hand(events, gap)
    assert result["n"].to_list() == list(range(len(events)))  # the order of the log is kept


def test_a_gap_of_exactly_the_limit_does_not_split():
    result = sessionise(frame([(1, 0), (1, 30), (1, 61)]), 30).collect()
    assert result["visit_id"].to_list() == [0, 0, 1]


@pytest.mark.parametrize("gap", [0, -5, float("nan")])
def test_a_gap_must_be_some_minutes(gap):
    with pytest.raises(ValueError, match="not above zero"):
        sessionise(frame([(1, 0)]), gap)


def test_lengths():
    lengths = session_lengths(sessionise(frame([(1, 0), (1, 30), (2, 5), (1, 122)])))
    assert lengths.rows() == [(0, 2, 1800.0), (1, 1, 0.0), (2, 1, 0.0)]
