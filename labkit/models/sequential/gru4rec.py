"""GRU4Rec: a recurrent network over the items of a user or a session."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from labkit.models.seeding import weights_from
from labkit.models.sequential.base import SequenceModel
from labkit.text.packing import Packed


class GRU4Rec(SequenceModel):
    """Gated recurrent units from the oldest item to the latest.

    The state of a place sums up all items up to there in D numbers. A step of the recurrence runs on all
    sequences that are still going on, so short ones cost nothing after their end. Sources: Hidasi et al.,
    "Session-based recommendations with recurrent neural networks", ICLR 2016; Hidasi and Karatzoglou,
    "Recurrent neural networks with top-k gains", CIKM 2018, for what its losses must look like.

    Args:
        items: N, how many items there are.
        width: D, numbers per item.
        hidden: numbers that the recurrence carries.
        layers: of the recurrence.
        longest: how many of the latest items it reads.
        dropout: of embeddings and of the states.
        seed: of the first weights.

    Example:
        >>> from labkit.text.packing import pack
        >>> model = GRU4Rec(items=10, width=8, hidden=16, longest=5)
        >>> model(pack([[3, 1, 4], [1, 5]])).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        items: int,
        width: int = 64,
        hidden: int = 128,
        layers: int = 1,
        longest: int = 50,
        dropout: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__(items, longest)
        with weights_from(seed):
            self.embedding = nn.Embedding(items, width)
            nn.init.normal_(self.embedding.weight, std=0.02)
            self.norm = nn.LayerNorm(width)  # without it the gates see numbers of 0.02 and stay half open
            self.dropout = nn.Dropout(dropout)
            self.gru = nn.GRU(width, hidden, layers)
            self.out = nn.Linear(hidden, width)

    def forward(self, batch: Packed, times: torch.Tensor | None = None) -> torch.Tensor:
        order, sizes = _by_step(batch)
        x = self.dropout(self.norm(self.embedding(batch.ids)))  # (T, D)
        steps = self.gru(PackedSequence(x[order], sizes))[0].data  # (T, hidden), in order of the steps
        states = self.out(self.dropout(steps))
        return torch.empty_like(states).index_copy(0, order, states)

    def item_vectors(self) -> torch.Tensor:
        return self.embedding.weight


def _by_step(batch: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """The T places, all first items first, then all second ones, …; and how many each step has (on the CPU).

    Within a step the longest sequences come first, as :class:`torch.nn.utils.rnn.PackedSequence` wants it.
    """
    place = torch.empty_like(batch.offsets[1:]).long()  # (B,) the sequence's place, longest first
    by_length = batch.lengths.argsort(descending=True, stable=True)
    place[by_length] = torch.arange(len(batch), device=place.device)
    order = (batch.positions * len(batch) + place[batch.rows]).argsort()  # (T,)
    return order, batch.positions.bincount(minlength=batch.longest).cpu()
