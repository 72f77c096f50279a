"""Losses that compare two documents at a time."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from labkit.train.losses.shapes import same_shape


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

    Example:
        >>> pairwise_logistic(torch.tensor([1.0]), torch.tensor([1.0]))  # log 2
        tensor(0.6931)
    """
    same_shape(positive, negative)
    return F.softplus(negative - positive).mean()


def pairwise_logistic_gradient(
    positive: torch.Tensor, negative: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of :func:`pairwise_logistic` by positive (B,) and negative (B,)."""
    slope = torch.sigmoid(negative - positive) / positive.numel()
    return -slope, slope
