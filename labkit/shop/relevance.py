"""Grades every product for an intent, from structure alone: no word of a query or a listing is ever read.

An intent says which categories serve it and how well at best (3 asked for, 1 or 2 substitutes, 1 complements)
and which constraints hold. Each broken constraint costs grades: ``grade = max(0, ceiling - cost)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labkit.shop.declarations import Category
from labkit.shop.products import Product

UNKNOWN = 1  # the product's category has no such attribute, so the constraint can't be met in full
OTHER_BRAND, OTHER_LINE, OTHER_MODEL = 2, 1, 1


@dataclass(frozen=True)
class Constraint:
    """What one attribute may be: ``accept`` has each acceptable value's cost, ``otherwise`` the others'."""

    accept: dict[str, int]
    otherwise: int = 2


@dataclass(frozen=True)
class Intent:
    """The structured truth behind a query."""

    categories: dict[str, int]  # category -> best grade
    must: dict[str, Constraint] = field(default_factory=dict)
    brand: str | None = None
    line: str | None = None
    model: str | None = None
    price_max: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain data with stable keys, as stored in ``queries.intent``."""
        return {
            "categories": self.categories,
            "must": {k: {"accept": c.accept, "otherwise": c.otherwise} for k, c in self.must.items()},
            "brand": self.brand,
            "line": self.line,
            "model": self.model,
            "price_max": self.price_max,
        }


def ceilings(categories: list[Category]) -> dict[str, int]:
    """The best grade that each category can reach for somebody who asks for one of ``categories``."""
    best: dict[str, int] = {}
    for category in categories:
        for name in category.complements:
            best[name] = max(best.get(name, 0), 1)
        for name, grade in category.substitutes.items():
            best[name] = max(best.get(name, 0), grade)
    return {**best, **{category.name: 3 for category in categories}}


class Facts:
    """The products' structure as arrays, so that a query is graded against the whole shop at once."""

    def __init__(self, products: list[Product]) -> None:
        self.category = _coded([p.category for p in products])
        self.brand = _coded([p.brand for p in products])
        self.line = _coded([p.line for p in products])
        self.model = _coded([p.model for p in products])
        self.price = np.array([p.price for p in products])  # (N,)
        names = sorted({name for p in products for name in p.attributes})
        self.attributes = {name: _coded([p.attributes.get(name) for p in products]) for name in names}
        by_category = np.argsort(self.category.codes, kind="stable")
        edges = np.searchsorted(self.category.codes[by_category], np.arange(len(self.category.index) + 1))
        self.members = {
            name: by_category[edges[code] : edges[code + 1]] for name, code in self.category.index.items()
        }

    def grades(self, intent: Intent) -> np.ndarray:
        """Grades 0 to 3 of all products. Returns (N,) int8."""
        grades = np.zeros(len(self.price), dtype=np.int8)
        rows = self.rows_of(intent)
        grades[rows] = self.grades_of(rows, intent)
        return grades

    def rows_of(self, intent: Intent) -> np.ndarray:
        """The products that can have a grade at all: those of the intent's categories. Returns (M,) int64."""
        groups = [self.members[name] for name in intent.categories if name in self.members]
        return np.concatenate(groups) if groups else np.zeros(0, dtype=np.int64)

    def grades_of(self, rows: np.ndarray, intent: Intent) -> np.ndarray:
        """Grades 0 to 3 of some products, rows (...) of integers. Returns the same shape, int8."""
        grade = self.category.map(rows, intent.categories, otherwise=0, missing=0)
        cost = np.zeros_like(grade)
        for name, constraint in intent.must.items():
            if name in self.attributes:
                cost += self.attributes[name].map(rows, constraint.accept, constraint.otherwise, UNKNOWN)
            else:
                cost += UNKNOWN
        if intent.brand is not None:
            other_brand = self.brand.map(rows, {intent.brand: 0}, otherwise=1, missing=1) > 0
            wrong = OTHER_BRAND * other_brand
            if intent.line is not None:
                # A line or a model belongs to its brand: the same word at another brand is another thing.
                other_line = other_brand | (self.line.map(rows, {intent.line: 0}, 1, 1) > 0)
                wrong = wrong + OTHER_LINE * other_line
                if intent.model is not None:
                    other_model = self.model.map(rows, {intent.model: 0}, 1, 1) > 0
                    wrong = wrong + OTHER_MODEL * (other_line | other_model)
            cost = cost + wrong
        if intent.price_max is not None:
            price = self.price[rows]
            cost = cost + (price > intent.price_max) + (price > 1.15 * intent.price_max)
        return np.clip(grade - cost, 0, 3).astype(np.int8)


@dataclass(frozen=True)
class _Coded:
    codes: np.ndarray  # (N,) int, -1 where missing
    index: dict[str, int]

    def map(
        self, rows: np.ndarray | slice, values: dict[str, int], otherwise: int, missing: int
    ) -> np.ndarray:
        """Look the value of each product of ``rows`` up. Returns the shape of rows, int64."""
        table = np.full(len(self.index) + 1, otherwise, dtype=np.int64)
        table[-1] = missing  # code -1 reads the last entry
        for value, number in values.items():
            if value in self.index:
                table[self.index[value]] = number
        return table[self.codes[rows]]


def _coded(values: list[Any]) -> _Coded:
    index: dict[str, int] = {}
    codes = [-1 if value is None else index.setdefault(value, len(index)) for value in values]
    return _Coded(np.array(codes, dtype=np.int64), index)
