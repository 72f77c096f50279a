"""Features learn from training rows only, and unseen values are no error."""

import json
import math
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.data.features import (
    clock_features,
    fit_habits,
    fit_hashed_text,
    fit_price_level,
    fit_target_rate,
    out_of_fold_rates,
    refuse_future,
)
from labkit.data.missing import fit_imputation
from labkit.data.splits import LeakageError, by_time

START = datetime(2026, 1, 1)
CUT = START + timedelta(days=30)
ROWS = st.lists(
    st.tuples(
        st.integers(0, 4), st.integers(0, 59), st.sampled_from("abc"), st.floats(0.5, 900), st.booleans(),
        st.sampled_from(["red mug", "blue mug", "green tea pot", ""]),
    ),
    min_size=2,
    max_size=25,
)  # fmt: skip


def log(rows):
    return pl.DataFrame(
        {
            "shopper_id": [r[0] for r in rows],
            "time": [START + timedelta(days=r[1]) for r in rows],
            "category": [r[2] for r in rows],
            "price": [r[3] for r in rows],
            "bought": [r[4] for r in rows],
            "title": [r[5] for r in rows],
        },
        schema_overrides={"time": pl.Datetime("ms")},
    )


def fits(frame):
    train = by_time(frame, CUT, CUT).train
    return [
        fit_habits(train, CUT).as_json(),
        fit_price_level(train).as_json(),
        fit_hashed_text(train, width=16).as_json(),
        fit_target_rate(train, "category", "bought").as_json(),
    ]


@settings(deadline=None)
@given(ROWS, ROWS)
def test_mutating_test_rows_changes_nothing_in_a_fit(rows, others):
    rows = [(0, 0, "a", 5.0, True, "red mug"), *rows]
    past = [row for row in rows if row[1] < 30]
    one, other = ([*past, *(row for row in future if row[1] >= 30)] for future in (rows, others))
    assert fits(log(one)) == fits(log(other))


@settings(deadline=None)
@given(ROWS)
def test_a_fit_sees_its_training_rows(rows):
    """The property above would hold for a fit that ignores everything."""
    past = [(0, 0, "a", 5.0, True, "red mug"), *(row for row in rows if row[1] < 30)]
    more = [*past, (9, 1, "z", 1000.0, True, "purple plum jam")]
    assert all(one != other for one, other in zip(fits(log(past)), fits(log(more)), strict=True))


def test_habits_refuse_the_future_and_the_moment_itself():
    with pytest.raises(
        LeakageError, match=r"1 rows are not before 2026-01-31 .*fit on the training part only"
    ):
        fit_habits(log([(1, 30, "a", 1.0, True, "")]), CUT)


@given(ROWS)
def test_habits_are_those_of_a_loop(rows):
    past = [row for row in rows if row[1] < 30]
    result = fit_habits(log(past), CUT).transform(pl.DataFrame({"shopper_id": [0, 1, 2, 3, 4, 99]}))
    for shopper, recency, frequency, monetary in result.rows():
        mine = [row for row in past if row[0] == shopper]
        if mine:
            assert (recency, frequency) == (min(30 - row[1] for row in mine), len(mine))
            assert monetary == pytest.approx(sum(row[3] for row in mine) / len(mine), abs=1e-5)
        else:
            assert (recency, frequency, monetary) == (max((30 - row[1] for row in past), default=0), 0, 0.0)


def test_price_level_and_unseen_categories():
    level = fit_price_level(pl.DataFrame({"category": ["a", "a", "b", None], "price": [1.0, 3.0, 8.0, 0.0]}))
    frame = pl.DataFrame({"category": ["a", "b", "new", None], "price": [4.0, 4.0, 3.0, 6.0]})
    assert level.transform(frame)["price_level"].to_list() == [1.0, -1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="no price above zero"):
        fit_price_level(pl.DataFrame({"category": ["a"], "price": [0.0]}))


@given(st.datetimes(START, START + timedelta(days=365)))
def test_clock_features_are_angles(moment):
    row = clock_features(pl.DataFrame({"time": [moment]}, {"time": pl.Datetime("us")})).row(0, named=True)
    for name in ("hour", "week", "year"):
        assert row[f"{name}_sin"] ** 2 + row[f"{name}_cos"] ** 2 == pytest.approx(1)
    angle = math.atan2(row["hour_sin"], row["hour_cos"]) % (2 * math.pi)
    assert (angle / (2 * math.pi) * 1440 - moment.hour * 60 - moment.minute + 720) % 1440 == pytest.approx(
        720, abs=1e-6
    )


