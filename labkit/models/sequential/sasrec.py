"""SASRec: a causal transformer over the items of a user."""

from __future__ import annotations

import torch

from labkit.models.sequential.base import SequenceModel
from labkit.models.transformer import Transformer, TransformerConfig
from labkit.text.packing import Packed


class SASRec(SequenceModel):
    """Self-attentive sequential recommendation.

    The state of a place has attended to the items up to there, and predicts the next one. The transformer is
    the shared one, with learned places and normalisation after each addition, as in the S3-Rec code whose
    numbers are published for Amazon Beauty; the first SASRec code normalised before. What decides its quality
    is the loss (:func:`labkit.train.train_sequences`): with full cross-entropy instead of one sampled
    negative it outdoes most of its successors. Sources: Kang and McAuley, "Self-attentive sequential
    recommendation", ICDM 2018; Klenitskiy and Vasilev, "Turning dross into gold loss: is BERT4Rec really
    better than SASRec?", RecSys 2023.

    Args:
        items: N, how many items there are.
        width: D, numbers per item.
        layers, heads: of the transformer; its feed-forward layers are 4 D wide.
        longest: how many of the latest items it reads.
        dropout: of embeddings and of what each sub-layer adds. Attention weights are not dropped, which
            would cost the fast attention path.
        seed: of the first weights.

    Example:
        >>> from labkit.text.packing import pack
        >>> model = SASRec(items=10, width=8, longest=5)
        >>> model.user_states(pack([[3, 1, 4], [1, 5]])).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        items: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        longest: int = 50,
        dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(items, longest)
        config = TransformerConfig(
            items, width, layers, heads, 4 * width, longest, causal=True, dropout=dropout
        )
        self.transformer = Transformer(config, seed)

    def forward(self, batch: Packed, times: torch.Tensor | None = None) -> torch.Tensor:
        return self.transformer(batch)

    def item_vectors(self) -> torch.Tensor:
        return self.transformer.tokens.weight
