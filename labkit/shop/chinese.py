"""Reads the Chinese companions of the declared world (``catalogue/zh/*.yaml``) and checks them against it.

A companion says what Chinese sellers and shoppers call the things that the English file of the same name
declares; it declares nothing of its own. So the structure (which product has which attribute values, what an
intent wants) is written down once, and only the words differ. Nothing here is random.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from labkit.shop.declarations import DEPARTMENTS, FOLDER, departments

CHINESE_FOLDER = FOLDER / "zh"


@dataclass(frozen=True)
class ChineseWords:
    """The two vocabularies of one thing, each from most to least usual.

    Chinese puts no spaces between words, so a seller's phrase holds a shopper's word when it contains it.
    """

    listed: tuple[str, ...]
    asked: tuple[str, ...]

    @property
    def shared(self) -> tuple[str, ...]:
        """The shoppers' words that sellers use too, also inside longer phrases (橡木 in 实橡木)."""
        return tuple(word for word in self.asked if _held(word, self.listed))

    @property
    def usual(self) -> tuple[str, ...]:
        """The shared words that are among the sellers' two favourites; never empty where anybody asks."""
        return tuple(word for word in self.asked if _held(word, self.listed[:2])) or self.asked[:1]

    @property
    def private(self) -> tuple[str, ...]:
        """Words that only shoppers use."""
        return tuple(word for word in self.asked if not _held(word, self.listed))


def _held(word: str, phrases: tuple[str, ...]) -> bool:
    return any(word.casefold() in phrase.casefold() for phrase in phrases)


@dataclass(frozen=True)
class ChineseBrand:
    name: str
    lines: dict[str, str]  # English line -> what it is called in China


@dataclass(frozen=True)
class ChineseCategory:
    nouns: ChineseWords
    claims: tuple[str, ...]


@dataclass(frozen=True)
class ChineseDepartment:
    """The Chinese words of one department, all keyed by the English declarations."""

    name: str
    brands: dict[str, ChineseBrand]
    labels: dict[str, str]  # attribute -> what a data sheet calls it
    attributes: dict[str, dict[str, ChineseWords]]  # attribute -> value -> words, shared ones included
    openings: tuple[str, ...]
    closings: tuple[str, ...]
    tags: tuple[str, ...]
    categories: dict[str, ChineseCategory]
    sayings: dict[str, str]  # what an English shopper says in need -> what a Chinese one says


@cache
def chinese() -> dict[str, ChineseDepartment]:
    """The Chinese side of all departments, by English department name, in the same order.

    Raises:
        ValueError: A companion lacks an entry, has one that the English file does not, or uses a word twice
            for two values; the sentence names the file and the entry.

    Example:
        >>> chinese()["furniture"].categories["sofas"].nouns.asked[:2]
        ('沙发', '懒人沙发')
    """
    shared = _Companion("shared")
    shared.check_keys(shared.chinese, ("labels", "attributes"), "")
    common = shared.attributes()
    found = {}
    for file in DEPARTMENTS:
        companion = _Companion(file)
        department = companion.department(shared.chinese["labels"], common)
        found[department.name] = department
    _check_brands(found.values())
    return found


@cache
def chinese_department_of() -> dict[str, ChineseDepartment]:
    """The Chinese department of every category, by English category name."""
    return {name: department for department in chinese().values() for name in department.categories}


