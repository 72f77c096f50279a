"""The realism report: its statistics against brute force, and the report without the real sets."""

import json

import numpy as np
import polars as pl
import pytest
from scipy.special import zeta

from labkit import realism_measures as measures
from labkit.compare import SYSTEMS, Comparison, System
from labkit.data import JudgedSearch
from labkit.evaluate import paired_permutation_test
from labkit.realism import report
from labkit.realism_search import (
    agreement,
    english_searches,
    intents,
    judged_sample,
    order_of_methods,
    word_shares,
)
from labkit.realism_sections import Sets, _verdict, order
from labkit.shop import load
from labkit.shop.replay import gini


def drawn_power_law(exponent, start, n, seed):
    """Inverse transform over the exact probabilities; a peer of the likelihood, not the same code."""
    values = np.arange(start, 200_000)
    chance = values ** -float(exponent) / zeta(exponent, start)
    edges = np.cumsum(chance)
    places = np.searchsorted(edges, np.random.default_rng(seed).random(n))
    return values[np.minimum(places, len(values) - 1)]


@pytest.mark.parametrize(("exponent", "start"), [(1.8, 1), (2.2, 4), (3.0, 10)])
def test_the_exponent_of_a_drawn_power_law_is_found(exponent, start):
    fit = measures.power_law(drawn_power_law(exponent, start, 6000, seed=1))
    assert fit.exponent.low - 0.02 < exponent < fit.exponent.high + 0.02
    assert fit.exponent.high - fit.exponent.low < 0.4
    assert fit.distance < 0.03


def test_the_tail_starts_where_the_law_does():
    # Below 20 everything is alike; above it is a power law.
    flat = np.random.default_rng(0).integers(1, 20, 4000)
    fit = measures.power_law(np.concatenate([flat, drawn_power_law(2.5, 20, 3000, seed=2)]))
    assert 15 <= fit.start <= 30
    assert abs(fit.exponent.value - 2.5) < 0.15


def test_too_few_counts_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="needs 100 counts"):
        measures.power_law(np.arange(50))
    with pytest.raises(ValueError, match="not all alike"):
        measures.power_law(np.full(500, 7))


def test_inequality_against_brute_force():
    counts = np.random.default_rng(3).zipf(2.0, 200)
    pairs = np.abs(counts[:, None] - counts[None, :]).sum()
    assert gini(counts) == pytest.approx(pairs / (2 * len(counts) ** 2 * counts.mean()))
    top = sorted(counts.tolist(), reverse=True)[:20]
    assert measures.top_share(counts) == pytest.approx(sum(top) / counts.sum())


