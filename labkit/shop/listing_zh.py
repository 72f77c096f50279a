"""Writes a product's title and description the way different Chinese sellers do.

The same four habits as in :mod:`labkit.shop.listing`, in another trade's grammar: a title is a stack of nouns
and properties without articles, the brand comes first, and spaces are rare.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from labkit.shop.chance import Dice
from labkit.shop.chinese import ChineseDepartment, chinese
from labkit.shop.listing import Listing

# What sellers add to a title in the hope of being found, true or not.
_HYPE = (
    "新款",
    "爆款",
    "网红",
    "正品",
    "高颜值",
    "官方旗舰店",
    "包邮",
    "2026新款",
    "送礼",
    "明星同款",
    "好物",
)
_MOODS = ("质感生活", "治愈系", "匠心之作", "小确幸", "轻奢质感", "把日子过成诗", "心动好物")


def write_listing_zh(listing: Listing, dice: Dice) -> tuple[str, str]:
    """The Chinese title and description of one product, in the seller's own style.

    Args:
        listing: The product and its seller's style ("terse", "standard", "stuffed" or "flowery"), as given to
            :func:`labkit.shop.listing.write_listing`.
        dice: A stream of its own, so that the English listings stay as they are.

    Returns:
        Title and description. The title always names the brand and one of the sellers' nouns.

    Raises:
        ValueError: The Chinese companions contradict the English declarations.

    Example:
        >>> from labkit.shop.declarations import departments
        >>> furniture = departments()["furniture"]
        >>> sofas, has = furniture.categories["sofas"], {"upholstery": "linen", "colour": "grey"}
        >>> listing = Listing(furniture, sofas, "Norrvik", "Lund", "", has, "terse")
        >>> title, description = write_listing_zh(listing, Dice(0, "example"))
        >>> "北屿" in title and "沙发" in title
        True
    """
    words = chinese()[listing.department.name]
    noun = dice.ranked(words.categories[listing.category.name].nouns.listed, steepness=1.2)
    phrases = {
        name: dice.ranked(words.attributes[name][value].listed, steepness=0.8)
        for name, value in listing.attributes.items()
    }
    brand = words.brands[listing.brand]
    names = {"brand": brand.name, "line": brand.lines[listing.line], "model": listing.model, "noun": noun}
    title, description = _STYLES[listing.style](_Draft(listing, words, names, phrases, dice))
    return re.sub(r"\s+", " ", title).strip(), description


class _Draft:
    """What the four styles draw from: the names, the chosen phrases and the department's sentences."""

    def __init__(
        self,
        listing: Listing,
        words: ChineseDepartment,
        names: dict[str, str],
        phrases: dict[str, str],
        dice: Dice,
    ) -> None:
        self.words, self.names, self.phrases, self.dice = words, names, phrases, dice
        self.brand, self.line, self.model, self.noun = names.values()
        self.category = words.categories[listing.category.name]
        self.vary = listing.category.vary

    def shown(self, share: float) -> list[str]:
        """The phrases that reach the title: nearly always the one in which variants differ."""
        return [
            phrase
            for name, phrase in self.phrases.items()
            if self.dice.happens(0.93 if name == self.vary else share) and phrase not in self.noun
        ]

    def facts(self, share: float) -> list[str]:
        return [phrase for phrase in self.phrases.values() if self.dice.happens(share)]

    def claims(self, count: int) -> str:
        return "".join(self.dice.some(self.category.claims, count))

    def opening(self) -> str:
        return self.dice.one(self.words.openings).format(**self.names)

    def closing(self) -> str:
        return self.dice.one(self.words.closings).format(**self.names)


def _terse(draft: _Draft) -> tuple[str, str]:
    shown, dice = draft.shown(0.35), draft.dice
    title = dice.one(
        [
            f"{draft.brand} {draft.line}{draft.noun} {draft.model} {' '.join(shown)}",
            f"{draft.brand} {draft.model} {run_together([*shown, draft.noun])}",
            f"{draft.brand}{draft.noun} {draft.line} {' '.join(shown)}",
        ]
    )
    facts = [
        f"{draft.words.labels[name]}：{phrase}" for name, phrase in draft.phrases.items() if dice.happens(0.7)
    ]
    claim = draft.claims(1) if dice.happens(0.6) or not facts else ""
    return title, f"{'；'.join(facts)}{'。' if facts else ''}{claim}"


