"""Finds names, addresses and numbers of people in text, however they are spelt there."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

# Scripts written without spaces between words: each of their characters is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\U0003ffff"
_WORD = re.compile(rf"[^\W_{_UNSPACED}]+|[{_UNSPACED}]")

# An address or number written by a person: generous, because a leak is worse than a lost word.
EMAIL = r"[\w.+'-]+@[\w-]+(?:\.[\w-]+)+"
PHONE = (
    r"(?<![0-9A-Za-z_])(?:"
    r"(?:\+|00|\(?0)[\d()](?:[\s().-]?[\d()]){7,14}"  # international, or with a leading zero
    r"|1[3-9]\d[\s-]?\d{4}[\s-]?\d{4}"  # Chinese mobile
    r"|\d{3}[\s.-]\d{3,4}[\s.-]\d{4}"
    r"|\d{10,12}"
    r")(?![0-9A-Za-z_])"
)
_WRITTEN = (re.compile(EMAIL), re.compile(PHONE))
_NUMBER = re.compile(r"[+(]{0,2}\d(?:[\s().+/-]{0,3}\d){6,}")
_ONLY_NUMBER = re.compile(r"[\s\d().+/-]+")
NATIONAL = 9  # the last digits of a phone number, the same with +44, 0044, 44 or 0 before them
LEAST_DIGITS = 7  # shorter numbers are sizes, years and prices
JOINED = 7  # letters of a name that is also looked for without its spaces

Span = tuple[int, int]


class Identifiers:
    """Finds known identifiers in text, many at once.

    Spelling does not matter: letters are compared without case, accents and width, words without what stands
    between them, phone numbers by their last nine digits. A Chinese character is a word of its own, so names
    are found inside sentences.

    One regular expression over 100 000 names would take hours. Instead each text's words are looked up: of
    the identifiers only the lengths of those that begin with a word are tried there.

    Args:
        known: identifiers as text; blank ones are left out.

    Example:
        >>> Identifiers(["Ada Byron", "07700 900123"]).masked("ADA  BYRON, +44 7700 900123")
        '[removed], [removed]'
    """

    def __init__(self, known: Iterable[str]) -> None:
        self.words: set[tuple[str, ...]] = set()
        self.numbers: set[str] = set()  # last digits of phone numbers
        self.symbols: set[str] = set()  # identifiers without any word, looked for everywhere
        for text in set(known):
            folded = fold(text)[0].strip()
            words = tuple(_WORD.findall(folded))
            if words:
                self.words.add(words)
                if sum(map(len, words)) >= JOINED:
                    self.words.add(tuple(_WORD.findall("".join(words))))
            elif folded:
                self.symbols.add(folded)
            if _ONLY_NUMBER.fullmatch(folded) and (number := national(folded)):
                self.numbers.add(number)
        lengths: dict[str, set[int]] = {}
        for words in self.words:
            lengths.setdefault(words[0], set()).add(len(words))
        self._lengths = {word: sorted(some, reverse=True) for word, some in lengths.items()}

    def spans(self, text: str) -> list[Span]:
        """Where known identifiers stand in a text, as (start, end)."""
        folded, place = fold(text)
        return _placed(self._known(folded), place)

    def masked(self, text: str | None, mask: str = "[removed]") -> str | None:
        """The text with known identifiers, and whatever looks like an address or phone number, replaced."""
        if text is None:
            return None
        folded, place = fold(text)
        written = [match.span() for pattern in _WRITTEN for match in pattern.finditer(folded)]
        return replaced(text, _placed(self._known(folded) + written, place), mask)

    def _known(self, folded: str) -> list[Span]:
        tokens = list(_WORD.finditer(folded))
        words = [token.group() for token in tokens]
        found = []
        for at, word in enumerate(words):
            for length in self._lengths.get(word, ()):
                some = tokens[at : at + length]
                if tuple(words[at : at + length]) in self.words:
                    found.append((some[0].start(), some[-1].end()))
                    break
        if self.numbers:
            runs = [match for match in _NUMBER.finditer(folded) if self._is_known(match.group())]
            found += [match.span() for match in runs]
        for symbol in self.symbols:
            found += [match.span() for match in re.finditer(re.escape(symbol), folded)]
        return found

    def _is_known(self, run: str) -> bool:
        digits = re.sub(r"\D", "", run)
        return any(
            digits[start : start + length] in self.numbers
            for length in range(LEAST_DIGITS - 1, NATIONAL + 1)
            for start in range(len(digits) - length + 1)
        )


def national(number: str) -> str:
    """The last nine digits of a phone number, without a leading zero; "" where there are fewer than seven.

    Example:
        >>> national("+44 7700 900123") == national("07700 900123") == national("7700900123")
        True
    """
    digits = re.sub(r"\D", "", number)
    return digits.removeprefix("0")[-NATIONAL:] if len(digits) >= LEAST_DIGITS else ""


def replaced(text: str, spans: Iterable[Span], mask: str = "[removed]") -> str:
    """The text with the mask in the place of each span; spans that overlap give one mask."""
    out, at = [], 0
    for start, end in sorted(spans):
        if start >= at:
            out += [text[at:start], mask]
        at = max(at, end)
    return "".join([*out, text[at:]])


def fold(text: str) -> tuple[str, list[int] | range]:
    """A text as it is compared, and where each of its characters came from.

    Case, accents, invisible characters and width are folded away (NFKD, then case folding). Character by
    character, so that a find can be cut out of the text as it was written.

    Returns:
        the folded text, and for each character its place in ``text``, then the text's length.

    Example:
        >>> fold("Ｊosé")
        ('jose', [0, 1, 2, 3, 4])
    """
    if text.isascii():
        return text.lower(), range(len(text) + 1)
    parts = [_folded(character) for character in text]
    place = [at for at, part in enumerate(parts) for _ in part]
    return "".join(parts), [*place, len(text)]


@lru_cache(maxsize=65536)
def _folded(character: str) -> str:
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    return "".join(
        str(unicodedata.decimal(one)) if one.isdecimal() else one
        for one in plain
        if not unicodedata.combining(one) and unicodedata.category(one) != "Cf"
    )


def _placed(spans: Iterable[Span], place: list[int] | range) -> list[Span]:
    """Spans of the folded text as spans of the text: a letter's accents go with it."""
    return [(place[start], max(place[end], place[end - 1] + 1)) for start, end in spans]
