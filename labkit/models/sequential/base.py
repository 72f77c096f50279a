"""What all next-item models have in common: packed histories in, one state per place out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn

from labkit.text.packing import Packed


@dataclass(frozen=True)
class Example:
    """A training batch: read ``inputs`` and predict ``targets`` at ``places``."""

    inputs: Packed  # T items
    times: torch.Tensor | None  # (T,) float32 seconds
    places: torch.Tensor | None  # (P,) int64 into the T items; None: all of them
    targets: torch.Tensor  # (P,) int64 items


class SequenceModel(nn.Module, ABC):
    """A model of item sequences whose scores are inner products with the item vectors.

    The input embedding of an item is its output vector too (tied weights): that halves the parameters, and
    with few actions per item it ranks better. Subclasses give the states; training, evaluation and serving
    need nothing but these methods.

    Args:
        items: N, how many items there are; ids are 0 … N - 1.
        longest: how many of a user's latest items the model reads.
    """

    def __init__(self, items: int, longest: int) -> None:
        super().__init__()
        if items < 2 or longest < 1:
            raise ValueError(f"A sequence model needs 2 items and 1 place at least, not {items}, {longest}.")
        self.items, self.longest = items, longest

    @abstractmethod
    def forward(self, batch: Packed, times: torch.Tensor | None = None) -> torch.Tensor:
        """States (T, D) of all places.

        Args:
            batch: the histories, oldest item first, each of at most ``longest`` items.
            times: (T,) seconds of the actions, from any zero; only HSTU reads them.
        """

    @abstractmethod
    def item_vectors(self) -> torch.Tensor:
        """(N, D); the score of item j in state x is ``x @ item_vectors()[j]``."""

    def example(self, batch: Packed, times: torch.Tensor | None = None) -> Example:
        """Turn whole histories into what is read and what is to be predicted.

        Here: at each place the next item, so a history of n items gives n - 1 predictions in one pass. A
        model that sees both sides (BERT4Rec) hides items instead. It may use torch's random numbers.

        Args:
            batch: histories of 2 to ``longest + 1`` items.
            times: (T,) as in :meth:`forward`.
        """
        last = batch.offsets[1:].long() - 1  # (B,)
        read = torch.ones_like(batch.ids, dtype=torch.bool).index_fill_(0, last, False)
        predicted = torch.ones_like(read).index_fill_(0, batch.offsets[:-1].long(), False)
        begun = torch.arange(len(batch.offsets), dtype=torch.int32, device=batch.ids.device)
        inputs = Packed(batch.ids[read], batch.offsets - begun, batch.longest - 1)
        return Example(inputs, None if times is None else times[read], None, batch.ids[predicted])

    def user_states(self, batch: Packed, times: torch.Tensor | None = None) -> torch.Tensor:
        """The state (B, D) in which each user's next item is predicted: that of the last place."""
        return self(batch, times)[batch.offsets[1:].long() - 1]
