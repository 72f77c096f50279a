"""Ranking against brute force and against independent implementations."""

import math

import numpy as np
import pytest
import rank_bm25
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.rank import BM25, rrf, top_k, weighted_fusion

words = st.sampled_from(["red", "blue", "shoe", "sofa", "lamp", "tv", "cable", "light", "run", "warm"])
corpora = st.lists(st.lists(words, min_size=0, max_size=8), min_size=1, max_size=25).filter(any)


def lucene_by_hand(documents, query, k1, b):
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for document in documents:
        total = 0.0
        for token in query:
            holding = sum(token in other for other in documents)
            frequency = document.count(token)
            if frequency:
                idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
                total += idf * frequency / (frequency + k1 * (1 - b + b * len(document) / mean))
        scores.append(total)
    return np.array(scores)


@settings(max_examples=80, deadline=None)
@given(
    documents=corpora,
    query=st.lists(words, max_size=5),
    k=st.integers(1, 30),
    b=st.sampled_from([0.0, 0.4, 0.75]),
)
def test_bm25_equals_its_formula_and_orders_by_it(documents, query, k, b):
    index = BM25(documents, k1=1.2, b=b)
    expected = lucene_by_hand(documents, query, 1.2, b)
    np.testing.assert_allclose(index.scores(query), expected, rtol=1e-12, atol=1e-12)
    scores, ids = index.search([query], k)
    assert scores.shape == ids.shape == (1, k)
    assert scores.dtype == np.float32
    assert ids.dtype == np.int64
    exact = index.scores(query).astype(np.float32)
    best = [d for d in np.lexsort((np.arange(len(documents)), -exact)) if exact[d] > 0][:k]
    assert ids[0].tolist() == best + [-1] * (k - len(best))
    np.testing.assert_array_equal(scores[0, : len(best)], exact[best])
    assert not scores[0, len(best) :].any()


def shop_corpus():
    generator = np.random.default_rng(0)
    vocabulary = np.array([f"word{i}" for i in range(60)])
    weights = 1 / np.arange(1, 61)
    return [
        generator.choice(vocabulary, generator.integers(3, 20), p=weights / weights.sum()).tolist()
        for _ in range(200)
    ]


def test_bm25_plus_equals_rank_bm25():
    documents = shop_corpus()
    peer = rank_bm25.BM25Plus(documents, k1=1.5, b=0.75, delta=0.5)
    ours = BM25(documents, k1=1.5, b=0.75, method="bm25+")
    for query in (["word1"], ["word3", "word40"], ["word2", "word2", "word9"], ["unknown", "word5"]):
        # rank_bm25 adds delta for every query token, as the paper's BM25+ does
        np.testing.assert_allclose(ours.scores(query), peer.get_scores(query), rtol=1e-9)


def test_bm25_equals_rank_bm25_okapi_when_the_idf_is_made_the_same():
    """BM25Okapi has the factor k1 + 1 and Robertson's idf with a floor of its own."""
    documents = shop_corpus()
    peer = rank_bm25.BM25Okapi(documents, k1=1.2, b=0.75)
    for token in peer.idf:
        holding = sum(token in document for document in documents)
        peer.idf[token] = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5)) / (1.2 + 1)
    ours = BM25(documents, k1=1.2, b=0.75)
    for query in (["word1"], ["word3", "word40"], ["word2", "word2", "word9"]):
        np.testing.assert_allclose(ours.scores(query), peer.get_scores(query), rtol=1e-9, atol=1e-12)


def test_bm25_takes_text_and_refuses_nonsense():
    index = BM25(["Red SHOES", "sofa"])
    assert index.search(["red shoes!"], 1)[1].tolist() == [[0]]
    assert index.search([""], 2)[1].tolist() == [[-1, -1]]
    assert BM25(["!!", "??"]).search(["shoe"], 1)[1].tolist() == [[-1]]
    with pytest.raises(ValueError, match=r"search\(\[query\]"):
        index.search("red", 1)
    with pytest.raises(ValueError, match="at least one document"):
        BM25([])
    with pytest.raises(ValueError, match="b <= 1"):
        BM25(["a"], b=2)
    with pytest.raises(ValueError, match="not 'atire'"):
        BM25(["a"], method="atire")


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    items=st.integers(1, 60),
    k=st.integers(1, 70),
    chunk=st.integers(1, 64),
    tensors=st.booleans(),
)
def test_top_k_equals_brute_force_with_ties(seed, items, k, chunk, tensors):
    generator = np.random.default_rng(seed)
    # Small whole numbers: products are exact, and ties are everywhere.
    queries = generator.integers(-2, 3, (5, 4)).astype(np.float32)
    vectors = generator.integers(-2, 3, (items, 4)).astype(np.float32)
    expected = queries @ vectors.T
    order = np.argsort(-expected, axis=1, kind="stable")[:, :k]
    if tensors:
        scores, ids = top_k(torch.from_numpy(queries), torch.from_numpy(vectors), k, chunk)
        assert isinstance(scores, torch.Tensor)
        scores, ids = scores.numpy(), ids.numpy()
    else:
        scores, ids = top_k(queries, vectors, k, chunk)
    assert ids.dtype == np.int64
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(expected, order, axis=1))


