"""What is compared between the simulated market and the real sets, one function for each section."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import polars as pl

from labkit.compare import SYSTEMS, Comparison, answered
from labkit.data import (
    DataMissing,
    load_amazon_beauty,
    load_chorus,
    load_ciao,
    load_diginetica,
    load_esci_sample,
    load_hillstrom,
    load_open_bandit,
    load_wands_queries,
    load_zh_reviews,
)
from labkit.data.tables import JudgedSearch
from labkit.evaluate import bootstrap_interval
from labkit.realism_measures import (
    Spread,
    Value,
    characters,
    click_curve,
    core,
    found_words,
    mean_value,
    power_law,
    share_value,
    spread,
    top_share,
    words,
)
from labkit.realism_search import (
    DEPTH,
    agreement,
    english_searches,
    order_of_methods,
    values_of,
    word_shares,
)
from labkit.shop import Market
from labkit.shop.behaviour import EXAMINE
from labkit.shop.policies import Shuffled
from labkit.shop.replay import gini, replay

T = TypeVar("T")
SEARCHES, BANNERS = "search", "home"
_PADDING = re.compile(r"\b(best|good|cheap|buy|new|sale|online)\b")


@dataclass(frozen=True)
class Section:
    """One thing that was compared.

    Attributes:
        title: what.
        how: what was done to make the sets comparable.
        columns: of the table, the first being the source.
        rows: of the table, simulated sources first.
        said: plain sentences on the differences.
        drawn: what the figures are drawn from.
    """

    title: str
    how: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    said: list[str]
    drawn: dict[str, Any] = field(default_factory=dict, repr=False)


class Sets:
    """The real sets: each is loaded when asked for; those that are not here are remembered."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def get(self, loader: Callable[..., T], name: str, *args: str) -> T | None:
        """The set, or None when it is not here."""
        try:
            return loader(*args)
        except DataMissing:
            if name not in self.missing:
                self.missing.append(name)
            return None


def popularity(market: Market, sets: Sets) -> Section:
    """How unequally items are liked."""
    log = market.scan("events")
    clicked = log.filter("clicked").select(user_id="shopper_id", item_id="product_id").collect()
    bought = log.filter("bought").select(user_id="shopper_id", item_id="product_id").collect()
    counts = {
        "simulated clicks": _per(clicked, "item_id"),
        "simulated purchases": _per(bought, "item_id"),
        "simulated clicks, 5-core": _per(core(clicked), "item_id"),
    }
    if (visits := sets.get(load_diginetica, "Diginetica")) is not None:
        counts["Diginetica clicks"] = _per(visits.train.explode("item_ids"), "item_ids")
    if (ciao := sets.get(load_ciao, "Ciao")) is not None:
        counts["Ciao ratings"] = _per(ciao.events.select("user_id", "item_id").collect(), "item_id")
    if (beauty := sets.get(load_amazon_beauty, "Amazon Beauty")) is not None:
        counts["Amazon Beauty reviews, 5-core"] = _per(
            beauty.events.select("user_id", "item_id").collect(), "item_id"
        )
    fits: dict[str, Value] = {}
    tops: dict[str, float] = {}
    ginis: dict[str, float] = {}
    rows: list[tuple[str, ...]] = []
    for name, count in counts.items():
        tops[name], ginis[name] = top_share(count), gini(count)
        cells = ["no fit", "", "", ""]
        if len(count) > 300:
            fit = power_law(count)
            fits[name] = fit.exponent
            cells = [_shown(fit.exponent, 2), f"{fit.start}", f"{fit.tail:,}", f"{fit.distance:.3f}"]
        share = count.max() / count.sum()
        rows.append(
            (name, f"{len(count):,}", f"{count.sum():,}", *cells, f"{tops[name]:.1%}", f"{ginis[name]:.2f}",
             f"{share:.2%}")
        )  # fmt: skip
    said = [
        _verdict("The exponent of the simulated popularity", fits, "a higher exponent is a lighter tail"),
        _verdict("The share of the top 10 % of items", tops),
        _verdict("The Gini coefficient", ginis),
    ]
    return Section(
        "Popularity of items",
        "Items with at least one event; never chosen ones cannot be seen in a real set. The exponent is the "
        "discrete maximum likelihood of Clauset, Shalizi and Newman (2009) on the tail that starts where the "
        "Kolmogorov-Smirnov distance is least, with at least 100 items in it; its interval is a bootstrap "
        "with the start fixed. Amazon Beauty is a 5-core, so the simulated clicks are also cut to their "
        "5-core.",
        ("source", "items", "events", "exponent (95 %)", "from", "items in tail", "distance", "top 10 %",
         "Gini", "largest item"),
        rows,
        said,
        {"counts": counts},
    )  # fmt: skip


