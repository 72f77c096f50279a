"""Splits never leak, and the check that says so can fail."""

from datetime import date, datetime, timedelta
from itertools import chain

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.data.splits import (
    LeakageError,
    Split,
    by_time,
    by_user,
    check_leakage,
    key_share,
    leave_last_out,
    random,
)

START = datetime(2026, 1, 1)
EVENTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40)), max_size=40)


def log(events):
    times = [START + timedelta(days=day) for _, day in events]
    return pl.DataFrame(
        {"row": range(len(events)), "shopper_id": [user for user, _ in events], "time": times},
        schema={"row": pl.Int64, "shopper_id": pl.Int32, "time": pl.Datetime("ms")},
    )


def rows_of(split):
    return [part["row"].to_list() for _, part in split.parts()]


@given(EVENTS, st.integers(0, 3))
def test_splits_never_leak_nor_lose_a_row(events, seed):
    frame = log(events)
    splits = {
        "random": random(frame, "row", seed=seed),
        "user": by_user(frame, seed=seed),
        "time": by_time(frame, START + timedelta(days=20), START + timedelta(days=30)),
        "last": leave_last_out(frame),
    }
    for split in splits.values():
        assert sorted(chain(*rows_of(split))) == list(range(len(events)))
        assert all(rows == sorted(rows) for rows in rows_of(split))  # order is kept
        check_leakage(split, row="row")
    check_leakage(splits["user"], keys=["shopper_id"])
    check_leakage(splits["time"], time="time")


@given(EVENTS)
def test_leave_last_out_leaves_each_users_last(events):
    frame = log(events)
    split = leave_last_out(frame)
    for user in range(7):
        mine = sorted((day, place) for place, (who, day) in enumerate(events) if who == user)
        order = [place for _, place in mine]
        test, valid = (
            part.filter(pl.col("shopper_id") == user)["row"].to_list() for part in (split.test, split.valid)
        )
        assert (valid, test) == (([order[-2]], [order[-1]]) if len(order) >= 3 else ([], []))


@given(st.lists(st.text(max_size=5), min_size=1, max_size=30), st.lists(st.text(max_size=5), max_size=30))
def test_added_rows_move_no_other_row(old, new):
    def places(keys):
        split = random(pl.DataFrame({"key": keys}, schema={"key": pl.String}), "key")
        return {key: name for name, part in split.parts() for key in part["key"]}

    before, after = places(old), places([*new, *old])
    assert all(after[key] == part for key, part in before.items())


def test_shares_are_met_and_seeds_differ():
    frame = pl.DataFrame({"id": range(20_000)})
    split = random(frame, "id", (0.7, 0.1, 0.2))
    sizes = [part.height / 20_000 for _, part in split.parts()]
    assert sizes == pytest.approx([0.7, 0.1, 0.2], abs=0.01)
    other = random(frame, "id", (0.7, 0.1, 0.2), seed=1)
    both = split.test.join(other.test, on="id").height / split.test.height
    assert both == pytest.approx(0.2, abs=0.03)  # as many as chance would have it


def test_key_share_is_the_same_on_every_machine():
    """BLAKE2b of the key's text, computed by hand with hashlib once and written down."""
    shares = key_share(pl.Series(["a", "b", None, "a"]))
    import hashlib

    digest = hashlib.blake2b(b"a", digest_size=8, key=b"0").digest()
    assert shares[0] == shares[3] == (int.from_bytes(digest, "little") >> 11) / 2**53
    assert 0 <= shares.min() <= shares.max() < 1
    uniform = np.sort(key_share(pl.Series(range(10_000))))
    assert np.abs(uniform - np.linspace(0, 1, 10_000)).max() < 0.02  # Kolmogorov-Smirnov at 1 in 1 000


def test_several_columns_are_one_key():
    frame = pl.DataFrame({"a": ["x-y", "x"] * 500, "b": ["z", "y-z"] * 500, "n": range(1000)})
    check_leakage(random(frame, ["a", "n"]), row="n")
    split = random(frame, ["a", "b"])
    assert sum(part.height for _, part in split.parts()) == 1000
    assert all(part.height in (0, 500, 1000) for _, part in split.parts())