def test_hashed_text_is_tf_idf():
    train = pl.DataFrame({"title": ["red mug", "blue mug", "blue blue pot", None]})
    fitted = fit_hashed_text(train, width=4096)  # wide enough that these words do not meet
    rows = fitted.transform(train)
    vectors = rows["title_tfidf"].to_numpy()
    assert rows["title_words"].to_list() == [2, 2, 3, 0]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 0])
    idf = {word: math.log(5 / (1 + n)) + 1 for word, n in {"red": 1, "mug": 2, "blue": 2, "pot": 1}.items()}
    expected = idf["mug"] ** 2 / math.hypot(idf["red"], idf["mug"]) / math.hypot(idf["blue"], idf["mug"])
    assert vectors[0] @ vectors[1] == pytest.approx(expected, abs=1e-6)
    unseen = fitted.transform(pl.DataFrame({"title": ["quince"]}))["title_tfidf"].to_numpy()
    assert np.linalg.norm(unseen) == pytest.approx(1)


def test_target_rates_are_drawn_to_the_mean_and_unseen_values_get_it():
    train = pl.DataFrame({"brand": ["a"] * 10 + ["b"] * 30, "bought": [1] * 10 + [0] * 30})
    fitted = fit_target_rate(train, "brand", "bought", weight=10)
    rates = fitted.transform(pl.DataFrame({"brand": ["a", "b", "new", None]}))["brand_rate"].to_list()
    assert rates == pytest.approx([(10 + 2.5) / 20, 2.5 / 40, 0.25, 0.25])
    assert json.loads(fitted.as_json())["mean"] == 0.25
    with pytest.raises(ValueError, match="no row with a bought"):
        fit_target_rate(train.clear(), "brand", "bought")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), min_size=3, max_size=30), st.data())
def test_a_rows_own_label_does_not_move_its_own_rate(rows, data):
    frame = pl.DataFrame(
        {"id": range(len(rows)), "brand": [r[0] for r in rows], "bought": [r[1] for r in rows]}
    )
    place = data.draw(st.integers(0, len(rows) - 1))
    flipped = frame.with_columns(
        bought=pl.when(pl.col("id") == place).then(~pl.col("bought")).otherwise("bought")
    )
    one, other = (
        out_of_fold_rates(table, "brand", "bought", "id")["brand_rate"] for table in (frame, flipped)
    )
    assert one[place] == other[place]
    assert len(one) == len(rows)


def test_out_of_fold_needs_folds():
    with pytest.raises(ValueError, match="at least 2 folds"):
        out_of_fold_rates(pl.DataFrame({"id": [1], "b": ["a"], "y": [1]}), "b", "y", "id", folds=1)


@pytest.mark.parametrize("cut", [datetime(2026, 1, 31, 5), datetime(2026, 1, 31), date(2026, 1, 31)])
def test_a_day_that_may_be_late_is_late(cut):
    """A Date on the cut's day may mean any time of it."""
    days = pl.DataFrame({"time": [date(2026, 1, 30), date(2026, 1, 31)]})
    refuse_future(days[:1], "time", cut)
    with pytest.raises(LeakageError, match="1 rows are not before"):
        refuse_future(days, "time", cut)


def test_rows_without_a_time_are_not_fitted():
    timeless = log([(1, 3, "a", 1.0, True, "")]).with_columns(time=pl.lit(None, pl.Datetime("ms")))
    with pytest.raises(LeakageError, match="1 rows have no time"):
        fit_habits(timeless, CUT)


@pytest.mark.parametrize("until", [date(2026, 1, 10), datetime(2026, 1, 10)])
def test_habits_count_days_of_dates(until):
    bought = pl.DataFrame({"shopper_id": [1], "time": [date(2026, 1, 8)], "price": [4.0]})
    habits = fit_habits(bought, until)
    assert habits.transform(pl.DataFrame({"shopper_id": [1]})).row(0) == (1, 2.0, 1, 4.0)


def test_every_fit_refuses_the_future_when_it_knows_the_cut():
    late = log([(1, 2, "a", 1.0, True, "mug"), (1, 40, "a", 1.0, False, "mug")])
    for fit in (
        lambda frame: fit_price_level(frame, until=CUT),
        lambda frame: fit_hashed_text(frame, until=CUT),
        lambda frame: fit_target_rate(frame, "category", "bought", until=CUT),
        lambda frame: fit_imputation(frame, ["price"], until=CUT),
    ):
        fit(late[:1])
        with pytest.raises(LeakageError, match="1 rows are not before"):
            fit(late)


def test_chinese_titles_are_many_words():
    fitted = fit_hashed_text(pl.DataFrame({"title": ["红色杯子"]}), width=4096)
    rows = fitted.transform(pl.DataFrame({"title": ["蓝色杯子 mug2"]}))
    assert rows["title_words"].item() == 5
    known = fitted.transform(pl.DataFrame({"title": ["红色杯子"]}))["title_tfidf"].to_numpy()[0]
    assert rows["title_tfidf"].to_numpy()[0] @ known > 0.4  # three of four characters are the same
