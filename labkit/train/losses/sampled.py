"""Softmax over a catalogue too large to score, from a few items and the chance with which each was drawn."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from labkit.train.losses.inputs import exact, labels_exist, not_empty, products


def sampled_softmax(
    query: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, drawn: torch.Tensor, log_q: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy over V items, estimated from M drawn ones, without favouring those that are drawn rarely.

    The full loss of a query whose right item is y, with s_j = query . weight_j, is

        L     = -s_y + log Z,      Z = sum over all j of exp(s_j)

    Draw j_1 … j_M with replacement, item j with chance Q(j). Each exp(s_j) then turns up M Q(j) times on
    average, so dividing by that leaves its expected share as it was, and the sum over the rest of Z becomes

        Z^    = exp(s_y) + sum over m with j_m != y of exp(s_jm) / (M Q(jm)),      E[Z^] = Z

    which is a cross-entropy over M + 1 corrected scores s_jm - log(M Q(jm)), the right one in front:

        L^    = -1/B * sum over i of log p_iy
        dL^/ds_im = p_im / B        dL^/ds_iy = (p_iy - 1) / B

    A draw that hits the right item (an accidental hit) is left out, as it is in Z^ already. The right item is
    not drawn, so its own score is not corrected. log Z^ is a little below log Z on average (log is concave);
    the gap closes as 1/M. Without the correction, frequent items are pushed down for being drawn often.

    Relations: :func:`in_batch_softmax` takes the other rows' items as the draws; with all items drawn
    evenly it tends to :func:`cross_entropy`. Source: Bengio and Senécal, "Adaptive importance sampling to
    accelerate training of a neural probabilistic language model", IEEE TNN 2008; accidental hits: Jean et
    al., "On using very large target vocabulary for neural machine translation", ACL 2015.

    Args:
        query: (B, D) hidden states or user vectors.
        weight: (V, D) item vectors.
        target: (B,) int64, the right items.
        drawn: (M,) int64, wrong items for all rows, drawn with replacement.
        log_q: (M,) the logarithm of each one's chance in one draw.

    Returns:
        The mean loss, a scalar.

    Raises:
        ValueError: shapes do not fit, an item does not exist, or a chance is not in 0 to 1.

    Example:
        >>> weight = torch.eye(4)
        >>> drawn = torch.tensor([1, 2, 3])
        >>> log_q = torch.full((3,), 1 / 3).log()  # evenly among the three wrong ones
        >>> sampled_softmax(weight[:1], weight, torch.tensor([0]), drawn, log_q)
        tensor(0.7437)
        >>> torch.nn.functional.cross_entropy(weight[:1] @ weight.T, torch.tensor([0]))  # the full one
        tensor(0.7437)
    """
    return F.cross_entropy(
        _sampled_scores(query, weight, target, drawn, log_q), query.new_zeros(len(query), dtype=torch.int64)
    )


