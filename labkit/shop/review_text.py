"""Writes one review: which aspects it names, in what mood, in the hand of its shopper."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from labkit.shop.chance import Dice
from labkit.shop.declarations import Category, departments
from labkit.shop.grammar import Grammar, prose
from labkit.shop.listing import AFTER

WORDS = {
    "en": ("noun", "a_noun", "this", "it", "It", "is", "them", "es", "s", "brand", "attr", "pet", "player"),
    "zh": ("noun", "brand", "colour", "pet", "player"),
}
# How likely an aspect is praised, by stars from 1 to 5.
PRAISED = (0.05, 0.17, 0.48, 0.8, 0.95)
MASS = {
    "furniture",
    "food",
    "kibble",
    "litter",
    "luggage",
    "tupperware",
    "sand",
    "shampoo",
    "sunscreen",
    "suncream",
}
IRONY, SHORT, MISMATCH = 0.02, 0.08, 0.02


@dataclass(frozen=True)
class Hand:
    """How somebody writes."""

    lower: bool
    exclaims: bool
    emoji: bool
    typos: bool
    unfinished: bool  # no full stop at the end


@dataclass(frozen=True)
class Review:
    text: str
    sentiment: float  # of the text, in [-1, 1]
    aspects: dict[str, int]  # named aspect -> 1 praised, -1 blamed


@dataclass(frozen=True)
class Piece:
    said: str
    praise: int
    alone: bool = False  # a sentence of its own


@cache
def grammar(lang: str) -> Grammar:
    rules = {name: text for name, text in prose(f"reviews_{lang}").items() if isinstance(text, str)}
    return Grammar(rules, WORDS[lang])


@cache
def aspects_of(category: str, department: str) -> tuple[str, ...]:
    """What people care about in a product of the category, besides delivery and the like."""
    listed = prose("reviews")["aspects"]
    return tuple(listed.get(category) or listed.get(department) or ("material", "durability", "ease"))


@cache
def every_aspect() -> tuple[str, ...]:
    """All aspects, in a fixed order: those of products first, then those of any purchase."""
    words = prose("reviews")
    own = dict.fromkeys(name for names in words["aspects"].values() for name in names)
    return (*own, *words["everywhere"], "description")


def write_review(
    rating: int,
    product: Mapping[str, str],
    leanings: Mapping[str, float],
    returned: bool,
    late: bool,
    lang: str,
    hand: Hand,
    dice: Dice,
) -> Review:
    """The text of a review and the truth about it.

    Args:
        rating: Stars, 1 to 5. About 2 % of the extreme texts say the opposite, as when the scale is misread.
        product: Its ``category``, ``department``, ``brand`` and ``attributes`` (JSON).
        leanings: Aspect -> how much more likely than usual it is praised, about -0.3 to 0.3.
        returned: The product was sent back.
        late: The delivery went wrong.
        lang: "en" or "zh".
    """  # fmt: skip
    if rating in (1, 5) and dice.happens(MISMATCH):
        rating = 6 - rating
    mood = (rating - 3) / 2
    rules, words = grammar(lang), _words(product, lang, dice)
    if not returned and dice.happens(SHORT):
        text = rules.write(f"short_{rating}", dice, words)
        return Review(_signed(text, rating, lang, hand, dice), round(0.9 * mood, 3), {})

    named = _named(rating, product, leanings, returned, late, dice)
    ironic = rating <= 2 and dice.happens(IRONY)
    tone = 1 if rating > 3 else -1 if rating < 3 else 0
    pieces = [Piece(rules.write("irony", dice, words), -1, True)] if ironic else []
    if not ironic and dice.happens(0.78):
        pieces.append(Piece(rules.write(f"open_{rating}", dice, words), tone))
    if dice.happens(0.42):
        pieces.append(Piece(rules.write("context", dice, words), 0, True))
    wordy = len(named) > 4
    if dice.happens(0.6 if wordy else 0.08):
        pieces.append(Piece(rules.write("story", dice, words), 0, True))
    for aspect, praise in named.items():
        rule = f"{'good' if praise > 0 else 'bad'}_{aspect}"
        said = rules.write(rule, dice, words)
        pieces.append(Piece(said, praise))
        again = rules.write(rule, dice, words)
        # Those who write much say it twice.
        if dice.happens(0.5 if wordy else 0.1) and again[:4] != said[:4]:
            pieces.append(Piece(again, praise))
    if dice.happens(0.2):
        pieces.append(
            Piece(rules.write("attribute" if rating > 2 else "attribute_bad", dice, words), 0, True)
        )
    if wordy and dice.happens(0.4):
        pieces.append(Piece(rules.write("aside", dice, words), 0, True))
    if returned and dice.happens(0.8):
        pieces.append(Piece(rules.write("returned", dice, words), -1, True))
    elif dice.happens(0.5) or not pieces:
        pieces.append(Piece(rules.write(f"close_{rating}", dice, words), tone, True))
    praise_mean = sum(named.values()) / len(named) if named else mood
    text = _join_zh(pieces, rules, hand, dice) if lang == "zh" else _join_en(pieces, rules, hand, dice)
    return Review(_signed(text, rating, lang, hand, dice), round(0.65 * mood + 0.35 * praise_mean, 3), named)


def _named(
    rating: int,
    product: Mapping[str, str],
    leanings: Mapping[str, float],
    returned: bool,
    late: bool,
    dice: Dice,
) -> dict[str, int]:
    own = list(aspects_of(product["category"], product["department"]))
    count = dice.weighted((0.05, 0.24, 0.26, 0.17, 0.1, 0.07, 0.06, 0.05))
    chosen = own + prose("reviews")["everywhere"] if dice.happens(0.75) else own
    names = dice.some(chosen, count)
    if late and "delivery" not in names:
        names.append("delivery")
    if returned and dice.happens(0.6):
        wrong = "fit" if "fit" in own else "size" if "size" in own else "description"
        names = [wrong if dice.happens(0.6) else "description", *names]
    named = {}
    for name in dict.fromkeys(names):
        blamed = (name == "delivery" and late) or (returned and name in ("fit", "size", "description"))
        praised = PRAISED[rating - 1] + leanings.get(name, 0.0) * (1.0 if 1 < rating < 5 else 0.4)
        named[name] = 1 if dice.happens(praised) and not blamed else -1
    return named


def _words(product: Mapping[str, str], lang: str, dice: Dice) -> dict[str, str]:
    facts = json.loads(product["attributes"])
    if lang == "zh":
        words = prose("reviews_zh")
        colour = words["colours"].get(facts.get("colour"))
        return {
            "noun": words["nouns"].get(product["category"], "东西"),
            "brand": product["brand"],
            "colour": colour or "新款",
            **_COMPANY["zh"][_company(product)],
        }
    category = _categories()[product["category"]]
    noun = dice.ranked(
        [noun for noun in category.nouns.asked if not re.search(r" (for|with|to|of) ", noun)], 2.0
    )
    many = noun.endswith("s") and not noun.endswith("ss")
    words = {
        "noun": noun,
        "a_noun": noun if many or noun.split()[-1] in MASS else f"a {noun}",
        "brand": product["brand"],
        **_COMPANY["en"][_company(product)],
        **_AGREE[many],
    }
    fitting = [
        word
        for name, value in facts.items()
        if name in category.attributes and value in category.attributes[name].values
        for word in category.attributes[name].values[value].asked[:2]
        if not word.startswith((*AFTER, "where", "without", "when"))
    ]
    words["attr"] = dice.one(fitting) if fitting else "new"
    return words


def _company(product: Mapping[str, str]) -> str:
    """Who eats it or plays with it."""
    if product["department"] != "pets":
        return "kids"
    return "cat" if product["category"].startswith("cat") else "dog"


_COMPANY = {
    "en": {who: {"pet": f"the {who}", "player": f"the {who}"} for who in ("kids", "cat", "dog")},
    "zh": {
        "kids": {"pet": "孩子", "player": "孩子"},
        "cat": {"pet": "猫咪", "player": "猫咪"},
        "dog": {"pet": "狗狗", "player": "狗狗"},
    },
}
_AGREE = {
    False: {"this": "this", "it": "it", "It": "It", "is": "is", "them": "it", "es": "es", "s": "s"},
    True: {"this": "these", "it": "they", "It": "They", "is": "are", "them": "them", "es": "", "s": ""},
}


@cache
def _categories() -> dict[str, Category]:
    return {name: c for d in departments().values() for name, c in d.categories.items()}


def _join_en(pieces: list[Piece], rules: Grammar, hand: Hand, dice: Dice) -> str:
    out, mood = "", 0
    # A choice that came out empty leaves a space behind.
    pieces = [replace(piece, said=" ".join(piece.said.split())) for piece in pieces]
    stop = "! " if hand.exclaims else ". "
    for place, piece in enumerate(pieces):
        said, before = piece.said, pieces[place - 1].said
        if place == 0:
            out = _capital(said)
        elif before.startswith(("After ", "Following ")):
            out += ", " + _small(said)
        elif piece.praise * mood < 0 and not piece.alone and dice.happens(0.75):
            link = rules.write("but" if piece.praise < 0 else "still", dice)
            out += (f"{stop}{link} " if link[0].isupper() else f", {link} ") + _small(said)
        elif piece.praise == mood and not piece.alone and len(before) + len(said) < 60 and dice.happens(0.4):
            out += (", " if dice.happens(0.6) else " and ") + _small(said)
        else:
            out += (". " if dice.happens(0.7) else stop) + _capital(said)
        mood = piece.praise or mood
    if out[-1] not in ".!?":
        out += "" if hand.unfinished else stop.strip()
    out = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", out)
    return out.lower() if hand.lower else out


def _join_zh(pieces: list[Piece], rules: Grammar, hand: Hand, dice: Dice) -> str:
    out, mood = "", 0
    comma = " " if hand.unfinished and hand.lower else "，"
    stop = "！" if hand.exclaims else "。"
    for place, piece in enumerate(pieces):
        if place and out[-1] not in "，。！？ ：":
            flips = piece.praise * mood < 0 and not piece.alone
            if flips and dice.happens(0.75):
                out += comma + rules.write("but" if piece.praise < 0 else "still", dice)
            else:
                out += stop if dice.happens(0.4 if piece.alone else 0.2) and comma != " " else comma
        out += piece.said.rstrip("，")
        mood = piece.praise or mood
    return out if hand.unfinished or out[-1] in "！？" else out + stop


def _signed(text: str, rating: int, lang: str, hand: Hand, dice: Dice) -> str:
    """The text with its writer's slips and signs."""
    if hand.typos and dice.happens(0.7):
        text = _slip_zh(text, dice) if lang == "zh" else _slip_en(text, dice)
    if hand.exclaims and text[-1] not in "!！。.":
        text += "！" if lang == "zh" else "!" * (1 + dice.below(3))
    if hand.emoji and dice.happens(0.6):
        sign = grammar(lang).write(
            "emoji_up" if rating > 3 else "emoji_down" if rating < 3 else "emoji_mid", dice
        )
        text += sign if lang == "zh" else f" {sign}"
    return text


def _slip_en(text: str, dice: Dice) -> str:
    """A letter swapped, dropped or doubled in one word."""
    words = text.split(" ")
    long = [place for place, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if not long:
        return text
    place = dice.one(long)
    word, at = words[place], 1 + dice.below(len(words[place]) - 2)
    kind = dice.below(3)
    if kind == 0:
        word = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    elif kind == 1:
        word = word[:at] + word[at + 1 :]
    else:
        word = word[:at] + word[at] + word[at:]
    words[place] = word
    return " ".join(words)


def _slip_zh(text: str, dice: Dice) -> str:
    """A character taken for another of the same sound."""
    slips = [pair.split("|") for pair in prose("reviews_zh")["typos"]]
    fitting = [(right, wrong) for right, wrong in slips if right in text]
    if not fitting:
        return text
    right, wrong = dice.one(fitting)
    return text.replace(right, wrong, 1)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _small(text: str) -> str:
    """A lower first letter, except in "I", names and shouts."""
    first = text.split(" ", 1)[0]
    if first == "A" or (first[1:].islower() and first not in ("I'm", "I'd", "I've", "I'll")):
        return text[0].lower() + text[1:]
    return text
