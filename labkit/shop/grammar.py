"""Writes varied text from small grammars (``prose/*.yaml``), in the manner of Kate Compton's Tracery (2015).

A rule is a list of templates, one a line. In a template ``{name}`` stands for another rule or for a word that
the caller gives, and ``[a|b|]`` for one of its parts, the last of which is empty here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from labkit.shop.chance import Dice

FOLDER = Path(__file__).parent / "prose"
_NAME = re.compile(r"\{(\w+)\}")
_TOKEN = re.compile(r"\{(\w+)\}|(\[)|(\|)|(\])|([^\[\]{}|]+)")


class Ref(str):
    """The name of a rule or of a caller's word."""


# A template is a list of parts: plain text, a reference, or a choice between templates.
Part = Any
Template = list[Part]


class Grammar:
    """Rules that expand to text.

    Args:
        rules: Name -> templates, one a line.
        words: Names that the caller gives with every text.

    Raises:
        ValueError: A template names neither a rule nor a word, or its brackets do not match.

    Example:
        >>> grammar = Grammar({"verdict": "[very|really] {how}", "how": "soft"}, words=())
        >>> grammar.write("verdict", Dice(0, "doc")) in ("very soft", "really soft")
        True
    """

    def __init__(self, rules: Mapping[str, str], words: tuple[str, ...]) -> None:
        self.rules = {
            name: [_compile(line.strip(), name) for line in str(text).splitlines() if line.strip()]
            for name, text in rules.items()
        }
        known = {*self.rules, *words}
        for name, templates in self.rules.items():
            for ref in _refs(templates):
                if ref not in known:
                    raise ValueError(f"The rule {name!r} uses {{{ref}}}, which is neither a rule nor a word.")

    def __contains__(self, rule: str) -> bool:
        return rule in self.rules

    def write(self, rule: str, dice: Dice, words: Mapping[str, str] | None = None) -> str:
        """One text of the rule. A caller's word wins over a rule of the same name."""
        out: list[str] = []
        self._expand(dice.one(self.rules[rule]), dice, words or {}, out)
        return "".join(out)

    def narrowed(self, rule: str, count: int, dice: Dice) -> Grammar:
        """The same grammar in the hands of somebody who knows only ``count`` templates of the rule."""
        few = copy(self)
        few.rules = {**self.rules, rule: dice.some(self.rules[rule], count)}
        return few

    def _expand(self, template: Template, dice: Dice, words: Mapping[str, str], out: list[str]) -> None:
        for part in template:
            if isinstance(part, Ref):
                if part in words:
                    out.append(words[part])
                else:
                    self._expand(dice.one(self.rules[part]), dice, words, out)
            elif isinstance(part, str):
                out.append(part)
            else:
                self._expand(dice.one(part), dice, words, out)


def _compile(line: str, rule: str) -> Template:
    # The stack holds, from the outside in, the alternatives of every bracket that is open.
    stack: list[list[Template]] = [[[]]]
    covered = 0
    for found in _TOKEN.finditer(line):
        covered += len(found[0])
        ref, opens, bar, closes, text = found.groups()
        if ref:
            stack[-1][-1].append(Ref(ref))
        elif opens:
            stack.append([[]])
        elif bar and len(stack) > 1:
            stack[-1].append([])
        elif closes and len(stack) > 1:
            choice = stack.pop()
            stack[-1][-1].append(choice)
        elif text:
            stack[-1][-1].append(text)
        else:
            raise ValueError(f"The rule {rule!r} has a stray {found[0]!r} in: {line}")
    if len(stack) > 1 or covered != len(line):
        raise ValueError(f"The rule {rule!r} has brackets that do not match in: {line}")
    return stack[0][0]


def _refs(templates: list[Template]) -> list[str]:
    found: list[str] = []
    for template in templates:
        for part in template:
            if isinstance(part, Ref):
                found.append(part)
            elif not isinstance(part, str):
                found += _refs(part)
    return found


class Pairs:
    """Rules whose lines say the same thing twice, ``English = Chinese``, and expand together.

    A name in braces is drawn once and filled into both halves; a digit after it asks for another draw of the
    same rule, different from the first.

    Raises:
        ValueError: A line has one half only, its halves use different names, or a name is no rule.

    Example:
        >>> pairs = Pairs({"title": "The {thing} = {thing}记", "thing": "Key = 钥匙"})
        >>> pairs.write("title", Dice(0, "doc"))
        ('The Key', '钥匙记')
    """

    def __init__(self, rules: Mapping[str, str]) -> None:
        self.rules: dict[str, list[tuple[str, str, list[str]]]] = {}
        for rule, text in rules.items():
            self.rules[rule] = []
            for line in filter(None, map(str.strip, text.splitlines())):
                english, equals, chinese = line.partition(" = ")
                names = list(dict.fromkeys(_NAME.findall(english)))
                if not equals or sorted(names) != sorted(set(_NAME.findall(chinese))):
                    raise ValueError(f"The rule {rule!r} has a line whose halves do not agree: {line}")
                for name in names:
                    if name.rstrip("0123456789") not in rules:
                        raise ValueError(f"The rule {rule!r} uses {{{name}}}, which is no rule.")
                self.rules[rule].append((english, chinese, names))

    def write(
        self, rule: str, dice: Dice, drawn: dict[str, tuple[str, str]] | None = None
    ) -> tuple[str, str]:
        """The two texts. Names already in ``drawn`` keep their words, and new ones are added to it."""
        english, chinese, names = dice.one(self.rules[rule])
        drawn = {} if drawn is None else drawn
        for name in names:
            source = name.rstrip("0123456789")
            word = drawn.get(name) or self.write(source, dice)
            while word == drawn.get(source) and name != source:
                word = self.write(source, dice)
            drawn[name] = word
            english = english.replace(f"{{{name}}}", word[0])
            chinese = chinese.replace(f"{{{name}}}", word[1])
        return english, chinese


@cache
def prose(file: str) -> dict[str, Any]:
    """The declared words of one file in ``prose``."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, Any] = yaml.load((FOLDER / f"{file}.yaml").read_text(encoding="utf-8"), Loader=loader)
    return found
