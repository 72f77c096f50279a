"""Losses over classes: one of them is right."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from labkit.train.losses.inputs import exact, labels_exist, not_empty


def cross_entropy(logits: torch.Tensor, target: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Softmax cross-entropy, with label smoothing.

    With p = softmax(x) over C classes and a target q that gives the right class y most of the mass,
    q_c = (1 - smoothing) [c = y] + smoothing / C:

        L     = -1/B * sum over i, c of q_ic log p_ic
              = 1/B * sum over i of ( logsumexp(x_i) - (1 - smoothing) x_iy - smoothing * mean_c x_ic )
        dL/dx = (p - q) / B

    Without smoothing the loss falls for as long as x_y grows, and the model is never sure enough; with it the
    best margin between right and wrong is finite, log((1 - smoothing) C / smoothing + 1), and so are the
    weights. logsumexp takes the largest logit out first, so that logits of 1e4 do not overflow.

    Relations: where C is a vocabulary and x = hidden @ weight^T, ``labkit.kernels.linear_cross_entropy``
    gives the same value and never stores x; :func:`sampled_softmax` looks at a few classes only. Source of
    the smoothing: Szegedy et al., "Rethinking the Inception architecture", CVPR 2016; Müller, Kornblith and
    Hinton, "When does label smoothing help?", NeurIPS 2019.

    Args:
        logits: (B, C) real numbers.
        target: (B,) int64 in 0 to C - 1.
        smoothing: the share of the mass that is spread evenly over all classes, 0 to below 1.

    Returns:
        The mean loss, a scalar.

    Raises:
        ValueError: shapes do not fit, the batch is empty, or a label is no class.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> cross_entropy(logits, torch.tensor([0, 1]))  # log(1 + exp(-2))
        tensor(0.1269)
        >>> cross_entropy(logits, torch.tensor([0, 1]), smoothing=0.1)
        tensor(0.2269)
    """
    _check(logits, target, smoothing)
    return F.cross_entropy(exact(logits), target, label_smoothing=smoothing)


def cross_entropy_gradient(
    logits: torch.Tensor, target: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """The gradient of :func:`cross_entropy` by the logits (B, C); see there for the derivation."""
    _check(logits, target, smoothing)
    classes = logits.shape[1]
    wanted = F.one_hot(target, classes).to(exact(logits)) * (1 - smoothing) + smoothing / classes  # (B, C)
    return (logits.softmax(dim=1) - wanted) / len(logits)


def _check(logits: torch.Tensor, target: torch.Tensor, smoothing: float) -> None:
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            "Cross-entropy needs logits (B, C) and one label for each row (B,), "
            f"not {tuple(logits.shape)} and {tuple(target.shape)}."
        )
    if not 0 <= smoothing < 1:
        raise ValueError(f"The smoothing is a share, 0 to below 1, not {smoothing}.")
    not_empty(logits)
    labels_exist(target, logits.shape[1], "The labels")
