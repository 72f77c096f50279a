"""Losses that make a small model answer as a large one does."""

from __future__ import annotations

import torch

from labkit.train.losses.inputs import exact, no_nan, same_shape


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

    Raises:
        ValueError: shapes differ, the batch is empty, or the teacher's margins hold NaN.

    Example:
        >>> margin_mse(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([1.5]))
        tensor(0.2500)
    """
    same_shape(positive, negative, teacher_margin)
    no_nan(teacher_margin, "The teacher's margins")
    return ((exact(positive) - exact(negative)) - teacher_margin).square().mean()


def margin_mse_gradient(
    positive: torch.Tensor, negative: torch.Tensor, teacher_margin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of :func:`margin_mse` by positive (B,) and negative (B,)."""
    slope = 2 * ((positive - negative) - teacher_margin) / positive.numel()
    return slope, -slope


def knowledge_distillation(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 2.0
) -> torch.Tensor:
    """Learn the teacher's whole distribution: which wrong answers it finds almost right.

    With p = softmax(teacher / T) and q = softmax(student / T) over C classes:

        L     = T^2 * 1/B * sum over rows of KL(p || q) = T^2 / B * sum of p (log p - log q)
        dL/dstudent = T^2 * 1/T * (q - p) / B = T (q - p) / B

    A high temperature lifts the small probabilities, where the teacher's knowledge lies. It also shrinks the
    gradient: for large T, q - p is about (student - teacher) / (C T), so that T (q - p) no longer depends on
    T: that is what the factor T^2 is for, and why this can be added to a loss on true labels without weighing
    anew whenever T changes.

    Relations: the sum with :func:`cross_entropy` on the labels is Hinton's full recipe; :func:`margin_mse`
    distils one difference instead of a distribution. Source: Hinton, Vinyals and Dean, "Distilling the
    knowledge in a neural network", 2015.

    Args:
        student: (B, C) logits.
        teacher: (B, C) logits; no gradient reaches them.
        temperature: T, above 0.

    Returns:
        The mean over the rows, a scalar; 0 where the student has the teacher's distribution.

    Raises:
        ValueError: shapes differ, the batch is empty, the temperature is not positive, or the teacher's
            logits hold NaN.

    Example:
        >>> teacher = torch.tensor([[2.0, 1.0, 0.0]])
        >>> knowledge_distillation(teacher + 5, teacher).abs() < 1e-6  # logits up to a constant
        tensor(True)
        >>> knowledge_distillation(torch.zeros(1, 3), teacher)
        tensor(0.3137)
    """
    p, log_p, log_q = _softened(student, teacher, temperature)
    # xlogy-like: where the teacher's chance is exactly 0 its log is -inf and the product must be 0.
    divergence = (p * (log_p - log_q)).masked_fill(p == 0, 0).sum(dim=1)  # (B,)
    return temperature**2 * divergence.mean()


def knowledge_distillation_gradient(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float = 2.0
) -> torch.Tensor:
    """The gradient of :func:`knowledge_distillation` by the student's logits (B, C); see there."""
    p, _, log_q = _softened(student, teacher, temperature)
    return temperature * (log_q.exp() - p) / len(student)


def _softened(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The teacher's probabilities, their logarithms, and the student's: (B, C) each."""
    same_shape(student, teacher)
    if student.ndim != 2:
        raise ValueError(f"Distillation needs logits (B, C), not {tuple(student.shape)}.")
    if temperature <= 0:
        raise ValueError(f"The temperature must be positive, not {temperature}.")
    no_nan(teacher, "The teacher's logits")
    log_p = (exact(teacher.detach()) / temperature).log_softmax(dim=1)
    return log_p.exp(), log_p, (exact(student) / temperature).log_softmax(dim=1)
