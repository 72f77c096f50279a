"""Which examples each micro-batch takes."""

from __future__ import annotations

import torch

from labkit.train.config import TrainConfig


class Batches:
    """A new shuffle of the examples for each epoch, computed from the seed alone.

    Nothing is remembered from batch to batch, so a resumed run and every process of a distributed one find
    the same examples in micro-batch ``i``.

    Args:
        size: how many examples there are.
        config: its ``epochs``, ``batch_size``, ``accumulate`` and ``seed`` count.

    Raises:
        ValueError: there are no examples.

    Example:
        >>> batches = Batches(5, TrainConfig(batch_size=2, epochs=3, seed=1))
        >>> batches.steps, len(set(batches.batch(0) + batches.batch(1)))
        (6, 4)
    """

    def __init__(self, size: int, config: TrainConfig) -> None:
        if size < 1:
            raise ValueError("There are no examples to train on.")
        self.size, self.batch_size, self.seed = size, config.batch_size, config.seed
        # The rest of an epoch that does not fill a batch is dropped: a small batch has easier negatives.
        self.per_epoch = max(1, size // config.batch_size)  # micro-batches
        self.steps_per_epoch = max(1, self.per_epoch // config.accumulate)
        self.steps = max(1, self.per_epoch * config.epochs // config.accumulate)
        self._shuffled: tuple[int, list[int]] = (-1, [])

    def batch(self, micro: int) -> list[int]:
        """The examples of micro-batch ``micro``: 0, 1, …"""
        epoch, place = divmod(micro, self.per_epoch)
        if self._shuffled[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._shuffled = (epoch, torch.randperm(self.size, generator=generator).tolist())
        return self._shuffled[1][place * self.batch_size : (place + 1) * self.batch_size]