def activity(market: Market, sets: Sets) -> Section:
    """How long visits and histories are."""
    clicked = (
        market.scan("events")
        .filter("clicked")
        .select("session_id", user_id="shopper_id", item_id="product_id")
        .collect()
    )
    kept = _per(clicked.filter(pl.len().over("item_id") >= 5), "session_id")
    lengths = {
        "simulated clicks per session": _per(clicked, "session_id"),
        "simulated clicks per session, as Diginetica is cut": kept[kept >= 2],
    }
    if (visits := sets.get(load_diginetica, "Diginetica")) is not None:
        lengths["Diginetica clicks per session"] = visits.train["item_ids"].list.len().to_numpy()
    history = {"simulated clicks per shopper, 5-core": _per(core(clicked), "user_id")}
    if (beauty := sets.get(load_amazon_beauty, "Amazon Beauty")) is not None:
        history["Amazon Beauty reviews per user, 5-core"] = _per(beauty.events.collect(), "user_id")
    if (ciao := sets.get(load_ciao, "Ciao")) is not None:
        rated = core(ciao.events.select("user_id", "item_id").collect())
        history["Ciao ratings per user, 5-core"] = _per(rated, "user_id")
    spreads = {name: spread(values) for name, values in (lengths | history).items()}
    compared = {name: s.mean for name, s in spreads.items() if name in lengths}
    compared.pop("simulated clicks per session")
    return Section(
        "Length of sessions and histories",
        "Diginetica comes without sessions of one click and without items clicked fewer than five times, so "
        "the simulated sessions are cut likewise (their own lengths are in the first row). Histories are "
        "those of the 5-core: users and items with five events or more.",
        ("source", "n", "mean (95 %)", "median", "p90", *(f"of {k}" for k in range(1, 7))),
        [_spread_row(name, s) for name, s in spreads.items()],
        [
            _verdict("The mean number of clicks per session", compared),
            _verdict(
                "The mean length of a history",
                {name: s.mean for name, s in spreads.items() if name in history},
                "a year of clicks against years of reviews: only the shape is comparable",
            ),
        ],
        {"lengths": lengths, "history": history},
    )


