"""What a Chinese shopper types who means the same as an English query: same intent, other words.

Only the structured intent and the kind of the query are read, never its English words; the one exception are
vague queries, whose saying names no product and whose Chinese counterpart is declared next to it.
"""

from __future__ import annotations

from labkit.shop.chance import Dice
from labkit.shop.chinese import ChineseDepartment, ChineseWords, chinese, chinese_department_of
from labkit.shop.listing_zh import run_together
from labkit.shop.queries import Query
from labkit.shop.relevance import Intent
from labkit.shop.typos_zh import misspelt_zh


def chinese_query(query: Query, seed: int, index: int) -> str:
    """The Chinese wording of a query.

    Args:
        query: As made by :func:`labkit.shop.queries.make_queries`.
        seed: The market's seed.
        index: The query's number; every query has its own stream, so its wording depends on no other query.

    Returns:
        What is typed. It names every constraint of the intent in shoppers' words: brand, line and model, the
        wanted attribute values (in ``accept`` those of cost 0), and the highest price.

    Raises:
        ValueError: A vague query's saying is in no department's needs.

    Example:
        >>> from labkit.shop.declarations import departments
        >>> from labkit.shop.relevance import Constraint, ceilings
        >>> sofas = departments()["furniture"].categories["sofas"]
        >>> intent = Intent(ceilings([sofas]), {"colour": Constraint({"grey": 0, "silver": 1})})
        >>> text = chinese_query(Query("grey sofa", "attribute", intent), seed=0, index=0)
        >>> "灰色" in text and "沙发" in text
        True
    """
    dice = Dice(seed, "queries-zh", index)
    if query.kind == "vague":
        return _saying(query.text)
    text = _worded(query.kind, query.intent, dice)
    return misspelt_zh(text, dice) if query.kind == "typo" else text


def _saying(english: str) -> str:
    for department in chinese().values():
        if english in department.sayings:
            return department.sayings[english]
    raise ValueError(f"No department knows the need {english!r}, so it has no Chinese wording.")


def _worded(kind: str, intent: Intent, dice: Dice) -> str:
    wanted = [name for name, grade in intent.categories.items() if grade == 3]
    department = chinese_department_of()[wanted[0]]
    nouns = department.categories[wanted[0]].nouns
    if kind == "synonym":
        noun = _own_noun(nouns, bool(intent.must), dice)
    else:
        noun = dice.ranked(nouns.usual, steepness=2)
    words = [_value(department, name, intent, kind == "synonym", dice) for name in intent.must]
    if intent.line and intent.brand:
        text = _of_line(department, intent, noun if len(wanted) == 1 else "", dice)
    elif intent.brand:
        text = _of_brand(department.brands[intent.brand].name, noun, words, dice)
    elif words:
        text = _phrase(noun, words, dice)
    else:
        text = _plainly(noun, dice)
    if intent.price_max is not None:
        text += dice.one([" {}以内", " {}镑以内", " {}英镑以下", " 不超过{}镑"]).format(
            f"{intent.price_max:g}"
        )
    return text


def _own_noun(nouns: ChineseWords, also_named: bool, dice: Dice) -> str:
    """A synonym is the shopper's own word for the thing, unless a property is already said in such a word."""
    own = [word for word in nouns.asked if word not in nouns.usual]
    return dice.ranked(nouns.asked) if also_named or not own else dice.one(own)


def _value(department: ChineseDepartment, name: str, intent: Intent, own: bool, dice: Dice) -> str:
    """The wanted value in a shopper's word: one that sellers use too, or the shopper's own."""
    meant = [value for value, cost in intent.must[name].accept.items() if cost == 0]
    said = []
    for value in meant:
        words = department.attributes[name][value]
        said.append(
            dice.one(words.private or words.asked) if own else dice.ranked(words.shared or words.asked)
        )
    return "或".join(said)


def _of_line(department: ChineseDepartment, intent: Intent, noun: str, dice: Dice) -> str:
    """Without a noun the whole line is meant, whatever it is."""
    brand = department.brands[intent.brand or ""]
    line = brand.lines[intent.line or ""]
    if intent.model:
        model = dice.one([intent.model, intent.model.lower()])
        forms = [f"{brand.name} {model}", f"{brand.name}{line} {model}", f"{brand.name}{noun} {model}"]
    elif noun:
        forms = [f"{brand.name}{line}{noun}", f"{brand.name} {line} {noun}", f"{brand.name}{noun} {line}"]
    else:
        forms = [f"{brand.name}{line}", f"{brand.name} {line}", f"{brand.name}{line}系列"]
    return dice.one(forms)


def _of_brand(brand: str, noun: str, words: list[str], dice: Dice) -> str:
    if words:
        return f"{brand}{dice.one(['', ' '])}{_phrase(noun, words, dice)}"
    return dice.one([f"{brand}{noun}", f"{brand} {noun}", f"{noun} {brand}", f"{brand}牌{noun}"])


def _phrase(noun: str, words: list[str], dice: Dice) -> str:
    """Properties before the noun in one breath or in pieces, or piled up behind it."""
    words = [word for word in words if word not in noun]
    way = dice.weighted([0.45, 0.3, 0.25] if len(words) <= 2 else [0.15, 0.55, 0.3])
    if way == 0:
        return run_together([*words, noun])
    return " ".join([*words, noun] if way == 1 else [noun, *words])


def _plainly(noun: str, dice: Dice) -> str:
    if dice.happens(0.8):
        return noun
    return dice.one(["{}推荐", "{}哪款好", "买{}", "{}促销", "好用的{}", "新款{}"]).format(noun)
