"""Reviews: the same every time, true to what they claim to say; spam that no single sign gives away."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from labkit.shop import declarations, products
from labkit.shop.chance import Dice
from labkit.shop.grammar import Grammar, prose
from labkit.shop.review_text import aspects_of, every_aspect, grammar
from labkit.shop.reviews import COLUMNS, make_reviews, make_spam

PEOPLE = 400


@pytest.fixture(scope="module")
def shelf() -> pl.DataFrame:
    made = products.make_products(list(declarations.departments().values()), 700, 0)
    return pl.DataFrame(
        {
            "product_id": np.arange(len(made), dtype="i4"),
            "category": [p.category for p in made],
            "department": [p.department for p in made],
            "brand": [p.brand for p in made],
            "attributes": [json.dumps({"line": p.line, **p.attributes}) for p in made],
        }
    )


@pytest.fixture(scope="module")
def quality(shelf: pl.DataFrame) -> np.ndarray:
    return np.random.default_rng(1).beta(4, 3, shelf.height)


@pytest.fixture(scope="module")
def shoppers() -> pl.DataFrame:
    chinese = np.random.default_rng(2).random(PEOPLE) < 0.4
    return pl.DataFrame({"shopper_id": range(PEOPLE), "lang": np.where(chinese, "zh", "en")})


@pytest.fixture(scope="module")
def purchases(shelf: pl.DataFrame) -> pl.DataFrame:
    rng, count = np.random.default_rng(3), 40_000
    return pl.DataFrame(
        {
            "shopper_id": rng.integers(0, PEOPLE, count).astype("i4"),
            "product_id": (shelf.height * rng.random(count) ** 4).astype("i4"),  # some sell far more
            "time": np.datetime64("2025-09-01", "ms") + rng.integers(0, 300 * 86_400_000, count),
            "returned": rng.random(count) < 0.08,
        }
    )


@pytest.fixture(scope="module")
def reviews(
    purchases: pl.DataFrame, shelf: pl.DataFrame, quality: np.ndarray, shoppers: pl.DataFrame
) -> pl.DataFrame:
    return make_reviews(purchases, shelf, quality, shoppers, seed=0)


def test_the_same_every_time(purchases, shelf, quality, shoppers, reviews):
    again = make_reviews(purchases, shelf, quality, shoppers, seed=0)
    assert again.equals(reviews)
    other = make_reviews(purchases, shelf, quality, shoppers, seed=1)
    assert not other["text"].head(50).equals(reviews["text"].head(50))


def test_the_same_in_another_process():
    """Python's hash seed, which orders sets, changes nothing."""
    script = (
        "import hashlib, labkit.shop.review_text as r; from labkit.shop.chance import Dice;"
        "dice = Dice(0, 'test'); hand = r.Hand(False, True, True, True, False);"
        "p = {'category': 'sofas', 'department': 'furniture', 'brand': 'Oak', 'attributes': '{}'};"
        "print([r.write_review(s, p, {}, False, False, l, hand, dice) for s in (1, 3, 5)"
        "       for l in ('en', 'zh')])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2", "3")
    }
    assert len(said) == 1


def test_columns_and_ranges(reviews, purchases):
    assert dict(reviews.schema) == {
        name: dtype() if isinstance(dtype, type) else dtype for name, dtype in COLUMNS.items()
    }
    assert reviews["review_id"].to_list() == list(range(reviews.height))
    assert reviews["time"].is_sorted()
    assert reviews["rating"].is_between(1, 5).all()
    assert reviews["sentiment"].is_between(-1, 1).all()
    bought = purchases.select("shopper_id", "product_id", pl.col("time").alias("bought_at"))
    pairs = reviews.join(bought, on=["shopper_id", "product_id"], how="left")
    late = pairs.group_by("review_id").agg(
        ((pl.col("time") - pl.col("bought_at")).dt.total_hours().is_between(24, 24 * 70)).any().alias("ok")
    )
    assert late["ok"].all()  # every review follows a purchase of that product by that shopper


def test_stars_follow_quality_and_returns(reviews, quality, purchases):
    seen = reviews.with_columns(quality=pl.Series(quality[reviews["product_id"].to_numpy()]))
    assert np.corrcoef(seen["quality"], seen["rating"])[0, 1] > 0.25
    shuffled = np.random.default_rng(0).permutation(seen["quality"].to_numpy())
    assert abs(np.corrcoef(shuffled, seen["rating"])[0, 1]) < 0.05
    back = purchases.group_by("shopper_id", "product_id").agg(pl.col("returned").max(), pl.len())
    joined = reviews.join(back.filter(pl.col("len") == 1), on=["shopper_id", "product_id"])
    mean = {key: part["rating"].mean() for (key,), part in joined.group_by("returned")}
    assert mean[True] < mean[False] - 1