@pytest.mark.parametrize("share", [(0.5, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_shares_must_make_sense(share):
    with pytest.raises(ValueError, match="must sum to 1"):
        random(pl.DataFrame({"id": [1]}), "id", share)


def test_time_splits_refuse_disorder_and_unknown_times():
    frame = pl.DataFrame({"time": [date(2026, 1, 1), None]})
    with pytest.raises(ValueError, match="1 rows have no time"):
        by_time(frame, date(2026, 1, 5), date(2026, 1, 6))
    with pytest.raises(ValueError, match="is after"):
        by_time(frame, date(2026, 1, 7), date(2026, 1, 6))


def parts(train, test, valid=None):
    return Split(train, test.clear() if valid is None else valid, test)


ONE = log([(1, 0), (1, 1), (2, 2)])
TITLED = pl.DataFrame({"title": ["red running shoe for men by Aero", "a blue mug"]})
LEAKS = {
    "user": (parts(ONE, log([(2, 5)])), {"keys": ["shopper_id"]}, "1 value of shopper_id is in train and in"),
    "row": (parts(ONE, ONE[:1]), {"row": "row"}, "each row belongs to one part"),
    "future": (parts(ONE, log([(9, 1)])), {"time": "time"}, "2 rows of train are as late as test"),
    "valid": (parts(ONE, log([(9, 9)]), log([(8, 11)])), {"time": "time"}, "1 row of valid is as late"),
    "copy": (parts(ONE, ONE[2:]), {"content": ["shopper_id", "time"]}, "also in train with the same"),
    "launch": (
        parts(
            ONE.with_columns(launched=pl.lit(date(2026, 3, 1))),
            log([(9, 9)]).with_columns(launched=pl.lit(date(2026, 1, 1))),
        ),
        {"time": "time", "launched": "launched"},
        "launched after test begins",
    ),
    "text": (
        parts(TITLED, pl.DataFrame({"title": ["Red running shoe for men, by AERO"]})),
        {"text": "title"},
        "nearly the same title",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_every_leak_raises_with_a_sentence(name):
    split, what, sentence = LEAKS[name]
    with pytest.raises(LeakageError, match=sentence) as raised:
        check_leakage(split, **what)
    assert str(raised.value).endswith(".")


def test_leave_last_out_leaks_the_future_and_is_told_so():
    split = leave_last_out(log([(1, 0), (1, 1), (1, 2), (2, 10), (2, 11), (2, 12)]))
    with pytest.raises(LeakageError, match="future"):
        check_leakage(split, time="time")


def test_launch_dates_need_a_time():
    with pytest.raises(ValueError, match="which column holds the time"):
        check_leakage(parts(ONE, ONE.clear()), launched="time")


def test_a_check_of_nothing_is_no_check():
    with pytest.raises(ValueError, match="There is nothing to check"):
        check_leakage(parts(ONE, ONE))


@pytest.mark.parametrize("part", ["train", "test"])
def test_rows_without_a_time_are_neither_past_nor_future(part):
    timeless = ONE.with_columns(time=pl.lit(None, ONE.schema["time"]))
    split = parts(timeless, log([(9, 9)])) if part == "train" else parts(ONE, timeless)
    with pytest.raises(ValueError, match=f"3 rows of {part} have no time"):
        check_leakage(split, time="time")


def test_parts_of_other_types_are_told_apart_in_one_sentence():
    as_text = log([(5, 9)]).cast({"shopper_id": pl.String})
    with pytest.raises(ValueError, match=r"shopper_id must be of one type .* String in test\."):
        check_leakage(parts(ONE, as_text), keys=["shopper_id"])
    zoned = log([(5, 9)]).with_columns(pl.col("time").dt.replace_time_zone("UTC"))
    with pytest.raises(ValueError, match="time must be of one type"):
        check_leakage(parts(ONE, zoned), time="time")
    with pytest.raises(ValueError, match="missing in train"):
        check_leakage(parts(ONE, ONE), keys=["visitor"])


@pytest.mark.parametrize("zone", [None, "Asia/Shanghai"])
def test_validation_knows_no_product_of_the_test_time(zone):
    def launched(rows, day):
        return log(rows).with_columns(
            pl.col("time").dt.replace_time_zone(zone), launched=pl.lit(date(2026, day, 1))
        )

    split = Split(launched([(1, 0)], 1), launched([(2, 20)], 3), launched([(3, 40)], 1))
    with pytest.raises(LeakageError, match="1 row of valid is about a product launched after test begins"):
        check_leakage(split, time="time", launched="launched")
    check_leakage(Split(split.train, split.test.clear(), split.test), time="time", launched="launched")


@pytest.mark.parametrize(("one", "other"), [("caf\u00e9", "CAFE\u0301"), ("★★★", "★★★")])
def test_copies_in_another_coding_or_without_words_are_found(one, other):
    with pytest.raises(LeakageError, match="nearly the same title"):
        check_leakage(parts(pl.DataFrame({"title": [one]}), pl.DataFrame({"title": [other]})), text="title")
    check_leakage(parts(pl.DataFrame({"title": ["", "!"]}), pl.DataFrame({"title": ["", "?"]})), text="title")
