"""A Hugging Face encoder on packed tokens: its own weights and code, without a padded place."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from labkit.models.attention import varlen_attention
from labkit.text.packing import Packed

# Encoders whose layers reach attention through Hugging Face's interface and whose places are absolute
# numbers, with the number of the first place. (RoBERTa's count starts after its padding id.)
_FIRST_PLACE = {"bert": 0, "roberta": 2, "xlm-roberta": 2}
_NAME = "labkit_packed"


def enable_packing(body: PreTrainedModel) -> bool:
    """Let a body run on packed tokens too; padded batches go on as before.

    The body's layers stay as they are, so whatever was put into them (LoRA, adapters, hooks) works packed as
    well. Only its attention is exchanged, by the interface that Hugging Face has for it.

    Args:
        body: changed in place, if its kind is one that can: BERT (and MiniLM), RoBERTa, XLM-RoBERTa.

    Returns:
        Whether it can.
    """
    able = body.config.model_type in _FIRST_PLACE
    if able:
        AttentionInterface.register(_NAME, _attention)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        body.set_attn_implementation(_NAME)
    return able


def packed_states(body: PreTrainedModel, batch: Packed) -> torch.Tensor:
    """The last hidden states of a packed batch, with gradients.

    On the CPU the sequences go through sorted by length, so that attention finds equal lengths side by side.

    Args:
        body: an encoder for which :func:`enable_packing` was true.
        batch: T tokens of B sequences, on the body's device.

    Returns:
        (T, D) in the order of the batch; each sequence's states equal those it has alone, to rounding.

    Raises:
        ValueError: a sequence is longer than the body has places, or a token is not in its vocabulary.

    Example:
        >>> from labkit.models import BiEncoder
        >>> encoder = BiEncoder.from_pretrained("minilm", device="cpu")
        >>> packed_states(encoder.body, encoder.pack(["a sofa", "running shoes"])).shape
        torch.Size([8, 384])
    """
    first = _FIRST_PLACE[body.config.model_type]
    places = body.config.max_position_embeddings - first
    if batch.longest > places:
        raise ValueError(
            f"A text has {batch.longest} tokens, the model has {places} places; cut it before packing."
        )
    if batch.ids.device.type == "cpu":  # on a GPU the question would stop its queue
        known = body.config.vocab_size
        if not 0 <= int(batch.ids.min()) <= int(batch.ids.max()) < known:
            raise ValueError(
                f"A token has the number {int(batch.ids.max())}, but the model knows {known}; "
                "use the tokenizer that belongs to it."
            )
        batch, order = batch.by_length()
    else:
        order = None
    segments = {} if batch.segments is None else {"token_type_ids": batch.segments[None]}
    states = body(
        input_ids=batch.ids[None],
        position_ids=batch.positions[None] + first,
        offsets=batch.offsets,
        longest=batch.longest,
        **segments,
    ).last_hidden_state[0]  # (T, D)
    return states if order is None else torch.empty_like(states).index_copy(0, order, states)


def packed_mean(states: torch.Tensor, batch: Packed) -> torch.Tensor:
    """Average the token states (T, D) over each sequence of the batch: (B, D).

    Example:
        >>> from labkit.text.packing import pack
        >>> packed_mean(torch.tensor([[2.0], [4.0], [9.0]]), pack([[1, 2], [3]]))
        tensor([[3.],
                [9.]])
    """
    # Adding rows up: the backward pass is one gather, five times as fast on a CPU as segment_reduce's.
    sums = states.new_zeros(len(batch), states.shape[1]).index_add(0, batch.rows, states)
    return sums / batch.lengths[:, None]


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    offsets: torch.Tensor | None = None,
    longest: int = 0,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Hugging Face's signature: query, key, value (B, H, L, Dh) -> (B, L, H, Dh), and no weights."""
    if offsets is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # (T, H, Dh), views
    return varlen_attention(q, k, v, offsets, longest, dropout=dropout)[None], None
