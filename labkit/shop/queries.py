"""Makes the queries: what shoppers type, and the structured intent behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from labkit.shop.chance import Dice
from labkit.shop.declarations import Attribute, Category, Department
from labkit.shop.listing import AFTER
from labkit.shop.products import Product
from labkit.shop.relevance import Constraint, Facts, Intent, ceilings

# How often each kind is typed; the numbers are shares of the query set.
KINDS = {
    "plain": 0.12,
    "synonym": 0.16,
    "attribute": 0.19,
    "brand": 0.15,
    "vague": 0.13,
    "typo": 0.1,
    "long_tail": 0.15,
}
SPLITS = {"train": 0.6, "valid": 0.15, "test": 0.25}
PADDED = ("best {}", "good {}", "buy {}", "{} sale", "{} online", "new {}")
MIN_USEFUL = 3  # products with grade 2 or 3 that a query must have


@dataclass(frozen=True)
class Query:
    text: str
    kind: str
    intent: Intent
    split: str = ""


Draft = tuple[str, Intent]


class Shoppers:
    """Drafts queries about the products that are really in the shop."""

    def __init__(
        self, departments: list[Department], products: list[Product], seed: int, stage: str = "queries"
    ) -> None:
        self.seed, self.stage = seed, stage
        self.departments = {d.name: d for d in departments}
        self.categories = {name: c for d in departments for name, c in d.categories.items()}
        self.products = products
        self.sold: dict[tuple[str, str], list[str]] = {}  # (brand, line) -> categories, in order of the shelf
        for brand, line, category in dict.fromkeys((p.brand, p.line, p.category) for p in products):
            self.sold.setdefault((brand, line), []).append(category)

    def drafts(self, kind: str) -> Iterator[Draft]:
        """Endless drafts of a kind; the caller keeps those that the shop can answer."""
        dice = Dice(self.seed, self.stage, kind)
        make: dict[str, Callable[[Dice], Iterator[Draft]]] = {
            "plain": self._plain,
            "synonym": self._synonym,
            "attribute": self._attribute,
            "brand": self._brand,
            "vague": self._vague,
            "typo": self._typo,
            "long_tail": self._long_tail,
        }
        return make[kind](dice)

    def _plain(self, dice: Dice) -> Iterator[Draft]:
        while True:
            for category in dice.shuffled(list(self.categories.values())):
                noun = dice.ranked(category.nouns.usual, steepness=2)
                yield _plainly(noun, dice), Intent(ceilings([category]))

    def _synonym(self, dice: Dice) -> Iterator[Draft]:
        """The shopper's own word for the thing, or for one of its properties."""
        while True:
            for category in dice.shuffled(list(self.categories.values())):
                own = [word for word in category.nouns.asked if word not in category.nouns.usual]
                if own and dice.happens(0.55):
                    noun, must = dice.one(own), {}
                    text = _plainly(noun, dice)
                    if dice.happens(0.35):
                        name, value = self._value(category, dice)
                        word = dice.ranked(category.attributes[name].values[value].asked)
                        text, must = _phrase(noun, [word], dice), {name: _wanted(category, name, value, word)}
                    yield text, Intent(ceilings([category]), must)
                else:
                    private = [
                        (name, value)
                        for name, attribute in category.attributes.items()
                        for value, words in attribute.values.items()
                        if words.private
                    ]
                    if not private:
                        continue
                    name, value = dice.one(private)
                    word = dice.one(category.attributes[name].values[value].private)
                    noun = dice.ranked(category.nouns.asked)
                    must = {name: _wanted(category, name, value, word)}
                    yield _phrase(noun, [word], dice), Intent(ceilings([category]), must)

    def _attribute(self, dice: Dice) -> Iterator[Draft]:
        while True:
            product = dice.one(self.products)
            category = self.categories[product.category]
            names = self._speakable(category, product)
            chosen = dice.some(names, 1 + dice.weighted([0.35, 0.65]))
            words = [
                _exact_word(category.attributes[name], product.attributes[name], dice) for name in chosen
            ]
            must = {
                name: _wanted(category, name, product.attributes[name], word)
                for name, word in zip(chosen, words, strict=True)
            }
            text = _phrase(dice.ranked(category.nouns.usual, steepness=2), words, dice)
            cap = None
            if len(chosen) == 1 and dice.happens(0.4):
                cap = _round_cap(product.price)
                text += dice.one(
                    [f" under {cap:g}", f" less than {cap:g}", f" under £{cap:g}", f" max {cap:g}"]
                )
            if chosen:
                yield text, Intent(ceilings([category]), must, price_max=cap)

    def _brand(self, dice: Dice) -> Iterator[Draft]:
        while True:
            product = dice.one(self.products)
            category = self.categories[product.category]
            noun = dice.ranked(category.nouns.usual, steepness=2)
            brand, line, model = product.brand.lower(), product.line.lower(), product.model
            roll = dice.between(0, 1)
            if product.model and roll < 0.55:
                text = dice.one(
                    [f"{brand} {model.lower()}", model, f"{line} {model.lower()}", f"{model.lower()} {noun}"]
                )
                intent = Intent(ceilings([category]), {}, product.brand, product.line, product.model)
            elif roll < 0.75:
                text = dice.one([f"{brand} {line} {noun}", f"{line} {noun}", f"{brand} {line}"])
                whole_line = text == f"{brand} {line}"
                intent = Intent(
                    self._everything_of(product.brand, product.line) if whole_line else ceilings([category]),
                    {},
                    product.brand,
                    product.line,
                )
            else:
                text = dice.one([f"{brand} {noun}", f"{noun} {brand}", f"{noun} by {brand}"])
                intent = Intent(ceilings([category]), {}, product.brand)
            yield text, intent

    def _everything_of(self, brand: str, line: str) -> dict[str, int]:
        """Every category in which the brand sells this line: who types only the two wants to see them all."""
        return dict.fromkeys(self.sold[brand, line], 3)

    def _vague(self, dice: Dice) -> Iterator[Draft]:
        says = [(say, need) for d in self.departments.values() for need in d.needs for say in need.says]
        for say, need in dice.shuffled(says):
            served = [self.categories[name] for name in need.categories if name in self.categories]
            must = {}
            for name, values in need.want.items():
                holder = next(category for category in served if name in category.attributes)
                accept = {
                    key: cost for value in values for key, cost in _wanted(holder, name, value).accept.items()
                }
                must[name] = Constraint({**accept, **dict.fromkeys(values, 0)})
            yield say, Intent(ceilings(served), must)

    def _typo(self, dice: Dice) -> Iterator[Draft]:
        sources = [self.drafts_for_typos(kind) for kind in ("plain", "attribute", "synonym", "brand")]
        while True:
            text, intent = next(sources[dice.weighted([0.35, 0.35, 0.15, 0.15])])
            misspelt = _misspelt(text, dice)
            if intent.model is None and misspelt != text:  # a model number with a typo may be another model
                yield misspelt, intent

    def drafts_for_typos(self, kind: str) -> Iterator[Draft]:
        dice = Dice(self.seed, self.stage, "typo", kind)
        return {
            "plain": self._plain,
            "attribute": self._attribute,
            "synonym": self._synonym,
            "brand": self._brand,
        }[kind](dice)

    def _long_tail(self, dice: Dice) -> Iterator[Draft]:
        """Somebody who knows exactly what they want; what they name last they would give up first."""
        while True:
            product = dice.one(self.products)
            category = self.categories[product.category]
            names = self._speakable(category, product)
            if len(names) < 2:
                continue
            branded = dice.happens(0.45)
            chosen = dice.some(names, 2 if branded else min(3 + dice.below(2), len(names)))
            words, must = [], {}
            for place, name in enumerate(chosen):
                value = product.attributes[name]
                words.append(_exact_word(category.attributes[name], value, dice))
                must[name] = _wanted(category, name, value, words[-1], otherwise=2 if place == 0 else 1)
            text = _phrase(dice.ranked(category.nouns.usual, steepness=2), words, dice)
            if branded:
                text = f"{product.brand.lower()} {text}"
            cap = _round_cap(product.price) if dice.happens(0.2) else None
            if cap:
                text += f" under {cap:g}"
            yield text, Intent(ceilings([category]), must, product.brand if branded else None, price_max=cap)

    def _speakable(self, category: Category, product: Product) -> list[str]:
        """Attributes whose value sellers and shoppers call by the same word."""
        return [n for n, value in product.attributes.items() if category.attributes[n].values[value].shared]

    def _value(self, category: Category, dice: Dice) -> tuple[str, str]:
        said = [
            (n, v) for n, a in category.attributes.items() for v, words in a.values.items() if words.asked
        ]
        return dice.one(said)


