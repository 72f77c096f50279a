"""What stands on top of an encoder: one vector from many states, classes, numbers."""

from __future__ import annotations

import torch
from torch import nn

from labkit.text.packing import Packed


class AttentionPooling(nn.Module):
    """The mean of a sequence's states, weighted by how much each of them matters.

    With a learned vector w_h for each of H heads, over the tokens t of one sequence:

        a_ht   = softmax over t of (w_h . x_t / sqrt(D))
        pooled = concatenation over h of sum over t of a_ht x_th,      x_th the h-th part of x_t

    Relations: with w = 0, as at the start, it is the mean, so that nothing is lost by it; attention with one
    query per head. Source: Yang et al., "Hierarchical attention networks for document classification", NAACL
    2016.

    Args:
        width: D, numbers per state.
        heads: how many weightings, each of D / heads of the numbers.

    Example:
        >>> from labkit.text.packing import pack
        >>> pool = AttentionPooling(width=4, heads=2)
        >>> pool(torch.ones(5, 4), pack([[7, 8, 9], [7, 8]])).shape
        torch.Size([2, 4])
        >>> pool(torch.ones(2, 3, 4), torch.tensor([[1, 1, 1], [1, 1, 0]])).shape
        torch.Size([2, 4])
    """

    def __init__(self, width: int, heads: int = 1) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"A width of {width} cannot be shared equally by {heads} heads.")
        self.heads = heads
        self.width = width
        self.query = nn.Linear(width, heads, bias=False)
        nn.init.zeros_(self.query.weight)

    def forward(self, states: torch.Tensor, batch: Packed | torch.Tensor) -> torch.Tensor:
        """One vector for each sequence.

        Args:
            states: (T, D) of a packed batch, or (B, L, D) of a padded one.
            batch: the packed batch, or the mask (B, L), true or 1 where a place is real.

        Returns:
            (B, D). What stands in padding has no influence on it.

        Raises:
            ValueError: shapes do not fit, or a sequence has no token.
        """
        if isinstance(batch, Packed):
            return self._packed(states, batch)
        if states.ndim != 3 or states.shape[:2] != batch.shape:
            raise ValueError(
                f"States (B, L, D) need a mask (B, L), not {tuple(states.shape)} and {tuple(batch.shape)}."
            )
        real = batch.bool()
        if not bool(real.any(dim=1).all()):
            raise ValueError("A sequence without tokens has nothing to pool; leave it out.")
        # Zeroed as well as masked: 0 times a NaN in the padding would be NaN.
        states = states.masked_fill(~real[..., None], 0)
        scores = self._scores(states).masked_fill(~real[..., None], -torch.inf)  # (B, L, H)
        return self._weighted(states, scores.softmax(dim=1)).sum(dim=1)

    def _packed(self, states: torch.Tensor, batch: Packed) -> torch.Tensor:
        if states.shape[:1] != batch.ids.shape:
            raise ValueError(f"{len(batch.ids)} tokens need as many states, not {tuple(states.shape)}.")
        if not bool((batch.lengths > 0).all()):
            raise ValueError("A sequence without tokens has nothing to pool; leave it out.")
        scores, rows = self._scores(states), batch.rows[:, None].expand(-1, self.heads)  # (T, H)
        # A softmax over each sequence: its largest score is taken off first, so that exp cannot overflow.
        empty = scores.new_full((len(batch), self.heads), -torch.inf)
        highest = empty.scatter_reduce(0, rows, scores.detach(), "amax")  # (B, H)
        weights = torch.exp(scores - highest[batch.rows])
        total = scores.new_zeros(len(batch), self.heads).index_add(0, batch.rows, weights)
        parts = self._weighted(states, weights / total[batch.rows])  # (T, D)
        return parts.new_zeros(len(batch), self.width).index_add(0, batch.rows, parts)

    def _scores(self, states: torch.Tensor) -> torch.Tensor:
        scores = self.query(states) / self.width**0.5
        # At least float32: under bf16 autocast the weights of many tokens would no longer sum to 1.
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def _weighted(self, states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return (states.unflatten(-1, (self.heads, -1)) * weights[..., None]).flatten(-2)


class ClassificationHead(nn.Module):
    """Logits of classes from one vector per example.

    Training minimises :func:`labkit.train.cross_entropy` of them; their softmax is the chance of each class.

    Args:
        width: D, numbers per vector.
        classes: C.
        dropout: share of the vector's numbers that is set to 0 in training.

    Example:
        >>> ClassificationHead(width=8, classes=3)(torch.zeros(2, 8)).shape
        torch.Size([2, 3])
    """

    def __init__(self, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"There must be at least 2 classes to choose from, not {classes}.")
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, classes)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(B, D) to logits (B, C)."""
        return self.out(self.dropout(vectors))


class RegressionHead(nn.Module):
    """One number from one vector per example, in the unit of the targets.

    The last layer works in standard units and the result is scaled back, so that a price in cents and a grade
    from 0 to 4 learn at the same rate.

    Args:
        width: D, numbers per vector.
        mean: of the training targets.
        deviation: their standard deviation, above 0.
        dropout: share of the vector's numbers that is set to 0 in training.

    Example:
        >>> head = RegressionHead(width=8, mean=1999.0, deviation=500.0)
        >>> head(torch.zeros(2, 8)).shape
        torch.Size([2])
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, width: int, mean: float = 0.0, deviation: float = 1.0, dropout: float = 0.1) -> None:
        super().__init__()
        if not deviation > 0:
            raise ValueError(f"The targets' deviation must be above 0, not {deviation}.")
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, 1)
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("deviation", torch.tensor(float(deviation)))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(B, D) to (B,)."""
        return self.out(self.dropout(vectors)).squeeze(-1) * self.deviation + self.mean