def test_top_k_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(Q, D\)"):
        top_k(np.ones((2, 3)), np.ones((4, 5)), 1)
    with pytest.raises(ValueError, match="at least 1"):
        top_k(np.ones((2, 3)), np.ones((4, 3)), 0)
    with pytest.raises(ValueError, match=r"one kind, not ndarray float64 and Tensor torch\.float64 cpu"):
        top_k(np.ones((2, 3)), torch.ones(4, 3, dtype=torch.float64), 1)
    with pytest.raises(ValueError, match="float32"):
        top_k(np.ones((2, 3)), np.ones((4, 3), dtype=np.float32), 1)


def rrf_by_hand(rankings, k, depth):
    rows = []
    for query in range(len(rankings[0])):
        totals: dict[int, float] = {}
        for ranking in rankings:
            seen = set()
            for rank, document in enumerate(ranking[query].tolist(), start=1):
                if document >= 0 and document not in seen:
                    totals[document] = totals.get(document, 0.0) + 1 / (k + rank)
                    seen.add(document)
        best = sorted(totals, key=lambda d: (-round(totals[d], 12), d))[:depth]
        rows.append(best + [-1] * (depth - len(best)))
    return rows


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    systems=st.integers(1, 4),
    depth=st.integers(1, 20),
    k=st.sampled_from([0, 1, 60]),
)
def test_rrf_equals_its_definition(seed, systems, depth, k):
    generator = np.random.default_rng(seed)
    rankings = [generator.integers(-1, 12, (3, generator.integers(1, 10))) for _ in range(systems)]
    scores, ids = rrf(rankings, k=k, depth=depth)
    assert ids.tolist() == rrf_by_hand(rankings, k, depth)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_weighted_fusion_scales_each_query_and_breaks_ties_by_id():
    a = (np.array([[10.0, 5.0, 0.0], [3.0, 0.0, 0.0]]), np.array([[1, 2, 3], [9, -1, -1]]))
    b = (np.array([[0.4, 0.3, 0.2], [0.9, 0.8, 0.7]]), np.array([[3, 2, 4], [8, 7, 9]]))
    scores, ids = weighted_fusion([a, b], [0.6, 0.4], depth=4)
    # 1: .6, 2: .3 + .2, 3: 0 + .4, 4: 0; and for a single document: found is 1
    assert ids.tolist() == [[1, 2, 3, 4], [9, 8, 7, -1]]
    np.testing.assert_allclose(scores, [[0.6, 0.5, 0.4, 0.0], [0.6, 0.4, 0.2, 0.0]])
    assert weighted_fusion([a, a], [0.5, 0.5])[1].tolist() == a[1].tolist()
    nothing = (np.zeros((2, 3)), np.full((2, 3), -1))
    assert weighted_fusion([nothing, b], [0.5, 0.5])[1].tolist() == b[1].tolist()
    with pytest.raises(ValueError, match="one each"):
        weighted_fusion([a, b], [1.0])


def test_rrf_refuses_rankings_of_different_queries():
    with pytest.raises(ValueError, match="same queries"):
        rrf([np.ones((2, 3), dtype=int), np.ones((3, 3), dtype=int)])
    with pytest.raises(ValueError, match="nothing to fuse"):
        rrf([])
    with pytest.raises(ValueError, match="which are integers"):
        rrf([np.ones((2, 3))])
    with pytest.raises(ValueError, match="which are integers"):
        weighted_fusion([(np.ones((2, 3)), np.ones((2, 3)))], [1.0])


def test_fusion_takes_ids_of_any_size():
    large = 2**62
    ids = np.array([[large, 5], [3, large], [large + 1, -1]])
    assert rrf([ids])[1].tolist() == ids.tolist()