class _Companion:
    """One English file and its Chinese companion, side by side while they are checked."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.english = _read(FOLDER / f"{file}.yaml")
        self.chinese = _read(CHINESE_FOLDER / f"{file}.yaml")

    def department(
        self, labels: dict[str, str], common: dict[str, dict[str, ChineseWords]]
    ) -> ChineseDepartment:
        top = ("brands", "labels", "attributes", "voice", "categories", "needs")
        self.check_keys(self.chinese, top, "")
        voice = self.chinese["voice"]
        self.check_keys(voice, ("open", "close", "tags"), "voice")
        self._check_slots([*voice["open"], *voice["close"]])
        english = departments()[self.english["department"]]
        return ChineseDepartment(
            name=english.name,
            brands=self._brands(),
            labels={**labels, **self.chinese["labels"]},
            attributes={**common, **self.attributes()},
            openings=tuple(voice["open"]),
            closings=tuple(voice["close"]),
            tags=tuple(map(str, voice["tags"])),
            categories=self._categories(),
            sayings=self._sayings([need.says for need in english.needs]),
        )

    def attributes(self) -> dict[str, dict[str, ChineseWords]]:
        """The attributes that this very file declares."""
        english, found = self.english["attributes"], {}
        self.check_keys(self.chinese["attributes"], english, "attributes")
        self.check_keys(self.chinese["labels"], english, "labels")
        for name, values in english.items():
            words = {str(key): _words(text) for key, text in self.chinese["attributes"][name].items()}
            self.check_keys(words, [str(key) for key in values], name)
            taken: dict[str, str] = {}
            for key, text in values.items():
                entry = f"{name}.{key}"
                said = words[str(key)]
                self._need(said.listed, entry, "no seller's word")
                silent = bool(_words(text).listed) and not _words(text).asked
                wrong = "shoppers' words, but nobody asks for it" if silent else "no shoppers' words"
                self._need(bool(said.asked) != silent, entry, wrong)
                for word in said.asked:
                    self._need(word not in taken, entry, f"the word {word}, which {taken.get(word)} has too")
                    taken[word] = str(key)
            found[name] = words
        return found

    def _brands(self) -> dict[str, ChineseBrand]:
        english, brands = self.english["brands"], self.chinese["brands"]
        self.check_keys(brands, english, "brands")
        for name, entry in brands.items():
            self.check_keys(entry, ("name", "lines"), name)
            self.check_keys(entry["lines"], english[name]["lines"], name)
        return {name: ChineseBrand(entry["name"], dict(entry["lines"])) for name, entry in brands.items()}

    def _categories(self) -> dict[str, ChineseCategory]:
        found = {}
        self.check_keys(self.chinese["categories"], self.english["categories"], "categories")
        for name, entry in self.chinese["categories"].items():
            self.check_keys(entry, ("listed", "asked", "claims"), name)
            nouns = ChineseWords(_split(entry["listed"]), _split(entry["asked"]))
            self._need(nouns.listed and nouns.asked, name, "no nouns")
            self._need(len(entry["claims"]) >= 3, name, "fewer than three claims")
            found[name] = ChineseCategory(nouns, tuple(entry["claims"]))
        return found

    def _sayings(self, english: list[tuple[str, ...]]) -> dict[str, str]:
        needs = [_split(text) for text in self.chinese["needs"]]
        self._need(len(needs) == len(english), "needs", f"{len(needs)} needs for {len(english)} English ones")
        for says, said in zip(english, needs, strict=True):
            self._need(
                len(says) == len(said), f"the need {says[0]!r}", f"{len(said)} sayings for {len(says)}"
            )
        return {
            say: chinese_say
            for says, said in zip(english, needs, strict=True)
            for say, chinese_say in zip(says, said, strict=True)
        }

    def _check_slots(self, sentences: list[str]) -> None:
        slots = dict.fromkeys(("noun", "brand", "line"), "")
        if self.english["models"]:
            slots["model"] = ""
        for sentence in sentences:
            try:
                sentence.format(**slots)
            except (KeyError, IndexError, ValueError):
                self._need(False, f"the sentence {sentence!r}", "a slot that is never filled")

    def check_keys(self, found: dict[str, Any], wanted: Collection[str], entry: str) -> None:
        where = f"under {entry!r}" if entry else "at the top"
        missing = [key for key in wanted if key not in found]
        unknown = [key for key in found if key not in wanted]
        if missing:
            raise ValueError(f"zh/{self.file}.yaml lacks {missing[0]!r} {where}; the English file has it.")
        if unknown:
            raise ValueError(f"zh/{self.file}.yaml has {unknown[0]!r} {where}; the English file does not.")

    def _need(self, fine: object, entry: str, wrong: str) -> None:
        if not fine:
            raise ValueError(f"zh/{self.file}.yaml: {entry} has {wrong}.")


def _check_brands(found: Iterable[ChineseDepartment]) -> None:
    """A brand that sells in several departments has one name, and its lines have one each."""
    known: dict[str, ChineseBrand] = {}
    for department in found:
        for english, brand in department.brands.items():
            other = known.setdefault(english, brand)
            if other.name != brand.name:
                raise ValueError(
                    f"{english} is called {brand.name} in {department.name} and {other.name} elsewhere."
                )
            for line in brand.lines.keys() & other.lines.keys():
                if brand.lines[line] != other.lines[line]:
                    raise ValueError(
                        f"{english}'s line {line} has another Chinese name in {department.name}."
                    )


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ValueError(f"zh/{path.name} is missing; write the Chinese companion of {path.name}.")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def _split(text: Any) -> tuple[str, ...]:
    return tuple(part.strip() for part in str(text).split(";") if part.strip())


def _words(text: Any) -> ChineseWords:
    listed, bar, asked = str(text).partition("|")
    return ChineseWords(_split(listed), _split(asked if bar else listed))