def clicks(market: Market, sets: Sets) -> Section:
    """How the click rate falls with the position."""
    log = market.scan("events")
    shown = {
        f"simulated {surface}": log.filter(pl.col("surface") == surface)
        .select("position", "clicked")
        .collect()
        for surface in (SEARCHES, BANNERS)
    }
    drawn: list[pl.DataFrame] = []
    replay(
        market.year,
        Shuffled(),
        market.seed,
        sink=lambda _, events: drawn.append(events.select("position", "clicked")),
    )
    shown["simulated, shuffled"] = pl.concat(drawn)
    for policy in ("random", "bts"):
        logs = [sets.get(load_open_bandit, "Open Bandit", policy, name) for name in ("men", "women")]
        real = [found.log.select("position", "clicked") for found in logs if found is not None]
        if real:
            shown[f"Open Bandit, {policy}"] = pl.concat(real)
    curves = {name: click_curve(table) for name, table in shown.items()}
    rates = {
        name: share_value(int(table["clicked"].sum()), table.height)
        for name, table in shown.items()
    }  # fmt: skip
    screens = log.group_by("device").len().collect()
    share = dict(screens.select(pl.col("device").cast(pl.String), "len").iter_rows())
    look = sum(EXAMINE[i] * share.get(d, 0) for i, d in enumerate(("phone", "desktop", "tablet")))
    look = np.asarray(look) / sum(share.values())
    rows = [
        (name, f"{shown[name].height:,}", _percent(rates[name], 2),
         *(_shown(curves[name][k], 2) if k in curves[name] else "" for k in (1, 2, 3, 5, 10)))
        for name in shown
    ]  # fmt: skip
    rows.append(
        (
            "truth: chance that the place is looked at",
            "",
            "",
            *(f"{look[k - 1]:.2f}" for k in (1, 2, 3, 5, 10)),
        )
    )
    said = []
    for name, curve in curves.items():
        if "random" not in name:
            continue
        ours, third = curves["simulated, shuffled"][3], curve[3]
        apart = (ours.high or 0) < (third.low or 0) or (ours.low or 0) > (third.high or 0)
        said.append(
            f"{name} shows three products side by side; its third place has {_shown(third, 2)} of the clicks "
            f"of its first, the simulated shuffled list {_shown(ours, 2)}: "
            + ("they differ. " if apart else "within the interval. ")
            + "They are different screens: a row of three that is seen at a glance, and a list of ten that "
            f"is scrolled. The real curve rests on {int(shown[name]['clicked'].sum())} clicks."
        )
        said.append(
            f"The click rate itself differs by more than a factor of ten ({_percent(rates[name], 2)} against "
            f"{_percent(rates['simulated search'], 1)}): Open Bandit's products were recommended to people "
            "who came for something else, the simulated ones answer a query. Nothing here measures a search "
            "page; no set at hand does."
        )
    shuffled, ranked = curves["simulated, shuffled"], curves["simulated search"]
    said.append(
        f"The third place of the simulated shuffled list has {_shown(shuffled[3], 2)} of the clicks of the "
        f"first, the truth being {look[2]:.2f}; under the production ranking {_shown(ranked[3], 2)}, which "
        "mixes the position with what stands there."
    )
    return Section(
        "Clicks by position",
        "Click rate relative to the first place, intervals by Katz (1978). Random logs show the effect "
        "of the position itself; rankings mix it with quality. The shuffled log is the same year replayed "
        "under a policy that shuffles each page's candidates. Men's and women's campaigns of Open Bandit are "
        "pooled.",
        ("source", "shown", "click rate (95 %)", *(f"place {k}" for k in (1, 2, 3, 5, 10))),
        rows,
        said,
        {"curves": curves, "look": look},
    )


def query_length(market: Market, sets: Sets) -> Section:
    """How long queries are, and whether they speak the sellers' words."""
    searched = english_searches(market)
    every = np.repeat(np.arange(searched.height), searched["searches"].to_numpy())
    distinct = searched["text"].to_list()
    texts = {
        "simulated, per search": [distinct[i] for i in every],
        "simulated, per different query": distinct,
    }
    spoken = found_words(distinct, market.titles())
    together = {
        "simulated, per search": spoken[every],
        "simulated, per different query": spoken,
    }
    if (chorus := sets.get(load_chorus, "Chorus Electronics")) is not None:
        texts["Chorus, per different query"] = chorus.queries["text"].to_list()
        together["Chorus, per different query"] = found_words(
            chorus.queries["text"].to_list(), chorus.titles()
        )
    if (wands := sets.get(load_wands_queries, "WANDS queries")) is not None:
        texts["WANDS, per different query"] = wands.rows["text"].to_list()
    counts = {name: words(values) for name, values in texts.items()}
    letters = {name: mean_value(characters(values)) for name, values in texts.items()}
    means = {name: mean_value(count) for name, count in counts.items()}
    vocabulary = {name: share_value(int(hits.sum()), len(hits)) for name, hits in together.items()}
    padded = {
        name: share_value(sum(bool(_PADDING.search(text.lower())) for text in values), len(values))
        for name, values in texts.items()
    }
    rows = [
        (
            *_spread_row(name, spread(count)),
            _shown(letters[name], 1),
            _percent(vocabulary[name], 0) if name in vocabulary else "no titles",
            _percent(padded[name], 0),
        )
        for name, count in counts.items()
    ]
    return Section(
        "Queries: length and words",
        "English queries. A log has the same query many times; Chorus and WANDS list each once, so both ways "
        "of counting are given for the simulation. The intervals per search take searches as independent. "
        '"In a title": one title holds all the query\'s words (up to plural s), which is what keyword search '
        'lives on. "Padded": the query has a word such as best, buy, sale or online.',
        ("source", "n", "words, mean (95 %)", "median", "p90", *(f"of {k}" for k in range(1, 7)),
         "characters", "in a title", "padded"),
        rows,
        [
            _verdict("The mean number of words", means),
            _verdict("The mean number of characters", letters),
            _verdict("The share of queries whose words stand together in a title", vocabulary),
            _verdict("The share of padded queries", padded),
        ],
        {"words": counts},
    )  # fmt: skip