def test_stars_are_j_shaped(reviews):
    share = [(reviews["rating"] == stars).mean() for stars in range(1, 6)]
    assert share[4] == max(share)
    assert 0.4 < share[4] < 0.75
    assert share[0] > share[1]
    assert share[0] > share[2] * 0.8


def test_the_truth_about_a_text(reviews):
    """Aspects that a review is said to name are named; the sentiment goes against the stars in about 2 %."""
    goods = {
        "size": r"\bfits?\b|\bsize|slots|dimensions|room|compact|measure",
        "delivery": r"arriv|deliver|came|driver|courier|track",
    }
    for aspect, pattern in goods.items():
        praised = [
            row["text"].lower()
            for row in reviews.filter(pl.col("lang") == "en").iter_rows(named=True)
            if json.loads(row["aspects"]).get(aspect) == 1
        ]
        assert len(praised) > 50
        assert np.mean([bool(re.search(pattern, text)) for text in praised]) > 0.97  # the rest have typos
    extreme = reviews.filter(pl.col("rating").is_in([1, 5]))
    against = ((extreme["rating"] - 3) * extreme["sentiment"] < 0).mean()
    assert 0.008 < against < 0.045
    assert np.corrcoef(reviews["rating"], reviews["sentiment"])[0, 1] > 0.85


def test_sentiment_can_be_read_from_the_words(reviews):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    for lang, analyser in (("en", "word"), ("zh", "char")):
        part = reviews.filter((pl.col("lang") == lang) & (pl.col("sentiment").abs() > 0.3))
        half = part.height // 2
        words = TfidfVectorizer(analyzer=analyser, ngram_range=(1, 2), min_df=2)
        features, happy = words.fit_transform(part["text"].to_list()), (part["sentiment"] > 0).to_numpy()
        right = (
            LogisticRegression(C=4).fit(features[:half], happy[:half]).score(features[half:], happy[half:])
        )
        assert right > happy[half:].mean() + 0.1
        assert right > 0.9


def test_a_model_of_simulated_reviews_reads_real_ones(reviews):
    """Realism check on real Chinese shopping reviews (ChineseNlpCorpus), where LABKIT_DATA holds them."""
    places = [Path(folder) for folder in os.environ.get("LABKIT_DATA", "").split(os.pathsep) if folder]
    found = [file for place in places for file in place.rglob("online_shopping_10_cats.parquet")]
    if not found:
        pytest.skip("LABKIT_DATA holds no Chinese shopping reviews")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    clear = reviews.filter((pl.col("lang") == "zh") & (pl.col("sentiment").abs() > 0.3))
    words = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), min_df=2, sublinear_tf=True)
    model = LogisticRegression(C=4, class_weight="balanced")
    model.fit(words.fit_transform(clear["text"].to_list()), (clear["sentiment"] > 0).to_numpy())
    real = pl.read_parquet(found[0]).drop_nulls().sample(6_000, seed=0)
    right = (
        model.predict(words.transform(real["review"].to_list())) == (real["label"] == 1).to_numpy()
    ).mean()
    print(f"accuracy {right:.3f}, majority {max(real['label'].mean(), 1 - real['label'].mean()):.3f}")
    assert right > 0.7


def test_texts_are_varied_and_clean(reviews):
    assert reviews["text"].n_unique() / reviews.height > 0.9
    most = reviews["text"].value_counts().sort("count", descending=True)
    assert most["count"][0] < 0.01 * reviews.height
    bad = reviews.filter(pl.col("text").str.contains(r"[\[\]{}|]|  |，，|。，|^\s|\s$| ,|\ban? jeans\b"))
    assert bad["text"].to_list() == []
    chinese = reviews.filter(pl.col("lang") == "zh")["text"]
    assert chinese.str.contains(r"\p{Han}|👍|❤").mean() > 0.999
    english = reviews.filter(pl.col("lang") == "en")["text"]
    assert not english.str.contains(r"\p{Han}").any()


