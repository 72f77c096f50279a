"""A judged sample of the simulated traffic, made the way real sets are: real traffic, judged shallowly.

The simulation knows the grade of every pair. A real set does not: Chorus Electronics has 135 queries from a
shop's traffic, and grades for the 27 products or so that its keyword engine returned for each. To compare
the order of methods like with like, the simulated traffic is sampled and judged in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from labkit.compare import Comparison, Qrels
from labkit.data import JudgedSearch
from labkit.evaluate import holm, paired_permutation_test
from labkit.shop import Market
from labkit.shop.demand import TitleMatch
from labkit.shop.making import catalogue
from labkit.shop.queries import Shoppers
from labkit.shop.relevance import Intent
from labkit.text import stem, tokenize

QUERIES, DEPTH = 135, 27  # as many queries and products judged for each as Chorus has
_DRAFTS = 200_000  # far more than the market drafts of any kind


def english_searches(market: Market) -> pl.DataFrame:
    """How often each English query was searched in the year: query_id, text, kind, searches."""
    asked = market.scan("events").filter(pl.col("surface") == "search")
    counts = asked.select("session_id", "time", "query_id").unique().group_by("query_id").len("searches")
    typed = market.scan("typed_queries").filter(pl.col("lang") == "en").select("query_id", "text", "kind")
    return typed.join(counts, on="query_id").sort("query_id").collect()


def sample_traffic(market: Market, queries: int = QUERIES, seed: int = 0) -> pl.DataFrame:
    """Different English queries, drawn one after the other by how often they are searched.

    Args:
        market: whose log is sampled.
        queries: how many.
        seed: of the draw.

    Returns:
        query_id (of ``typed_queries``), text, kind, searches; fewer rows where the log has fewer queries.
    """
    return weighted_sample(english_searches(market), queries, seed)


def weighted_sample(rows: pl.DataFrame, queries: int, seed: int = 0) -> pl.DataFrame:
    """Rows drawn without replacement, each next one in proportion to its "searches"."""
    # Efraimidis and Spirakis 2006: the highest u ** (1 / w) are a weighted sample without replacement.
    u = np.random.default_rng(seed).random(rows.height)
    order = np.argsort(np.log(u) / rows["searches"].to_numpy())[::-1]
    return rows[np.sort(order[:queries]).tolist()]


def intents(market: Market, query_ids: list[int]) -> dict[int, Intent]:
    """The structured truth behind typed English queries.

    It is drafted again as the market drafted it, and recognised by the text and by the grades of the
    candidates that the market kept.

    Raises:
        LookupError: a query was never drafted, or it is not an English one.
    """
    shop, demand = catalogue(market.size, market.seed), market.year.demand
    facts = market.year.shelf.facts
    found = {number: shop.queries[number].intent for number in query_ids if number < len(shop.queries)}
    shoppers = Shoppers(shop.departments, shop.products, market.seed, stage="typed")
    wanted: dict[str, dict[str, int]] = {}
    typed = demand.table.filter(pl.col("query_id").is_in(query_ids) & (pl.col("lang") == "en"))
    for number, text, kind in typed.select("query_id", "text", "kind").iter_rows():
        if number not in found:
            wanted.setdefault(kind, {})[text] = number
    for kind, missing in wanted.items():
        for _, (text, intent) in zip(range(_DRAFTS), shoppers.drafts(kind), strict=False):
            number = missing.get(text, -1)
            if number >= 0 and np.array_equal(
                facts.grades_of(demand.pool[number], intent), demand.grade[number]
            ):
                found[number] = intent
                del missing[text]
            if not missing:
                break
    if lost := set(query_ids) - set(found):
        raise LookupError(f"No draft explains the typed queries {sorted(lost)}; give English queries alone.")
    return found


def keyword_pools(market: Market, texts: list[str], depth: int = DEPTH) -> list[list[int]]:
    """What a keyword engine returns: the titles with most of the query's words, well-liked products first.

    Chorus was judged from such an engine. BM25's first ten were judged in 74 % of the cases there and are in
    76 % here (small market, seed 0); with the shop's own engine, which also guesses the category, in 68 %.

    Returns:
        For each query at most ``depth`` product ids, each sharing at least one word with it.
    """
    search, appeal = TitleMatch(market.titles()), market.year.shelf.appeal
    pools = []
    for text in texts:
        fit = search.fit(text)
        order = np.argsort(-(np.round(fit, 6) + 0.1 * appeal), kind="stable")[:depth]
        pools.append([int(item) for item in order if fit[item] > 0])
    return pools


def judged_sample(
    market: Market, queries: int = QUERIES, depth: int = DEPTH, seed: int = 0
) -> tuple[JudgedSearch, Qrels]:
    """The sample as a judged set: shallow judgements to learn from and measure with, and the whole truth.

    Args:
        market: what is searched.
        queries: how many to sample.
        depth: how many products are judged for each.
        seed: of the sample.

    Returns:
        The set (its query ids are row numbers of the sample, its queries also have a "kind"), and all grades
        above 0 by query.

    Example:
        >>> from labkit.shop import load
        >>> data, truth = judged_sample(load("tiny"), queries=5, depth=10)
        >>> data.queries.height, data.judgements.height <= 50
        (5, True)
    """
    return judged_as_pooled(market, sample_traffic(market, queries, seed), depth)


def judged_as_pooled(market: Market, sample: pl.DataFrame, depth: int = DEPTH) -> tuple[JudgedSearch, Qrels]:
    """Any sample of :func:`english_searches` as a judged set; see :func:`judged_sample`."""
    numbers, texts = sample["query_id"].to_list(), sample["text"].to_list()
    behind, facts = intents(market, numbers), market.year.shelf.facts
    grades = np.stack([facts.grades(behind[number]) for number in numbers])  # (Q, N)
    pools = keyword_pools(market, texts, depth)
    pairs = [(row, item) for row, pool in enumerate(pools) for item in sorted(pool)]
    query, item = np.array(pairs, dtype=np.int32).reshape(-1, 2).T
    judgements = pl.DataFrame({"query_id": query, "product_id": item, "grade": grades[query, item]})
    rows = sample.select(
        query_id=pl.int_range(pl.len(), dtype=pl.Int32), text="text", kind="kind", searches="searches"
    )
    products = market.products.with_columns(key=pl.col("product_id").cast(pl.String))
    data = JudgedSearch(f"shop-{market.size}-{market.seed}, sampled", products, rows, judgements)
    complete = {
        q: {int(item): int(row[item]) for item in np.flatnonzero(row)} for q, row in enumerate(grades)
    }
    return data, complete


def word_shares(data: JudgedSearch, grade: int) -> tuple[np.ndarray, np.ndarray]:
    """How often a judged product of a grade holds every word of its query, up to a plural s.

    Returns:
        The share in titles, and in title and description together: (Q,) each, over the queries that have such
        a product. ESCI's sample has no texts; its shares mean nothing.
    """
    titles = [{stem(token) for token in tokenize(text)} for text in data.titles()]
    whole = [{stem(token) for token in tokenize(text)} for text in data.documents()]
    text = dict(data.queries.select("query_id", "text").iter_rows())
    in_title, anywhere = [], []
    for query, grades in data.qrels().items():
        wanted = {stem(token) for token in tokenize(text[query])}
        items = [item for item, found in grades.items() if found == grade]
        if items:
            in_title.append(np.mean([wanted <= titles[item] for item in items]))
            anywhere.append(np.mean([wanted <= whole[item] for item in items]))
    return np.array(in_title), np.array(anywhere)


@dataclass(frozen=True)
class Step:
    """Two methods next to each other in an order."""

    better: str
    worse: str
    difference: float  # of the means
    p: float  # paired permutation test, two-sided
    p_holm: float  # corrected for the steps of this order


@dataclass(frozen=True)
class Order:
    """Methods from the best to the worst by one measure, and how sure each step is."""

    measure: str
    names: list[str]
    steps: list[Step]

    def said(self, level: float = 0.05) -> str:
        """The order in a line: ">" is significant, "≥" is not."""
        text = self.names[0]
        for step in self.steps:
            text += f" {'>' if step.p_holm < level else '≥'} {step.worse}"
        return text


def order_of_methods(values: dict[str, np.ndarray], measure: str) -> Order:
    """Order methods by their mean and test each adjacent difference (Holm 1979 for the number of tests).

    Args:
        values: by method, (Q,) one value per query, all on the same queries.
        measure: what the values are.
    """
    names = sorted(values, key=lambda name: -float(values[name].mean()))
    pairs = list(pairwise(names))
    p = [paired_permutation_test(values[a], values[b]) for a, b in pairs]
    steps = [
        Step(a, b, float(values[a].mean() - values[b].mean()), raw, corrected)
        for (a, b), raw, corrected in zip(pairs, p, holm(p), strict=True)
    ]
    return Order(measure, names, steps)


@dataclass(frozen=True)
class Agreement:
    """How far two orders of the same methods agree."""

    pairs: int
    agree: int  # pairs that both put the same way round
    against: list[tuple[str, str]]  # put the other way round, (better there, worse there) of the second
    contradicted: list[tuple[str, str]]  # of these, those where both are significant


def agreement(first: dict[str, np.ndarray], second: dict[str, np.ndarray], level: float = 0.05) -> Agreement:
    """Compare all pairs of methods on two sets; a pair contradicts where both differences are significant.

    Args:
        first: by method, one value per query of the first set.
        second: the same methods on the queries of the second set.
        level: of significance, for each test by itself: the mild rule that finds more contradictions.
    """
    names = list(first)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    against, contradicted = [], []
    for a, b in pairs:
        here = float(first[a].mean() - first[b].mean())
        there = float(second[a].mean() - second[b].mean())
        if here * there < 0:
            found = (a, b) if there > 0 else (b, a)
            against.append(found)
            sure = [paired_permutation_test(v[a], v[b]) < level for v in (first, second)]
            if all(sure):
                contradicted.append(found)
    return Agreement(len(pairs), len(pairs) - len(against), against, contradicted)


def values_of(comparison: Comparison, measure: str) -> dict[str, np.ndarray]:
    """One measure's values by method."""
    return {system.name: system.values for system in comparison.measures[measure]}