def grades(data: JudgedSearch, sets: Sets) -> Section:
    """How judged pairs are graded."""
    judged = {"simulated, judged as Chorus was": data}
    if (chorus := sets.get(load_chorus, "Chorus Electronics")) is not None:
        judged["Chorus"] = chorus
    if (esci := sets.get(load_esci_sample, "ESCI sample")) is not None:
        judged["ESCI sample (I, C, S, E as 0 to 3)"] = esci
    rows, all_shares = [], {}
    for name, found in judged.items():
        by_query = [np.array(list(of.values())) for of in found.qrels().values() if of]
        share = [np.array([(of == grade).mean() for of in by_query]) for grade in range(4)]
        values = [Value(float(s.mean()), *bootstrap_interval(s)) for s in share]
        none = share_value(sum(int(of.max() < 2) for of in by_query), len(by_query))
        sizes = np.array([len(of) for of in by_query])
        all_shares[name] = values
        rows.append(
            (name, f"{len(by_query)}", f"{sizes.sum():,}", f"{sizes.mean():.1f}",
             *(_percent(v, 0) for v in values), _percent(none, 0))
        )  # fmt: skip
    said = [
        _verdict(f"The share of grade {grade}", {name: values[grade] for name, values in all_shares.items()})
        for grade in range(4)
    ]
    worded = {name: found for name, found in judged.items() if not name.startswith("ESCI")}
    for grade, title in ((3, "right products"), (0, "wrong products")):
        held = {name: word_shares(texts, grade) for name, texts in worded.items()}
        for number, place in enumerate(("title", "title and description")):
            shares = {name: mean_value(two[number]) for name, two in held.items()}
            said.append(
                _verdict(f"The share of {title} (grade {grade}) with all query words in {place}", shares)
            )
    if len(judged) > 1:
        said.append(
            "Real pools also hold queries that the shop cannot answer, and wrong products that share every "
            "word (a lock for a laptop); every simulated query has at least three useful products."
        )
    return Section(
        "Grades of judged pairs",
        f"Chorus graded what a keyword engine returned, {DEPTH} products a query. The simulated traffic is "
        "sampled by frequency (135 English queries) and judged in the same way, a plain keyword engine on "
        "titles giving the pool. Shares are means over queries, intervals a bootstrap over queries.",
        ("source", "queries", "pairs", "a query", "grade 0", "grade 1", "grade 2", "grade 3",
         "queries with no 2 or 3"),
        rows,
        said,
        {"shares": all_shares},
    )  # fmt: skip


def voices(market: Market, sets: Sets) -> Section:
    """Stars, and how much people write."""
    reviews = market.read("reviews")
    stars = {"simulated reviews": reviews["rating"].to_numpy()}
    if (ciao := sets.get(load_ciao, "Ciao")) is not None:
        stars["Ciao ratings"] = ciao.events.select("rating").collect()["rating"].to_numpy()
    chinese = reviews.filter(pl.col("lang") == "zh")["text"].to_list()
    length = {"simulated Chinese reviews": characters(chinese)}
    if (written := sets.get(load_zh_reviews, "Chinese reviews")) is not None:
        length["Chinese shopping reviews"] = characters(written.rows["text"].to_list())
    rows = [
        (name, f"{len(values):,}", _shown(mean_value(values), 2),
         *(f"{(values == k).mean():.0%}" for k in range(1, 6)), "", "", "")
        for name, values in stars.items()
    ]  # fmt: skip
    rows += [
        (name, f"{len(values):,}", "", *[""] * 5, _shown(mean_value(values), 0), f"{np.median(values):g}",
         f"{np.quantile(values, 0.9):g}")
        for name, values in length.items()
    ]  # fmt: skip
    return Section(
        "Stars and length of reviews",
        "Ciao's stars came with long reviews of a paid community; the Chinese set was gathered for "
        "sentiment, half of it praise and half complaint: its lengths are comparable, its praise is not.",
        ("source", "n", "stars, mean (95 %)", *(f"{k} star{'s' * (k > 1)}" for k in range(1, 6)),
         "characters, mean (95 %)", "median", "p90"),
        rows,
        [
            _verdict("The mean number of stars", {n: mean_value(v) for n, v in stars.items()}),
            _verdict("The mean length of a Chinese review", {n: mean_value(v) for n, v in length.items()}),
        ],
        {"stars": stars},
    )  # fmt: skip


