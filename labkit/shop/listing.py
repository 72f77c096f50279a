"""Writes a product's title and description the way different sellers do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from labkit.shop.chance import Dice
from labkit.shop.declarations import Category, Department

_SMALL = ("and", "of", "for", "with", "in", "to", "the", "a", "by", "from", "de")
AFTER = ("for ", "with ", "in ", "that ", "fits ")  # phrases that follow the noun


@dataclass(frozen=True)
class Listing:
    department: Department
    category: Category
    brand: str
    line: str
    model: str
    attributes: dict[str, str]
    style: str


def write_listing(listing: Listing, dice: Dice) -> tuple[str, str]:
    """The title and the description, in the seller's own style."""
    noun = dice.ranked(listing.category.nouns.listed, steepness=1.2)
    phrases = {
        name: dice.ranked(listing.category.attributes[name].values[value].listed, steepness=0.8)
        for name, value in listing.attributes.items()
    }
    title, description = STYLES[listing.style](listing, noun, phrases, dice)
    return _tidy(title), _tidy(description)


def _terse(listing: Listing, noun: str, phrases: dict[str, str], dice: Dice) -> tuple[str, str]:
    shown = _shown(listing, phrases, dice, 0.35)
    title = dice.one(
        [
            f"{listing.brand} {listing.line} {listing.model} {noun} {' '.join(shown)}",
            f"{listing.brand} {listing.model} {listing.line} {' '.join(shown)} {noun}",
            f"{noun}, {listing.brand} {listing.line}, {', '.join(shown)}",
        ]
    )
    facts = [
        f"{listing.category.attributes[name].label.capitalize()}: {phrase}."
        for name, phrase in phrases.items()
        if dice.happens(0.7)
    ]
    extra = [dice.one(listing.category.claims)] if dice.happens(0.6) else []
    return title, " ".join(facts + extra)


def _standard(listing: Listing, noun: str, phrases: dict[str, str], dice: Dice) -> tuple[str, str]:
    shown = _shown(listing, phrases, dice, 0.5)
    before, after = _placed(shown)
    lead = f"{listing.brand} {listing.line}"
    model = f" {listing.model}" if listing.model and dice.happens(0.8) else ""
    title = dice.one(
        [
            f"{lead}{model} {_capital(noun)}, {', '.join(map(_capital, shown))}",
            f"{lead}{model} {' '.join(map(_capital, before))} {_capital(noun)} {' '.join(after)}",
            f"{lead} {_capital(noun)}{model} - {', '.join(map(_capital, shown))}",
            f"{' '.join(map(_capital, before))} {_capital(noun)} {' '.join(after)} | {lead}{model}",
        ]
    )
    facts = [phrase for phrase in dice.shuffled(list(phrases.values())) if dice.happens(0.75)]
    spec = dice.one(["Details: {}.", "Key facts: {}.", "What you get: {}.", "Specification: {}."]).format(
        ", ".join(facts)
    )
    sentences = [_opening(listing, noun, dice), *dice.some(listing.category.claims, 1), spec if facts else ""]
    if dice.happens(0.6):
        sentences.append(_closing(listing, noun, dice))
    return title, " ".join(sentences)


def _stuffed(listing: Listing, noun: str, phrases: dict[str, str], dice: Dice) -> tuple[str, str]:
    """Every word that might be searched for, whether or not it helps."""
    shown = _shown(listing, phrases, dice, 0.75)
    nouns = [noun, *dice.some([other for other in listing.category.nouns.listed if other != noun], 1)]
    if dice.happens(0.15):
        nouns += [word for word in [dice.one(listing.category.nouns.asked)] if word not in nouns]
    tags = dice.some(listing.department.tags, 3)
    words = [*nouns, *shown, *tags] if dice.happens(0.5) else [*shown, *nouns, *tags]
    title = f"{' '.join(map(_capital, words))} {listing.brand} {listing.line if dice.happens(0.5) else ''}"
    facts = [f"{phrase}" for phrase in phrases.values() if dice.happens(0.85)]
    sentences = [
        f"✔ {' ✔ '.join(map(_capital, facts))}.",
        *dice.some(listing.category.claims, 2),
        f"{_capital(listing.brand)} {listing.line} {listing.model} {noun}.",
        f"Perfect for {', '.join(dice.some(listing.department.tags, 3))}.",
    ]
    return title, " ".join(sentences)


def _flowery(listing: Listing, noun: str, phrases: dict[str, str], dice: Dice) -> tuple[str, str]:
    shown = _shown(listing, phrases, dice, 0.3)
    mood = dice.one(
        ["Effortless", "Timeless", "Quietly Brilliant", "Lovingly Made", "Everyday Luxury", "Small Joys"]
    )
    before, after = _placed(shown)
    adjectives, rest = " ".join(map(_capital, before)), " ".join(after)
    title = dice.one(
        [
            f"The {listing.line} by {listing.brand}: {mood}, {', '.join(map(_capital, shown))}",
            f"{listing.brand} {listing.line} - {mood} {adjectives} {_capital(noun)} {rest}",
            f"{mood}: the {listing.line} {adjectives} {_capital(noun)}",
        ]
    )
    facts = [phrase for phrase in dice.shuffled(list(phrases.values())) if dice.happens(0.65)]
    woven = dice.one(["Think {}.", "You will notice the details: {}.", "With {}, it simply belongs."])
    sentences = [_opening(listing, noun, dice), *dice.some(listing.category.claims, 2)]
    if facts:
        sentences.append(woven.format(_joined(facts)))
    sentences.append(_closing(listing, noun, dice))
    return title, " ".join(sentences)


STYLES: dict[str, Callable[[Listing, str, dict[str, str], Dice], tuple[str, str]]] = {
    "terse": _terse,
    "standard": _standard,
    "stuffed": _stuffed,
    "flowery": _flowery,
}


def _shown(listing: Listing, phrases: dict[str, str], dice: Dice, share: float) -> list[str]:
    """The phrases that reach the title: nearly always the one in which variants differ."""
    return [
        phrase
        for name, phrase in phrases.items()
        if dice.happens(0.93 if name == listing.category.vary else share)
    ]  # fmt: skip


def _placed(phrases: list[str]) -> tuple[list[str], list[str]]:
    after = [phrase for phrase in phrases if phrase.startswith(AFTER)]
    return [phrase for phrase in phrases if phrase not in after], after


def _opening(listing: Listing, noun: str, dice: Dice) -> str:
    return dice.one(listing.department.openings).format(
        noun=noun, brand=listing.brand, line=listing.line, model=listing.model
    )


def _closing(listing: Listing, noun: str, dice: Dice) -> str:
    return dice.one(listing.department.closings).format(
        noun=noun, brand=listing.brand, line=listing.line, model=listing.model
    )


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _capital(text: str) -> str:
    """Title case that leaves IPX7, mAh, 3.5 mm and 8 km/h alone."""
    words = text.split()
    for place, word in enumerate(words):
        unit = place > 0 and words[place - 1][-1].isdigit()
        if word.islower() and word[0].isalpha() and word not in _SMALL and not unit:
            words[place] = word[0].upper() + word[1:]
    return " ".join(words)


def _tidy(text: str) -> str:
    """Empty slots leave double spaces and orphaned punctuation behind."""
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([,.])", r"\1", text)
    text = re.sub(r"([,:|-])\s*(?=$|[,|])", "", text)
    return text.strip(" ,|-")