def sampled_softmax_gradient(
    query: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, drawn: torch.Tensor, log_q: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of :func:`sampled_softmax` by query (B, D) and by weight (V, D); see there.

    Only the rows of the right and of the drawn items are not 0; an item drawn twice gets both shares.
    """
    slope = _sampled_scores(query, weight, target, drawn, log_q).softmax(dim=1)  # (B, 1 + M)
    slope[:, 0] -= 1
    slope = slope / len(query)
    by_query = slope[:, :1] * weight[target] + slope[:, 1:] @ weight[drawn]
    by_weight = torch.zeros_like(weight)
    by_weight.index_add_(0, target, slope[:, :1] * query)
    by_weight.index_add_(0, drawn, slope[:, 1:].T @ query)
    return by_query, by_weight


def in_batch_softmax(
    query: torch.Tensor,
    item: torch.Tensor,
    item_id: torch.Tensor,
    log_q: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """InfoNCE for a two-tower model, corrected for popular items being in the batch more often.

    The batch's own items are the draws: item j is in it with a chance in proportion to its share Q(j) of the
    training pairs. As in :func:`sampled_softmax`, log Q(j) is subtracted, from the right item's score too, as
    it came into the batch by the same draw (the batch's size, the same for all, cancels):

        s_ij  = q_i . d_j / temperature - log Q(j)
        L     = -1/B * sum over i of log p_ii
        dL/ds = (p - I) / B;      dL/dq = dL/ds @ d / temperature,  dL/dd = (dL/ds)^T @ q / temperature

    Without it a popular item, a wrong answer in nearly every batch, learns a score that is too low by log Q.
    Where another row holds the same item (an accidental hit), it is left out.

    Relations: with all Q equal it is :func:`info_nce` with the copies masked. At search time scores are used
    without the correction. Source: Yi et al., "Sampling-bias-corrected neural modeling for large corpus item
    recommendations", RecSys 2019.

    Args:
        query: (B, D) the users' or queries' vectors.
        item: (B, D) row i is the right item of row i.
        item_id: (B,) int64, which item each row holds.
        log_q: (B,) the logarithm of each item's share of the training pairs.
        temperature: of the softmax; for cosines .01 to .1.

    Returns:
        The mean loss, a scalar.

    Raises:
        ValueError: shapes do not fit, a share is not in 0 to 1, or the temperature is not positive.

    Example:
        >>> vectors = torch.eye(2)
        >>> log_q = torch.tensor([0.9, 0.1]).log()
        >>> in_batch_softmax(vectors, vectors, torch.tensor([7, 8]), log_q)
        tensor(0.7506)
        >>> in_batch_softmax(vectors, vectors, torch.tensor([7, 7]), log_q)  # the same item twice
        tensor(0.)
    """
    scores = _in_batch_scores(query, item, item_id, log_q, temperature)
    return F.cross_entropy(scores, torch.arange(len(query), device=query.device))


def in_batch_softmax_gradient(
    query: torch.Tensor,
    item: torch.Tensor,
    item_id: torch.Tensor,
    log_q: torch.Tensor,
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of :func:`in_batch_softmax` by query (B, D) and by item (B, D); see there."""
    slope = _in_batch_scores(query, item, item_id, log_q, temperature).softmax(dim=1)  # (B, B)
    slope.diagonal().sub_(1)
    slope = slope / (len(query) * temperature)
    return slope @ item, slope.T @ query


def _sampled_scores(
    query: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, drawn: torch.Tensor, log_q: torch.Tensor
) -> torch.Tensor:
    """The right item's score, then the corrected scores of the drawn ones, hits at -inf: (B, 1 + M)."""
    if query.ndim != 2 or weight.ndim != 2 or query.shape[1] != weight.shape[1]:
        raise ValueError(
            "Sampled softmax needs queries (B, D) and item vectors (V, D) of one width, "
            f"not {tuple(query.shape)} and {tuple(weight.shape)}."
        )
    if target.shape != query.shape[:1] or drawn.ndim != 1 or log_q.shape != drawn.shape:
        raise ValueError(
            "Sampled softmax needs one right item per query (B,), and drawn items with a log chance for each "
            f"(M,), not {tuple(target.shape)}, {tuple(drawn.shape)} and {tuple(log_q.shape)}."
        )
    not_empty(query)
    not_empty(drawn)
    labels_exist(target, len(weight), "The right items")
    labels_exist(drawn, len(weight), "The drawn items")
    _are_log_chances(log_q)
    right = exact((query * weight[target]).sum(dim=1, keepdim=True))  # (B, 1)
    wrong = exact(query @ weight[drawn].T) - (log_q + math.log(len(drawn)))  # (B, M)
    wrong = wrong.masked_fill(target[:, None] == drawn[None, :], float("-inf"))
    return torch.cat([right, wrong], dim=1)


def _in_batch_scores(
    query: torch.Tensor, item: torch.Tensor, item_id: torch.Tensor, log_q: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The corrected scores (B, B), with other copies of the own item at -inf."""
    if query.ndim != 2 or query.shape != item.shape or not item_id.shape == log_q.shape == query.shape[:1]:
        shapes = [tuple(tensor.shape) for tensor in (query, item, item_id, log_q)]
        raise ValueError(f"In-batch softmax needs (B, D) twice and (B,) twice, not {shapes}.")
    if temperature <= 0:
        raise ValueError(f"The temperature must be positive, not {temperature}.")
    not_empty(query)
    _are_log_chances(log_q)
    scores = products(query, item) / temperature - log_q  # (B, B)
    copies = (item_id[:, None] == item_id[None, :]).fill_diagonal_(False)
    return scores.masked_fill(copies, float("-inf"))


def _are_log_chances(log_q: torch.Tensor) -> None:
    if not bool(((log_q <= 1e-4) & log_q.isfinite()).all()):  # a chance of 1 may round to just above
        raise ValueError("log_q must hold logarithms of chances above 0 and at most 1; these do not.")
