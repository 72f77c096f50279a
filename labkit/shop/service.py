"""Customer service: the shop's passages (policies and product facts) and the questions that they answer.

The truth of a question is known because it is drawn from a case (``prose/service.yaml``) that names its
passages and its answer; customers then word it in their own way (``service_en.yaml``, ``service_zh.yaml``),
which is rarely the way of the help pages. About one question in eight is answered nowhere, as in SQuAD 2.0
(Rajpurkar, Jia and Liang 2018, "Know What You Don't Know").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from labkit.shop.calendar import DAYS, MIDNIGHT
from labkit.shop.chance import Dice
from labkit.shop.grammar import Grammar, prose
from labkit.shop.service_facts import LANGUAGES, Shelf, data_sheet, nouns
from labkit.shop.typos_zh import misspelt_zh

DAY_MS = 86_400_000
PRODUCT_TOPIC = "product facts"
KINDS = {"policy": 0.66, "product": 0.22, "unanswered": 0.12}
TWO_AT_ONCE = 0.04
TYPOS = 0.1
CHANNELS = ("chat", "email", "app")
SLOTS = ("item", "place", "product", "label", "value", "order")
PASSAGES = {
    "passage_id": pl.Int32,
    "kind": pl.String,
    "topic": pl.String,
    "title": pl.String,
    "text": pl.String,
    "lang": pl.String,
    "product_id": pl.Int32,
}
QUESTIONS = {
    "question_id": pl.Int32,
    "shopper_id": pl.Int32,
    "time": pl.Datetime("ms"),
    "lang": pl.String,
    "text": pl.String,
    "topic": pl.String,
    "product_id": pl.Int32,
    "answer": pl.String,
    "passage_ids": pl.List(pl.Int32),
    "channel": pl.String,
}


def make_passages(products: pl.DataFrame, seed: int, most: int = 2_000) -> pl.DataFrame:
    """The texts that customer service may quote, in both languages.

    Args:
        products: product_id (row number), category, attributes (JSON), title, description, title_zh and
            description_zh.
        seed: The market's seed; it decides which products get a passage where there are more than ``most``.
        most: How many products are described at most.

    Returns:
        The columns of ``PASSAGES``: kind is "policy" or "catalogue"; product_id is null for policies. Every
        policy and every described product has one passage in English and one in Chinese.

    Raises:
        ValueError: The products have no Chinese texts.

    Example:
        >>> import labkit.shop
        >>> shelf = labkit.shop.load("tiny").products.head(3)
        >>> if "title_zh" not in shelf.columns:
        ...     shelf = shelf.with_columns(title_zh=pl.lit("沙发"), description_zh=pl.lit("好看。"))
        >>> passages = make_passages(shelf, seed=0)
        >>> passages.filter(kind="catalogue").height, passages.columns == list(PASSAGES)
        (6, True)
    """
    if not {"title_zh", "description_zh"} <= set(products.columns):
        raise ValueError("The products have no title_zh and description_zh; give the products of load().")
    rows: list[dict[str, Any]] = [
        {"kind": "policy", "topic": entry["topic"], "lang": lang, "product_id": None, **entry[lang]}
        for entry in prose("service_passages").values()
        for lang in LANGUAGES
    ]
    order = Dice(seed, "service", "shelf").some(range(products.height), most)
    for product in products[sorted(order)].iter_rows(named=True):
        for lang, suffix, space in (("en", "", " "), ("zh", "_zh", "")):
            sheet = data_sheet(product["category"], product["attributes"], lang)
            rows.append(
                {
                    "kind": "catalogue",
                    "topic": PRODUCT_TOPIC,
                    "lang": lang,
                    "product_id": product["product_id"],
                    "title": product["title" + suffix],
                    "text": product["description" + suffix] + space + sheet,
                }
            )
    for passage_id, row in enumerate(rows):
        row["passage_id"] = passage_id
    return pl.DataFrame(rows, schema=PASSAGES)


def make_questions(
    passages: pl.DataFrame,
    products: pl.DataFrame,
    purchases: pl.DataFrame,
    shoppers: pl.DataFrame,
    count: int,
    seed: int,
) -> pl.DataFrame:
    """What customers ask, with all passages that answer it, ordered by time.

    Args:
        passages: From :func:`make_passages`, of the same products.
        products: product_id (row number), category, department, brand, attributes (JSON), title, title_zh.
        purchases: One row per purchase: session_id, shopper_id, time, product_id.
        shoppers: shopper_id (row number), lang ("en" or "zh"), name.
        count: How many questions.
        seed: The market's seed.

    Returns:
        The columns of ``QUESTIONS``. ``passage_ids`` is empty and ``answer`` null where no text of the shop
        answers; ``product_id`` is null where the customer names no product and no order. A question about two
        things at once carries the topic of the first and the passages of both.

    Raises:
        ValueError: Nobody has bought anything, or the passages are not those of :func:`make_passages`.

    Example:
        >>> import labkit.shop
        >>> products = labkit.shop.load("tiny").products
        >>> if "title_zh" not in products.columns:
        ...     products = products.with_columns(title_zh=pl.lit("沙发"), description_zh=pl.lit("好看。"))
        >>> people = pl.DataFrame({"shopper_id": [0], "lang": ["en"], "name": ["Ada Brook"]})
        >>> bought = pl.DataFrame({"session_id": range(9), "shopper_id": [0] * 9, "product_id": range(9)})
        >>> bought = bought.with_columns(time=pl.datetime(2025, 9, 1))
        >>> asked = make_questions(make_passages(products, 0), products, bought, people, count=20, seed=0)
        >>> asked.height, asked.columns == list(QUESTIONS)
        (20, True)
    """
    if not purchases.height:
        raise ValueError("Nobody has bought anything yet, so nobody asks; give at least one purchase.")
    desk = _Desk(passages, products, purchases, shoppers, seed)
    rows = [desk.question() for _ in range(count)]
    order = np.argsort(np.array([row["time"] for row in rows], dtype=np.int64), kind="stable")
    rows = [{**rows[place], "question_id": number} for number, place in enumerate(order.tolist())]
    schema: dict[str, Any] = {**QUESTIONS, "time": pl.Int64}
    return pl.DataFrame(rows, schema=schema).with_columns(pl.col("time").cast(pl.Datetime("ms")))


@dataclass(frozen=True)
class _Core:
    """A question before greetings and slips."""

    text: str
    topic: str
    answer: str | None
    passages: tuple[int, ...]
    product: int | None


class _Desk:
    """Where the questions come in: one call of :meth:`question` is one customer."""

    def __init__(
        self,
        passages: pl.DataFrame,
        products: pl.DataFrame,
        purchases: pl.DataFrame,
        shoppers: pl.DataFrame,
        seed: int,
    ) -> None:
        self.plan = prose("service")
        self.dice = Dice(seed, "service", "questions")
        self.grammars = {lang: Grammar(prose(f"service_{lang}"), SLOTS) for lang in LANGUAGES}
        self.langs, self.names = shoppers["lang"].to_list(), shoppers["name"].to_list()
        self.categories = products["category"].to_list()
        self.buyers = purchases["shopper_id"].to_list()
        self.bought = purchases["product_id"].to_list()
        self.sessions = purchases["session_id"].to_list()
        self.times = purchases["time"].dt.cast_time_unit("ms").to_numpy().astype("i8").tolist()
        self.policies = _policy_ids(passages)
        self.shelf = Shelf(passages, products)
        pools = self._pools(products)
        self.pools = {case: pool for case, pool in pools.items() if pool}
        self.weights = [float(self.plan["cases"][case].get("weight", 1)) for case in self.pools]

    def _pools(self, products: pl.DataFrame) -> dict[str, list[int]]:
        """The purchases that each case can be about."""
        category = products["category"].to_numpy()[self.bought]
        department = products["department"].to_numpy()[self.bought]
        pools = {}
        for name, case in self.plan["cases"].items():
            about, left_out = case.get("about"), case.get("except", [])
            fits = ~(np.isin(category, left_out) | np.isin(department, left_out))
            if about:
                fits &= np.isin(category, about) | np.isin(department, about)
            pools[name] = np.flatnonzero(fits).tolist()
        return pools

    def question(self) -> dict[str, Any]:
        dice = self.dice
        kind = list(KINDS)[dice.weighted(list(KINDS.values()))]
        case = list(self.pools)[dice.weighted(self.weights)]
        # Whoever asks has bought something; the purchase also says when, and what "my {item}" is.
        purchase = dice.one(self.pools[case] if kind == "policy" else range(len(self.bought)))
        shopper = self.buyers[purchase]
        lang, order = self.langs[shopper], f"PS{self.sessions[purchase]:08d}"
        if kind == "policy":
            core = self._policy(case, purchase, lang, order)
            if dice.happens(TWO_AT_ONCE):
                core = self._and_another(core, case, purchase, lang, order)
        elif kind == "product":
            core = self._product(lang)
        else:
            core = self._unanswered(purchase, lang, order)
        mood = list(self.plan["moods"])[dice.weighted(list(self.plan["moods"].values()))]
        text = self._framed(core.text, mood, lang, order, self.names[shopper])
        delay = int(dice.between(0.02, 25) * DAY_MS) // 1000 * 1000
        product = self.bought[purchase] if core.product is None and order in text else core.product
        return {
            "shopper_id": shopper,
            # Nobody asks after the last night of the year: who would, asks sooner.
            "time": self.times[purchase] + delay % (_LAST - self.times[purchase] + 1),
            "lang": lang,
            "text": text,
            "topic": core.topic,
            "product_id": product,
            "answer": core.answer,
            "passage_ids": list(core.passages),
            "channel": CHANNELS[dice.weighted((0.25, 0.55, 0.2) if mood == "polite" else (0.6, 0.1, 0.3))],
        }

    def _policy(self, name: str, purchase: int, lang: str, order: str) -> _Core:
        case = self.plan["cases"][name]
        place = self.dice.one(self.plan["places"][case["place"]][lang]) if "place" in case else ""
        text, product = self._worded(name, purchase, lang, order, place)
        ids = tuple(self.policies[lang, key] for key in case["passages"])
        return _Core(text, case["topic"], case["answer"][lang], ids, product)

    def _and_another(self, core: _Core, first: str, purchase: int, lang: str, order: str) -> _Core:
        """A second question about the same purchase, where another case fits it."""
        plan = self.plan["cases"]
        free = [name for name in self.pools if not {"about", "except"} & plan[name].keys() and name != first]
        other = self._policy(self.dice.one(free), purchase, lang, order)
        space = " " if lang == "en" else "" if core.text[-1] in "？！?!" else "，"
        return _Core(
            space.join((core.text, self.dice.one(self.plan["frames"][lang]["join"]), other.text)),
            core.topic,
            f"{core.answer}; {other.answer}",
            core.passages + tuple(key for key in other.passages if key not in core.passages),
            core.product if other.product is None else other.product,
        )

    def _unanswered(self, purchase: int, lang: str, order: str) -> _Core:
        topic = self.dice.one(self.plan["unanswered"])
        text, product = self._worded(topic, purchase, lang, order)
        return _Core(text, topic, None, (), product)

    def _worded(
        self, rule: str, purchase: int, lang: str, order: str, place: str = ""
    ) -> tuple[str, int | None]:
        """The words, and the product if they speak of it."""
        product = self.bought[purchase]
        item = self.dice.ranked(nouns(self.categories[product], lang), steepness=2)
        text = self.grammars[lang].write(rule, self.dice, {"item": item, "place": place, "order": order})
        return text, product if item in text or order in text else None

    def _product(self, lang: str) -> _Core:
        fact = self.shelf.fact(lang, self.dice)
        words = {"product": fact.name, "label": fact.label}
        # Half of the hopes come true; a word may fit several values, so the truth is looked up, not assumed.
        hoped = fact.value if self.dice.happens(0.5) else self.dice.one(list(fact.asked))
        asked = [word for word in fact.asked[hoped] if "that " not in word]
        if not asked or self.dice.happens(0.5):
            text, answer = self.grammars[lang].write("product-what", self.dice, words), fact.listed
        else:
            words["value"] = self.dice.ranked(asked)
            text = self.grammars[lang].write("product-yes-no", self.dice, words)
            right = words["value"] in fact.asked[fact.value]
            answer = _VERDICTS[lang][0 if right else 1] + fact.listed
        return _Core(text, PRODUCT_TOPIC, answer, fact.passages, fact.product)

    def _framed(self, text: str, mood: str, lang: str, order: str, name: str) -> str:
        dice = self.dice
        if dice.happens(TYPOS):
            text = misspelt_zh(text, dice) if lang == "zh" else _misspelt(text, dice)
        if mood == "short":
            text = text.rstrip("?.!？。！")
            text = text.lower() if lang == "en" else text
        frame = self.plan["frames"][lang][mood]
        called = name.split()[0] if lang == "en" else name
        before, after = (
            dice.one(frame[side]).format(name=called, order=order) for side in ("before", "after")
        )
        if lang == "zh":
            comma = "，" if after and text[-1] not in "？！，。?!" else ""
            return f"{before}{text}{comma}{after}"
        text = re.sub(r"\ba (?=[aeiou])", "an ", text).replace("the The ", "The ")
        if after and text[-1] not in "?.!":
            text += "."
        return f"{before} {text} {after}".strip()


def _policy_ids(passages: pl.DataFrame) -> dict[tuple[str, str], int]:
    """Passage ids by language and key in ``service_passages.yaml``."""
    found = passages.filter(pl.col("kind") == "policy").select("lang", "title", "passage_id")
    ids = {(lang, title): passage_id for lang, title, passage_id in found.iter_rows()}
    try:
        return {
            (lang, key): ids[lang, entry[lang]["title"]]
            for key, entry in prose("service_passages").items()
            for lang in LANGUAGES
        }
    except KeyError as error:
        raise ValueError(f"The passages lack the policy {error}; give those of make_passages().") from None


_LAST = int(np.datetime64(MIDNIGHT, "ms").astype("i8")) + DAYS * DAY_MS - 1
_VERDICTS = {"en": ("Yes: ", "No: "), "zh": ("是的，", "不是，")}


def _misspelt(text: str, dice: Dice) -> str:
    """Swap two neighbours in one of the longer words, as fast thumbs do; numbers and names in it stay."""
    words = text.split()
    long = [place for place, word in enumerate(words) if len(word) > 4 and word.isalpha() and word.islower()]
    if not long:
        return text
    place = dice.one(long)
    word, at = words[place], 1 + dice.below(len(words[place]) - 2)
    words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)
