"""Ranking measures, one short declaration each.

A formula sees whole batches of queries: ``ranked`` (Q, K) holds the grade of the document at each rank (0 for
an unjudged document, for an irrelevant one and for an empty place) and ``ideal`` (Q, M) holds every grade of
the query, highest first. Both are float64; grades below 0 have become 0, as trec_eval treats them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

Gain = Literal["linear", "exp2"]
Formula = Callable[["Measure", np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, repr=False)
class Measure:
    """A ranking measure with its parameters; ``measure @ k`` cuts the ranking after rank k.

    Attributes:
        name: the field's name of the measure.
        formula: computes one float64 value per query from (measure, ranked (Q, K), ideal (Q, M)).
        accepts: the parameters that this measure has, among ``"rel"`` and ``"gain"``.
        cutoff: the last rank that counts; None for all of them.
        rel: the lowest grade that counts as relevant, for the binary measures.
        gain: ``"linear"`` gains a document its grade g, ``"exp2"`` gains it 2^g - 1.

    Example:
        >>> nDCG(gain="exp2") @ 10
        nDCG(gain=exp2)@10
        >>> RR(rel=2)
        RR(rel=2)
    """

    name: str
    formula: Formula = field(compare=False)
    accepts: tuple[str, ...] = ()
    needs_cutoff: bool = field(default=False, compare=False)
    cutoff: int | None = None
    rel: int = 1
    gain: Gain = "linear"

    def __matmul__(self, cutoff: int) -> Measure:
        if int(cutoff) != cutoff or cutoff < 1:
            raise ValueError(f"{self.name} @ {cutoff}: a cut-off is a whole number of ranks, 1 or more.")
        return replace(self, cutoff=int(cutoff))

    def __call__(self, *, rel: int | None = None, gain: Gain | None = None) -> Measure:
        measure = self
        for name, value in (("rel", rel), ("gain", gain)):
            if value is None:
                continue
            if name not in self.accepts:
                raise ValueError(f"{self.name} has no parameter {name!r}; it has {self.accepts or 'none'}.")
            changed: dict[str, Any] = {name: value}
            measure = replace(measure, **changed)
        if measure.gain not in ("linear", "exp2"):
            raise ValueError(f"The gain is 'linear' or 'exp2', not {gain!r}.")
        if measure.rel < 1:
            raise ValueError(
                "The lowest relevant grade, rel, is at least 1: unjudged documents count as grade 0."
            )
        return measure

    def compute(self, ranked: np.ndarray, ideal: np.ndarray) -> np.ndarray:
        """One float64 value per query, from grades by rank (Q, K) and all grades, highest first (Q, M)."""
        if self.needs_cutoff and self.cutoff is None:
            raise ValueError(f"{self.name} needs a cut-off: write {self.name} @ 10.")
        return self.formula(self, ranked[:, : self.cutoff], ideal)

    def __repr__(self) -> str:
        shown = {
            "rel": self.rel if self.rel != 1 else None,
            "gain": self.gain if self.gain != "linear" else None,
        }
        inside = ", ".join(f"{key}={value}" for key, value in shown.items() if value is not None)
        return self.name + (f"({inside})" if inside else "") + (f"@{self.cutoff}" if self.cutoff else "")

    __str__ = __repr__


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and 0 where a query has nothing to find (trec_eval's choice)."""
    return np.divide(part, whole, out=np.zeros_like(part, dtype=np.float64), where=whole > 0)


def _dcg(grades: np.ndarray, gain: Gain) -> np.ndarray:
    gains = grades if gain == "linear" else np.exp2(grades) - 1.0  # (Q, K)
    return gains @ (1.0 / np.log2(np.arange(2, grades.shape[1] + 2)))  # (Q,)


def _ndcg(measure: Measure, ranked: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    return _ratio(_dcg(ranked, measure.gain), _dcg(ideal[:, : measure.cutoff], measure.gain))


def _reciprocal_rank(measure: Measure, ranked: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    hits = ranked >= measure.rel
    if not hits.shape[1]:
        return np.zeros(len(hits))
    return np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0)


def _average_precision(measure: Measure, ranked: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    hits = ranked >= measure.rel
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    return _ratio((precision * hits).sum(axis=1), (ideal >= measure.rel).sum(axis=1))


def _recall(measure: Measure, ranked: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    return _ratio((ranked >= measure.rel).sum(axis=1), (ideal >= measure.rel).sum(axis=1))


def _precision(measure: Measure, ranked: np.ndarray, ideal: np.ndarray) -> np.ndarray:
    assert measure.cutoff is not None
    # A short ranking is not forgiven: the places it leaves empty count as misses.
    return (ranked >= measure.rel).sum(axis=1) / measure.cutoff


nDCG = Measure("nDCG", _ndcg, accepts=("gain",))
"""Normalised discounted cumulative gain, discount 1 / log2(rank + 1).

Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002. ``gain="exp2"`` is the
form of Burges et al., "Learning to rank using gradient descent", ICML 2005.
"""

RR = Measure("RR", _reciprocal_rank, accepts=("rel",))
"""Reciprocal rank of the first relevant document; its mean over queries is MRR. Kantor and Voorhees, TREC-5,
1997."""

AP = Measure("AP", _average_precision, accepts=("rel",))
"""Average precision over ALL relevant documents of the query, found or not; its mean is MAP. Harman, TREC-1,
1992."""

R = Measure("R", _recall, accepts=("rel",), needs_cutoff=True)
"""Recall: the share of the query's relevant documents found in the first k ranks."""

P = Measure("P", _precision, accepts=("rel",), needs_cutoff=True)
"""Precision: the share of the first k ranks that are relevant."""