def mailings(market: Market, sets: Sets) -> Section:
    """What an e-mail brings."""
    tables = {"simulated": market.read("mailing")}
    if (hillstrom := sets.get(load_hillstrom, "Hillstrom e-mail test")) is not None:
        tables["Hillstrom"] = hillstrom.rows
    rows: list[tuple[str, ...]] = []
    lifts: dict[str, Value] = {}
    for source, table in tables.items():
        nobody = next(arm for arm in table["arm"].unique() if arm.lower() in ("none", "no e-mail"))
        rate = {}
        for arm, people in sorted(table.group_by("arm"), key=lambda group: (group[0][0] != nobody, group[0])):
            name = str(arm[0])
            visits = people["visit"].cast(pl.Int64).to_numpy()
            bought = people["conversion"].cast(pl.Int64).to_numpy()
            rate[name] = visits
            spent = mean_value(people["spend"].to_numpy())
            came, paid = (share_value(int(hits.sum()), len(hits)) for hits in (visits, bought))
            cells = (_percent(came, 1), _percent(paid, 2), _shown(spent, 2))
            rows.append((f"{source}: {name}", f"{people.height:,}", *cells))
        sent = np.concatenate([visits for name, visits in rate.items() if name != nobody])
        base = rate[nobody]
        gain = float(sent.mean() - base.mean())
        reach = 1.959964 * float(np.sqrt(sent.var() / len(sent) + base.var() / len(base)))
        lifts[source] = Value(gain, gain - reach, gain + reach)
    return Section(
        "E-mail test",
        "Both have three arms of equal size. Hillstrom's customers bought within the last year; spend is in "
        "the source's currency.",
        ("arm", "people", "visit (95 %)", "conversion (95 %)", "spend (95 %)"),
        rows,
        [_verdict("The gain in visits by being sent any e-mail", lifts)],
    )


def order(comparisons: dict[str, Comparison], data: JudgedSearch) -> Section:
    """How search methods rank against each other."""
    rows, said = [], []
    for source, comparison in comparisons.items():
        for measure, systems in comparison.measures.items():
            found = order_of_methods(values_of(comparison, measure), measure)
            shown = {s.name: f"{s.mean:.3f} ({s.low:.3f} to {s.high:.3f})" for s in systems}
            rows.append(
                (f"{source}, {measure}", f"{comparison.queries}", *(shown[n] for n in SYSTEMS), found.said())
            )
            said.append(
                f"{source}, {measure}: {found.said()} (Holm-corrected p of the steps: "
                + ", ".join(f"{step.p_holm:.3f}" for step in found.steps)
                + ")."
            )
    said += list(_agreements(comparisons))
    for source, comparison in comparisons.items():
        known = comparison.settings.get("judged among the first ten", {})
        if known:
            shares = ", ".join(f"{method} {share:.0%}" for method, share in known.items())
            said.append(
                f"{source}, judged among each method's first ten: {shares}. What was not judged counts as "
                "wrong in plain nDCG: the lower the share, the more the plain number understates a method."
            )
    said += _by_kind(comparisons["simulated"], data)
    return Section(
        "Order of search methods",
        "Both sets go through the same function: no parameter tuned, three folds, the encoder reads titles "
        "and learns from the other folds' grades and from product types, the hybrid is RRF. Plain nDCG "
        'counts what was not judged as wrong, the condensed list leaves it out, "complete" knows every '
        "grade (the simulation alone can). In the last column > is a significant step at 5 % after Holm's "
        "correction, ≥ is not.",
        ("set, measure", "queries", *SYSTEMS, "order"),
        rows,
        said,
    )


