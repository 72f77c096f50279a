"""What people come for: the queries they type, and the products the shop could show for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from labkit.shop.chance import Dice, stream
from labkit.shop.declarations import Department
from labkit.shop.products import Product
from labkit.shop.queries import KINDS, PADDED, Query, Shoppers, answerable
from labkit.shop.queries_zh import chinese_query
from labkit.shop.shelf import Shelf
from labkit.shop.titles import TitleMatch

POOL = 60  # products that the first stage of the search finds for a query
# What share of the searches for a category is of which kind: heads far more than tails, as in real logs.
TRAFFIC = {
    "plain": 0.38,
    "brand": 0.22,
    "attribute": 0.17,
    "synonym": 0.09,
    "typo": 0.06,
    "long_tail": 0.05,
    "vague": 0.03,
}
SKEW = 0.02  # the smaller, the more the most frequent queries of a kind stand out
PADDED_SHARE = 0.1  # "best sofa" is typed so often for each "sofa"
HOME_GRADE = 2  # nobody asked for anything: what suits the mood of the day is as good as a near match


@dataclass(frozen=True)
class Demand:
    """Everything that can be asked of the shop: Q typed queries, then one home page for each category.

    Attributes:
        table: query_id i32, text, lang, kind, category; the judged queries first, then the same in Chinese,
            then what else is typed.
        category: (Q + C,) the main category that is wanted.
        weight: (Q + C,) how often it is asked.
        zh: (Q + C,) bool, asked in Chinese; a home page has no language.
        pool: (Q + C, 60) i32 product ids, what the first stage finds, in the order of the ids.
        grade: (Q + C, 60) i8, the true grade of each.
        match: (Q + C, 60) f32 in [0, 1]: how well the words fit, as the shop's search sees it.
        guess: (Q + C, 60) bool: in the category that the shop's query classifier guesses, which is right
            three times in four.
    """

    table: pl.DataFrame
    category: np.ndarray
    weight: np.ndarray
    zh: np.ndarray
    pool: np.ndarray
    grade: np.ndarray
    match: np.ndarray
    guess: np.ndarray

    @property
    def queries(self) -> int:
        return self.table.height


def make_demand(
    departments: list[Department],
    products: list[Product],
    judged: list[Query],
    judged_zh: list[str],
    titles_zh: list[str],
    shelf: Shelf,
    count: int,
    seed: int,
) -> Demand:
    """Draft what is typed and find the candidates of each query.

    Args:
        departments: whose words are used.
        products: the catalogue.
        judged: the judged queries, which become the first typed ones.
        judged_zh: their Chinese wording.
        titles_zh: the Chinese titles.
        shelf: the products' hidden side.
        count: how many queries are typed besides, half of them in Chinese.
        seed: of the market.
    """
    number = {name: i for i, name in enumerate(shelf.categories)}
    seen = {query.text for query in judged}
    shoppers = Shoppers(departments, products, seed, stage="typed")
    more: list[Query] = []
    for kind in KINDS:
        wanted = round(count / 2 * KINDS[kind])
        drafts = answerable(shoppers.drafts(kind), wanted, shelf.facts, seen)
        more += [Query(text, kind, intent) for text, intent in drafts]
    more = Dice(seed, "typed", "order").shuffled(more)
    more_zh = [chinese_query(q, seed, len(judged) + i) for i, q in enumerate(more)]
    asked = [*judged, *judged, *more, *more]
    texts = [*(q.text for q in judged), *judged_zh, *(q.text for q in more), *more_zh]
    zh = np.array([False] * len(judged) + [True] * len(judged) + [False] * len(more) + [True] * len(more))
    category = np.array([number[_main(q)] for q in asked])
    table = pl.DataFrame(
        {
            "query_id": np.arange(len(asked), dtype=np.int32),
            "text": texts,
            "lang": np.where(zh, "zh", "en"),
            "kind": [q.kind for q in asked],
            "category": [shelf.categories[c] for c in category],
        }
    )
    homes = np.arange(len(shelf.categories))
    weight = _weights(asked, texts, category, zh, seed)
    pool, grade, match, guess = _pools(products, asked, texts, zh, titles_zh, shelf, seed)
    return Demand(
        table=table,
        category=np.concatenate([category, homes]),
        weight=np.concatenate([weight, np.ones(len(homes))]),
        zh=np.concatenate([zh, np.zeros(len(homes), dtype=bool)]),
        pool=pool,
        grade=grade,
        match=match,
        guess=guess,
    )


def _weights(
    asked: list[Query], texts: list[str], category: np.ndarray, zh: np.ndarray, seed: int
) -> np.ndarray:
    """How often each query is typed: the kinds have their shares in each category and language. (Q,)"""
    kinds = np.array([list(TRAFFIC).index(q.kind) for q in asked])
    padding = tuple(words.format("").strip() for words in PADDED)
    padded = np.array([any(word in text.split() for word in padding) for text in texts])
    luck = SKEW / (SKEW + stream(seed, "typed", "traffic").random(len(asked)))
    luck = luck * np.where(padded, PADDED_SHARE, 1.0)
    group = (2 * category + zh) * len(TRAFFIC) + kinds
    whole = np.bincount(group, luck)
    return np.array(list(TRAFFIC.values()))[kinds] * luck / whole[group]


def _main(query: Query) -> str:
    return max(query.intent.categories, key=lambda name: query.intent.categories[name])


def _pools(
    products: list[Product],
    asked: list[Query],
    texts: list[str],
    zh: np.ndarray,
    titles_zh: list[str],
    shelf: Shelf,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    total = len(asked) + len(shelf.categories)
    pool = np.empty((total, POOL), dtype=np.int32)
    grade = np.full((total, POOL), HOME_GRADE, dtype=np.int8)
    match = np.zeros((total, POOL), dtype=np.float32)
    guess = np.ones((total, POOL), dtype=bool)
    search = {False: TitleMatch([p.title for p in products]), True: TitleMatch(titles_zh)}
    departments = {name: number for number, name in enumerate(shelf.departments)}
    nearby = [np.flatnonzero(shelf.department_of() == d) for d in departments.values()]
    for row, (query, text) in enumerate(zip(asked, texts, strict=True)):
        rng = stream(seed, "pools", row)
        best = [name for name, top in query.intent.categories.items() if top == 3]
        guessed = shelf.facts.category.index[best[int(rng.random() * len(best))]]
        if rng.random() > 0.75:
            others = nearby[shelf.department_of()[guessed]]
            guessed = int(others[int(rng.random() * len(others))])
        fit = search[bool(zh[row])].fit(text)
        # The candidates: what shares a word, and the guessed category.
        near = fit > 0
        near[shelf.facts.members[shelf.categories[guessed]]] = True
        ids = np.flatnonzero(near)
        inside = shelf.category[ids] == guessed
        score = 0.9 * fit[ids] + 0.5 * inside + 0.35 * shelf.appeal[ids]
        found = ids[_first(score, ids, POOL)]
        if len(found) < POOL:  # a small shop: fill up with anything
            found = np.concatenate([found, np.setdiff1d(np.arange(len(products)), found)])[:POOL]
        found = np.sort(found)  # by id: the order must not tell a policy what is hidden
        pool[row], match[row] = found, fit[found]
        guess[row] = shelf.category[found] == guessed
        grade[row] = shelf.facts.grades_of(found, query.intent)
    for number, name in enumerate(shelf.categories):
        row = len(asked) + number
        # Half hits, half news; a category that is too small lends from its department.
        ids = shelf.facts.members[name]
        old, new = ids[shelf.launched[ids] <= 0], ids[shelf.launched[ids] > 0]
        found = np.concatenate([part[_first(shelf.appeal[part], part, POOL // 2)] for part in (old, new)])
        others = np.flatnonzero(shelf.department == shelf.department[ids[0]])
        for more in (ids, others, np.arange(len(products))):
            found = np.concatenate([found, np.setdiff1d(more, found)])[:POOL]
        pool[row] = np.sort(found)
        grade[row] = np.where(shelf.category[pool[row]] == number, HOME_GRADE, 0)
    return pool, grade, match, guess


def _first(score: np.ndarray, ids: np.ndarray, count: int) -> np.ndarray:
    """The places of the ``count`` highest scores, best first, lower id first among equals."""
    score = np.round(score, 6)
    if len(score) > 4 * count:
        floor = np.partition(score, -count)[-count]
        kept = np.flatnonzero(score >= floor)
        return kept[np.lexsort((ids[kept], -score[kept]))[:count]]
    return np.lexsort((ids, -score))[:count]
