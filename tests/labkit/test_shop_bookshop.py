"""The second domain: readable books, and tastes that the shop foretells to a known part."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from labkit.shop.bookshop import EVENT_SHARE, Bookshop, make_bookshop
from labkit.shop.chance import Dice
from labkit.shop.grammar import Pairs, prose

DEPARTMENTS = ("furniture", "kitchen", "computing", "baby", "garden and DIY", "toys and games")
World = tuple[pl.DataFrame, np.ndarray, np.ndarray, tuple[str, ...], pl.DataFrame]


def people(count: int) -> World:
    rng = np.random.default_rng(0)
    shoppers = pl.DataFrame({"shopper_id": np.arange(count, dtype="i4"), "lang": ["en"] * count})
    who = np.flatnonzero(rng.random(count) < 0.1)
    events = pl.DataFrame(
        {
            "shopper_id": who.astype("i4"),
            "event": rng.choice(["new baby", "new pet"], len(who)),
            "date": [date(2025, 9, 1) + timedelta(days=int(d)) for d in rng.integers(60, 180, len(who))],
        }
    )
    affinity = 0.12 / (0.12 + rng.random((count, len(DEPARTMENTS))))
    return shoppers, rng.uniform(-1, 1, (count, 4)), affinity.astype("f4"), DEPARTMENTS, events


@pytest.fixture(scope="module")
def world() -> World:
    return people(9_000)


@pytest.fixture(scope="module")
def shop(world: World) -> Bookshop:
    return make_bookshop(*world, books=2_000, seed=0)


def habits(shop: Bookshop) -> np.ndarray:
    """(R, G) the shares of genres in what each reader has read."""
    seen = shop.reads.join(shop.books.select("book_id", "genre"), on="book_id")
    counts = np.zeros((len(shop.tastes), len(shop.genres)))
    np.add.at(counts, (seen["reader_id"], [shop.genres.index(g) for g in seen["genre"]]), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def test_the_same_every_time():
    world = people(150)
    first, again, other = (make_bookshop(*world, books=120, seed=seed) for seed in (0, 0, 1))
    assert first.books.equals(again.books)
    assert first.reads.equals(again.reads)
    assert first.overlap.equals(again.overlap)
    assert not first.reads.equals(other.reads)


def test_the_same_in_another_process():
    """Python's hash seed, which orders sets, changes nothing."""
    script = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1]); import test_shop_bookshop as t;"
        "tables = t.make_bookshop(*t.people(150), books=120, seed=0).tables();"
        "print(hashlib.sha256(''.join(x.write_csv() for x in tables.values()).encode()).hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent)],
            env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2")
    }
    assert len(said) == 1


def test_tables_hold_together(shop):
    books, reads, overlap = shop.books, shop.reads, shop.overlap
    assert books["book_id"].to_list() == list(range(2_000))
    assert books["title"].n_unique() == 2_000
    assert set(books["genre"]) == set(shop.genres)
    assert len(shop.genres) == 12
    assert reads["book_id"].is_in(books["book_id"].to_list()).all()
    assert reads["reader_id"].is_between(0, len(shop.tastes) - 1).all()
    assert reads.select("reader_id", "book_id").is_duplicated().sum() == 0
    assert reads["time"].is_sorted()
    assert reads["time"].dt.date().is_between(date(2025, 9, 1), date(2026, 8, 31)).all()
    assert 0.75 < reads["rating"].is_null().mean() < 0.92
    assert (reads["minutes"] > 0).all()
    assert overlap.height == 3_600
    assert overlap["reader_id"].is_unique().all()
    assert overlap["shopper_id"].is_unique().all()
    # The ids alone give nothing away.
    assert abs(np.corrcoef(overlap["reader_id"], overlap["shopper_id"])[0, 1]) < 0.05


def test_shares_are_probabilities(shop):
    for array in (shop.tastes, shop.carried):
        assert (array > 0).all()
        np.testing.assert_allclose(array.sum(1), 1)


def test_books_are_readable(shop):
    texts = shop.books.select("title", "title_zh", "author", "author_zh", "blurb", "blurb_zh")
    for column in texts.columns:
        assert not texts[column].str.contains(r"[{}=|]|  |\b[Tt]he [Tt]he\b|\b[Aa] [aeio]").any(), column
    for column in ("title_zh", "author_zh", "blurb_zh"):
        assert texts[column].str.contains(r"\p{Han}").all()
        assert not texts[column].str.contains(r"[A-Za-z]").any()
    for column in ("title", "author", "blurb"):
        assert not texts[column].str.contains(r"\p{Han}").any()
    assert texts["blurb"].str.contains(r"^[A-Z].*[.!?]$").all()
    assert texts["blurb"].n_unique() > 0.95 * texts.height


