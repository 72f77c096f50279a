"""Training an RQ-VAE, and semantic IDs from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from labkit.models.rq_vae import RQVAE
from labkit.train.batches import Batches
from labkit.train.config import History, TrainConfig
from labkit.train.loop import fit

DEFAULTS = TrainConfig(epochs=200, batch_size=1024, learning_rate=1e-3, weight_decay=0.0, warmup=0.0)


def fit_rq_vae(
    model: RQVAE,
    vectors: torch.Tensor,
    config: TrainConfig = DEFAULTS,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Teach an RQ-VAE to describe the items' embeddings in a few codes.

    Args:
        model: trained in place; its codewords are placed first (:meth:`labkit.models.RQVAE.start`).
        vectors: (N, D_in) float32, on the model's device; of about unit variance, or the weight of the
            commitment loses its meaning.
        config: how to train.
        checkpoint: a file to keep the run in.
        progress: show a bar.

    Returns:
        The losses.

    Raises:
        ValueError: there are no vectors.

    Example:
        >>> from labkit.models import unique_ids
        >>> vectors = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
        >>> model = RQVAE(width=8, sizes=(4, 4), latent=4, hidden=(16,))
        >>> config = TrainConfig(epochs=30, batch_size=60, learning_rate=1e-2)
        >>> history = fit_rq_vae(model, vectors, config, progress=False)
        >>> history.losses[-1] < history.losses[0], unique_ids(model.encode(vectors), model.sizes).codes.shape
        (True, torch.Size([60, 3]))
    """
    batches = Batches(len(vectors), config)
    model.start(vectors[: 1 << 14], config.seed)

    def step_loss(micro: int) -> torch.Tensor:
        return model(vectors[torch.as_tensor(batches.batch(micro), device=vectors.device)])

    return fit(
        model,
        step_loss,
        batches.steps,
        config,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        identity=hashlib.sha256(vectors.cpu().numpy().tobytes()).hexdigest(),
        steps_per_epoch=batches.steps_per_epoch,
        progress=progress,
    )
