"""Losses between pictures and texts, where both directions count and the temperature is learned."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from labkit.train.losses.inputs import not_empty, products


def image_text_contrastive(image: torch.Tensor, text: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """CLIP's loss: each picture finds its text, each text its picture, with a learned temperature.

    With a = exp(log_scale) = 1 / temperature, s_ij = a * image_i . text_j, P the softmax of s over each row
    (texts of a picture) and R over each column (pictures of a text):

        L     = -1/2B * sum over i of ( log P_ii + log R_ii )
        g     = dL/ds = (P + R - 2 I) / 2B
        dL/dimage = a g @ text      dL/dtext = a g^T @ image      dL/dlog_scale = sum of g * s

    log_scale is learned rather than the temperature, so that it cannot become negative and a step changes it
    by a share of itself; keep it at or below log 100, above which training becomes unstable
    (:class:`labkit.models.DualEncoder` does).

    Relations: the mean of :func:`info_nce` in both directions. Source: Radford et al., "Learning transferable
    visual models from natural language supervision", ICML 2021.

    Args:
        image: (B, D) vectors of unit length.
        text: (B, D) row i describes picture i.
        log_scale: scalar, the logarithm of the inverse temperature.

    Returns:
        The mean loss, a scalar.

    Raises:
        ValueError: shapes do not fit, or the batch is empty.

    Example:
        >>> vectors = torch.eye(3)
        >>> image_text_contrastive(vectors, vectors, torch.tensor(0.0))  # log(1 + 2/e)
        tensor(0.5514)
    """
    scores = _scores(image, text, log_scale)  # (B, B)
    right = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)) / 2


def image_text_contrastive_gradient(
    image: torch.Tensor, text: torch.Tensor, log_scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient of :func:`image_text_contrastive` by image, text (B, D) and log_scale; see there."""
    scores = _scores(image, text, log_scale)
    slope = scores.softmax(dim=1) + scores.softmax(dim=0)  # (B, B)
    slope.diagonal().sub_(2)
    slope = slope / (2 * len(image))
    scale = log_scale.exp()
    return scale * slope @ text, scale * slope.T @ image, (slope * scores).sum()


def image_text_sigmoid(
    image: torch.Tensor, text: torch.Tensor, log_scale: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """SigLIP's loss: every pair of picture and text is judged on its own, belonging together or not.

    With x_ij = exp(log_scale) * image_i . text_j + bias and z_ij = 1 on the diagonal, -1 elsewhere:

        L     = 1/B * sum over i, j of log(1 + exp(-z_ij x_ij))
        g     = dL/dx = -z * sigmoid(-z x) / B
        dL/dimage = a g @ text   dL/dtext = a g^T @ image
        dL/dlog_scale = sum of g (x - bias)   dL/dbias = sum of g

    No softmax over the batch: rows are independent, so many devices need not gather each other's scores, and
    small batches hurt less. There are B - 1 wrong pairs for each right one; a bias that starts near -10
    keeps them from drowning it in the first steps.

    Relations: :func:`bce` over all pairs, summed over a row. Source: Zhai et al., "Sigmoid loss for language
    image pre-training", ICCV 2023.

    Args:
        image: (B, D) vectors of unit length.
        text: (B, D) row i describes picture i.
        log_scale: scalar, the logarithm of the inverse temperature.
        bias: scalar.

    Returns:
        The loss per picture, a scalar.

    Raises:
        ValueError: shapes do not fit, or the batch is empty.

    Example:
        >>> vectors = torch.eye(2)
        >>> image_text_sigmoid(vectors, vectors, torch.tensor(0.0), torch.tensor(0.0))  # log(1+1/e) + log 2
        tensor(1.0064)
    """
    x = _scores(image, text, log_scale) + bias
    return F.softplus(-_belongs(x) * x).sum() / len(image)


def image_text_sigmoid_gradient(
    image: torch.Tensor, text: torch.Tensor, log_scale: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradient of :func:`image_text_sigmoid` by image, text (B, D), log_scale and bias; see there."""
    scores = _scores(image, text, log_scale)
    z = _belongs(scores)
    slope = -z * torch.sigmoid(-z * (scores + bias)) / len(image)  # (B, B)
    scale = log_scale.exp()
    return scale * slope @ text, scale * slope.T @ image, (slope * scores).sum(), slope.sum()


def _scores(image: torch.Tensor, text: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    if image.ndim != 2 or image.shape != text.shape:
        raise ValueError(
            "Each picture needs its text: (B, D) twice, "
            f"not {tuple(image.shape)} and {tuple(text.shape)}; are the two projected to one width?"
        )
    not_empty(image)
    return log_scale.exp() * products(image, text)


def _belongs(scores: torch.Tensor) -> torch.Tensor:
    """+1 where picture and text belong together, -1 elsewhere: (B, B)."""
    return 2 * torch.eye(len(scores), dtype=scores.dtype, device=scores.device) - 1
