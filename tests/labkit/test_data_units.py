"""Unit mix-ups are found and undone, and honest values are left alone."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.data.units import (
    correct_units,
    grams_in_products,
    looks_scaled,
    pence_in_events,
    shown_prices,
    yuan_in_products,
)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1.0, 2.0, 5.0, 100.0])), min_size=1, max_size=40)
)
def test_shown_prices_are_lower_medians(rows):
    frame = pl.LazyFrame({"product_id": [r[0] for r in rows], "price": [r[1] for r in rows]})
    for item, usual, shown in shown_prices(frame).rows():
        mine = sorted(price for product, price in rows if product == item)
        assert (usual, shown) == (mine[(len(mine) - 1) // 2], len(mine))


def market(seed, dear=False):
    """A log of 200 products with sales and dearer weeks, three in a hundred lines in pence."""
    rng = np.random.default_rng(seed)
    usual = np.round(rng.uniform(900, 2000, 200) if dear else rng.lognormal(3, 1.2, 200), 2) + 0.5
    item = rng.integers(0, 200, 8000)
    price = np.round(usual[item] * rng.choice([1.0, 0.75, 0.9, 1.15], 8000), 2)
    wrong = rng.random(8000) < 0.03
    events = pl.DataFrame(
        {"row": range(8000), "product_id": item, "price": np.where(wrong, price * 100, price)}
    )
    return usual, events, price, wrong


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dear", [False, True])
def test_pence_are_found_exactly_and_put_right(seed, dear):
    _, events, price, wrong = market(seed, dear)
    found = pence_in_events(events.lazy())
    assert found["row"].to_list() == np.flatnonzero(wrong).tolist()
    fixed, change = correct_units(events.lazy(), found)
    assert fixed.collect()["price"].to_numpy() == pytest.approx(price, abs=0.006)
    assert fixed.collect()["row"].to_list() == list(range(8000))
    assert change.changed == wrong.sum()
    assert pence_in_events(fixed).height == 0


def test_grams_are_found_per_category():
    rng = np.random.default_rng(0)
    typical = {"sofas": 45.0, "rings": 0.01, "mugs": 0.35}
    category = rng.choice(list(typical), 3000)
    weight = np.array([typical[name] for name in category]) * rng.uniform(0.4, 2.5, 3000)
    wrong = rng.random(3000) < 0.05
    frame = pl.DataFrame(
        {"row": range(3000), "category": category, "weight_kg": np.where(wrong, weight * 1000, weight)}
    )
    found = grams_in_products(frame)
    assert found["row"].to_list() == np.flatnonzero(wrong).tolist()
    assert found["value"].to_numpy() == pytest.approx(weight[wrong], rel=1e-4, abs=1e-6)
    assert grams_in_products(frame.with_columns(weight_kg=pl.lit(None, pl.Float64))).height == 0


def test_yuan_are_found_by_seller_also_where_nobody_looked():
    usual, events, _, _ = market(3)
    seller = np.arange(200) % 10
    rng = np.random.default_rng(5)
    listed = np.round(usual * rng.uniform(0.85, 1.15, 200), 2)
    price = np.where(seller == 4, np.round(listed * 9.1, 2), listed)
    products = pl.DataFrame(
        {"row": range(200), "product_id": range(200), "seller_id": seller, "price": price}
    )
    seen = events.filter(pl.col("product_id") % 20 != 4)  # half of the wrong seller's products never shown
    found = yuan_in_products(products, shown_prices(seen.lazy()))
    assert found["row"].to_list() == np.flatnonzero(seller == 4).tolist()
    assert found["value"].to_numpy() == pytest.approx(listed[seller == 4], abs=0.01)


def test_one_dear_product_does_not_accuse_its_seller():
    products = pl.DataFrame(
        {"row": range(4), "product_id": range(4), "seller_id": [1] * 4, "price": [91.0, 1, 2, 3]}
    )
    shown = pl.DataFrame({"product_id": range(4), "usual": [10.0, 1.0, 2.0, 3.0]})
    assert yuan_in_products(products, shown).height == 0
    assert yuan_in_products(products, shown.clear()).height == 0


def test_a_first_look_sees_two_humps_only_where_there_are_two():
    rng = np.random.default_rng(0)
    one = rng.lognormal(0, 0.5, 5000)
    assert not looks_scaled(one, 1000)
    assert looks_scaled(np.where(rng.random(5000) < 0.01, one * 1000, one), 1000)
    assert not looks_scaled(np.where(rng.random(5000) < 0.01, one * 50, one), 1000)
    assert not looks_scaled(np.array([]), 1000)
