"""Training a decoder that writes the semantic ID of the next item."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from labkit.kernels import linear_cross_entropy
from labkit.models.generative import GenerativeRecommender
from labkit.train.batches import Batches
from labkit.train.config import History, TrainConfig
from labkit.train.loop import fit
from labkit.train.sequences import Histories

DEFAULTS = TrainConfig(epochs=20, batch_size=128, learning_rate=1e-3, weight_decay=0.01)


def fit_generative(
    model: GenerativeRecommender,
    histories: Histories,
    config: TrainConfig = DEFAULTS,
    valid: Callable[[GenerativeRecommender], float] | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Teach a decoder to write histories, code by code: cross-entropy of every next code.

    With c_1 … c_S the codes of a history's items, one item after another, the loss is the mean of
    -log p(c_s | c_1 … c_{s-1}): the chain rule of the probability of the whole history, so every item of it
    is a target, the first one too.

    Args:
        model: trained in place.
        histories: to learn from; users without an action are left out, of long ones the latest
            ``model.config.longest`` actions are taken.
        config: how to train; ``batch_size`` counts users.
        valid: measures the model, higher is better.
        checkpoint: a file to keep the run in.
        progress: show a bar.

    Returns:
        Losses and validations.

    Raises:
        ValueError: nobody did anything, an item has no ID, or the checkpoint is another run's.
        FloatingPointError: the loss or a validation is not a finite number.

    Example:
        >>> import numpy as np
        >>> from labkit.models import GenerativeConfig, SemanticIds
        >>> from labkit.text.packing import pack
        >>> ids = SemanticIds(torch.tensor([[0, 0], [0, 1], [1, 0]]), (2, 2))
        >>> shape = GenerativeConfig(width=16, layers=1, heads=2, feedforward=32, dropout=0.0)
        >>> model = GenerativeRecommender(ids, shape)
        >>> histories = Histories.from_events(np.repeat([0, 1], 3), np.array([0, 2, 1, 0, 2, 1]))
        >>> config = TrainConfig(epochs=60, batch_size=2, learning_rate=0.02)
        >>> history = fit_generative(model, histories, config, progress=False)
        >>> model.recommend(pack([[0, 2], [0]]), k=1)[1].tolist()
        [[1], [2]]
    """
    if len(histories.ids) and not 0 <= int(histories.ids.min()) <= int(histories.ids.max()) < len(model.ids):
        raise ValueError(f"A history holds an item that is not among the {len(model.ids)} with an ID.")
    users = (histories.offsets.diff() >= 1).nonzero().squeeze(1)
    batches = Batches(len(users), config)
    device, longest = model.item_tokens.device, model.config.longest

    def step_loss(micro: int) -> torch.Tensor:
        chosen = users[torch.as_tensor(batches.batch(micro))]
        tokens = model.tokens(histories.packed(chosen, longest)[0].to(device), longest)
        predicting = torch.ones_like(tokens.ids, dtype=torch.bool)  # (T,) all places but each one's last
        predicting[tokens.offsets[1:].long() - 1] = False
        predicted = predicting.new_ones(len(tokens.ids))  # all places but each one's first, the start token
        predicted[tokens.offsets[:-1].long()] = False
        states = model(tokens)[predicting]  # (T - B, D)
        return linear_cross_entropy(states, model.transformer.tokens.weight, tokens.ids[predicted])

    digest = hashlib.sha256(histories.ids.numpy().tobytes() + histories.offsets.numpy().tobytes())
    digest.update(model.ids.codes.cpu().numpy().tobytes())
    return fit(
        model,
        step_loss,
        batches.steps,
        config,
        valid=None if valid is None else lambda: valid(model),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        identity=digest.hexdigest(),
        steps_per_epoch=batches.steps_per_epoch,
        progress=progress,
        counts=(config.batch_size, "users"),
    )