def make_queries(
    departments: list[Department], products: list[Product], count: int, seed: int
) -> list[Query]:
    """Draft, keep what the shop can answer, split (60/15/25, within kinds too) and shuffle."""
    shoppers, facts = Shoppers(departments, products, seed), Facts(products)
    kept: list[Query] = []
    seen: set[str] = set()
    left, share_left = count, sum(KINDS.values())
    # What is rare goes first, so that the endless kinds can make up for it.
    for kind in sorted(KINDS, key=lambda kind: kind != "vague"):
        quota = round(left * KINDS[kind] / share_left)
        share_left -= KINDS[kind]
        found = answerable(shoppers.drafts(kind), quota, facts, seen)
        left -= len(found)
        asked = [Query(text, kind, intent) for text, intent in found]
        kept += Dice(seed, "split", kind).shuffled(asked)
    return Dice(seed, "order").shuffled(_split(kept))


def answerable(drafts: Iterator[Draft], quota: int, facts: Facts, seen: set[str]) -> list[Draft]:
    found: list[Draft] = []
    for _, (text, intent) in zip(range(60 * quota), drafts, strict=False):
        if len(found) == quota:
            break
        if text in seen:
            continue
        grades = facts.grades_of(facts.rows_of(intent), intent)
        if np.count_nonzero(grades == 3) and np.count_nonzero(grades >= 2) >= MIN_USEFUL:
            seen.add(text)
            found.append((text, intent))
    return found


