"""Losses that look at all the documents of a query together.

Queries with different numbers of documents are padded to (B, L), with a mask that says which are real. A
query without documents adds nothing and is not counted in the mean.
"""

from __future__ import annotations

import math
from typing import Literal

import torch

from labkit.train.losses.inputs import exact, no_nan, same_shape

Weighting = Literal["ndcg2", "lambdarank"]


def list_net(scores: torch.Tensor, relevance: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """ListNet, top-one: the chance of each document to be put first should be the one its grade gives it.

    With p = softmax(scores) and q = softmax(relevance), both over one query's documents:

        L     = -1/B * sum over queries and documents of q log p
        dL/ds = (p - q) / B

    Its least value is the entropy of q, not 0. Where all grades are equal q is even, so that the loss asks
    for equal scores; documents with the same grade have the same q.

    Relations: :func:`cross_entropy` with a soft target; :func:`lambda_loss` weighs mistakes by their place in
    the ranking, this does not. Source: Cao et al., "Learning to rank: from pairwise approach to listwise
    approach", ICML 2007.

    Args:
        scores: (B, L) real numbers.
        relevance: (B, L) grades; larger is better.
        mask: (B, L) bool, True where there is a document; all of them when left out.

    Returns:
        The mean over the queries that have documents, a scalar.

    Raises:
        ValueError: shapes differ, no query has a document, or a grade is NaN.

    Example:
        >>> list_net(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1.0]]))  # log 2
        tensor(0.6931)
    """
    mask = _checked(scores, relevance, mask)
    log_p = _softmax_of(scores, mask).log_softmax(dim=1)  # (B, L)
    wanted = _softmax_of(relevance.to(log_p.dtype), mask).softmax(dim=1)
    # Padding: 0 * -inf would be NaN.
    return -(wanted * log_p).masked_fill(~mask, 0).sum() / mask.any(dim=1).sum()


def list_net_gradient(
    scores: torch.Tensor, relevance: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The gradient of :func:`list_net` by the scores (B, L); see there."""
    mask = _checked(scores, relevance, mask)
    p = _softmax_of(scores, mask).softmax(dim=1)
    q = _softmax_of(relevance.to(p.dtype), mask).softmax(dim=1)
    return (p - q).masked_fill(~mask, 0) / mask.any(dim=1).sum()


def lambda_loss(
    scores: torch.Tensor,
    relevance: torch.Tensor,
    mask: torch.Tensor | None = None,
    weighting: Weighting = "ndcg2",
    sigma: float = 1.0,
) -> torch.Tensor:
    """Pairwise logistic loss where each pair counts as much as its order matters to nDCG.

    Let r_i be the rank that the present scores give document i (1 is the top), D(r) = log2(1 + r), and
    G_i = (2^relevance_i - 1) / (the DCG of the best order). Over the pairs of one query with
    relevance_i > relevance_j:

        L     = 1/B * sum of w_ij * log2(1 + exp(-sigma (s_i - s_j)))
        lambdarank:  w_ij = |G_i - G_j| * |1/D(r_i) - 1/D(r_j)|     (how much a swap changes nDCG)
        ndcg2:       w_ij = |G_i - G_j| * (1/D(d) - 1/D(d + 1)),   d = |r_i - r_j|
        l_ij  = sigma / ln 2 * w_ij * sigmoid(-sigma (s_i - s_j)) / B
        dL/ds_i = sum over j below i of -l_ij + sum over k above i of l_ki

    The weights are taken from the present ranking and held fixed, as in the E-step of an EM procedure: no
    gradient passes through the ranks. Both sums bound the lost nDCG from above, ndcg2 more tightly. Documents
    with equal scores are ranked in the order in which they come; documents with equal grades make no pair; a
    query whose grades are all equal adds 0 but is counted in the mean.

    Relations: with w = 1 it is RankNet, :func:`pairwise_logistic` over all pairs; LightGBM's ``lambdarank``
    objective uses l_ij as the slope of its trees. Source: Wang et al., "The LambdaLoss framework for ranking
    metric optimization", CIKM 2018; Burges, "From RankNet to LambdaRank to LambdaMART", 2010.

    Args:
        scores: (B, L) real numbers.
        relevance: (B, L) grades from 0 up.
        mask: (B, L) bool, True where there is a document; all of them when left out.
        weighting: ``"ndcg2"`` or ``"lambdarank"``.
        sigma: steepness of the logistic function.

    Returns:
        The mean over the queries that have documents, a scalar. Memory is (B, L, L).

    Raises:
        ValueError: shapes differ, no query has a document, a grade is NaN or negative, or the weighting is
            unknown.

    Example:
        >>> right = lambda_loss(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[2, 1, 0]]))
        >>> wrong = lambda_loss(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[2, 1, 0]]))
        >>> round(right.item(), 3), round(wrong.item(), 3)
        (0.158, 0.91)
    """
    mask = _checked(scores, relevance, mask)
    weights, margins = _pairs(scores, relevance, mask, weighting)  # (B, L, L)
    losses = torch.nn.functional.softplus(-sigma * margins) / math.log(2)
    return (weights * losses).sum() / mask.any(dim=1).sum()


def lambda_loss_gradient(
    scores: torch.Tensor,
    relevance: torch.Tensor,
    mask: torch.Tensor | None = None,
    weighting: Weighting = "ndcg2",
    sigma: float = 1.0,
) -> torch.Tensor:
    """The gradient of :func:`lambda_loss` by the scores (B, L), the lambdas; see there."""
    mask = _checked(scores, relevance, mask)
    weights, margins = _pairs(scores, relevance, mask, weighting)
    pull = sigma / math.log(2) * weights * torch.sigmoid(-sigma * margins)  # (B, L, L)
    return (pull.sum(dim=1) - pull.sum(dim=2)) / mask.any(dim=1).sum()


def _pairs(
    scores: torch.Tensor, relevance: torch.Tensor, mask: torch.Tensor, weighting: Weighting
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights w_ij, 0 where document i is not the better one, and margins s_i - s_j: (B, L, L) each."""
    if weighting not in ("ndcg2", "lambdarank"):
        raise ValueError(f"The weighting is 'ndcg2' or 'lambdarank', not {weighting!r}.")
    if bool((relevance.masked_fill(~mask, 0) < 0).any()):
        raise ValueError("Grades must be 0 or more: the gain 2^grade - 1 of a negative one is no gain.")
    exact_scores = exact(scores).masked_fill(~mask, 0)
    with torch.no_grad():
        grade = relevance.to(exact_scores.dtype).masked_fill(~mask, 0)  # (B, L)
        ranking = exact_scores.masked_fill(~mask, float("-inf")).argsort(dim=1, descending=True, stable=True)
        ranks = ranking.argsort(dim=1) + 1  # (B, L), from 1
        gain = torch.exp2(grade) - 1
        places = torch.arange(1, scores.shape[1] + 2, dtype=gain.dtype, device=gain.device)
        discount = 1 / torch.log2(1 + places)  # 1/D(1), 1/D(2), …
        best = (gain.sort(dim=1, descending=True).values * discount[:-1]).sum(dim=1, keepdim=True)  # (B, 1)
        gain = gain / best.clamp(min=torch.finfo(gain.dtype).tiny)  # no relevant document: all gains are 0
        if weighting == "lambdarank":
            place = discount[ranks - 1]
            matters = (place[:, :, None] - place[:, None, :]).abs()
        else:
            apart = (ranks[:, :, None] - ranks[:, None, :]).abs().clamp(min=1)  # itself makes no pair
            matters = discount[apart - 1] - discount[apart]
        better = grade[:, :, None] > grade[:, None, :]
        better &= mask[:, :, None] & mask[:, None, :]
        weights = matters * (gain[:, :, None] - gain[:, None, :]).abs() * better
    return weights, exact_scores[:, :, None] - exact_scores[:, None, :]


def _checked(scores: torch.Tensor, relevance: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The mask (B, L), all True when there is none."""
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    same_shape(scores, relevance, mask)
    if scores.ndim != 2:
        raise ValueError(
            f"A listwise loss needs scores (B, L), a row for each query, not {tuple(scores.shape)}."
        )
    if not bool(mask.any()):
        raise ValueError("No query of the batch has a document; leave such batches out.")
    no_nan(relevance.masked_fill(~mask, 0), "The grades")
    return mask


def _softmax_of(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values with padding at -inf; all 0 where a whole row is padding, whose softmax would be NaN."""
    values = exact(values).masked_fill(~mask, float("-inf"))
    return values.masked_fill(~mask.any(dim=1, keepdim=True), 0)
