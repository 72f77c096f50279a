"""Customer service: passages and questions of a small shop with made-up purchases."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from labkit.rank import BM25
from labkit.shop.declarations import departments
from labkit.shop.grammar import prose
from labkit.shop.products import make_products
from labkit.shop.service import PRODUCT_TOPIC, make_passages, make_questions

CHINESE = re.compile(r"[\u4e00-\u9fff]")
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
QUESTIONS = 4_000


@dataclass(frozen=True)
class Shop:
    products: pl.DataFrame
    purchases: pl.DataFrame
    shoppers: pl.DataFrame
    passages: pl.DataFrame
    questions: pl.DataFrame


@pytest.fixture(scope="module")
def shop() -> Shop:
    made = make_products(list(departments().values()), 1_800, seed=3)
    products = pl.DataFrame(
        {
            "product_id": pl.Series(range(len(made)), dtype=pl.Int32),
            "title": [p.title for p in made],
            "description": [p.description for p in made],
            "title_zh": [p.title_zh for p in made],
            "description_zh": [p.description_zh for p in made],
            "brand": [p.brand for p in made],
            "category": [p.category for p in made],
            "department": [p.department for p in made],
            "attributes": [
                json.dumps({"line": p.line, **({"model": p.model} if p.model else {}), **p.attributes})
                for p in made
            ],
        }
    )
    rng = np.random.default_rng(3)
    shoppers = pl.DataFrame(
        {
            "shopper_id": range(300),
            "lang": ["zh" if n % 3 == 0 else "en" for n in range(300)],
            "name": ["王小明" if n % 3 == 0 else "Ada Brook" for n in range(300)],
        }
    )
    purchases = pl.DataFrame(
        {
            "session_id": range(3_000),
            "shopper_id": rng.integers(300, size=3_000),
            "time": [datetime(2025, 9, 1) + timedelta(minutes=170 * n) for n in range(3_000)],
            "product_id": rng.integers(len(made), size=3_000),
        }
    )
    passages = make_passages(products, seed=3)
    questions = make_questions(passages, products, purchases, shoppers, QUESTIONS, seed=3)
    return Shop(products, purchases, shoppers, passages, questions)


def answered(shop: Shop) -> pl.DataFrame:
    """One row per question and passage."""
    passages = shop.passages.select(
        pl.all().name.suffix("_p"), passage_ids=pl.col("passage_id"), row=pl.col("passage_id")
    )
    pairs = shop.questions.filter(pl.col("passage_ids").list.len() > 0).explode("passage_ids")
    return pairs.join(passages, on="passage_ids", how="left")


def test_the_help_pages_say_the_same_in_both_languages():
    for key, entry in prose("service_passages").items():
        english, chinese = (set(NUMBER.findall(entry[lang]["text"])) for lang in ("en", "zh"))
        # Dates are words in one language and figures in the other, and "one" or "two" may be either.
        small = {"1", "2", "3", "4", "11", "12"}
        assert english - small <= chinese, key
        assert chinese - small <= english, key
        assert CHINESE.search(entry["zh"]["title"]), key
        assert not CHINESE.search(str(entry["en"])), key


def test_every_passage_is_there_and_fits_topic_and_language(shop):
    pairs = answered(shop)
    assert pairs["row"].null_count() == 0
    assert (pairs["lang"] == pairs["lang_p"]).all()
    one_topic = pairs.group_by("question_id").agg(pl.col("topic").first(), topics=pl.col("topic_p").unique())
    assert one_topic.select((pl.col("topics").list.contains(pl.col("topic"))).all()).item()
    assert one_topic.filter(pl.col("topics").list.len() > 1).height < 0.05 * QUESTIONS
    langs = shop.questions.join(shop.shoppers.cast({"shopper_id": pl.Int32}), on="shopper_id", how="left")
    assert (langs["lang"] == langs["lang_right"]).all()
    chinese = shop.questions["text"].str.contains(CHINESE.pattern)
    assert (chinese == (shop.questions["lang"] == "zh")).all()


def test_numbers_and_values_of_an_answer_stand_in_its_passages(shop):
    texts = dict(shop.passages.select("passage_id", "text").iter_rows())
    for topic, lang, answer, ids in shop.questions.select(
        "topic", "lang", "answer", "passage_ids"
    ).iter_rows():
        if topic == PRODUCT_TOPIC:  # each passage by itself answers
            value = re.sub(r"^(Yes: |No: |是的，|不是，)", "", answer)
            assert all(value in texts[i] for i in ids), (lang, answer)
        elif answer is not None:
            said = set(NUMBER.findall(" ".join(texts[i] for i in ids)))
            assert set(NUMBER.findall(answer)) <= said, (lang, answer)


def test_one_question_in_eight_is_answered_nowhere(shop):
    empty = shop.questions.filter(pl.col("passage_ids").list.len() == 0)
    assert 0.1 < empty.height / QUESTIONS < 0.14
    assert empty["answer"].null_count() == empty.height
    assert shop.questions["answer"].null_count() == empty.height
    assert not set(empty["topic"]) & set(shop.passages["topic"])


def test_return_windows_follow_the_department_of_what_was_bought(shop):
    days = {
        "clothing": "60", "shoes, bags and luggage": "60", "computing": "21", "audio and phones": "21",
        "furniture": "14", "kitchen": "30", "toys and games": "30",
    }  # fmt: skip
    asked = shop.questions.filter(pl.col("topic") == "return window", pl.col("passage_ids").list.len() == 1)
    told = asked.join(shop.products, on="product_id").filter(pl.col("department").is_in(list(days)))
    assert told.height > 50
    assert told["department"].n_unique() == len(days)
    for department, category, answer in told.select("department", "category", "answer").iter_rows():
        assert NUMBER.findall(answer)[0] == days[department]
        assert category not in ("mattresses", "socks", "earbuds")


def test_yes_and_no_follow_the_attributes_of_the_product(shop):
    """One of the wordings is parsed, and its word looked up in the English declarations."""
    categories = {name: c for d in departments().values() for name, c in d.categories.items()}
    rows = shop.questions.filter(pl.col("topic") == PRODUCT_TOPIC, pl.col("lang") == "en")
    verdicts = {"Yes": 0, "No": 0}
    for text, answer, product in rows.select("text", "answer", "product_id").iter_rows():
        found = re.search(r"i need something (.+?)\. would ", text.lower())
        if not found:
            continue
        category = categories[shop.products["category"][product]]
        has = json.loads(shop.products["attributes"][product])
        verdict, value = answer.split(": ", 1)
        # The answer names a value that the product has, and the word fits that value or it does not.
        values = [attribute.values[has[name]] for name, attribute in category.attributes.items()]
        words = [v.asked for v in values if v.listed[0] == value]
        assert words, (text, answer)
        fits = any(found[1] in map(str.lower, asked) for asked in words)
        misspelt = not any(
            found[1] in map(str.lower, other.asked)
            for attribute in category.attributes.values()
            for other in attribute.values.values()
        )
        assert misspelt or fits == (verdict == "Yes"), (text, answer)
        verdicts[verdict] += 1
    assert min(verdicts.values()) >= 5, verdicts


def test_questions_come_after_the_purchase_and_in_order(shop):
    assert shop.questions["time"].is_sorted()
    first = shop.purchases.group_by("shopper_id").agg(pl.col("time").min().alias("first"))
    joined = shop.questions.join(first.cast({"shopper_id": pl.Int32}), on="shopper_id")
    assert (joined["time"] > joined["first"]).all()
    assert shop.questions["question_id"].to_list() == list(range(QUESTIONS))
    orders = shop.questions.filter(pl.col("text").str.contains(r"PS\d{8}"))
    assert orders.height > 200
    assert orders["product_id"].null_count() == 0
    for text, product in (
        orders.filter(pl.col("topic") != PRODUCT_TOPIC).select("text", "product_id").iter_rows()
    ):
        session = int(re.findall(r"PS(\d{8})", text)[0])
        assert shop.purchases["product_id"][session] == product
    assert shop.questions["text"].str.contains("[{}]").sum() == 0


def test_the_same_seed_asks_the_same(shop):
    again = make_questions(shop.passages, shop.products, shop.purchases, shop.shoppers, 300, seed=3)
    twice = make_questions(shop.passages, shop.products, shop.purchases, shop.shoppers, 300, seed=3)
    other = make_questions(shop.passages, shop.products, shop.purchases, shop.shoppers, 300, seed=4)
    assert again.equals(twice)
    assert not again.equals(other)
    assert make_passages(shop.products, seed=3).equals(shop.passages)


def test_wordings_are_many_in_both_languages():
    plan = prose("service")
    rules = {lang: prose(f"service_{lang}") for lang in ("en", "zh")}
    topics: dict[tuple[str, str], int] = {}
    for lang, said in rules.items():
        for name, case in plan["cases"].items():
            topics[lang, case["topic"]] = topics.get((lang, case["topic"]), 0) + len(said[name].splitlines())
        for topic in plan["unanswered"]:
            topics[lang, topic] = len(said[topic].splitlines())
    assert min(topics.values()) >= 8
    assert {p for case in plan["cases"].values() for p in case["passages"]} == set(prose("service_passages"))


def test_wrong_arguments_are_explained(shop):
    with pytest.raises(ValueError, match="title_zh"):
        make_passages(shop.products.drop("title_zh"), seed=0)
    with pytest.raises(ValueError, match="at least one purchase"):
        make_questions(shop.passages, shop.products, shop.purchases.head(0), shop.shoppers, 5, seed=0)
    with pytest.raises(ValueError, match="lack the policy"):
        make_questions(shop.passages.tail(100), shop.products, shop.purchases, shop.shoppers, 5, seed=0)


def test_keywords_find_most_answers_but_not_all(shop):
    """Recall in the first ten, so that the questions neither quote the help pages nor miss them."""
    passages = shop.passages.filter(pl.col("lang") == "en")
    asked = shop.questions.filter(pl.col("lang") == "en", pl.col("passage_ids").list.len() > 0)
    index = BM25((passages["title"] + " " + passages["text"]).to_list())
    _, places = index.search(asked["text"].to_list(), k=10)
    ids = passages["passage_id"].to_numpy()
    hits = [
        bool(set(ids[row[row >= 0]]) & set(right))
        for row, right in zip(places, asked["passage_ids"].to_list(), strict=True)
    ]
    policy = (asked["topic"] != PRODUCT_TOPIC).to_numpy()
    print(f"BM25 hit@10: all {np.mean(hits):.3f}, policies {np.mean(np.array(hits)[policy]):.3f}")
    assert 0.4 < np.mean(hits) < 0.9