def _split(queries: list[Query]) -> list[Query]:
    """Deal the queries out in rounds of twenty: the shares are exact overall and close within a kind."""
    names = [name for name, share in SPLITS.items() for _ in range(round(20 * share))]
    dealt = [names[(7 * place) % 20] for place in range(len(queries))]  # 7 and 20 share no factor
    return [Query(q.text, q.kind, q.intent, name) for q, name in zip(queries, dealt, strict=True)]


def _wanted(category: Category, name: str, value: str, word: str = "", otherwise: int = 2) -> Constraint:
    """What somebody accepts who means ``value``, or every value that ``word`` may stand for."""
    attribute = category.attributes[name]
    extra = 1 if attribute.hard else 0
    meant = [value, *(key for key, words in attribute.values.items() if word in words.asked)]
    near = [other for key in meant for other in attribute.near.get(key, ())]
    accept = {**dict.fromkeys(near, 1 + extra), **dict.fromkeys(meant, 0)}
    return Constraint(accept, (2 if attribute.hard else otherwise) + extra)


def _exact_word(attribute: Attribute, value: str, dice: Dice) -> str:
    return dice.ranked(attribute.values[value].shared)


def _phrase(noun: str, words: list[str], dice: Dice) -> str:
    """Adjectives go before the noun or, as people also type, behind it."""
    before = [word for word in words if not word.startswith(AFTER)]
    after = [word for word in words if word.startswith(AFTER)]
    if before and dice.happens(0.25):
        before, after = before[1:], [before[0], *after]
    return " ".join([*before, noun, *after])


def _plainly(noun: str, dice: Dice) -> str:
    if dice.happens(0.8):
        return noun
    return dice.one(PADDED).format(noun)


def _round_cap(price: float) -> float:
    """The next price that people think in."""
    steps = (
        10,
        15,
        20,
        25,
        30,
        40,
        50,
        60,
        80,
        100,
        120,
        150,
        200,
        250,
        300,
        400,
        500,
        600,
        800,
        1000,
        1500,
        2000,
        3000,
    )
    return float(next((step for step in steps if step > price), 5000))


_NEIGHBOURS = {
    "a": "sq", "b": "vn", "c": "xv", "d": "sf", "e": "wr", "f": "dg", "g": "fh", "h": "gj", "i": "uo", "j":
    "hk", "k": "jl", "l": "kp", "m": "n", "n": "bm", "o": "ip", "p": "ol", "q": "wa", "r": "et", "s": "ad",
    "t": "ry", "u": "yi", "v": "cb", "w": "qe", "x": "zc", "y": "tu", "z": "x",
}  # fmt: skip


def _misspelt(text: str, dice: Dice) -> str:
    """Spoil one of the longer words, and in long queries sometimes a second one."""
    words = text.split()
    by_length = sorted(range(len(words)), key=lambda i: (-sum(c.isalpha() for c in words[i]), i))
    for place in by_length[: 2 if len(words) > 2 and dice.happens(0.35) else 1]:
        words[place] = _spoilt(words[place], dice)
    return " ".join(words)


def _spoilt(word: str, dice: Dice) -> str:
    letters = [i for i in range(1, len(word)) if word[i].isalpha()]
    if len(letters) < 3:
        return word
    i = dice.one(letters[:-1])
    way = dice.weighted([0.3, 0.3, 0.2, 0.2])
    if way == 0:
        return word[:i] + word[i + 1 :]
    if way == 1 and word[i] != word[i + 1]:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if way == 2:
        return word[:i] + word[i] + word[i:]
    return word[:i] + dice.one(_NEIGHBOURS.get(word[i].lower(), "e")) + word[i + 1 :]
