"""Reads the declared world (``catalogue/*.yaml``): what is sold, and what sellers and shoppers call it.

One file per department, with ``shared.yaml`` for attributes that several departments use. Nothing here is
random.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "catalogue"
# The order matters: the smaller sizes of the market take the first departments.
DEPARTMENTS = (
    "furniture",
    "kitchen",
    "computing",
    "audio_phones",
    "textiles",
    "clothing",
    "shoes_bags",
    "sports_outdoors",
    "baby",
    "toys",
    "beauty",
    "garden_tools",
    "pets",
)


@dataclass(frozen=True)
class Words:
    """The two vocabularies of one thing, each from most to least usual."""

    listed: tuple[str, ...]
    asked: tuple[str, ...]

    @property
    def shared(self) -> tuple[str, ...]:
        """The shoppers' words that sellers use too, also inside longer phrases ("oak" in "solid oak")."""
        return tuple(word for word in self.asked if any(_holds(phrase, word) for phrase in self.listed))

    @property
    def usual(self) -> tuple[str, ...]:
        """The shared words that are among the sellers' favourites; never empty."""
        favourites = Words(self.listed[:2], self.asked)
        return favourites.shared or self.asked[:1]

    @property
    def private(self) -> tuple[str, ...]:
        """Words that only shoppers use."""
        return tuple(word for word in self.asked if word not in self.shared)


def _holds(phrase: str, words: str) -> bool:
    return set(re.findall(r"\w+", words.lower())) <= set(re.findall(r"\w+", phrase.lower()))


@dataclass(frozen=True)
class Attribute:
    name: str
    label: str
    values: dict[str, Words]
    near: dict[str, tuple[str, ...]]  # value -> values a shopper would nearly accept
    hard: bool  # a wrong value makes the product useless, as a case for another phone is

    def restricted(self, keys: tuple[str, ...]) -> Attribute:
        return Attribute(self.name, self.label, {key: self.values[key] for key in keys}, self.near, self.hard)


@dataclass(frozen=True)
class Brand:
    name: str
    tier: float  # multiplies the price
    makes: tuple[str, ...]  # categories
    lines: dict[
        str, dict[str, str]
    ]  # line -> attribute values that it always has, even if no listing says so


@dataclass(frozen=True)
class Need:
    """What somebody wants, said without naming the product."""

    says: tuple[str, ...]
    categories: tuple[str, ...]
    want: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Category:
    name: str
    department: str
    nouns: Words
    price: tuple[float, float]
    share: float
    attributes: dict[str, Attribute]
    vary: str  # the attribute in which variants of one model differ
    substitutes: dict[str, int]  # category -> highest grade it can reach
    complements: tuple[str, ...]  # bought together: highest grade 1
    claims: tuple[str, ...]


@dataclass(frozen=True)
class Department:
    name: str
    models: str  # pattern of model numbers: A letter, # digit; "" for none
    brands: dict[str, Brand]
    openings: tuple[str, ...]
    closings: tuple[str, ...]
    tags: tuple[str, ...]
    categories: dict[str, Category]
    needs: tuple[Need, ...]


@cache
def departments() -> dict[str, Department]:
    """All departments by name, in the order of DEPARTMENTS.

    Raises:
        ValueError: A file contradicts itself; the sentence names the file and the entry.

    Example:
        >>> departments()["furniture"].categories["sofas"].nouns.asked[:2]
        ('sofa', 'couch')
    """
    shared = _read("shared")
    found = {}
    for file in DEPARTMENTS:
        if (FOLDER / f"{file}.yaml").exists():
            department = _department(file, _read(file), shared)
            found[department.name] = department
    _check_links(found)
    return found


