"""Losses that judge every example on its own."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from labkit.train.losses.inputs import exact, same_shape


def bce(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy from logits, each pair judged on its own.

    With p = sigmoid(x), the textbook form -t log p - (1 - t) log(1 - p) overflows for large |x|; the same
    value is

        L     = mean( max(x, 0) - x t + log(1 + exp(-|x|)) )
        dL/dx = (sigmoid(x) - t) / B

    Targets may be soft (a click rate, a grade scaled to 0..1). Relation: with one-hot targets over candidates
    of the same query a softmax compares them, this does not; its outputs can therefore be read as
    probabilities.

    Args:
        logits: (B,) real numbers.
        targets: (B,) in 0..1.

    Returns:
        The mean loss, a scalar.

    Raises:
        ValueError: shapes differ, the batch is empty, or a target is not in 0 to 1.

    Example:
        >>> bce(torch.tensor([0.0, 1000.0]), torch.tensor([1.0, 1.0]))
        tensor(0.3466)
    """
    same_shape(logits, targets)
    lowest, highest = targets.aminmax()
    if not (lowest >= 0 and highest <= 1):  # NaN fails, too
        raise ValueError(
            f"Targets are chances and must lie in 0 to 1; found {float(lowest)} to {float(highest)}."
        )
    # Not term by term: at x = 0, where a layer of zeros starts, autograd takes the slopes of max and |x| as 1
    # and 0, which makes 1 - t rather than 1/2 - t.
    logits = exact(logits)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))


def bce_gradient(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The gradient of :func:`bce` by logits (B,)."""
    return (torch.sigmoid(logits) - targets) / logits.numel()
