"""One ranking out of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rrf(
    rankings: Sequence[np.ndarray], k: float = 60, depth: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reciprocal rank fusion: a document scores the sum of 1 / (k + rank) over the rankings that hold it.

    Ranks count from 1. No scores are needed, so rankings of any origin mix; the price is that a clear win and
    a narrow one count the same (:func:`weighted_fusion` keeps the difference). Source: Cormack, Clarke and
    Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods", SIGIR 2009.

    Args:
        rankings: one (Q, K_i) integer array of document ids per system, best first; -1 marks an empty place.
            A document repeated within a row counts at its best rank.
        k: how little the first ranks stand out.
        depth: how many documents to return per query; the longest input's length when left out.

    Returns:
        Scores (Q, depth) float64, highest first, and ids (Q, depth) int64, with 0 and -1 in empty places.
        Equal scores: lower id first.

    Raises:
        ValueError: no rankings, they answer different numbers of queries, or the ids are not integers.

    Example:
        >>> rrf([np.array([[4, 7, 9]]), np.array([[7, 9, 4]])])[1]
        array([[7, 4, 9]])
    """
    if k <= -1:
        raise ValueError(f"Reciprocal rank fusion needs k above -1, not {k}.")
    return _fuse(
        [(1.0 / (k + np.arange(1, np.shape(ids)[1] + 1)) * np.ones(np.shape(ids)), ids) for ids in rankings],
        depth,
    )


def weighted_fusion(
    results: Sequence[tuple[np.ndarray, np.ndarray]], weights: Sequence[float], depth: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Convex combination of scores, each system's brought to 0..1 per query (its lowest score to 0, its
    highest to 1).

    A document that a system did not return gets 0 from it, as much as its last one. The weights are worth
    tuning on validation queries. Source: Bruch, Gai and Ingber, "An analysis of fusion functions for hybrid
    retrieval", TOIS 2023.

    Args:
        results: one (scores (Q, K_i), ids (Q, K_i)) per system, as ``BM25.search`` and ``top_k`` return them.
        weights: one weight per system.
        depth: how many documents to return per query; the longest input's length when left out.

    Returns:
        Scores (Q, depth) float64, highest first, and ids (Q, depth) int64, with 0 and -1 in empty places.
        Equal scores: lower id first.

    Raises:
        ValueError: no results, as many weights as systems are not given, shapes do not fit, or the ids are
            not integers.

    Example:
        >>> a = (np.array([[9.0, 8.0, 1.0]]), np.array([[4, 7, 9]]))
        >>> b = (np.array([[0.9, 0.2, 0.1]]), np.array([[7, 9, 4]]))
        >>> weighted_fusion([a, b], weights=[0.5, 0.5])[1]
        array([[7, 4, 9]])
    """
    if len(weights) != len(results):
        raise ValueError(f"There are {len(weights)} weights for {len(results)} systems; give one each.")
    scaled = []
    for (scores, ids), weight in zip(results, weights, strict=True):
        found = np.asarray(ids) >= 0
        values = np.asarray(scores, dtype=np.float64)
        low = np.where(found, values, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        high = np.where(found, values, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
        spread = np.where(found.any(axis=1, keepdims=True), high - low, 1.0)
        # A single document, or all equal: what was found beats what was not.
        low = np.where(np.isfinite(low), low, 0.0)
        unit = np.where(spread > 0, (values - low) / np.where(spread > 0, spread, 1.0), 1.0)
        scaled.append((weight * unit, ids))
    return _fuse(scaled, depth)


def _fuse(
    results: Sequence[tuple[np.ndarray, np.ndarray]], depth: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Add up the scores of each (query, document) over systems, then order by score and id."""
    if not results:
        raise ValueError("There is nothing to fuse; give at least one ranking.")
    arrays = [np.asarray(ids) for _, ids in results]
    if any(ids.size and not np.issubdtype(ids.dtype, np.integer) for ids in arrays):
        raise ValueError("Rankings hold document ids, which are integers; were scores given instead?")
    shapes = [ids.shape for ids in arrays]
    if any(len(shape) != 2 or shape[0] != shapes[0][0] for shape in shapes):
        raise ValueError(f"Rankings have the shape (queries, ranks) over the same queries, not {shapes}.")
    queries = shapes[0][0]
    depth = max(shape[1] for shape in shapes) if depth is None else depth
    # Ids may be of any size, so their places in the sorted list stand in for them.
    known = np.unique(np.concatenate([ids.ravel() for ids in arrays]).astype(np.int64))
    width = max(1, len(known))
    keys, values = [], []
    for (scores, _), ids in zip(results, arrays, strict=True):
        place = np.flatnonzero(ids >= 0)
        key = (np.arange(queries)[:, None] * width + np.searchsorted(known, ids)).ravel()[place]
        first = np.unique(key, return_index=True)[1]  # best rank of a document repeated in a row
        keys.append(key[first])
        values.append(np.asarray(scores, dtype=np.float64).ravel()[place][first])
    unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
    # Sums in a different order differ in the last bits; rounding keeps equal documents equal.
    total = np.round(np.bincount(inverse, weights=np.concatenate(values), minlength=len(unique)), 12)
    row, code = np.divmod(unique, width)
    document = known[code]
    order = np.lexsort((document, -total, row))
    row, document, total = row[order], document[order], total[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)  # place within its query
    kept = rank < depth
    scores_out = np.zeros((queries, depth))
    ids_out = np.full((queries, depth), -1, dtype=np.int64)
    scores_out[row[kept], rank[kept]] = total[kept]
    ids_out[row[kept], rank[kept]] = document[kept]
    return scores_out, ids_out