def _agreements(comparisons: dict[str, Comparison]) -> Iterator[str]:
    if "Chorus" not in comparisons:
        return
    real, made = comparisons["Chorus"], comparisons["simulated"]
    plain, condensed, *_ = real.measures
    for mine, theirs in ((plain, plain), (condensed, condensed), (f"complete {plain}", condensed)):
        found = agreement(values_of(real, theirs), values_of(made, mine))
        same = "not the same order" if found.against else "the same order"
        text = f"Simulated {mine} against Chorus {theirs}: {same}, {found.agree} of {found.pairs} pairs agree"
        if found.against:
            text += "; the other way round in the simulation: " + ", ".join(
                f"{a} over {b}" for a, b in found.against
            )
            sure = ", ".join(f"{a} over {b}" for a, b in found.contradicted)
            text += f"; significantly so in both: {sure or 'none of them'}"
        yield text + "."


def _by_kind(comparison: Comparison, data: JudgedSearch) -> list[str]:
    """What each kind of query contributes, by the most trustworthy measure."""
    measure = list(comparison.measures)[-1]
    values = values_of(comparison, measure)
    kind = np.array([data.queries["kind"][query] for query in answered(data)])
    lines = []
    for name in sorted(set(kind.tolist()), key=lambda k: -int((kind == k).sum())):
        means = ", ".join(f"{method} {values[method][kind == name].mean():.3f}" for method in SYSTEMS)
        lines.append(f"{(kind == name).mean():.0%} {name.replace('_', ' ')}: {means}")
    return [f"By kind of simulated query ({measure}): " + "; ".join(lines) + "."]


def _per(events: pl.DataFrame, column: str) -> np.ndarray:
    """How many rows each value of a column has. Returns (values,) int64."""
    return events.group_by(column).len()["len"].cast(pl.Int64).sort().to_numpy()


def _spread_row(name: str, s: Spread) -> tuple[str, ...]:
    shares = (f"{share:.0%}" for share in s.shares.values())
    return (name, f"{s.n:,}", _shown(s.mean, 2), f"{s.median:g}", f"{s.p90:g}", *shares)


def _shown(value: Value, digits: int) -> str:
    if value.low is None or value.high is None:
        return f"{value.value:.{digits}f}"
    return f"{value.value:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def _percent(value: Value, digits: int) -> str:
    return f"{value.value:.{digits}%} ({value.low or 0:.{digits}%} to {value.high or 0:.{digits}%})"


def _verdict(what: str, values: dict[str, Any], note: str = "") -> str:
    """One sentence: whether each simulated value lies within the range of the real ones."""

    def ends(value: Value | float) -> tuple[float, float, float]:
        if isinstance(value, Value):
            low = value.value if value.low is None else value.low
            return value.value, low, value.value if value.high is None else value.high
        return value, value, value

    made = {name: ends(v) for name, v in values.items() if name.startswith("simulated")}
    real = {name: ends(v) for name, v in values.items() if not name.startswith("simulated")}
    said = []
    for name, (value, low, high) in made.items():
        text = f"{value:.3g} in {name}"
        if real:
            least, most = min(v[1] for v in real.values()), max(v[2] for v in real.values())
            if high < least:
                text += f", {_gap(value, [v[0] for v in real.values()])} lower than in every real set"
            elif low > most:
                text += f", {_gap(value, [v[0] for v in real.values()])} higher than in every real set"
            else:
                text += ", within what the real sets show"
        said.append(text)
    seen = ", ".join(f"{value:.3g} in {name}" for name, (value, _, _) in real.items())
    tail = f" (real: {seen})" if real else " (no real set here to compare with)"
    return f"{what}: {'; '.join(said)}{tail}{f'; {note}' if note else ''}."


def _gap(value: float, real: list[float]) -> str:
    """How far a value is from the nearest real one, relative to that."""
    nearest = min(real, key=lambda other: abs(value - other))
    return f"{abs(value - nearest) / nearest:.0%}" if nearest else "by far"
