"""Losses that compare two documents at a time."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from labkit.train.losses.inputs import exact, same_shape


def pairwise_logistic(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """RankNet's loss: the log-odds that the better document wins are the difference of the scores.

        m     = positive - negative
        L     = mean log(1 + exp(-m))
        dL/dpositive = -sigmoid(-m) / B       dL/dnegative = sigmoid(-m) / B

    A pair in the right order by a wide margin has almost no gradient; one in the wrong order has at most 1/B.
    Relation: it is :func:`bce` of m with target 1; LambdaMART multiplies the same slope by the change in
    nDCG. Source: Burges et al., "Learning to rank using gradient descent", ICML 2005.

    Args:
        positive: (B,) scores of the better documents.
        negative: (B,) scores of the worse ones.

    Returns:
        The mean loss, a scalar.

    Raises:
        ValueError: shapes differ, or the batch is empty.

    Example:
        >>> pairwise_logistic(torch.tensor([1.0]), torch.tensor([1.0]))  # log 2
        tensor(0.6931)
    """
    same_shape(positive, negative)
    return F.softplus(exact(negative) - exact(positive)).mean()


def pairwise_logistic_gradient(
    positive: torch.Tensor, negative: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of :func:`pairwise_logistic` by positive (B,) and negative (B,)."""
    slope = torch.sigmoid(negative - positive) / positive.numel()
    return -slope, slope


def bpr(
    user: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, regularization: float = 0.0
) -> torch.Tensor:
    """Bayesian personalised ranking: the item that a user took scores above one that the user did not.

    The log-posterior of "positive before negative" under a normal prior on the vectors. With
    m_i = u_i . (p_i - n_i) and r the precision of the prior:

        L     = 1/B * sum over i of ( log(1 + exp(-m_i)) + r/2 (|u_i|^2 + |p_i|^2 + |n_i|^2) )
        c_i   = sigmoid(-m_i)                          (1 where the order is wrong, near 0 where it is safe)
        dL/du = (-c (p - n) + r u) / B      dL/dp = (-c u + r p) / B      dL/dn = (c u + r n) / B

    The area under the ROC curve counts m_i > 0; this is its smooth stand-in.

    Relations: :func:`pairwise_logistic` of the two scores, with the prior that keeps factors of rare users
    and items small. Weight decay in the optimizer would shrink every row at every step, this only rows in the
    batch. Source: Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", UAI 2009.

    Args:
        user: (B, D) vectors.
        positive: (B, D) of an item that user i took.
        negative: (B, D) of one that user i did not take.
        regularization: r, the weight of the squared lengths.

    Returns:
        The mean loss, a scalar.

    Raises:
        ValueError: shapes differ, or the batch is empty.

    Example:
        >>> user, taken, other = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
        >>> bpr(user, taken, other)  # log(1 + 1/e)
        tensor(0.3133)
    """
    same_shape(user, positive, negative)
    user, positive, negative = exact(user), exact(positive), exact(negative)
    margin = (user * (positive - negative)).sum(dim=-1)  # (B,)
    lengths = user.square() + positive.square() + negative.square()
    return F.softplus(-margin).mean() + regularization / 2 * lengths.sum(dim=-1).mean()


def bpr_gradient(
    user: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor, regularization: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient of :func:`bpr` by user, positive and negative, each (B, D); see there."""
    wrong = torch.sigmoid(-(user * (positive - negative)).sum(dim=-1, keepdim=True))  # (B, 1)
    by_user = -wrong * (positive - negative) + regularization * user
    by_positive = -wrong * user + regularization * positive
    by_negative = wrong * user + regularization * negative
    return by_user / len(user), by_positive / len(user), by_negative / len(user)
