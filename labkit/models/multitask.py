"""Several tasks from one vector, and how much each one's loss should count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

Kind = Literal["regression", "classification"]


class MultiTaskHead(nn.Module):
    """One head for each task, all reading the same vector.

    Args:
        heads: by task, such as a :class:`labkit.models.heads.ClassificationHead` for the category and a
            :class:`labkit.models.heads.RegressionHead` for the price.

    Example:
        >>> from labkit.models.heads import ClassificationHead, RegressionHead
        >>> head = MultiTaskHead({"category": ClassificationHead(8, classes=3), "price": RegressionHead(8)})
        >>> {task: tuple(output.shape) for task, output in head(torch.zeros(2, 8)).items()}
        {'category': (2, 3), 'price': (2,)}
    """

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        if not heads:
            raise ValueError("A multi-task head needs at least one task.")
        self.heads = nn.ModuleDict(heads)

    def forward(self, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, D) to each task's output."""
        return {task: head(vectors) for task, head in self.heads.items()}


class UncertaintyWeights(nn.Module):
    """The weighted sum of several tasks' losses, with weights that are learned.

    A regression with squared error L_t is the maximum likelihood of a normal distribution of some variance
    v_t; a cross-entropy that of a softmax at some temperature v_t. Their joint negative log-likelihood, with
    s_t = log v_t learned, is (up to constants)

        L       = sum over regressions of ( exp(-s_t) L_t / 2 + s_t / 2 )
                + sum over classifications of ( exp(-s_t) L_t + s_t / 2 )
        dL/ds_t = -exp(-s_t) L_t / 2 + 1/2      (regression):      best s_t = log L_t
        dL/ds_t = -exp(-s_t) L_t + 1/2          (classification):  best s_t = log 2 L_t

    So at the optimum each task counts in inverse proportion to its own loss: a price in cents no longer
    drowns a category. s / 2 keeps the weights from going to 0. Source: Kendall, Gal and Cipolla, "Multi-task
    learning using uncertainty to weigh losses for scene geometry and semantics", CVPR 2018.

    Args:
        kinds: by task, ``"regression"`` (its loss is a mean squared error) or ``"classification"``
            (cross-entropy).

    Example:
        >>> weights = UncertaintyWeights({"category": "classification", "price": "regression"})
        >>> weights({"category": torch.tensor(0.7), "price": torch.tensor(2.0)})  # .7 + 2 / 2
        tensor(1.7000, grad_fn=<SumBackward0>)
    """

    def __init__(self, kinds: Mapping[str, Kind]) -> None:
        super().__init__()
        unknown = {kind for kind in kinds.values() if kind not in ("regression", "classification")}
        if unknown or not kinds:
            raise ValueError(f"Each task is a 'regression' or a 'classification'; given: {dict(kinds)}.")
        self.share = {task: 0.5 if kind == "regression" else 1.0 for task, kind in kinds.items()}
        self.log_variance = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in kinds})

    def forward(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sum over the tasks that are given, a scalar; a batch need not have labels for all.

        Raises:
            ValueError: there is no loss, or one of a task that is not known.
        """
        unknown = sorted(set(losses) - set(self.share))
        if unknown or not losses:
            raise ValueError(
                f"Losses are needed for some of the tasks {', '.join(self.share)}; "
                + (f"{unknown[0]!r} is none of them." if unknown else "there is none.")
            )
        terms = [
            self.share[task] * torch.exp(-self.log_variance[task]) * loss + self.log_variance[task] / 2
            for task, loss in losses.items()
        ]
        return torch.stack(terms).sum()