def _standard(draft: _Draft) -> tuple[str, str]:
    shown, dice = draft.shown(0.5), draft.dice
    model = draft.model if dice.happens(0.8) else ""
    half = len(shown) // 2
    split = f"{run_together([*shown[:half], draft.noun])} {' '.join(shown[half:])}"
    title = dice.one(
        [
            f"{draft.brand} {draft.line}系列{draft.noun} {model} {' '.join(shown)}",
            f"{draft.brand}{draft.line} {run_together([*shown, draft.noun])} {model}",
            f"{draft.brand} {split} {draft.line} {model}",
            f"【{draft.brand}】{draft.line}{run_together([draft.noun, *shown])} {model}",
        ]
    )
    facts = dice.shuffled(draft.facts(0.75))
    spec = dice.one(["产品参数：{}。", "规格：{}。", "商品详情：{}。", "主要卖点：{}。"]).format(
        "、".join(facts)
    )
    closing = draft.closing() if dice.happens(0.6) else ""
    return title, f"{draft.opening()}{draft.claims(1)}{spec if facts else ''}{closing}"


def _stuffed(draft: _Draft) -> tuple[str, str]:
    """Every word that might be searched for, in one breath."""
    shown, dice = draft.shown(0.75), draft.dice
    nouns = [draft.noun, *dice.some([n for n in draft.category.nouns.listed if n != draft.noun], 1)]
    if dice.happens(0.15):
        nouns += [word for word in [dice.one(draft.category.nouns.asked)] if word not in nouns]
    tags = dice.some(draft.words.tags, 3)
    hype = dice.some(_HYPE, 2)
    line = draft.line if dice.happens(0.5) else ""
    words = [*nouns, *shown, *tags, hype[1]] if dice.happens(0.5) else [*shown, *tags, *nouns, hype[1]]
    joined = " ".join(words) if dice.happens(0.25) else run_together(words)
    title = f"{hype[0] if dice.happens(0.35) else ''}{draft.brand}{line}{joined}"
    facts = draft.facts(0.85)
    points = f"✔{' ✔'.join(facts)} " if facts else ""
    uses = "、".join(dice.some(draft.words.tags, 3))
    named = run_together([draft.brand, draft.line, draft.model, draft.noun])
    return title, f"{points}{draft.claims(2)}{named}，{uses}都合适，现货速发，支持七天无理由退换。"


def _flowery(draft: _Draft) -> tuple[str, str]:
    shown, dice = draft.shown(0.3), draft.dice
    mood = dice.one(_MOODS)
    title = dice.one(
        [
            f"{draft.brand}「{draft.line}」{mood} {run_together([*shown, draft.noun])}",
            f"{draft.brand} {draft.line}系列{draft.noun}｜{mood} {' '.join(shown)}",
            f"{mood} {draft.brand}{draft.line}{draft.noun} {' '.join(shown)}",
        ]
    )
    facts = dice.shuffled(draft.facts(0.65))
    woven = dice.one(["细节之处见用心：{}。", "{}，每一处都恰到好处。", "喜欢它的理由：{}。"]).format(
        "、".join(facts)
    )
    return title, f"{draft.opening()}{draft.claims(2)}{woven if facts else ''}{draft.closing()}"


_STYLES: dict[str, Callable[[_Draft], tuple[str, str]]] = {
    "terse": _terse,
    "standard": _standard,
    "stuffed": _stuffed,
    "flowery": _flowery,
}


def run_together(parts: list[str]) -> str:
    """The parts without spaces, except between two that would grow together (500ml 316).

    Example:
        >>> run_together(["棉麻", "三人位", "沙发"]), run_together(["保温杯", "500ml", "316"])
        ('棉麻三人位沙发', '保温杯500ml 316')
    """
    text = ""
    for part in filter(None, parts):
        grows = text and text[-1].isascii() and text[-1].isalnum() and part[0].isascii() and part[0].isalnum()
        text += f" {part}" if grows else part
    return text