def _read(file: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((FOLDER / f"{file}.yaml").read_text(encoding="utf-8"), Loader=loader)


def _split(text: Any, separator: str = ";") -> tuple[str, ...]:
    return tuple(part.strip() for part in str(text).split(separator) if part.strip())


def _words(text: str) -> Words:
    listed, bar, asked = str(text).partition("|")
    return Words(_split(listed), _split(asked if bar else listed))


def _attributes(*files: dict[str, Any]) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {}
    labels = {name: label for file in files for name, label in file.get("labels", {}).items()}
    hard = {name for file in files for name in file.get("hard", [])}
    for file in files:
        for name, entries in file.get("attributes", {}).items():
            values = {str(key): _words(text) for key, text in entries.items()}
            pairs = [tuple(map(str, pair)) for pair in file.get("near", {}).get(name, [])]
            if name in file.get("ordered", []):
                keys = list(values)
                pairs += list(pairwise(keys))
            near = {
                key: tuple(b if a == key else a for a, b in pairs if key in (a, b))
                for key in values
            }  # fmt: skip
            attributes[name] = Attribute(
                name, labels.get(name, name.replace("_", " ")), values, near, name in hard
            )
    return attributes


def _department(file: str, raw: dict[str, Any], shared: dict[str, Any]) -> Department:
    attributes = _attributes(shared, raw)
    brands = {
        name: Brand(
            name,
            entry["tier"],
            _split(entry["makes"], ",") if "makes" in entry else tuple(raw["categories"]),
            {
                line: dict(tuple(_split(pair, "=")) for pair in _split(implied or ""))  # type: ignore[misc]
                for line, implied in entry["lines"].items()
            },
        )
        for name, entry in raw["brands"].items()
    }
    categories = {}
    for name, entry in raw["categories"].items():
        has = {}
        for attribute, keys in entry["has"].items():
            if attribute not in attributes:
                raise ValueError(
                    f"{file}.yaml: {name} has the attribute {attribute!r}, which is declared nowhere."
                )
            known = attributes[attribute]
            chosen = tuple(known.values) if keys == "all" else _split(keys, ",")
            unknown = [key for key in chosen if key not in known.values]
            if unknown:
                raise ValueError(f"{file}.yaml: {name} gives {attribute} the unknown value {unknown[0]!r}.")
            has[attribute] = known.restricted(chosen)
        if entry["vary"] not in has:
            raise ValueError(f"{file}.yaml: {name} varies in {entry['vary']!r}, which it does not have.")
        categories[name] = Category(
            name=name,
            department=raw["department"],
            nouns=Words(_split(entry["listed"]), _split(entry["asked"])),
            price=(float(entry["price"][0]), float(entry["price"][1])),
            share=float(entry.get("share", 1.0)),
            attributes=has,
            vary=entry["vary"],
            substitutes={str(key): int(grade) for key, grade in entry.get("substitutes", {}).items()},
            complements=tuple(entry.get("complements", [])),
            claims=tuple(entry["claims"]),
        )
    needs = tuple(
        Need(
            _split(need["say"]),
            tuple(need["in"]),
            {
                key: tuple(map(str, v)) if isinstance(v, list) else (str(v),)
                for key, v in need.get("want", {}).items()
            },
        )
        for need in raw["needs"]
    )
    voice = raw["voice"]
    return Department(
        name=raw["department"],
        models=raw["models"],
        brands=brands,
        openings=tuple(voice["open"]),
        closings=tuple(voice["close"]),
        tags=tuple(map(str, voice["tags"])),
        categories=categories,
        needs=needs,
    )


def _check_links(found: dict[str, Department]) -> None:
    """Every category, attribute and value that an entry points to exists."""
    everywhere = {name: category for d in found.values() for name, category in d.categories.items()}
    for department in found.values():
        for category in department.categories.values():
            for other in (*category.substitutes, *category.complements):
                if other not in everywhere:
                    raise ValueError(
                        f"{department.name}: {category.name} points to the unknown category {other!r}."
                    )
        for brand in department.brands.values():
            for made in brand.makes:
                if made not in department.categories:
                    raise ValueError(f"{department.name}: {brand.name} makes the unknown category {made!r}.")
            for line, implied in brand.lines.items():
                for attribute, value in implied.items():
                    if not any(
                        value in category.attributes[attribute].values
                        for category in department.categories.values()
                        if attribute in category.attributes
                    ):
                        raise ValueError(
                            f"{department.name}: line {line!r} implies the unknown {attribute}={value}."
                        )
        for need in department.needs:
            for name in need.categories:
                if name not in everywhere:
                    raise ValueError(
                        f"{department.name}: the need {need.says[0]!r} points to unknown {name!r}."
                    )
            for attribute, values in need.want.items():
                holders = [
                    everywhere[n].attributes[attribute]
                    for n in need.categories
                    if attribute in everywhere[n].attributes
                ]
                if not all(any(value in holder.values for holder in holders) for value in values):
                    raise ValueError(
                        f"{department.name}: the need {need.says[0]!r} wants unknown {attribute}={values}."
                    )
