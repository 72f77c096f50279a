"""From runs and judgements to one value per query and measure."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from labkit.evaluate.measures import Measure

Qrels = Mapping[Any, Mapping[Any, int]]
Run = Mapping[Any, Mapping[Any, float]]


def evaluate(measures: Iterable[Measure], qrels: Qrels, run: Run) -> dict[Measure, np.ndarray]:
    """Score a run of (query, document) scores against judgements.

    The rules, which are those of ``trec_eval -c``:

    - Documents are ranked by score, highest first; equal scores by document id as a string, *highest id
      first*. Any finite score is a rank, a negative one too. Scores are compared in float64 (trec_eval's C
      code rounds them to float32 first, which makes ties of scores closer than about 1e-7).
    - A document without a judgement counts as grade 0, and a negative grade counts as 0.
    - A judged query that the run does not answer counts, with the value 0; so does a query without any
      relevant document. A query of the run that has no judgements is left out.

    Args:
        measures: what to compute, such as ``[nDCG @ 10, RR]``.
        qrels: ``{query_id: {document_id: grade}}``, integer grades.
        run: ``{query_id: {document_id: score}}``.

    Returns:
        For each measure a float64 array (Q,) of values, in the order of ``sorted(qrels)``.

    Raises:
        ValueError: a score is not a finite number, or there are no judged queries.

    Example:
        >>> from labkit.evaluate import P
        >>> evaluate([P @ 2], {1: {10: 1}, 2: {10: 1}}, {1: {10: 0.3, 11: -2.0}})
        {P@2: array([0.5, 0. ])}
    """
    rows = []
    for query in sorted(qrels):
        scores = run.get(query, {})
        for document, score in scores.items():
            if not math.isfinite(score):
                raise ValueError(
                    f"The run scores document {document!r} of query {query!r} with {score}, not a number."
                )
        # Two stable sorts: the ids decide where the scores are equal.
        documents = sorted(scores, key=str, reverse=True)
        documents.sort(key=lambda document: scores[document], reverse=True)
        judged = qrels[query]
        rows.append([judged.get(document, 0) for document in documents])
    ranked = _padded(rows)  # (Q, K)
    ideal = _ideal([qrels[query] for query in sorted(qrels)])  # (Q, M)
    return {measure: measure.compute(ranked, ideal) for measure in measures}


def evaluate_ranked(
    measures: Iterable[Measure],
    ids: np.ndarray,
    qrels: Mapping[int, Mapping[int, int]],
    queries: Sequence[int] | np.ndarray | None = None,
) -> dict[Measure, np.ndarray]:
    """Score rankings that are already in order, as an index returns them.

    Same rules as :func:`evaluate`, except that nothing is sorted: the order given is the order judged.

    Args:
        measures: what to compute.
        ids: (Q, K) integer document ids, best first; -1 marks an empty place.
        qrels: ``{query_id: {document_id: grade}}``.
        queries: (Q,) query id of each row of ``ids``; ``sorted(qrels)`` when left out. A query without
            judgements is an error here, because its row would have no meaning.

    Returns:
        For each measure a float64 array (Q,), aligned with the rows of ``ids``.

    Raises:
        ValueError: rows and queries differ in number, a query has no judgements, a document stands twice in
            a row, or the ids are not integers.

    Example:
        >>> from labkit.evaluate import RR
        >>> evaluate_ranked([RR], np.array([[7, 5], [5, -1]]), {0: {5: 2}, 1: {9: 1}})
        {RR: array([0.5, 0. ])}
    """
    ids, query_ids = _aligned(ids, qrels, queries)
    ordered = np.sort(ids, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
    if twice.any():
        row = int(np.flatnonzero(twice.any(axis=1))[0])
        raise ValueError(
            f"The ranking of query {query_ids[row]} holds a document twice; remove the duplicates first."
        )
    judged, grades = _lookup(ids, qrels, query_ids)
    ranked = np.where(judged, np.maximum(grades, 0), 0).astype(np.float64)
    ideal = _ideal([qrels[query] for query in query_ids])
    return {measure: measure.compute(ranked, ideal) for measure in measures}


def condense(
    ids: np.ndarray, qrels: Mapping[int, Mapping[int, int]], queries: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """Take the unjudged documents out of rankings and close the gaps (condensed lists).

    Where only part of the documents was ever judged, counting the rest as irrelevant punishes a system for
    finding what the judges were never shown. A measure of the condensed list asks instead: of the judged
    ones, are the good ones first? Report both, since this one is too kind to a system that fills its top
    ranks with unjudged documents. Source: Sakai, "Alternatives to Bpref", SIGIR 2007.

    Args:
        ids: (Q, K) integer document ids, best first; -1 marks an empty place. Give deep rankings.
        qrels: ``{query_id: {document_id: grade}}``; a grade of 0 is a judgement.
        queries: (Q,) query id of each row; ``sorted(qrels)`` when left out.

    Returns:
        (Q, K) int64 ids: the judged documents in their order, then -1.

    Raises:
        ValueError: rows and queries differ in number, a query has no judgements, or the ids are not integers.

    Example:
        >>> condense(np.array([[8, 5, 9, 7]]), {0: {5: 2, 7: 0}})
        array([[ 5,  7, -1, -1]])
    """
    ids, query_ids = _aligned(ids, qrels, queries)
    judged, _ = _lookup(ids, qrels, query_ids)
    order = np.argsort(~judged, axis=1, kind="stable")
    return np.where(np.take_along_axis(judged, order, axis=1), np.take_along_axis(ids, order, axis=1), -1)


def _aligned(
    ids: np.ndarray, qrels: Mapping[int, Mapping[int, int]], queries: Sequence[int] | np.ndarray | None
) -> tuple[np.ndarray, list[int]]:
    ids = np.asarray(ids)
    if ids.ndim != 2:
        raise ValueError(f"Rankings have the shape (queries, ranks), not {ids.shape}.")
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise ValueError("Rankings hold document ids, which are integers; were scores given instead?")
    ids = ids.astype(np.int64)
    query_ids = sorted(qrels) if queries is None else [int(query) for query in queries]
    if len(query_ids) != len(ids):
        raise ValueError(
            f"There are {len(ids)} rankings for {len(query_ids)} queries; name the rows with queries=."
        )
    unjudged: list[Hashable] = [query for query in query_ids if query not in qrels]
    if unjudged:
        raise ValueError(
            f"Query {unjudged[0]!r} has no judgements ({len(unjudged)} such); leave its row out."
        )
    return ids, query_ids


def _lookup(
    ids: np.ndarray, qrels: Mapping[int, Mapping[int, int]], query_ids: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each place holds a judged document (Q, K), and its grade there (Q, K)."""
    sizes = [len(qrels[query]) for query in query_ids]
    documents = np.fromiter((d for q in query_ids for d in qrels[q]), dtype=np.int64, count=sum(sizes))
    grades = np.fromiter((g for q in query_ids for g in qrels[q].values()), dtype=np.int64, count=sum(sizes))
    if not len(documents):
        return np.zeros(ids.shape, dtype=bool), np.zeros(ids.shape, dtype=np.int64)
    # One key per (row, document), so that a single binary search answers for all rows at once.
    # Ids may be of any size and sign, so their places in the sorted list stand in for them.
    known = np.unique(documents)
    keys = np.repeat(np.arange(len(sizes)), sizes) * len(known) + np.searchsorted(known, documents)
    order = np.argsort(keys)
    keys, grades = keys[order], grades[order]
    code = np.minimum(np.searchsorted(known, ids), len(known) - 1)  # (Q, K)
    wanted = np.arange(len(ids))[:, None] * len(known) + code
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return (keys[place] == wanted) & (known[code] == ids) & (ids >= 0), grades[place]


def _padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    if not rows:
        raise ValueError("There are no judged queries to evaluate.")
    padded = np.zeros((len(rows), max(1, max(len(row) for row in rows))))
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = np.maximum(values, 0) if len(values) else 0
    return padded


def _ideal(judgements: Sequence[Mapping[Any, int]]) -> np.ndarray:
    return _padded([sorted(judged.values(), reverse=True) for judged in judgements])
