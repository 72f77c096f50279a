"""Reviews of what was bought, whose stars follow the product's hidden quality, and review spam."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import polars as pl

from labkit.shop.chance import Dice, stream
from labkit.shop.declarations import departments
from labkit.shop.grammar import Grammar, prose
from labkit.shop.review_text import Hand, every_aspect, write_review

DAY_MS = 86_400_000
COLUMNS: dict[str, pl.DataType | type[pl.DataType]] = {
    "review_id": pl.Int32,
    "product_id": pl.Int32,
    "shopper_id": pl.Int32,
    "time": pl.Datetime("ms"),
    "rating": pl.Int8,
    "text": pl.String,
    "lang": pl.String,
    "verified": pl.Boolean,
    "helpful": pl.Int16,
    "sentiment": pl.Float64,
    "aspects": pl.String,
}


def make_reviews(
    purchases: pl.DataFrame, products: pl.DataFrame, quality: np.ndarray, shoppers: pl.DataFrame, seed: int
) -> pl.DataFrame:
    """Reviews of some purchases, ordered by time.

    People with strong opinions write more often, so the stars are J-shaped, as on real shops (Hu, Zhang and
    Pavlou 2009, "Overcoming the J-shaped distribution of product reviews").

    Args:
        purchases: One row per purchase: shopper_id, product_id, time (Datetime), returned (bool).
        products: product_id (row number), category, department, brand, attributes (JSON).
        quality: (N,) hidden quality of every product, in [0, 1].
        shoppers: shopper_id (row number), lang ("en" or "zh").
        seed: The market's seed.

    Returns:
        The columns of ``COLUMNS``; ``sentiment`` is that of the text in [-1, 1], ``aspects`` JSON such as
        ``{"size": -1, "delivery": 1}``.

    Example:
        >>> import labkit.shop
        >>> products = labkit.shop.load("tiny").products
        >>> bought = pl.DataFrame({"shopper_id": [0] * 90, "product_id": range(90), "returned": [False] * 90})
        >>> bought = bought.with_columns(time=pl.datetime(2025, 9, 1))
        >>> people = pl.DataFrame({"shopper_id": [0], "lang": ["en"]})
        >>> reviews = make_reviews(bought, products, np.linspace(0, 1, 600), people, seed=0)
        >>> reviews["rating"].is_between(1, 5).all(), reviews.columns == list(COLUMNS)
        (True, True)
    """
    count, people = purchases.height, shoppers.height
    product = purchases["product_id"].to_numpy()
    shopper = purchases["shopper_id"].to_numpy()
    returned = purchases["returned"].fill_null(False).to_numpy()
    strict = stream(seed, "reviews", "strictness").random(people)
    noise = stream(seed, "reviews", "noise").random((count, 4))
    late = noise[:, 3] < 0.05
    # Three uniforms make a bell. The constants put about 55 % of the reviews at five stars.
    bell = noise[:, 0] + noise[:, 1] + noise[:, 2] - 1.5
    # A running sum, because its order of addition is the same everywhere.
    usual = np.cumsum(quality[product])[-1] / count if count else 0.5
    content = (
        0.66 + 0.6 * (quality[product] - usual) - 0.22 * (strict[shopper] - 0.5) + 0.36 * bell
        - 0.5 * returned - 0.3 * late
    )  # fmt: skip
    rating = 1 + (content > 0.24) + (content > 0.34) + (content > 0.45) + (content > 0.615)
    # Few write about what merely works.
    strong = np.abs(content - 0.55)
    writes = stream(seed, "reviews", "who").random(count) < 0.08 + 0.35 * np.minimum(strong, 0.6)

    chosen = np.flatnonzero(writes)
    delay = stream(seed, "reviews", "delay").random(len(chosen))
    days = 1.5 + 6 * delay + 60 * delay * delay * delay * delay
    sent = purchases["time"].dt.cast_time_unit("ms").to_numpy()[chosen].astype("i8")
    time = sent + (days * DAY_MS).astype("i8") // 1000 * 1000
    order = np.argsort(time, kind="stable")
    chosen, time = chosen[order], time[order]

    lang = shoppers["lang"].to_list()
    texts = _texts(chosen, rating, product, shopper, returned, late, products, lang, seed)
    crowd = stream(seed, "reviews", "helpful").random((len(chosen), 3))
    length = np.array([len(text) for text, _, _ in texts], dtype=float)
    helpful = np.minimum(crowd[:, 0] / (1.02 - crowd[:, 0]) * (0.3 + length / 200) - 0.7, 300)
    return pl.DataFrame(
        {
            "review_id": np.arange(len(chosen)),
            "product_id": product[chosen],
            "shopper_id": shopper[chosen],
            "time": pl.Series(time).cast(pl.Datetime("ms")),
            "rating": rating[chosen],
            "text": [text for text, _, _ in texts],
            "lang": [lang[s] for s in shopper[chosen]],
            "verified": crowd[:, 1] > 0.07,
            "helpful": np.maximum(helpful, 0).astype("i2"),
            "sentiment": [sentiment for _, sentiment, _ in texts],
            "aspects": [aspects for _, _, aspects in texts],
        },
        schema_overrides=COLUMNS,
    )


def _texts(
    chosen: np.ndarray, rating: np.ndarray, product: np.ndarray, shopper: np.ndarray, returned: np.ndarray,
    late: np.ndarray, products: pl.DataFrame, lang: list[str], seed: int,
) -> list[tuple[str, float, str]]:  # fmt: skip
    names = every_aspect()
    # What everybody who owns a product finds good or bad about it, beyond its quality as a whole.
    own = stream(seed, "reviews", "leanings").random((products.height, len(names))) * 0.6 - 0.3
    hands = stream(seed, "reviews", "hands").random((len(lang), 5)) < (0.2, 0.14, 0.18, 0.2, 0.3)
    facts = products.select("category", "department", "brand", "attributes").rows(named=True)
    dice = Dice(seed, "reviews", "texts")
    texts = []
    for row in chosen.tolist():
        leanings = dict(zip(names, own[product[row]].tolist(), strict=True))
        review = write_review(
            int(rating[row]), facts[product[row]], leanings, bool(returned[row]), bool(late[row]),
            lang[shopper[row]], Hand(*hands[shopper[row]].tolist()), dice,
        )  # fmt: skip
        texts.append((review.text, review.sentiment, json.dumps(review.aspects)))
    return texts


def make_spam(
    products: pl.DataFrame,
    sellers: Sequence[Sequence[int]],
    accounts: Sequence[int],
    count: int,
    seed: int,
    first_id: int = 0,
    year: tuple[str, int] = ("2025-09-01", 365),
) -> pl.DataFrame:
    """Bought reviews: bursts of five stars for one seller's products, or of one star for a rival's.

    A burst lasts hours, comes from a handful of accounts and varies a few templates. One review in twelve
    says that it is verified (the flag can be faked), and two campaigns in five are spread over weeks, so that
    no single sign gives all of it away.

    Args:
        products: As for ``make_reviews``.
        sellers: The product ids of each seller.
        accounts: shopper ids to sign with.
        count: Reviews to make.
        first_id: review_id of the first one.
        year: First day and number of days.

    Raises:
        ValueError: No seller has a product, or there are no accounts.

    Example:
        >>> import labkit.shop
        >>> products = labkit.shop.load("tiny").products
        >>> spam = make_spam(products, [range(0, 30), range(30, 60)], range(10), count=40, seed=0)
        >>> spam.height, set(spam["rating"].to_list()) <= {1, 5}
        (40, True)
    """
    shops = [list(ids) for ids in sellers if len(ids)]
    if not shops or not len(accounts):
        raise ValueError("Review spam needs at least one seller with products and one account to sign with.")
    facts = products.select("category", "brand").rows(named=True)
    words = prose("spam")
    grammars = {lang: Grammar(words[lang], ("noun", "brand")) for lang in ("en", "zh")}
    asked = {name: c.nouns.asked[0] for d in departments().values() for name, c in d.categories.items()}
    nouns = {"en": asked, "zh": prose("reviews_zh")["nouns"]}
    dice = Dice(seed, "spam")
    start = int(np.datetime64(year[0], "ms").astype("i8"))
    rows: list[dict[str, object]] = []
    while len(rows) < count:
        targets = dice.some(dice.one(shops), 1 + dice.below(3))
        praise, lang = dice.happens(0.7), "zh" if dice.happens(0.35) else "en"
        crew = dice.some(accounts, 4 + dice.below(20))
        hours = dice.between(2, 12) if dice.happens(0.6) else dice.between(200, 700)
        begin = dice.between(3, year[1] - 31)
        rule = "praise" if praise else "attack"
        pitch = grammars[lang].narrowed(rule, 2 + dice.below(3), dice)
        for _ in range(min(5 + dice.below(36), count - len(rows))):
            target = dice.one(targets)
            fact = facts[target]
            noun = nouns[lang][fact["category"]]
            text = pitch.write(rule, dice, {"noun": noun, "brand": fact["brand"]})
            rows.append(
                {
                    "product_id": target,
                    "shopper_id": dice.one(crew),
                    "time": start + int((begin * 24 + hours * dice.between(0, 1)) * 3600) * 1000,
                    "rating": 5 if praise else 1,
                    "text": text,
                    "lang": lang,
                    "verified": dice.happens(1 / 12),
                    # The crew votes for itself.
                    "helpful": dice.below(12) if dice.happens(0.4) else 0,
                    "sentiment": 0.9 if praise else -0.9,
                    "aspects": "{}",
                }
            )
    made = pl.DataFrame(rows, schema_overrides=COLUMNS).sort("time", maintain_order=True)
    return made.select(pl.int_range(first_id, first_id + count, dtype=pl.Int32).alias("review_id"), pl.all())
