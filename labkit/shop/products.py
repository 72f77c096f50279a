"""Makes the products: models with a brand, a line and attributes, each sold in a few variants."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from labkit.shop.chance import Dice
from labkit.shop.chinese import chinese
from labkit.shop.declarations import Brand, Category, Department
from labkit.shop.listing import STYLES, Listing, write_listing
from labkit.shop.listing_zh import write_listing_zh

# A shop is sold by people with habits: most write plain listings, some hardly bother, some overdo it.
# Sellers fill in a form, so most descriptions end with the usual name of the thing, whatever the title says.
TYPED = 0.85
SELLERS = 9  # of each department; each has its own style in each category
STYLE_WEIGHTS = {"standard": 0.46, "terse": 0.2, "stuffed": 0.17, "flowery": 0.17}


@dataclass(frozen=True)
class Product:
    category: str
    department: str
    brand: str
    line: str
    model: str
    attributes: dict[str, str]
    price: float
    title: str
    description: str
    title_zh: str = ""
    description_zh: str = ""
    seller: int = 0  # which of the department's sellers


def make_products(departments: list[Department], count: int, seed: int) -> list[Product]:
    """Fill every category of the departments with products, in total exactly ``count``."""
    categories = [(d, c) for d in departments for c in d.categories.values()]
    products: list[Product] = []
    shares = [category.share for _, category in categories]
    left, share_left = count, sum(shares)
    for (department, category), share in zip(categories, shares, strict=True):
        # Rounding what is left, rather than each share, makes the total exact.
        quota = round(left * share / share_left)
        left, share_left = left - quota, share_left - share
        products += _fill(department, category, quota, seed)
    return products


def _fill(department: Department, category: Category, quota: int, seed: int) -> list[Product]:
    dice = Dice(seed, "products", department.name, category.name)
    words = Dice(seed, "listings", department.name, category.name)
    words_zh = Dice(seed, "listings-zh", department.name, category.name)
    types = Dice(seed, "product types", department.name, category.name)
    names_zh = chinese()[department.name].categories[category.name].nouns.listed
    brands = dice.shuffled([b for b in department.brands.values() if category.name in b.makes])
    styles = [list(STYLE_WEIGHTS)[dice.weighted(list(STYLE_WEIGHTS.values()))] for _ in range(SELLERS)]
    products: list[Product] = []
    while len(products) < quota:
        brand = dice.ranked(brands, steepness=0.25)
        line = dice.ranked(list(brand.lines), steepness=0.3)
        model = _model_number(department.models, dice)
        base = _attributes(category, brand, line, dice)
        base_price = _price(category, brand, base, dice)
        varying = list(category.attributes[category.vary].values)
        fixed = category.vary in brand.lines[line]
        variants = (
            [base[category.vary]] if fixed else dice.some(varying, 1 + dice.weighted([0.34, 0.36, 0.2, 0.1]))
        )
        for value in variants[: quota - len(products)]:
            attributes = {**base, category.vary: value}
            seller = dice.below(SELLERS)
            style = styles[seller]
            assert style in STYLES
            listing = Listing(department, category, brand.name, line, model, attributes, style)
            title, description = write_listing(listing, words)
            title_zh, description_zh = write_listing_zh(listing, words_zh)
            if types.happens(TYPED):
                description = f"{description} Product type: {category.nouns.listed[0]}.".strip()
                description_zh = f"{description_zh}商品类型：{names_zh[0]}。"
            price = _rounded(
                base_price * _size_factor(category, category.vary, value) * dice.between(0.92, 1.1)
            )
            products.append(
                Product(
                    category.name, department.name, brand.name, line, model, attributes, price, title,
                    description, title_zh, description_zh, seller
                )
            )  # fmt: skip
    return products


def _attributes(category: Category, brand: Brand, line: str, dice: Dice) -> dict[str, str]:
    chosen = {
        name: dice.ranked(dice.shuffled(list(attribute.values)), steepness=0.35)
        for name, attribute in category.attributes.items()
    }
    for name, value in brand.lines[line].items():
        if name in category.attributes and value in category.attributes[name].values:
            chosen[name] = value
    return chosen


def _price(category: Category, brand: Brand, attributes: dict[str, str], dice: Dice) -> float:
    low, high = category.price
    # The product of two uniforms leans towards the cheap end, as shop prices do.
    price = low + (high - low) * dice.between(0.05, 1.0) * dice.between(0.1, 0.9)
    for name, value in attributes.items():
        if name != category.vary:
            price *= _size_factor(category, name, value)
    return max(price * brand.tier, 0.8 * low)


def _size_factor(category: Category, name: str, value: str) -> float:
    """More capacity costs more: 0.85 at the low end of an ordered attribute, 1.2 at the high end."""
    attribute = category.attributes[name]
    keys = list(attribute.values)
    if len(keys) < 3 or not all(b in attribute.near[a] for a, b in pairwise(keys)):
        return 1.0
    return 0.85 + 0.35 * keys.index(value) / (len(keys) - 1)


def _rounded(price: float) -> float:
    """Shop prices: whole pounds less a penny above 20, steps of 50 pence less a penny below."""
    step = 1.0 if price >= 20 else 0.5
    return round(max(step, round(price / step) * step) - 0.01, 2)


def _model_number(pattern: str, dice: Dice) -> str:
    letters = "ABCDEFGHKLMNPRSTVXZ"
    marks = {"A": letters, "#": "0123456789"}
    return "".join(dice.one(marks[mark]) if mark in marks else mark for mark in pattern)