def test_chinese_lengths_are_like_real_ones(reviews):
    """Quartiles of 62,773 real reviews of ten departments (ChineseNlpCorpus): 21, 34 and 64 characters."""
    length = reviews.filter(pl.col("lang") == "zh")["text"].str.len_chars()
    for share, real in ((0.25, 21), (0.5, 34), (0.75, 64)):
        assert 0.7 < length.quantile(share) / real < 1.3


def test_every_aspect_has_words_in_both_languages():
    for lang in ("en", "zh"):
        for aspect in every_aspect():
            assert f"good_{aspect}" in grammar(lang), (lang, aspect)
            assert f"bad_{aspect}" in grammar(lang), (lang, aspect)
    names = {c.name: d.name for d in declarations.departments().values() for c in d.categories.values()}
    assert set(names) == set(prose("reviews_zh")["nouns"])
    assert set(prose("reviews")["aspects"]) <= {*names, *names.values()}
    assert all(aspects_of(category, department) for category, department in names.items())


def test_no_purchases_no_reviews(purchases, shelf, quality, shoppers):
    none = make_reviews(purchases.head(0), shelf, quality, shoppers, seed=0)
    assert none.height == 0
    assert none.columns == list(COLUMNS)


@pytest.fixture(scope="module")
def spam(shelf: pl.DataFrame) -> pl.DataFrame:
    sellers = np.array_split(np.random.default_rng(4).permutation(shelf.height), 40)
    return make_spam(shelf, [ids.tolist() for ids in sellers], range(120), 300, seed=0, first_id=10_000)


def test_spam_comes_in_bursts_of_like_texts(shelf, spam, reviews):
    assert spam.height == 300
    assert dict(spam.schema) == dict(reviews.schema)
    assert spam["review_id"].to_list() == list(range(10_000, 10_300))
    assert spam["text"].n_unique() < 0.9 * spam.height < reviews["text"].n_unique()
    near = spam.sort("product_id", "time").with_columns(
        gap=pl.col("time").diff().over("product_id").dt.total_minutes()
    )
    assert near["gap"].median() < 24 * 60
    with pytest.raises(ValueError, match="at least one seller"):
        make_spam(shelf, [[]], range(3), 5, seed=0)


def test_spam_is_found_by_several_signs_but_by_no_single_one(spam, reviews):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import average_precision_score

    both = pl.concat([reviews.with_columns(spam=pl.lit(False)), spam.with_columns(spam=pl.lit(True))])
    both = both.with_columns(
        unverified=(~pl.col("verified")).cast(pl.Float64),
        extreme=pl.col("rating").is_in([1, 5]).cast(pl.Float64),
        same_text=pl.len().over("text").cast(pl.Float64),
        opening=pl.len().over(pl.col("text").str.slice(0, 8)).cast(pl.Float64),
        burst=pl.len().over("product_id", pl.col("time").dt.date()).cast(pl.Float64),
        length=pl.col("text").str.len_chars().cast(pl.Float64),
    )
    signs = ["unverified", "extreme", "same_text", "opening", "burst", "length"]
    truth = both["spam"].to_numpy()
    single = {sign: average_precision_score(truth, both[sign]) for sign in signs}
    train = np.random.default_rng(0).random(both.height) < 0.5
    forest = RandomForestClassifier(60, random_state=0, min_samples_leaf=3)
    features = both.select(signs).to_numpy()
    found = forest.fit(features[train], truth[train]).predict_proba(features[~train])[:, 1]
    together = average_precision_score(truth[~train], found)
    assert max(single.values()) < 0.9, single
    assert together > max(single.values()) + 0.03
    assert together > 0.8


def test_grammar_refuses_what_it_cannot_write():
    with pytest.raises(ValueError, match="neither a rule nor a word"):
        Grammar({"greet": "hello {nobody}"}, words=())
    with pytest.raises(ValueError, match="brackets that do not match"):
        Grammar({"greet": "hello [you|there"}, words=())
    with pytest.raises(ValueError, match="stray"):
        Grammar({"greet": "hello | there"}, words=())


def test_grammar_writes_every_alternative():
    rules = Grammar({"greet": "[hello|hi [there|you|]] {name}", "tail": "{greet}!"}, words=("name",))
    dice = Dice(0, "test")
    said = {rules.write("tail", dice, {"name": "Ann"}) for _ in range(200)}
    assert said == {"hello Ann!", "hi there Ann!", "hi you Ann!", "hi  Ann!"}
