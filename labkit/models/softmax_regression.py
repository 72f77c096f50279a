"""The linear classifier that every deep one is measured against: convex, fitted to its optimum."""

from __future__ import annotations

import torch
from torch import nn


class SoftmaxRegression(nn.Linear):
    """Multinomial logistic regression on fixed features, such as a frozen encoder's vectors.

    Its loss is convex, so that L-BFGS finds the one optimum whatever the start: no seed, no learning rate, no
    epochs to choose, which is what comparing strategies at a handful of labels needs.
    (``labkit.train.fit`` trains everything that is not convex.)

    Example:
        >>> x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
        >>> model = SoftmaxRegression.fitted(x, torch.tensor([0, 0, 1, 1]), classes=2)
        >>> model.probabilities(x).argmax(dim=1).tolist()
        [0, 0, 1, 1]
    """

    @classmethod
    def fitted(
        cls, features: torch.Tensor, labels: torch.Tensor, classes: int, penalty: float = 1.0
    ) -> SoftmaxRegression:
        """Minimise the summed cross-entropy + penalty / 2 * |weight|^2 (scikit-learn's C = 1 / penalty).

        Args:
            features: (N, D) floating point.
            labels: (N,) int64, 0 to classes - 1; a class may be absent.
            classes: C.
            penalty: of the squared weights; biases are free.

        Raises:
            ValueError: no examples, or a label out of range.
        """
        if not len(features) or len(features) != len(labels):
            raise ValueError(
                f"A fit needs as many features as labels, not {len(features)} and {len(labels)}."
            )
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(f"Labels must lie in 0..{classes - 1}.")
        with torch.random.fork_rng(devices=[]):  # the starting weights are drawn, then zeroed
            model = cls(features.shape[1], classes).to(features)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=200, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
        )

        def closure() -> float:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(features), labels, reduction="sum")
            loss = (loss + 0.5 * penalty * model.weight.square().sum()) / len(labels)
            loss.backward()
            return float(loss.detach())

        optimizer.step(closure)
        return model.requires_grad_(False)

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """Of each class: (N, C), rows that sum to 1."""
        return self(features).softmax(dim=-1)
