"""BERT4Rec: hidden items predicted from both sides."""

from __future__ import annotations

import torch

from labkit.models.sequential.base import Example, SequenceModel
from labkit.models.transformer import Transformer, TransformerConfig
from labkit.text.packing import Packed


class BERT4Rec(SequenceModel):
    """The cloze task on item sequences.

    Training hides a random share of the items and predicts them from all others; a history of n items gives
    about ``share * n`` predictions where SASRec gives n - 1, so it needs more epochs. To predict the next
    item a hidden one is appended. As training with the hidden item in the middle alone does not look like
    that, a part of the histories has only its last item hidden. Sources: Sun et al., "BERT4Rec", CIKM 2019;
    Petrov and Macdonald, "A systematic review and replicability study of BERT4Rec", RecSys 2022, for how long
    it must train.

    Args:
        items: N, how many items there are; id N is the hidden item.
        width, layers, heads: of the transformer.
        longest: how many places there are; a prediction takes one of them.
        dropout: of embeddings and of what each sub-layer adds.
        share: of the items, each hidden with this chance, and at least one per history.
        only_last: share of the histories where the last item alone is hidden.
        seed: of the first weights.

    Example:
        >>> from labkit.text.packing import pack
        >>> model = BERT4Rec(items=10, width=8, longest=5, only_last=1.0)
        >>> example = model.example(pack([[3, 1, 4], [1, 5]]))
        >>> example.inputs.ids.tolist(), example.targets.tolist()
        ([3, 1, 10, 1, 10], [4, 5])
    """

    def __init__(
        self,
        items: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        longest: int = 50,
        dropout: float = 0.2,
        share: float = 0.3,
        only_last: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(items, longest)
        if not (0 < share < 1 and 0 <= only_last <= 1):
            raise ValueError(f"The shares of hidden items are within 0 to 1, not {share} and {only_last}.")
        self.share, self.only_last = share, only_last
        config = TransformerConfig(items + 1, width, layers, heads, 4 * width, longest, dropout=dropout)
        self.transformer = Transformer(config, seed)

    def forward(self, batch: Packed, times: torch.Tensor | None = None) -> torch.Tensor:
        return self.transformer(batch)

    def item_vectors(self) -> torch.Tensor:
        return self.transformer.tokens.weight[: self.items]

    def example(self, batch: Packed, times: torch.Tensor | None = None) -> Example:
        """Hide items: at random, or the last one alone."""
        batch = _latest(batch, self.longest)
        last = batch.offsets[1:].long() - 1  # (B,)
        chance = torch.rand(len(batch.ids), device=batch.ids.device)  # (T,)
        # The item with the lowest number of its history is hidden in any case.
        lowest = chance.new_ones(len(batch)).scatter_reduce_(0, batch.rows, chance, "amin")  # (B,)
        hidden = (chance < self.share) | (chance == lowest[batch.rows])  # (T,)
        ends = torch.rand(len(batch), device=batch.ids.device) < self.only_last  # (B,)
        hidden &= ~ends[batch.rows]
        hidden[last[ends]] = True
        inputs = Packed(batch.ids.masked_fill(hidden, self.items), batch.offsets, batch.longest)
        places = hidden.nonzero().squeeze(1)  # (P,)
        return Example(inputs, None, places, batch.ids[places])

    def user_states(self, batch: Packed, times: torch.Tensor | None = None) -> torch.Tensor:
        """The state (B, D) of a hidden item after each user's latest ones."""
        batch = _latest(batch, self.longest - 1)
        added = torch.arange(len(batch) + 1, dtype=torch.int32, device=batch.ids.device)
        offsets = batch.offsets + added
        ends = offsets[1:].long() - 1  # (B,)
        known = torch.ones(len(batch.ids) + len(batch), dtype=torch.bool, device=batch.ids.device)
        known[ends] = False
        ids = torch.full_like(known, 0, dtype=torch.int64).fill_(self.items).masked_scatter(known, batch.ids)
        return self(Packed(ids, offsets, batch.longest + 1))[ends]


def _latest(batch: Packed, longest: int) -> Packed:
    """The last ``longest`` items of each history."""
    if batch.longest <= longest:
        return batch
    kept = batch.positions >= (batch.lengths - longest)[batch.rows]  # (T,)
    lengths = batch.lengths.clamp(max=longest)
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    return Packed(batch.ids[kept], offsets, longest)