def test_popularity_is_skewed(shop):
    counts = np.sort(shop.reads["book_id"].value_counts()["count"].to_numpy())[::-1]
    assert counts[: len(counts) // 10].sum() > 0.35 * counts.sum()


def _transfer(shop: Bookshop, world: World, shuffle: bool) -> float:
    """How well a linear map from the shop's side foretells reading, learnt on half of the overlap."""
    link = shop.overlap
    readers, shoppers = link["reader_id"].to_numpy(), link["shopper_id"].to_numpy()
    if shuffle:
        shoppers = np.random.default_rng(1).permutation(shoppers)
    _, taste, affinity, _, _ = world
    features = np.hstack([np.ones((len(shoppers), 1)), taste[shoppers], affinity[shoppers]])
    target = habits(shop)[readers]
    half = len(readers) // 2
    weights, *_ = np.linalg.lstsq(features[:half], target[:half], rcond=None)
    guess = features[half:] @ weights
    rest = target[half:] - target[half:].mean(0)
    return float(np.corrcoef((guess - guess.mean(0)).ravel(), rest.ravel())[0, 1])


def test_the_shop_foretells_reading_through_the_true_link_only(shop, world):
    assert _transfer(shop, world, shuffle=False) > 0.3
    assert abs(_transfer(shop, world, shuffle=True)) < 0.04


def test_how_much_carries_over_is_what_was_asked_for(world):
    """The more is shared, the more the shop knows; with nothing shared it knows nothing."""
    gains, learnt = [], []
    for shared in (0.0, 0.35, 0.7, 1.0):
        shop = make_bookshop(*world, books=300, seed=0, shared=shared)
        ceilings = shop.ceilings()
        gains.append((ceilings["carried"] - ceilings["popular"]) / (ceilings["taste"] - ceilings["popular"]))
        learnt.append(_transfer(shop, world, shuffle=False))
    assert gains == sorted(gains)
    assert learnt == sorted(learnt)
    assert abs(gains[0]) < 0.01
    assert abs(learnt[0]) < 0.04
    assert gains[3] > 0.999


def test_ceilings_are_what_perfect_knowledge_reaches(shop):
    """Rank genres by what is known and count the real reads of people without life events' detour."""
    seen = shop.reads.join(shop.books.select("book_id", "genre"), on="book_id")
    seen = seen.join(shop.overlap, on="reader_id")
    genre = np.array([shop.genres.index(g) for g in seen["genre"]])
    reader = seen["reader_id"].to_numpy()
    for name, scores in (("carried", shop.carried), ("taste", shop.tastes)):
        best = np.argsort(-scores[reader], axis=1)[:, :3]
        hit = (best == genre[:, None]).any(1).mean()
        # Events and books read only once take some of it away.
        assert -0.03 < hit - shop.ceilings()[name] < 0.02


def test_a_new_baby_changes_what_is_read(shop, world):
    events = world[4].filter(pl.col("event") == "new baby").join(shop.overlap, on="shopper_id")
    seen = shop.reads.join(shop.books.select("book_id", "genre"), on="book_id")
    seen = seen.join(events.select("reader_id", "date"), on="reader_id")
    seen = seen.with_columns(
        young=pl.col("genre").is_in(["parenting", "children's books"]),
        after=(pl.col("time").dt.date() - pl.col("date")).dt.total_days(),
    )
    before = seen.filter(pl.col("after") < 0)["young"].mean()
    during = seen.filter(pl.col("after").is_between(1, 178))["young"].mean()
    # In these days EVENT_SHARE of the reads are about it, and the rest go on as before.
    assert abs(during - (EVENT_SHARE + (1 - EVENT_SHARE) * before)) < 0.09
    pets = world[4].filter(pl.col("event") == "new pet").join(shop.overlap, on="shopper_id")
    other = shop.reads.join(shop.books.select("book_id", "genre"), on="book_id").join(pets, on="reader_id")
    assert other["genre"].is_in(["parenting", "children's books"]).mean() < during / 2


def test_gardeners_read_of_gardens(shop, world):
    link = shop.overlap
    garden = world[2][link["shopper_id"].to_numpy(), DEPARTMENTS.index("garden and DIY")]
    share = habits(shop)[link["reader_id"].to_numpy(), shop.genres.index("gardening")]
    assert (
        share[garden > np.quantile(garden, 0.9)].mean()
        > 1.5 * share[garden < np.quantile(garden, 0.5)].mean()
    )


def test_wrong_input_is_refused(world):
    shoppers, taste, affinity, departments, events = world
    with pytest.raises(ValueError, match="share of variance"):
        make_bookshop(*world, books=60, seed=0, shared=1.4)
    with pytest.raises(ValueError, match="9000 shoppers and 6 departments"):
        make_bookshop(shoppers, taste, affinity[:, :3], departments, events, books=60, seed=0)
    with pytest.raises(ValueError, match="no book in"):
        make_bookshop(*world, books=5, seed=0)


def test_pairs_must_agree():
    with pytest.raises(ValueError, match="halves do not agree"):
        Pairs({"title": "The {thing} = 记", "thing": "Key = 钥匙"})
    with pytest.raises(ValueError, match="halves do not agree"):
        Pairs({"title": "The Key"})
    with pytest.raises(ValueError, match="is no rule"):
        Pairs({"title": "The {thing} = {thing}记"})
    rules = Pairs({"title": "{thing} and {thing2} = {thing}与{thing2}", "thing": "Key = 钥匙\nMap = 地图"})
    said = {rules.write("title", Dice(seed, "test")) for seed in range(30)}
    assert said == {("Key and Map", "钥匙与地图"), ("Map and Key", "地图与钥匙")}
    assert rules.write("title", Dice(0, "test"), {"thing": ("Map", "地图")})[0] == "Map and Key"


def test_genres_name_what_exists():
    from labkit.shop.crowd import LIFE_EVENTS
    from labkit.shop.declarations import departments

    for genre in prose("books")["genres"].values():
        assert genre.get("likes") in (None, *departments())
        assert genre.get("after") in (None, *LIFE_EVENTS)