def test_the_core_is_what_is_left_by_leaving_out_one_by_one():
    generator = np.random.default_rng(4)
    pairs = [
        (int(u), int(i))
        for u, i in zip(generator.integers(0, 60, 400), generator.zipf(1.6, 400) % 50, strict=True)
    ]
    left = list(pairs)
    while True:  # one at a time, in any order, ends at the same core
        users, items = [u for u, _ in left], [i for _, i in left]
        out = next((p for p in left if users.count(p[0]) < 4 or items.count(p[1]) < 3), None)
        if out is None:
            break
        left.remove(out)
    found = measures.core(pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row"), users=4, items=3)
    assert 0 < found.height < 400
    assert sorted(found.rows()) == sorted(left)


def test_click_curve_against_counting():
    generator = np.random.default_rng(5)
    position = generator.integers(1, 5, 4000)
    clicked = generator.random(4000) < 0.4 / position
    curve = measures.click_curve(pl.DataFrame({"position": position, "clicked": clicked}))
    first = sum(clicked[position == 1]) / sum(position == 1)
    for k in range(2, 5):
        rate = sum(clicked[position == k]) / sum(position == k)
        assert curve[k].value == pytest.approx(rate / first)
        assert curve[k].low < 1 / k < curve[k].high  # the truth, in each of these three intervals
    assert curve[1] == measures.Value(1.0)
    with pytest.raises(ValueError, match="Nothing was clicked at position 9"):
        measures.click_curve(pl.DataFrame({"position": [1], "clicked": [True]}), reference=9)


def test_wilson_interval_is_that_of_scipy():
    from scipy.stats import binomtest

    for hits, of in ((0, 40), (3, 1000), (700, 1000)):
        theirs = binomtest(hits, of).proportion_ci(0.95, method="wilson")
        ours = measures.share_value(hits, of)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_lengths():
    s = measures.spread(np.array([1, 2, 2, 3, 9]))
    assert (s.median, s.shares[2], s.shares[4]) == (2, 0.4, 0)
    assert measures.words(["red lamp", "", "three word query"]).tolist() == [2, 0, 3]
    assert measures.found_words(["lamps red", "red blue", "..."], ["Red lamp", "blue desk"]).tolist() == [
        True, False, False,
    ]  # fmt: skip


def made_up(means, noise=0.02, seed=0):
    generator = np.random.default_rng(seed)
    base = generator.normal(0, 0.1, 80)
    return {name: mean + base + generator.normal(0, noise, 80) for name, mean in means.items()}


def test_order_of_methods_says_which_steps_are_sure():
    values = made_up({"a": 0.5, "b": 0.7, "c": 0.701})
    found = order_of_methods(values, "nDCG")
    assert found.names[2] == "a"
    assert {found.names[0], found.names[1]} == {"b", "c"}
    sure = found.steps[1]
    assert sure.p == paired_permutation_test(values[sure.better], values[sure.worse])
    assert sure.p_holm < 0.01
    assert found.steps[0].p_holm >= found.steps[0].p
    assert found.said().endswith("> a")
    assert "≥" in found.said()


def test_only_what_is_significant_on_both_sides_contradicts():
    real = made_up({"a": 0.5, "b": 0.7, "c": 0.8})
    found = agreement(real, made_up({"a": 0.9, "b": 0.7, "c": 0.8}, seed=1))
    assert (found.pairs, found.agree) == (3, 1)
    assert set(found.contradicted) == {("a", "b"), ("a", "c")}
    unsure = agreement(real, made_up({"a": 0.5, "b": 0.7001, "c": 0.7}, noise=0.3, seed=2))
    assert unsure.contradicted == []


def test_the_sample_is_traffic_and_its_grades_are_the_market_s():
    market = load("tiny")
    data, truth = judged_sample(market, queries=40, depth=12, seed=3)
    assert data.queries.height == 40
    assert data.judgements.height <= 40 * 12
    for query, item, grade in data.judgements.iter_rows():
        assert truth[query].get(item, 0) == grade
    # Judged queries have complete grades in the market, made by other code paths.
    known = {text: number for number, text in market.queries.select("query_id", "text").iter_rows()}
    judged = market.judgements()
    checked = 0
    for number, text in data.queries.select("query_id", "text").iter_rows():
        if text in known:
            checked += 1
            assert truth[number] == judged[known[text]]
    assert checked > 5
    counts = english_searches(market)
    log = market.read("events").filter(pl.col("surface") == "search")
    first = counts.row(0, named=True)
    shown = log.filter(pl.col("query_id") == first["query_id"]).select("session_id", "time").unique()
    assert first["searches"] == shown.height
    # The frequent ones are drawn more often.
    assert data.queries["searches"].mean() > counts["searches"].mean()


def test_word_shares_by_hand():
    products = pl.DataFrame(
        {
            "product_id": [0, 1, 2],
            "title": ["Red lamp", "Lamps", "Desk"],
            "description": ["", "in red", "red"],
        }
    )
    queries = pl.DataFrame({"query_id": [0, 1], "text": ["red lamp", "desk"]})
    judgements = pl.DataFrame({"query_id": [0, 0, 0, 1], "product_id": [0, 1, 2, 2], "grade": [3, 3, 0, 3]})
    in_title, anywhere = word_shares(JudgedSearch("made-up", products, queries, judgements), 3)
    assert in_title.tolist() == [0.5, 1.0]
    assert anywhere.tolist() == [1.0, 1.0]
    assert word_shares(JudgedSearch("made-up", products, queries, judgements), 0)[1].tolist() == [0.0]


def test_intents_of_chinese_queries_are_refused():
    market = load("tiny")
    typed = market.read("typed_queries")
    chinese = int(typed.filter(pl.col("lang") == "zh")["query_id"][-1])
    with pytest.raises(LookupError, match=str(chinese)):
        intents(market, [chinese])


def test_verdicts_name_the_side_and_the_gap():
    value = measures.Value
    said = _verdict("X", {"simulated": value(2.0, 1.9, 2.1), "A": value(1.0, 0.9, 1.1), "B": value(0.5)})
    assert "100% higher than in every real set" in said
    assert "within what the real sets show" in _verdict("X", {"simulated": 0.7, "A": 0.5, "B": 1.0})
    assert "no real set here" in _verdict("X", {"simulated": 0.7})


def test_the_order_section_compares_measure_by_measure():
    data, _ = judged_sample(load("tiny"), queries=80, depth=12)
    from labkit.compare import answered

    n = len(answered(data))
    base = np.random.default_rng(0).normal(0, 0.1, n)

    def comparison(means):
        systems = [System.of(name, mean + base) for name, mean in zip(SYSTEMS, means, strict=True)]
        three = dict.fromkeys(("nDCG@10", "condensed nDCG@10", "complete nDCG@10"), systems)
        return Comparison("made-up", "Made up", n, 500, three, [], {}, {})

    section = order(
        {"simulated": comparison([0.5, 0.6, 0.7, 0.8]), "Chorus": comparison([0.75, 0.6, 0.7, 0.8])}, data
    )
    text = " ".join(section.said)
    assert "not the same order, 4 of 6 pairs agree" in text
    assert "zero-shot over BM25" in text
    assert "hybrid > fine-tuned > zero-shot > BM25" in section.rows[0][-1]


def test_the_report_without_real_sets_names_them(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr("labkit.data.sources.home", lambda: tmp_path, raising=False)
    found = report("tiny", 0, tmp_path / "docs", methods=False)
    page = found.path.read_text(encoding="utf-8")
    for name in ("Diginetica", "Ciao", "Amazon Beauty", "Open Bandit", "Chorus Electronics", "WANDS queries",
                 "ESCI sample", "Chinese reviews", "Hillstrom e-mail test"):  # fmt: skip
        assert name in found.missing
        assert name in page
    assert "simulated clicks" in page
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in found.figures)
    assert json.loads(json.dumps(found.as_json()))["missing"] == found.missing


def test_sets_remember_what_is_missing_once(tmp_path, monkeypatch):
    from labkit.data import load_ciao

    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    monkeypatch.setattr("labkit.data.sources.home", lambda: tmp_path, raising=False)
    sets = Sets()
    assert sets.get(load_ciao, "Ciao") is None
    assert sets.get(load_ciao, "Ciao") is None
    assert sets.missing == ["Ciao"]
