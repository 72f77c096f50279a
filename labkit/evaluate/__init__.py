"""Ranking measures and the statistics that say whether a difference is real.

Example:
    >>> from labkit.evaluate import RR, evaluate, nDCG
    >>> qrels = {"q1": {"a": 3, "b": 0}}
    >>> run = {"q1": {"a": 2.0, "b": 1.0, "c": 0.5}}
    >>> {str(m): v.tolist() for m, v in evaluate([nDCG @ 10, RR], qrels, run).items()}
    {'nDCG@10': [1.0], 'RR': [1.0]}
"""

from labkit.evaluate.full_ranking import Ranks, full_ranks, sampled_ranks
from labkit.evaluate.measures import AP, RR, Measure, P, R, nDCG
from labkit.evaluate.rankings import condense, evaluate, evaluate_ranked
from labkit.evaluate.significance import bootstrap_interval, holm, paired_permutation_test

__all__ = [
    "AP",
    "RR",
    "Measure",
    "P",
    "R",
    "Ranks",
    "bootstrap_interval",
    "condense",
    "evaluate",
    "evaluate_ranked",
    "full_ranks",
    "holm",
    "nDCG",
    "paired_permutation_test",
    "sampled_ranks",
]
