"""Loaders: the real sets, where LABKIT_DATA names them, have the counts that their cards state."""

import numpy as np
import polars as pl
import pytest

from labkit import data as labdata
from labkit.data import checksums, sources
from labkit.data.sources import folders


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sources, "_stated", set())
    monkeypatch.setattr(checksums, "_verified", {})


def real(data):
    there = any((folder / data.name).is_dir() for folder in folders())
    if not there:
        pytest.skip(f"LABKIT_DATA names no folder with {data.name}")


def test_real_chorus_raters_agree_as_the_card_says():
    real(labdata.CHORUS)
    rated = labdata.load_chorus_raters()
    assert rated.height == 3_188
    agents = [f"agent_{i}_rating" for i in (1, 2, 3)]
    assert (
        rated.filter(pl.col(agents[0]) == pl.col(agents[1]), pl.col(agents[1]) == pl.col(agents[2])).height
        == 2_278
    )


def test_real_clothing():
    real(labdata.DATA_SETS["clothing_images_small"])
    photos = labdata.load_clothing()
    assert dict(photos.rows["split"].value_counts().rows()) == {"train": 3068, "valid": 341, "test": 372}
    train = photos.rows.filter(split="train")["label"].value_counts()
    assert dict(train.rows())["t-shirt"] == 795
    assert dict(train.rows())["hat"] == 123
    assert len(photos.images) == 3781
    assert all(
        image.dtype == np.uint8 and image.shape[2] == 3 and max(image.shape) <= 160 for image in photos.images
    )
    few = labdata.load_clothing("test")
    square = few.array(64)
    assert square.shape == (372, 64, 64, 3)
    assert 100 < square.mean() < 250


def test_real_banking77_and_bitext():
    real(labdata.DATA_SETS["banking77"])
    banking = labdata.load_banking77()
    assert (len(banking.split("train")[0]), len(banking.split("test")[0]), len(banking.labels)) == (
        10_003,
        3_080,
        77,
    )
    real(labdata.DATA_SETS["bitext_customer_service"])
    bitext = labdata.load_bitext()
    counts = dict(bitext.rows["split"].value_counts().rows())
    assert counts == {"train": 6480, "valid": 810, "test": 810}
    assert (len(bitext.labels), bitext.rows["category"].n_unique()) == (27, 11)


def test_real_open_bandit():
    real(labdata.DATA_SETS["open_bandit_small"])
    rates = {}
    for policy in ("random", "bts"):
        for campaign, items in (("men", 34), ("women", 46)):
            log = labdata.load_open_bandit(policy, campaign)
            assert (log.log.height, log.items.height) == (10_000, items)
            rates[policy, campaign] = round(log.log["clicked"].mean(), 4)
            if policy == "random":
                np.testing.assert_allclose(log.log["propensity"], 1 / items)
    assert rates == {
        ("random", "men"): 0.0046,
        ("random", "women"): 0.0046,
        ("bts", "men"): 0.0069,
        ("bts", "women"): 0.0046,
    }


@pytest.mark.parametrize(
    ("shops", "pairs", "right", "attributes"),
    [
        ("abt_buy", 9_575, 1_028, "name description price"),
        ("amazon_google", 11_460, 1_167, "title manufacturer price"),
        ("walmart_amazon", 10_242, 962, "title category brand modelno price"),
    ],
)
def test_real_product_matching(shops, pairs, right, attributes):
    real(labdata.DATA_SETS["product_matching_er_magellan"])
    data = labdata.load_product_matching(shops)
    assert (data.pairs.height, data.pairs["matches"].sum()) == (pairs, right)
    assert data.attributes == tuple(attributes.split())


def test_real_esci_and_wands_samples():
    real(labdata.DATA_SETS["esci_us_150q_judgments_ids_only"])
    sample = labdata.load_esci_sample()
    assert (sample.queries.height, sample.judgements.height) == (150, 6_678)
    grades = dict(sample.judgements["grade"].value_counts().rows())
    assert grades == {3: 3_389, 2: 1_898, 1: 305, 0: 1_086}
    real(labdata.DATA_SETS["wands_queries_only"])
    queries = labdata.load_wands_queries()
    assert (queries.rows.height, queries.rows["label"].null_count()) == (480, 6)


def test_real_amazon_beauty():
    real(labdata.DATA_SETS["amazon_beauty_5core"])
    data = labdata.load_amazon_beauty()
    assert (data.users.height, data.items.height) == (22_363, 12_101)
    events = data.events.collect()
    assert events.height == 198_502
    lengths = data.sequences()["item_ids"].list.len()
    assert (lengths.len(), lengths.min()) == (22_363, 5)
    assert data.items["attributes"].list.len().min() >= 1
    first = events.filter(user_id=2)
    assert first["seconds"].to_list()[:5] == [0, 0, 0, 259200, 6393600]


def test_real_diginetica():
    real(labdata.DATA_SETS["sessions_diginetica_gcegnn"])
    data = labdata.load_diginetica()
    lengths = data.train["item_ids"].list.len()
    assert (data.train.height, lengths.sum(), data.test.height) == (186_670, 906_140, 60_858)
    assert (lengths - 1).sum() == 719_470
    assert data.train["item_ids"].explode().n_unique() == 43_097


def test_real_ciao():
    real(labdata.DATA_SETS["ciao_social"])
    data = labdata.load_ciao()
    events = data.events.collect()
    assert (events.height, data.users.height, data.items.height) == (284_086, 7_375, 105_114)
    assert data.links.height == 57_544
    assert events["time"].is_sorted()
    assert (events["time"].min().year, events["time"].max().year) == (2000, 2011)


def test_real_sentiment():
    real(labdata.DATA_SETS["zh_reviews_chinesenlpcorpus"])
    assert [labdata.load_zh_reviews(part).rows.height for part in ("shopping", "delivery", "hotel")] == [
        62_773,
        11_987,
        7_765,
    ]
    assert labdata.load_zh_reviews().rows["category"].n_unique() == 10
    real(labdata.DATA_SETS["finance_sentiment"])
    phrases = labdata.load_phrasebank()
    counts = dict(phrases.rows["label"].value_counts().rows())
    assert counts == {"neutral": 2_879, "positive": 1_363, "negative": 604}
    assert [labdata.load_finance_scores(part).rows.height for part in ("headlines", "posts")] == [1_142, 675]


def test_real_hillstrom():
    real(labdata.DATA_SETS["hillstrom_email_ab_test"])
    means = labdata.load_hillstrom().means()
    assert means["people"].sum() == 64_000
    expected = {
        "No E-Mail": (0.1062, 0.00573, 0.653),
        "Mens E-Mail": (0.1828, 0.01253, 1.423),
        "Womens E-Mail": (0.1514, 0.00884, 1.077),
    }
    for arm, _, *found in means.rows():
        np.testing.assert_allclose(found, expected[arm], atol=6e-4)
