"""Our measures against ir_measures, and our statistics against scipy and arithmetic by hand."""

import ir_measures
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.evaluate import (
    AP,
    RR,
    P,
    R,
    bootstrap_interval,
    condense,
    evaluate,
    evaluate_ranked,
    nDCG,
    paired_permutation_test,
)

PAIRS = [
    (nDCG, ir_measures.nDCG),
    (nDCG @ 1, ir_measures.nDCG @ 1),
    (nDCG @ 10, ir_measures.nDCG @ 10),
    # ir_measures takes an exponential gain as a table of gains
    (nDCG(gain="exp2") @ 5, ir_measures.nDCG(gains={0: 0, 1: 1, 2: 3, 3: 7}) @ 5),
    (RR, ir_measures.RR),
    (RR(rel=2), ir_measures.RR(rel=2)),
    (AP, ir_measures.AP),
    (AP(rel=2), ir_measures.AP(rel=2)),
    (AP @ 5, ir_measures.AP @ 5),
    (R @ 10, ir_measures.R @ 10),
    (R(rel=3) @ 3, ir_measures.R(rel=3) @ 3),
    (P @ 10, ir_measures.P @ 10),
    (P(rel=2) @ 4, ir_measures.P(rel=2) @ 4),
]

documents = st.integers(0, 30).map(str)
# A few scores only, exact in float32, so that ties are common and trec_eval sees the same ones.
scores = st.sampled_from([-2.5, -1.0, -0.25, 0.0, 0.5, 1.0, 3.0])
query_ids = st.sampled_from(["1", "2", "3", "10", "x"])


@settings(max_examples=60, deadline=None)
@given(
    qrels=st.dictionaries(query_ids, st.dictionaries(documents, st.integers(0, 3), min_size=1), min_size=1),
    run=st.dictionaries(query_ids, st.dictionaries(documents, scores, max_size=30)),
)
def test_equal_to_ir_measures(qrels, run):
    ours = evaluate([measure for measure, _ in PAIRS], qrels, run)
    peer_run = {query: docs for query, docs in run.items() if docs} or {"none": {"0": 0.0}}
    # One measure a call: asked for together, ir_measures 0.4.3 gives every nDCG the gains of one of them,
    # for some orders of its sets (PYTHONHASHSEED=3).
    theirs = {
        (str(metric.measure), metric.query_id): metric.value
        for _, measure in PAIRS
        for metric in ir_measures.iter_calc([measure], qrels, peer_run)
    }
    for measure, peer in PAIRS:
        expected = [theirs.get((str(peer), query), 0.0) for query in sorted(qrels)]
        np.testing.assert_allclose(ours[measure], expected, rtol=0, atol=1e-9, err_msg=str(measure))


def test_missing_queries_count_as_zero_and_unjudged_ones_not_at_all():
    values = evaluate([RR], {"a": {"1": 1}, "b": {"1": 1}}, {"a": {"1": 0.1}, "unjudged": {"1": 9.0}})[RR]
    assert values.tolist() == [1.0, 0.0]


def test_negative_scores_rank_like_any_other_and_ties_go_to_the_higher_id():
    qrels = {"q": {"2": 1}}
    assert evaluate([RR], qrels, {"q": {"1": -1.0, "2": -0.5}})[RR].tolist() == [1.0]
    assert evaluate([RR], qrels, {"q": {"1": 1.0, "2": 1.0}})[RR].tolist() == [1.0]
    # "2" is higher than "10" as a string
    assert evaluate([RR], qrels, {"q": {"10": 1.0, "2": 1.0}})[RR].tolist() == [1.0]


def test_negative_grades_and_queries_without_relevant_documents_gain_nothing():
    values = evaluate([nDCG, AP, R @ 5], {"q": {"1": -1, "2": 0}}, {"q": {"1": 1.0, "2": 0.5}})
    assert all(value.tolist() == [0.0] for value in values.values())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_arrays_and_dictionaries_agree(data):
    queries = data.draw(st.lists(st.integers(0, 50), min_size=1, max_size=5, unique=True))
    qrels = {
        q: data.draw(st.dictionaries(st.integers(0, 20), st.integers(0, 3), min_size=1, max_size=15))
        for q in queries
    }
    depth = data.draw(st.integers(1, 12))
    ids = np.full((len(queries), depth), -1)
    for row in ids:
        found = data.draw(st.lists(st.integers(0, 20), max_size=depth, unique=True))
        row[: len(found)] = found
    run = {
        q: {int(d): -float(rank) for rank, d in enumerate(row) if d >= 0}
        for q, row in zip(queries, ids, strict=True)
    }
    measures = [measure for measure, _ in PAIRS]
    by_row = evaluate_ranked(measures, ids, qrels, queries)
    by_name = evaluate(measures, qrels, run)
    for measure in measures:
        np.testing.assert_allclose(by_row[measure][np.argsort(queries)], by_name[measure], rtol=0, atol=1e-12)


