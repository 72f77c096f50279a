"""Matrix factorisation by Bayesian personalised ranking: what a user took before what they did not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import nn

from labkit.device import choose_device
from labkit.models.factors import MatrixFactorisation
from labkit.train.batches import Batches
from labkit.train.loop import TrainConfig, fit
from labkit.train.losses import bpr
from labkit.train.negatives import Unseen

# Vectors are looked up by the thousand and each is short, so batches are large and rates high. AdamW's decay
# would shrink the rows of every user at every step; the loss has its own, for the rows it looks at.
DEFAULTS = TrainConfig(
    epochs=50, batch_size=4096, learning_rate=0.01, weight_decay=0.0, clip_norm=10.0, warmup=0.0
)


def fit_bpr(
    interactions: csr_matrix,
    factors: int = 64,
    negatives: Literal["uniform", "popularity"] = "uniform",
    regularization: float = 0.01,
    config: TrainConfig = DEFAULTS,
    valid: Callable[[MatrixFactorisation], float] | None = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> MatrixFactorisation:
    """Learn user and item vectors, and an item bias, so that taken items score above others.

    Every step takes a batch of (user, item taken) and draws one item for each that the user has not taken;
    the loss is :func:`labkit.train.losses.bpr`. Rendle's plain SGD visits one triple at a time, which no
    vector unit likes; large batches through :func:`labkit.train.fit` reach the same optimum with fewer, wider
    steps, and can be killed and resumed. Each step's AdamW passes over all vectors, so beyond some ten
    million users and items a sparse optimizer would be the better choice.

    Args:
        interactions: (U, I), an entry where a user took an item; how often does not matter.
        factors: D, the length of a vector without the bias.
        negatives: the item not taken is drawn evenly, or in proportion to how many users took it. Popular
            negatives are harder and teach tastes; the scores then tend to log p(i | u) - log popularity(i),
            so they bring up what is rare unless the log of the counts is added back.
        regularization: of the squared lengths of the three vectors of each example.
        config: how to train.
        valid: measures the model, higher is better; the best vectors are put back at the end.
        checkpoint: a file to keep the run in.
        device: the fastest one when left out.
        progress: show a bar.

    Returns:
        Vectors of D + 1 numbers in float32; the last is 1 for users and the bias for items.

    Raises:
        ValueError: no interactions, or a user has taken everything that could be drawn.

    Source: Rendle, Freudenthaler, Gantner and Schmidt-Thieme, "BPR: Bayesian personalized ranking from
    implicit feedback", UAI 2009.

    Example:
        >>> taken = csr_matrix([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1]])
        >>> config = TrainConfig(epochs=100, batch_size=8, learning_rate=0.1, weight_decay=0.0)
        >>> model = fit_bpr(taken, factors=8, config=config, device="cpu", progress=False)
        >>> model.recommend([0, 2], k=1, seen=taken)[1].tolist()
        [[2], [2]]
    """
    if negatives not in ("uniform", "popularity"):
        raise ValueError(f"Negatives are drawn 'uniform' or by 'popularity', not {negatives!r}.")
    if not interactions.nnz:
        raise ValueError("There are no interactions to learn from.")
    place = choose_device(device).device
    taken = interactions.tocoo()
    users = torch.as_tensor(taken.row, dtype=torch.int64, device=place)
    items = torch.as_tensor(taken.col, dtype=torch.int64, device=place)
    counts = np.bincount(taken.col, minlength=interactions.shape[1])
    unseen = Unseen(interactions, counts if negatives == "popularity" else None, place)
    model = _Factors(interactions.shape, factors, config.seed).to(place)
    batches = Batches(len(users), config)

    def step_loss(micro: int) -> torch.Tensor:
        chosen = torch.as_tensor(batches.batch(micro), device=place)
        who = users[chosen]  # (B,)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + micro)
        other = unseen.draw(who, generator)
        return bpr(model.user(who), model.items(items[chosen]), model.items(other), regularization)

    data = hashlib.sha256(np.concatenate([taken.row, taken.col]).tobytes()).hexdigest()
    fit(
        model,
        step_loss,
        batches.steps,
        config,
        valid=None if valid is None else lambda: valid(model.result()),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        identity=f"{data} {negatives} {regularization}",
        steps_per_epoch=batches.steps_per_epoch,
        progress=progress,
    )
    return model.result()


class _Factors(nn.Module):
    """The two tables of vectors."""

    def __init__(self, shape: tuple[int, int], factors: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        start = [torch.randn(size, factors, generator=generator) * 0.1 for size in shape]
        self.users = nn.Embedding.from_pretrained(start[0], freeze=False)
        # The last column is the bias.
        self.items = nn.Embedding.from_pretrained(nn.functional.pad(start[1], (0, 1)), freeze=False)

    def user(self, who: torch.Tensor) -> torch.Tensor:
        """Vectors (B, D + 1) of users (B,)."""
        return nn.functional.pad(self.users(who), (0, 1), value=1.0)

    def result(self) -> MatrixFactorisation:
        users = nn.functional.pad(self.users.weight.detach(), (0, 1), value=1.0)
        return MatrixFactorisation(users, self.items.weight.detach().clone())
