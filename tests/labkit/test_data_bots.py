"""Programs among people: each kind is found, people are left alone."""

from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from labkit.data.bots import behaviour, drop_bots, find_bots
from labkit.data.testers import drop_testers, find_testers

START = datetime(2026, 1, 1)
PRODUCTS = pl.DataFrame({"product_id": range(400), "seller_id": [n % 40 for n in range(400)]})
SEEN = 1 / np.arange(1, 11)  # click chance falls with the position


def people(rng, first, count):
    """Bursts of sessions in waking hours, clicks at the top, now and then a purchase."""
    for shopper in range(first, first + count):
        sessions = int(rng.integers(1, 40))
        days = np.sort(rng.integers(0, 365, max(1, sessions // 3)))
        eager = rng.uniform(0.02, 0.5)
        favourite = rng.integers(40)
        for _ in range(sessions):
            at = START + timedelta(days=int(rng.choice(days)), seconds=int(rng.integers(25_000, 86_000)))
            items = rng.choice(400, 10)
            clicked = rng.random(10) < eager * SEEN * np.where(items % 40 == favourite, 3, 1)
            yield shopper, at, items, clicked, clicked & (rng.random(10) < 0.1)


def scrapers(rng, first, count):
    for shopper in range(first, first + count):
        period, start = int(rng.integers(300, 3000)), int(rng.integers(0, 300))
        for step in range(120):
            at = START + timedelta(days=start, seconds=period * step + int(rng.integers(0, period // 20)))
            yield shopper, at, rng.choice(400, 10), rng.random(10) < 0.002, np.zeros(10, bool)


def frauds(rng, first, count):
    for shopper in range(first, first + count):
        seller = rng.integers(40)
        for _ in range(30):
            at = START + timedelta(seconds=int(rng.integers(0, 365 * 86_400)))
            items = rng.choice(400, 10)
            items[rng.choice(10, 2, replace=False)] = rng.choice(10, 2) * 40 + seller
            clicked = (items % 40 == seller) | (rng.random(10) < 0.02)
            yield shopper, at, items, clicked, np.zeros(10, bool)


def crawlers(rng, first, count):
    for shopper in range(first, first + count):
        for _ in range(20):
            at = START + timedelta(seconds=int(rng.integers(0, 365 * 86_400)))
            yield shopper, at, rng.choice(400, 10), rng.random(10) < 0.95, np.zeros(10, bool)


def log(*groups):
    rows = [
        (session, shopper, at, int(item), place + 1, bool(click), bool(buy))
        for session, (shopper, at, items, clicked, bought) in enumerate(s for group in groups for s in group)
        for place, (item, click, buy) in enumerate(zip(items, clicked, bought, strict=True))
    ]
    names = ["session_id", "shopper_id", "time", "product_id", "position", "clicked", "bought"]
    return pl.DataFrame(rows, schema=names, orient="row").lazy()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_kind_is_found_and_people_are_left_alone(seed):
    rng = np.random.default_rng(seed)
    events = log(people(rng, 0, 300), scrapers(rng, 1000, 4), frauds(rng, 2000, 4), crawlers(rng, 3000, 4))
    found = find_bots(behaviour(events, PRODUCTS))
    kinds = dict(found.select("shopper_id", "kind").rows())
    planted = {
        1000 * (k + 1) + n: kind
        for k, kind in enumerate(["scraper", "click fraud", "crawler"])
        for n in range(4)
    }
    assert kinds == planted
    assert (found["score"] >= 1).all()
    assert found["score"].is_sorted(descending=True)
    kept, change = drop_bots(events, PRODUCTS)
    assert kept.select(pl.col("shopper_id").max()).collect().item() == 299
    assert change.note == "4 click fraud, 4 crawler, 4 scraper"
    assert change.changed == 4 * (120 + 30 + 20) * 10


def test_behaviour_is_that_of_a_loop():
    rng = np.random.default_rng(7)
    events = log(people(rng, 0, 12))
    table = behaviour(events, PRODUCTS)
    full = events.collect()
    for row in table.iter_rows(named=True):
        mine = full.filter(pl.col("shopper_id") == row["shopper_id"])
        starts = sorted(set(mine["time"]))
        assert row["pages"] == len(starts)
        assert row["days"] == len({at.date() for at in starts})
        assert row["click_rate"] == pytest.approx(mine["clicked"].mean())
        assert row["breadth"] == pytest.approx(mine["product_id"].n_unique() / mine.height)
        gaps = [(b - a).total_seconds() for a, b in pairwise(starts)]
        if len(gaps) >= 4:
            low, middle, high = np.quantile(gaps, [0.25, 0.5, 0.75])
            assert row["spread"] == pytest.approx((high - low) / middle)
        else:
            assert row["spread"] is None
        clicks = mine.filter("clicked")["product_id"].to_list()
        if clicks:
            sellers = [n % 40 for n in clicks]
            assert row["one_seller"] == max(sellers.count(s) for s in sellers) / len(clicks)


def test_a_program_that_looks_at_three_products_all_year_is_found_without_a_click():
    rng = np.random.default_rng(0)
    watch = (
        (
            2000,
            START + timedelta(days=int(day)),
            rng.choice([1, 41, 81], 10),
            np.zeros(10, bool),
            np.zeros(10, bool),
        )
        for day in rng.integers(0, 365, 30)
    )
    found = find_bots(behaviour(log(people(rng, 0, 50), watch), PRODUCTS))
    assert found.select("shopper_id", "kind").rows() == [(2000, "click fraud")]


def test_without_sellers_fraud_is_not_guessed():
    rng = np.random.default_rng(0)
    found = find_bots(behaviour(log(people(rng, 0, 50), frauds(rng, 2000, 2))))
    assert found.height == 0


def test_testers_are_found_by_address_name_and_penny():
    people = pl.DataFrame(
        {
            "shopper_id": range(9),
            "email": ["a@mail.org", "qa+1@mail.org", "b@shop.test", "c@own.shop", "testino@mail.org",
                      "d@example.com", "protest@mail.org", "e@mail.org", None],
            "name": ["Ada", "Bob", "Cy", "Di", "Mario Testino", "Ed", "Flo", "Test User", "Gus"],
        }
    )  # fmt: skip
    events = pl.LazyFrame(
        {
            "shopper_id": [0, 0, 0, 8, 8],
            "price": [5.0, 0.01, 9.0, 0.01, 0.01],
            "bought": [True, True, True, True, False],
        }
    )
    found = find_testers(people, events, domains=["own.shop"])
    assert found["shopper_id"].to_list() == [1, 2, 3, 5, 7, 8]
    assert found.filter(pl.col("shopper_id") == 8)["reason"].item() == "paid a penny"
    kept, change = drop_testers(events, found)
    assert (kept.collect().height, change.changed) == (3, 2)


def test_rows_without_a_shopper_are_nobody_s_and_stay():
    log = pl.LazyFrame(
        {"shopper_id": [None, None, 1], "time": [datetime(2026, 1, 1)] * 3, "product_id": 5, "position": 1}
    ).with_columns(clicked=True, bought=False)
    assert behaviour(log)["shopper_id"].to_list() == [1]
    kept, change = drop_bots(log)
    assert kept.collect().height == 3
    assert (change.rows_in, change.rows_out) == (3, 3)
    kept, change = drop_testers(log, pl.DataFrame({"shopper_id": [1]}))
    assert kept.collect()["shopper_id"].to_list() == [None, None]
