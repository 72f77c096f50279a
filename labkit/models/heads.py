"""What stands on top of an encoder: one vector from many states, classes, numbers."""

from __future__ import annotations

import torch
from torch import nn

from labkit.kernels import attention_pool
from labkit.text.packing import Packed


class AttentionPooling(nn.Module):
    """The mean of a sequence's states, weighted by how much each of them matters.

    With a learned vector q, over the tokens t of one sequence:

        a_t    = softmax over t of (q . x_t / sqrt(D))
        pooled = sum over t of a_t x_t

    At the start q = 0, and this is the mean: nothing is lost by it. Relations: on packed states it is
    :func:`labkit.kernels.attention_pool`. Source: Yang et al., "Hierarchical attention networks for document
    classification", NAACL 2016.

    Args:
        width: D, numbers per state.

    Example:
        >>> from labkit.text.packing import pack
        >>> pool = AttentionPooling(width=4)
        >>> pool(torch.ones(5, 4), pack([[7, 8, 9], [7, 8]])).shape
        torch.Size([2, 4])
        >>> pool(torch.ones(2, 3, 4), torch.tensor([[1, 1, 1], [1, 1, 0]])).shape
        torch.Size([2, 4])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))

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
        query = self.query.to(states.dtype)
        # Without autocast: in bf16 the weights of many tokens would no longer sum to 1.
        with torch.autocast(states.device.type, enabled=False):
            if isinstance(batch, Packed):
                _check(states, batch.ids, batch.lengths)
                return attention_pool(states, batch.offsets, query)
            _check(states, batch, batch.sum(dim=1))
            return _padded_pool(states, batch.bool(), query)


def _check(states: torch.Tensor, places: torch.Tensor, counts: torch.Tensor) -> None:
    if states.shape[:-1] != places.shape:
        raise ValueError(
            f"Places {tuple(places.shape)} and states {tuple(states.shape)} do not fit; there must be one "
            "state for each."
        )
    if not bool(counts.all()):
        raise ValueError("A sequence without tokens has nothing to pool; leave it out.")


def _padded_pool(states: torch.Tensor, real: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    # Zeroed as well as masked: 0 times a NaN in the padding would be NaN.
    exact = torch.promote_types(states.dtype, torch.float32)
    rows = states.masked_fill(~real[..., None], 0).to(exact)  # (B, L, D)
    scores = rows @ query.to(exact) / states.shape[-1] ** 0.5  # (B, L)
    weights = scores.masked_fill(~real, -torch.inf).softmax(dim=1)
    return (weights[..., None] * rows).sum(dim=1).to(states.dtype)


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
