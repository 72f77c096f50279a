"""What the catalogue states about single products: the facts that customers ask for, in both languages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import polars as pl

from labkit.shop.chance import Dice
from labkit.shop.chinese import chinese_department_of
from labkit.shop.declarations import Category, departments

LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class Fact:
    """One property of a product, and the passages that state it."""

    product: int
    name: str  # what a customer calls the product, enough to tell it from the others
    label: str
    value: str
    listed: str  # the value in the sellers' words
    asked: dict[str, tuple[str, ...]]  # the customers' words for it and for every other value of the category
    passages: tuple[int, ...]


class Shelf:
    """Finds facts about which the described products that answer to a name agree."""

    def __init__(self, passages: pl.DataFrame, products: pl.DataFrame) -> None:
        described = passages.filter(pl.col("kind") == "catalogue").select(
            "product_id", "lang", "passage_id", "title"
        )
        self.passage = {(lang, product): key for product, lang, key, _ in described.iter_rows()}
        self.title = {(lang, product): title for product, lang, _, title in described.iter_rows()}
        ids = described["product_id"].unique(maintain_order=True).to_list()
        rows = products.select("category", "brand", "attributes")
        self.products = {
            product: {"category": category, "brand": brand, **json.loads(facts)}
            for product, (category, brand, facts) in zip(ids, rows[ids].iter_rows(), strict=True)
        }
        self.ids = ids
        self.alike: dict[tuple[str, ...], list[int]] = {}
        for product in ids:
            self.alike.setdefault(self._model(product), []).append(product)
            for lang in LANGUAGES:
                self.alike.setdefault((lang, self.title[lang, product]), []).append(product)

    def _model(self, product: int) -> tuple[str, ...]:
        facts = self.products[product]
        return (facts["category"], facts["brand"], facts["line"], facts.get("model", ""))

    def fact(self, lang: str, dice: Dice) -> Fact:
        """A random property of a random described product."""
        while True:
            product = dice.one(self.ids)
            facts = self.products[product]
            category = facts["category"]
            attribute = dice.one(
                [name for name in _attributes(facts) if _label(category, name, "en") != "for"]
            )
            noun = dice.ranked(nouns(category, lang), steepness=2)
            # People name the model; where its variants differ in what is asked, only the title is enough.
            for name, key in (
                (self._called(product, noun, lang), self._model(product)),
                (self.title[lang, product], (lang, self.title[lang, product])),
            ):
                alike = self.alike[key]
                if any(word in name for word in _phrases(category, attribute, facts[attribute], lang)):
                    continue  # nobody asks which colour the grey one has
                if all(self.products[other].get(attribute) == facts[attribute] for other in alike):
                    value = facts[attribute]
                    return Fact(
                        product=product,
                        name=name,
                        label=_label(category, attribute, lang),
                        value=value,
                        listed=_listed(category, attribute, value, lang),
                        asked={
                            other: _asked(category, attribute, other, lang)
                            for other in _category(category).attributes[attribute].values
                        },
                        passages=tuple(self.passage[lang, other] for other in alike),
                    )

    def _called(self, product: int, noun: str, lang: str) -> str:
        facts = self.products[product]
        brand, line, model = facts["brand"], facts["line"], facts.get("model", "")
        if lang == "zh":
            words = chinese_department_of()[facts["category"]].brands[brand]
            return f"{words.name}{words.lines[line]}{model}{noun}"
        return " ".join(part for part in (brand, line, model, noun) if part)


@cache
def _category(name: str) -> Category:
    return next(d.categories[name] for d in departments().values() if name in d.categories)


def _attributes(facts: dict[str, Any]) -> dict[str, str]:
    """Those of a product's facts that are attributes of its category."""
    return {name: value for name, value in facts.items() if name in _category(facts["category"]).attributes}


def _label(category: str, attribute: str, lang: str) -> str:
    if lang == "zh":
        return chinese_department_of()[category].labels[attribute]
    return _category(category).attributes[attribute].label


def _listed(category: str, attribute: str, value: str, lang: str) -> str:
    if lang == "zh":
        return chinese_department_of()[category].attributes[attribute][value].listed[0]
    return _category(category).attributes[attribute].values[value].listed[0]


def _phrases(category: str, attribute: str, value: str, lang: str) -> tuple[str, ...]:
    """All of the sellers' words for a value, also as a title spells them."""
    if lang == "zh":
        return chinese_department_of()[category].attributes[attribute][value].listed
    words = _category(category).attributes[attribute].values[value].listed
    return (*words, *(word.title() for word in words), *(word.capitalize() for word in words))


def _asked(category: str, attribute: str, value: str, lang: str) -> tuple[str, ...]:
    if lang == "zh":
        return chinese_department_of()[category].attributes[attribute][value].asked
    return _category(category).attributes[attribute].values[value].asked


def nouns(category: str, lang: str) -> tuple[str, ...]:
    """What customers call the things of a category, most usual first."""
    words = chinese_department_of()[category].categories[category] if lang == "zh" else _category(category)
    return words.nouns.usual


def data_sheet(category: str, attributes: str, lang: str) -> str:
    """All properties of a product as its page lists them: labels and the sellers' most usual words.

    Example:
        >>> data_sheet("sofas", '{"line": "Lund", "colour": "navy", "seats": "two"}', "en")
        'Colour: navy. Seats: 2-seater.'
    """
    facts = _attributes({"category": category, **json.loads(attributes)})
    lines = [
        (_label(category, name, lang), _listed(category, name, value, lang)) for name, value in facts.items()
    ]
    if lang == "zh":
        return "参数：" + "；".join(f"{label}：{phrase}" for label, phrase in lines) + "。"
    return " ".join(f"{label.capitalize()}: {phrase}." for label, phrase in lines)