def test_ids_of_any_size_and_sign_are_told_apart():
    ids = np.array([[2**62, 3], [3, -1]])
    values = evaluate_ranked([RR], ids, {0: {3: 1, -7: 1}, 1: {2**62: 1, -(2**61): 1}})[RR]
    assert values.tolist() == [0.5, 0.0]


def test_condensed_lists_equal_judged_only_of_ir_measures():
    generator = np.random.default_rng(0)
    ids = np.stack([generator.permutation(40) for _ in range(6)])
    qrels = {
        q: {int(d): int(generator.integers(0, 4)) for d in generator.choice(40, 12, False)} for q in range(6)
    }
    run = {str(q): {str(d): -float(r) for r, d in enumerate(row)} for q, row in enumerate(ids)}
    peer = {str(q): {str(d): g for d, g in judged.items()} for q, judged in qrels.items()}
    expected = {
        m.query_id: m.value
        for m in ir_measures.iter_calc([ir_measures.nDCG(judged_only=True) @ 10], peer, run)
    }
    ours = evaluate_ranked([nDCG @ 10], condense(ids, qrels), qrels)[nDCG @ 10]
    np.testing.assert_allclose(ours, [expected[str(q)] for q in range(6)], rtol=0, atol=1e-9)


def test_declarations_read_as_they_print_and_refuse_nonsense():
    assert str(nDCG(gain="exp2") @ 10) == "nDCG(gain=exp2)@10"
    assert nDCG @ 10 == nDCG @ 10
    assert nDCG @ 10 != nDCG @ 5
    assert RR != AP
    with pytest.raises(ValueError, match="no parameter"):
        nDCG(rel=2)
    with pytest.raises(ValueError, match="cut-off"):
        evaluate([P], {"q": {"1": 1}}, {})
    with pytest.raises(ValueError, match="1 or more"):
        nDCG @ 0
    with pytest.raises(ValueError, match="twice"):
        evaluate_ranked([RR], np.array([[1, 1]]), {0: {1: 1}})
    with pytest.raises(ValueError, match="no judgements"):
        evaluate_ranked([RR], np.array([[1]]), {0: {1: 1}}, queries=[5])
    with pytest.raises(ValueError, match="which are integers"):
        evaluate_ranked([RR], np.array([[0.9, 0.8]]), {0: {0: 1}})
    with pytest.raises(ValueError, match="not a number"):
        evaluate([RR], {"q": {"1": 1}}, {"q": {"1": float("nan")}})


def test_bootstrap_agrees_with_scipy_and_covers_the_mean():
    values = np.random.default_rng(1).beta(2, 3, size=200)
    low, high = bootstrap_interval(values, seed=3)
    peer = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(4)
    ).confidence_interval
    assert abs(low - peer.low) < 0.005
    assert abs(high - peer.high) < 0.005
    assert bootstrap_interval(values, seed=3) == (low, high)
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval(np.array([0.5, np.nan]))
    many = np.tile(values, 1000)  # 200 000 queries: the counts of all resamples would fill 16 GB
    low, high = bootstrap_interval(many, resamples=50)
    assert low < values.mean() < high


def test_permutation_test_agrees_with_scipy():
    generator = np.random.default_rng(2)
    for size in (8, 40):
        a = generator.normal(size=size)
        b = a + generator.normal(0.3, 1, size=size)
        expected = scipy.stats.permutation_test(
            (a, b), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", vectorized=True,
            n_resamples=50_000, rng=np.random.default_rng(0),
        ).pvalue  # fmt: skip
        assert abs(paired_permutation_test(a, b) - expected) < 0.01
    assert paired_permutation_test(np.ones(5), np.ones(5)) == 1.0
    with pytest.raises(ValueError, match="finite"):
        paired_permutation_test(np.array([0.5, np.nan]), np.ones(2))
    with pytest.raises(ValueError, match="same queries"):
        paired_permutation_test(np.ones(3), np.ones(4))
