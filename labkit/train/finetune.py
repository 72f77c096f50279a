"""Fine-tuning the encoders on a shop's own pairs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from labkit.models import BiEncoder, CrossEncoder
from labkit.train.loop import History, TrainConfig, fit
from labkit.train.losses import bce, info_nce


def fine_tune(
    encoder: BiEncoder,
    pairs: Sequence[tuple[str, str]],
    config: TrainConfig | None = None,
    valid: Callable[[BiEncoder], float] | None = None,
    checkpoint: str | Path | None = None,
    also_positive: Sequence[tuple[str, str]] = (),
    progress: bool = True,
) -> History:
    """Teach an encoder which products belong to which queries, by InfoNCE with in-batch negatives.

    In a batch every other pair's product serves as a negative. Where it is known to be right for the query as
    well (the two stand together in ``pairs`` or ``also_positive``), it is left out instead of pushed away:
    with a shop's few popular products that happens in most batches.

    Args:
        encoder: trained in place.
        pairs: (query, product text), at least 2; a pair may repeat, to count more.
        config: how to train.
        valid: measures the encoder, higher is better; called before training, after each epoch (or every
            ``config.evaluate_every`` steps) and at the end, when the best weights are put back.
        checkpoint: a file to keep the run in; the same call resumes from it. It is left there when the run
            ends, and calling once more returns the finished result at once.
        also_positive: more (query, product text) that are right, not to be trained on but not to be negatives
            either.
        progress: show a bar.

    Returns:
        Losses and validations.

    Raises:
        ValueError: fewer than two pairs, or the checkpoint belongs to another run.
        FloatingPointError: the loss is not a finite number.

    Example:
        >>> encoder = BiEncoder.from_pretrained("minilm", device="cpu")
        >>> pairs = [("couch", "three-seat sofa"), ("trainers", "running shoes")]
        >>> history = fine_tune(encoder, pairs, TrainConfig(epochs=2, batch_size=2), progress=False)
        >>> len(history.losses)
        2
    """
    config = config or TrainConfig()
    if len(pairs) < 2:
        raise ValueError(f"In-batch negatives need at least two pairs, not {len(pairs)}.")
    right = set(map(tuple, pairs)) | set(map(tuple, also_positive))
    order = _Order(len(pairs), config)
    frozen = _freeze(encoder, config)

    def step_loss(step: int) -> torch.Tensor:
        batch = [pairs[i] for i in order.batch(step)]
        queries = encoder.embed(encoder.tokenize([query for query, _ in batch], config.max_length))  # (B, D)
        products = encoder.embed(encoder.tokenize([product for _, product in batch], config.max_length))
        both = torch.tensor(
            [[(query, product) in right for _, product in batch] for query, _ in batch], device=queries.device
        )  # (B, B)
        return info_nce(queries, products, config.temperature, positives=both)

    identity = _hash([list(map(list, pairs)), sorted(map(list, set(map(tuple, also_positive))))])
    measure = None if valid is None else lambda: valid(encoder)
    try:
        return _run(encoder, step_loss, order, config, measure, checkpoint, identity, progress)
    finally:
        _thaw(frozen)


def fine_tune_cross_encoder(
    model: CrossEncoder,
    examples: Sequence[tuple[str, str, float]],
    config: TrainConfig | None = None,
    valid: Callable[[CrossEncoder], float] | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Teach a cross-encoder how relevant a product is to a query, by binary cross-entropy.

    Args:
        model: trained in place.
        examples: (query, product text, target in 0..1); give it the candidates that it will have to tell
            apart, such as the first ranks of the search before it.
        config: how to train; a cross-encoder reads longer texts, so mind ``max_length``.
        valid: measures the model, higher is better.
        checkpoint: a file to keep the run in; the same call resumes from it.
        progress: show a bar.

    Returns:
        Losses and validations.

    Raises:
        ValueError: no examples, or the checkpoint belongs to another run.
    """
    config = config or TrainConfig()
    if not len(examples):
        raise ValueError("There are no examples to train on.")
    order = _Order(len(examples), config)
    frozen = _freeze(model, config)

    def step_loss(step: int) -> torch.Tensor:
        batch = [examples[i] for i in order.batch(step)]
        logits = model.logits(model.tokenize([(query, text) for query, text, _ in batch], config.max_length))
        return bce(logits, torch.tensor([float(target) for *_, target in batch], device=logits.device))

    identity = _hash([list(example) for example in examples])
    measure = None if valid is None else lambda: valid(model)
    try:
        return _run(model, step_loss, order, config, measure, checkpoint, identity, progress)
    finally:
        _thaw(frozen)


class _Order:
    """Which examples step 0, 1, … takes: a new shuffle for each epoch, computed from the seed alone."""

    def __init__(self, size: int, config: TrainConfig) -> None:
        self.size, self.config = size, config
        # The rest of an epoch that does not fill a batch is dropped: a small batch has easier negatives.
        self.per_epoch = max(1, size // config.batch_size)
        self._shuffled: tuple[int, list[int]] = (-1, [])

    def batch(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.per_epoch)
        if self._shuffled[0] != epoch:
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
            self._shuffled = (epoch, torch.randperm(self.size, generator=generator).tolist())
        return self._shuffled[1][place * self.config.batch_size : (place + 1) * self.config.batch_size]


def _run(
    model: BiEncoder | CrossEncoder,
    step_loss: Callable[[int], torch.Tensor],
    order: _Order,
    config: TrainConfig,
    valid: Callable[[], float] | None,
    checkpoint: str | Path | None,
    identity: str,
    progress: bool,
) -> History:
    return fit(
        model,
        step_loss,
        steps=order.per_epoch * config.epochs,
        config=config,
        valid=valid,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        identity=identity,
        steps_per_epoch=order.per_epoch,
        progress=progress,
    )


def _freeze(model: BiEncoder | CrossEncoder, config: TrainConfig) -> list[torch.nn.Parameter]:
    """Stop the token embeddings' gradients if the settings say so; returns what was stopped."""
    if not config.freeze_embeddings:
        return []
    frozen = [p for p in model.body.get_input_embeddings().parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


def _thaw(frozen: list[torch.nn.Parameter]) -> None:
    for parameter in frozen:
        parameter.requires_grad_(True)


def _hash(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, ensure_ascii=False).encode()).hexdigest()
