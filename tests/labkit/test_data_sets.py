"""Loaders: the published formats, read from small files and compared with what stands in them."""

from datetime import datetime

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_files import (
    AMAZON,
    BANDIT,
    BANKING,
    ESCI,
    HILLSTROM,
    HM,
    MATCHING,
    ML_1M,
    ML_CSV,
    RETAILROCKET,
    WANDS,
    ZH,
    place,
)

from labkit import data as labdata
from labkit.data import checksums, prepared, sources
from labkit.data.sets.matching import parse_offers

WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).map(
    lambda text: text.strip() or "x"
)


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sources, "_stated", set())
    monkeypatch.setattr(checksums, "_verified", {})


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that LABKIT_DATA names; checksums and row counts of the published files are not asked for."""
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sources, "mismatch", lambda path, checksum: None)
    monkeypatch.setattr(sources, "miscounted", lambda path, rows: None)
    return tmp_path / "data"


def test_esci(shelf):
    place(shelf, "esci", ESCI)
    data = labdata.load_esci("us", "small")
    assert data.queries.select("text", "key", "split").rows() == [("usb c cable", "7", "train")]
    assert data.products["key"].to_list() == ["B1", "B2", "B3"]
    assert data.qrels() == {0: {0: 2, 1: 3, 2: 0}}
    assert data.documents()[0] == "Cable 1 m long"
    assert data.products["colour"].to_list() == [None, "Black", None]
    large = labdata.load_esci("us", "large")
    assert large.queries["text"].to_list() == ["red shoes", "usb c cable"]
    assert large.qrels()[0] == {0: 1}
    assert labdata.load_esci("es").titles() == ["Mesa"]
    with pytest.raises(ValueError, match=r"no part 'de', 'small' of ESCI"):
        labdata.load_esci("de")


def test_wands(shelf):
    place(shelf, "wands", WANDS)
    data = labdata.load_wands()
    assert data.queries.select("text", "key", "category").rows() == [
        ("cooker", "1", None),
        ("wide bed", "3", "Beds"),
    ]
    assert data.products["key"].to_list() == ["1", "0", "5"]
    assert data.products["description"].to_list() == ["soft ,\nand wide", None, "old"]
    assert data.titles()[0] == 'a 20 " bed'
    assert data.qrels() == {0: {1: 1}, 1: {0: 2, 2: 0}}
    assert data.products["hierarchy"][0] == "Furniture / Beds"


def test_retailrocket(shelf):
    place(shelf, "retailrocket", RETAILROCKET)
    data = labdata.load_retailrocket()
    assert data.users["key"].to_list() == ["12", "257597"]
    assert data.items.rows() == [(0, "9", 20, 1338), (1, "44", 1338, None), (2, "355908", None, None)]
    events = data.events.collect()
    assert events.select("user_id", "item_id", "kind", "order").rows() == [
        (1, 0, "purchase", 4),
        (1, 2, "view", None),
        (0, 0, "cart", None),
    ]
    assert events["time"][1] == datetime(2015, 6, 2, 5, 2, 12, 117000)


def test_movielens_1m_reads_double_colons_and_latin_1(shelf):
    place(shelf, "movielens_1m", ML_1M)
    data = labdata.load_movielens()
    assert data.items.select("key", "title", "genres").rows() == [
        ("661", "James and the Giant Peach (1996)", ["Animation", "Children's"]),
        ("1193", "Cité des enfants, La\x85 (1995)", ["Drama"]),
    ]
    assert data.users.rows() == [(0, "1", "F", 1, 10, "48067"), (1, "2", "M", 56, 16, "70072")]
    assert data.events.select("user_id", "item_id", "rating").collect().rows() == [
        (0, 1, 4),
        (1, 1, 5),
        (0, 0, 3),
    ]
    assert data.events.collect()["time"][1] == datetime(2000, 12, 31, 22, 12, 40)
    assert data.sequences().rows() == [(0, [1, 0]), (1, [1])]


def test_movielens_25m_and_32m(shelf):
    for version in ("25m", "32m"):
        place(shelf, f"movielens_{version}", ML_CSV)
        data = labdata.load_movielens(version)
        assert data.users["key"].to_list() == ["1", "2", "10"]
        assert data.items.rows() == [
            (0, "7", "Sabrina, Laé (1995)", ["Comedy", "Romance"]),
            (1, "296", "Pulp (1994)", []),
        ]
        assert data.events.select("user_id", "item_id", "rating").collect().rows() == [
            (1, 1, 3.5),
            (2, 0, 0.5),
            (0, 1, 5.0),
        ]


def test_hm_keeps_the_leading_zero(shelf):
    place(shelf, "hm", HM)
    data = labdata.load_hm()
    assert data.items.select("key", "title", "category", "colour", "product_code").rows() == [
        ("0108775015", "Strap top", "Vest top", "Black", "0108775")
    ]
    assert data.users.select("key", "age", "club", "news").rows() == [
        ("00000dbacae5", None, None, "regularly"),
        ("00006413d8", 49, "ACTIVE", "none"),
    ]
    events = data.events.collect()
    assert events.select("user_id", "item_id", "channel").rows() == [(1, 0, 2), (0, 0, 1)]
    assert events["price"][0] == 0.0508305084745762
    assert events["time"][0] == datetime(2018, 9, 20)


def test_amazon_reviews(shelf):
    place(shelf, "amazon_reviews_2023", AMAZON)
    data = labdata.load_amazon_reviews()
    assert data.users["key"].to_list() == ["A1", "AGKHLEW2SOWHNMFQIJGBECAF7INQ"]
    assert data.items.sort("item_id").select("key", "price", "brand", "description").rows() == [
        ("B00YQ6X8EO", 19.99, "Howard Products", "One\nTwo"),
        ("B0DASH", None, "Howard Products", "One\nTwo"),
        ("B0NEVER", None, "Howard Products", "One\nTwo"),
        ("B0OTHER", None, None, None),
    ]
    events = data.events.collect()
    assert events.select("user_id", "item_id", "rating", "asin").rows() == [
        (0, 3, 1.0, "B0VARIANT"),
        (1, 0, 5.0, "B00YQ6X8EO"),
    ]
    assert events["time"].to_list() == [datetime(2000, 1, 1), datetime(2020, 5, 5, 14, 8, 48, 923000)]
    with pytest.raises(ValueError, match="no category 'Beauty'"):
        labdata.load_amazon_reviews("Beauty")


def test_banking77_and_hillstrom_as_published(shelf):
    place(shelf, "banking77", BANKING)
    data = labdata.load_banking77()
    assert data.split("train") == (["Is it here, or not?", "Why"], ["card_arrival", "lost"])
    assert data.split("test") == (["Where is it"], ["card_arrival"])
    assert data.labels == ["card_arrival", "lost"]
    with pytest.raises(ValueError, match=r"no split 'valid'; there are test, train"):
        data.split("valid")
    place(shelf, "hillstrom_email_ab_test", HILLSTROM)
    assert labdata.load_hillstrom().means().rows() == [
        ("No E-Mail", 1, 1, 1, 12.5),
        ("Womens E-Mail", 1, 0, 0, 0),
    ]


def test_open_bandit_and_chinese_reviews_as_published(shelf):
    place(shelf, "open_bandit_small", BANDIT)
    data = labdata.load_open_bandit("bts", "women")
    assert data.items.rows() == [(0, -0.67, "ceca", "eb6f", "7950"), (1, 0.75, "270d", "eb6f", "7950")]
    assert data.log.select("item_id", "position", "clicked", "propensity").rows() == [
        (1, 2, False, 0.5),
        (0, 1, True, 0.25),
    ]
    assert data.log["user-item_affinity_1"].to_list() == [1.5, 0.0]
    assert str(data.log["time"][0]) == "2019-11-24 00:01:03.979311+00:00"
    place(shelf, "zh_reviews_chinesenlpcorpus", ZH)
    reviews = labdata.load_zh_reviews().rows
    assert reviews.select("text", "label", "category").rows() == [
        ("很好", "positive", "书籍"),
        ("差，\n很差", "negative", "平板"),
    ]
    assert labdata.load_zh_reviews("delivery").rows["text"].to_list() == ["很快", "太慢"]
    assert labdata.load_zh_reviews("hotel").rows.height == 1


def test_product_matching_as_published(shelf):
    place(shelf, "product_matching_er_magellan", MATCHING)
    data = labdata.load_product_matching("abt_buy")
    assert data.attributes == ("name", "description", "price")
    assert data.pairs.height == 6
    assert data.pairs.row(0, named=True) == {
        "split": "train",
        "left_name": "lg 24 inch",
        "left_description": None,
        "left_price": None,
        "right_name": "lg dishwasher",
        "right_description": None,
        "right_price": 399.0,
        "matches": True,
    }
    assert data.pairs["right_name"][1] == "b\u2028c"


@given(st.lists(st.tuples(WORDS, WORDS, st.one_of(st.none(), st.integers(0, 9999))), min_size=1, max_size=8))
def test_offers_are_parsed_back(offers):
    offers = [
        (name.replace("COL", "col"), maker.replace("COL", "col"), price) for name, maker, price in offers
    ]
    texts = [
        f"COL title VAL {n} COL maker VAL {m} COL price VAL {'' if p is None else p}" for n, m, p in offers
    ]
    parsed = parse_offers(pl.Series(texts), ("title", "maker", "price"), "x")
    assert parsed.rows() == [(n.strip(), m.strip(), p) for n, m, p in offers]


# Large sets are converted once


def test_the_conversion_is_used_again_until_the_files_change(shelf, tmp_path):
    folder = place(shelf, "movielens_25m", ML_CSV)
    first = labdata.load_movielens("25m").events.collect()
    made = sorted((tmp_path / "home" / "prepared").iterdir())
    assert len(made) == 1
    stamp = (made[0] / "events" / "00000.parquet").stat().st_mtime_ns
    assert labdata.load_movielens("25m").events.collect().equals(first)
    assert (made[0] / "events" / "00000.parquet").stat().st_mtime_ns == stamp
    (folder / "ratings.csv").write_bytes(ML_CSV["ratings.csv"] + b"2,7,1.0,5\n")
    (folder / "checksums.json").unlink()
    assert labdata.load_movielens("25m").events.collect().height == 4


def test_a_home_that_can_not_be_written_is_no_obstacle(shelf, tmp_path, monkeypatch):
    place(shelf, "movielens_25m", ML_CSV)
    expected = labdata.load_movielens("25m").events.collect()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "file"))
    assert labdata.load_movielens("25m").events.collect().equals(expected)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    times=st.lists(st.one_of(st.none(), st.integers(0, 6)), max_size=25),
    piece=st.sampled_from([1, 300, 9999]),
)
def test_sorting_in_pieces_is_sorting(tmp_path_factory, times, piece):
    folder = tmp_path_factory.mktemp("sorted")
    source = folder / "source"
    source.touch()
    frame = pl.DataFrame(
        {"time": times, "row": range(len(times))}, schema={"time": pl.Int64, "row": pl.Int64}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABKIT_HOME", str(folder))
        patch.setattr(prepared, "PIECE", piece)
        made = prepared.prepared(
            "any", [source], lambda: {"events": frame.lazy()}, lambda tables: None, order={"events": "time"}
        )
        expected = sorted(frame.rows(), key=lambda row: (row[0] is not None, row[0] or 0, row[1]))
        assert made["events"].collect().rows() == expected
    files = len(list((folder / "prepared").rglob("*.parquet")))
    different = len(set(times) - {None})
    assert files == 1 if piece == 9999 else files <= max(1, different + 1)
    assert files >= different or piece > 1


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ratings=st.lists(
        st.tuples(
            st.integers(1, 30), st.sampled_from([5, 70, 900]), st.integers(1, 10), st.integers(0, 2**31)
        ),
        min_size=1,
        max_size=30,
    )
)
def test_movielens_in_both_formats_says_the_same_as_reading_it_by_hand(shelf, ratings):
    films = (5, 70, 900)
    dat = "".join(f"{u}::{m}::{r}::{t}\n" for u, m, r, t in ratings)
    whole = {
        "ratings.dat": dat.replace("::10::", "::5::").encode(),
        "users.dat": "".join(f"{u}::F::25::1::1\n" for u in range(1, 31)).encode(),
        "movies.dat": "".join(f"{m}::Film {m}::Drama\n" for m in films).encode(),
    }
    halves = "userId,movieId,rating,timestamp\n" + "".join(f"{u},{m},{r / 2},{t}\n" for u, m, r, t in ratings)
    movies = "movieId,title,genres\n" + "".join(f"{m},Film {m},Drama\n" for m in films)
    place(shelf, "movielens_25m", {"ratings.csv": halves.encode(), "movies.csv": movies.encode()})
    data = labdata.load_movielens("25m")
    by_time = sorted(ratings, key=lambda row: row[3])
    users, items = data.users["key"].to_list(), data.items["key"].to_list()
    found = [
        (int(users[u]), int(items[i]), 2 * r)
        for u, i, r in data.events.select("user_id", "item_id", "rating").collect().rows()
    ]
    assert found == [row[:3] for row in by_time]
    if all(rating <= 5 for _, _, rating, _ in ratings):
        place(shelf, "movielens_1m", whole)
        old = labdata.load_movielens("1m")
        people = old.users["key"].to_list()
        rows = old.events.select("user_id", "item_id", "rating").collect().rows()
        assert [(int(people[u]), int(items[i]), r) for u, i, r in rows] == [row[:3] for row in by_time]
