"""What the shop's truth knows about a product and no listing says: style, quality, appeal; and its seller."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from labkit.shop.calendar import DAYS
from labkit.shop.chance import Dice, stream
from labkit.shop.products import SELLERS, Product
from labkit.shop.relevance import Facts
from labkit.shop.sessions import price_ranks

TASTES = 4  # dimensions of style
# A usual weight in kilograms; a category's own is between half of it and twice.
_WEIGHT = {
    "furniture": 24.0,
    "kitchen": 2.6,
    "computing": 1.6,
    "audio and phones": 0.4,
    "bed, bath and textiles": 1.3,
    "clothing": 0.5,
    "shoes, bags and luggage": 0.9,
    "sports and outdoors": 3.0,
    "baby": 3.5,
    "toys and games": 0.9,
    "beauty and care": 0.3,
    "garden and DIY": 4.5,
    "pets": 1.6,
}


@dataclass(frozen=True)
class Shelf:
    """Arrays over the N products, in the order of their ids.

    Attributes:
        facts: categories, brands and attributes as codes, for grading.
        category: number of the category in ``categories``.
        department: number of the department in ``departments``.
        price_rank: rank of the list price within the category, 0 the cheapest, 1 the dearest.
        style: (N, 4) in [-1, 1]; mostly what the attributes look like (so that a picture or a text predicts
            it), partly the product's own (so that only behaviour reveals it).
        quality: in [0, 1]; drives ratings and returns.
        appeal: in (0, 1], heavy-tailed: a few products draw most eyes.
        known: what the shop counted before the year began, a noisy view of the appeal.
        seller: number in ``sellers``.
        launched: day of the year on which it came, negative if before.
        weight: kilograms.
        sellers: seller_id, name, department, country, rating, commission.
    """

    facts: Facts
    categories: list[str]
    departments: list[str]
    category: np.ndarray  # (N,) int64
    department: np.ndarray  # (N,) int64
    price: np.ndarray  # (N,) float64
    price_rank: np.ndarray  # (N,) float64
    style: np.ndarray  # (N, 4) float64
    quality: np.ndarray  # (N,) float64
    appeal: np.ndarray  # (N,) float64
    known: np.ndarray  # (N,) float64
    seller: np.ndarray  # (N,) int64
    launched: np.ndarray  # (N,) int64
    weight: np.ndarray  # (N,) float64
    sellers: pl.DataFrame

    def department_of(self) -> np.ndarray:
        """The department of each category. Returns (C,) int64."""
        table = np.zeros(len(self.categories), dtype=np.int64)
        table[self.category] = self.department
        return table


def make_shelf(products: list[Product], seed: int) -> Shelf:
    """Draw the hidden side of every product.

    Args:
        products: the catalogue; its order gives the product ids.
        seed: of the market.
    """
    n = len(products)
    facts = Facts(products)
    categories = list(facts.category.index)
    departments = list(dict.fromkeys(p.department for p in products))
    number = {name: i for i, name in enumerate(departments)}
    department = np.array([number[p.department] for p in products])
    sellers = _sellers(departments, seed)
    seller = department * SELLERS + np.array([p.seller for p in products])
    rng = stream(seed, "shelf", "quality")
    price_rank = price_ranks(products)
    # Dear things are a little better, and some sellers are better than others.
    better = np.array(sellers["rating"])[seller] / 5
    quality = 0.45 * rng.random(n) + 0.2 * rng.random(n) + 0.2 * price_rank + 0.15 * better
    rng = stream(seed, "shelf", "appeal")
    appeal = 0.02 / (0.02 + rng.random(n)) * (0.5 + 0.5 * quality)
    rng = stream(seed, "shelf", "launch")
    new = rng.random(n) < 0.3
    launched = np.where(new, np.floor(rng.random(n) * DAYS), -1 - np.floor(rng.random(n) * 900))
    weights = np.array(
        [_WEIGHT[departments[d]] for d in department]
    ) * np.array([0.5 + 1.5 * stream(seed, "shelf", "weight", name).random() for name in categories])[
        facts.category.codes
    ]  # fmt: skip
    spread = stream(seed, "shelf", "weight")
    return Shelf(
        facts=facts,
        categories=categories,
        departments=departments,
        category=facts.category.codes,
        department=department,
        price=facts.price,
        price_rank=price_rank,
        style=_styles(facts, n, seed),
        quality=quality,
        appeal=appeal,
        known=appeal + 0.3 * stream(seed, "shelf", "known").random(n),
        seller=seller,
        launched=launched.astype(np.int64),
        weight=np.round(weights * (0.7 + 0.6 * spread.random(n)), 3),
        sellers=sellers,
    )


def _styles(facts: Facts, n: int, seed: int) -> np.ndarray:
    """Each attribute value and each brand leans somewhere, the same way in every market. Returns (N, 4)."""
    total, parts = np.zeros((n, TASTES)), np.zeros((n, 1))
    for name, coded in [*facts.attributes.items(), ("brand", facts.brand)]:
        leanings = [2 * stream(0, "style", name, value).random(TASTES) - 1 for value in coded.index]
        table = np.array([*leanings, np.zeros(TASTES)])  # code -1, no such attribute, reads the last row
        total += table[coded.codes]
        parts += (coded.codes >= 0)[:, None]
    looks = total / np.sqrt(parts)  # as wide as one leaning, however many attributes there are
    own = 2 * stream(seed, "shelf", "style").random((n, TASTES)) - 1
    return np.clip(0.75 * looks + 0.45 * own, -1, 1)


_FIRST = ("North", "Bright", "Harbour", "Copper", "Maple", "Silver", "Union", "River", "Summit", "Garden",
          "Lantern", "Orchard", "Kingfisher", "Pearl", "Granite", "Meadow")  # fmt: skip
_SECOND = ("Trading", "Goods", "House", "Supply", "Direct", "Store", "Merchants", "Works", "Outlet", "Co")


def _sellers(departments: list[str], seed: int) -> pl.DataFrame:
    dice = Dice(seed, "sellers")
    seen: set[str] = set()
    rows: list[dict[str, object]] = []
    for name in departments:
        for _ in range(SELLERS):
            title = f"{dice.one(_FIRST)} {dice.one(_SECOND)}"
            while title in seen:
                title = f"{dice.one(_FIRST)} {dice.one(_FIRST)} {dice.one(_SECOND)}"
            seen.add(title)
            rows.append(
                {
                    "seller_id": len(rows),
                    "name": title,
                    "department": name,
                    "country": ("GB", "CN", "DE", "PL")[dice.weighted([0.45, 0.35, 0.12, 0.08])],
                    "rating": round(dice.between(2.6, 3.9) + dice.between(0, 1.1), 1),
                    "commission": (0.08, 0.1, 0.12, 0.15)[dice.below(4)],
                }
            )
    return pl.DataFrame(rows, schema_overrides={"seller_id": pl.Int32})
