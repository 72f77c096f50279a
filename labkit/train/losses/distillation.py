"""Losses that make a small model answer as a large one does."""

from __future__ import annotations

import torch

from labkit.train.losses.shapes import same_shape


def margin_mse(positive: torch.Tensor, negative: torch.Tensor, teacher_margin: torch.Tensor) -> torch.Tensor:
    """Distillation: make the student's margin between two documents equal the teacher's.

        e     = (positive - negative) - teacher_margin
        L     = mean e^2
        dL/dpositive = 2 e / B        dL/dnegative = -2 e / B

    Only the difference is learned, so a student of another scale than its teacher is free to keep it. Source:
    Hofstätter et al., "Improving efficient neural ranking models with cross-architecture knowledge
    distillation", 2020.

    Args:
        positive: (B,) the student's scores of the better documents.
        negative: (B,) its scores of the worse ones.
        teacher_margin: (B,) the teacher's score differences.

    Returns:
        The mean squared error, a scalar.

    Example:
        >>> margin_mse(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([1.5]))
        tensor(0.2500)
    """
    same_shape(positive, negative, teacher_margin)
    return ((positive - negative) - teacher_margin).square().mean()


def margin_mse_gradient(
    positive: torch.Tensor, negative: torch.Tensor, teacher_margin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of :func:`margin_mse` by positive (B,) and negative (B,)."""
    slope = 2 * ((positive - negative) - teacher_margin) / positive.numel()
    return slope, -slope
