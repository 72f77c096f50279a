"""Prefix tuning: every attention layer also attends to a few learned keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from labkit.models.attention import varlen_attention
from labkit.train.peft.freezing import freeze
from labkit.train.peft.storing import fill, read_trained, require_base, save_trained


class Prefix(nn.Module):
    """P keys and values of one attention layer, H heads of Dh numbers."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys)  # (H, P, Dh)
        self.values = nn.Parameter(values)  # (H, P, Dh)


def add_prefix(model: nn.Module, tokens: torch.Tensor, keep: Sequence[str] = ()) -> list[str]:
    """Freeze a Hugging Face model and let each of its attention layers see a learned prefix.

    With the token's query q and the layer's own keys K and values V, attention becomes

        softmax(q [P_K; K]^T / sqrt(Dh)) [P_V; V]

    so P_K and P_V (P, D) of each layer are all that is learned: 2 P D numbers a layer. The prefix starts as
    the keys and values that the model computes for ``tokens``; real words start better than random numbers
    (section 7.4 of the paper). Two things differ from it. The prefix is learned directly rather than through
    a network that is thrown away after training (P-tuning v2, Liu et al. 2022, found no steady gain in one).
    And it takes no position: the text's own positions stay 0, 1, …, as they were in pretraining, while
    prefixes handed over as past keys and values (``peft``) move a text of BERT's P positions on.

    Relations: no weight changes at all, so one loaded model can serve many prefixes; but each makes the
    sequence longer, and at the start outputs are near the base model's rather than equal. Source: Li and
    Liang, "Prefix-tuning: optimizing continuous prompts for generation", ACL 2021.

    Args:
        model: is or holds one ``PreTrainedModel`` that attends through transformers' attention interface;
            changed in place.
        tokens: (P,) int64, the ids of the words that the prefix starts from.
        keep: other parts that train as well, such as a fresh ``"head"``.

    Returns:
        The names of the attention layers.

    Raises:
        ValueError: there is no such model, it has a prefix already, or ``tokens`` is empty, too long for the
            model or holds an id that it does not know.
    """
    body = _body(model)
    if tokens.ndim != 1 or not len(tokens):
        raise ValueError(
            f"The prefix starts from a flat tensor of token ids, not one of {tuple(tokens.shape)}."
        )
    if any(isinstance(module, Prefix) for module in model.modules()):
        raise ValueError("This model has a prefix already.")
    # The model is run on them below, when it is changed already.
    known, room = body.config.vocab_size, getattr(body.config, "max_position_embeddings", len(tokens))
    if not 0 <= int(tokens.min()) <= int(tokens.max()) < known or len(tokens) > room:
        raise ValueError(f"The prefix starts from at most {room} token ids of 0 to {known - 1}, not others.")
    freeze(model, keep)
    for name, function in (("labkit_prefix_start", _start), ("labkit_prefix", _attend)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, _mask)
    was_training = body.training
    body.eval()
    body.set_attn_implementation("labkit_prefix_start")
    with torch.no_grad():
        body(input_ids=tokens[None].to(body.device))
    body.set_attn_implementation("labkit_prefix")
    body.train(was_training)
    return _layers(model)


def save_prefix(model: nn.Module, path: str | Path) -> int:
    """Write the prefix and whatever else trains (a head) to a small safetensors file.

    Returns:
        Its size in bytes.

    Raises:
        ValueError: the model has no prefix.
    """
    prefixes = [module for module in model.modules() if isinstance(module, Prefix)]
    if not prefixes:
        raise ValueError("This model has no prefix to save; call add_prefix first.")
    return save_trained(model, path, "prefix", {"length": prefixes[0].keys.shape[1]})


def load_prefix(model: nn.Module, path: str | Path) -> list[str]:
    """Put a saved prefix on the model that it was trained on, which must have none yet.

    Returns:
        The names of the attention layers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds other weights, or the model is not the one they were trained on.
    """
    tensors, settings, base = read_trained(path, "prefix")
    require_base(model, tensors, base, path, added=".prefix.")
    names = add_prefix(model, torch.zeros(settings["length"], dtype=torch.long))
    fill(model, tensors)
    return names


def _body(model: nn.Module) -> PreTrainedModel:
    """The outermost Hugging Face model in a model."""
    found = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    if not found:
        raise ValueError("Prefix tuning needs a Hugging Face transformer; this model holds none.")
    return found[0]


def _layers(model: nn.Module) -> list[str]:
    return [
        name.removesuffix(".prefix") for name, module in model.named_modules() if isinstance(module, Prefix)
    ]


def _start(
    layer: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **more: Any
) -> tuple[torch.Tensor, None]:
    """Attend as ever, and keep the keys and values (B = 1, H, P, Dh) as the layer's prefix."""
    layer.prefix = Prefix(key[0].clone(), value[0].clone())
    return sdpa_attention_forward(layer, query, key, value, mask, **more)


def _attend(
    layer: Any,
    query: torch.Tensor,  # (B, H, T, Dh)
    key: torch.Tensor,  # (B, H, S, Dh)
    value: torch.Tensor,  # (B, H, S, Dh)
    mask: torch.Tensor | None,  # (B or 1, 1, T, S) bool, True where query may see key; None sees everything
    offsets: torch.Tensor | None = None,  # of packed sequences, see labkit.models.packed
    longest: int = 0,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention with the layer's prefix in front, which every token may see. Returns (B, T, H, Dh)."""
    size, prefix = len(query), layer.prefix
    if offsets is not None:
        return _attend_packed(prefix, query, key, value, offsets, longest, more["dropout"]), None
    key = torch.cat([prefix.keys.to(key.dtype).expand(size, -1, -1, -1), key], dim=2)  # (B, H, P + S, Dh)
    value = torch.cat([prefix.values.to(value.dtype).expand(size, -1, -1, -1), value], dim=2)
    if mask is not None:
        mask = nn.functional.pad(mask, (prefix.keys.shape[1], 0), value=True)  # (B, 1, T, P + S)
    return sdpa_attention_forward(layer, query, key, value, mask, **more)


def _attend_packed(
    prefix: Prefix,
    query: torch.Tensor,  # (1, H, T, Dh)
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,  # (B + 1,)
    longest: int,
    dropout: float,
) -> torch.Tensor:
    """The same for packed sequences: each gets the prefix in front of its own keys. Returns (1, T, H, Dh)."""
    heads, length, _ = prefix.keys.shape
    size, total = len(offsets) - 1, key.shape[2]
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # (T, H, Dh)
    rows = torch.repeat_interleave(offsets.diff(), output_size=total)  # (T,) each token's sequence
    own = torch.arange(total, device=rows.device) + length * (rows + 1)  # (T,) where its key goes
    key_offsets = offsets + length * torch.arange(size + 1, dtype=offsets.dtype, device=offsets.device)
    first = key_offsets[:-1, None] + torch.arange(length, device=offsets.device)  # (B, P)

    def joined(learned: torch.Tensor, computed: torch.Tensor) -> torch.Tensor:  # (T + B P, H, Dh)
        start = learned.to(computed.dtype).transpose(0, 1).repeat(size, 1, 1)  # (B P, H, Dh)
        whole = computed.new_empty(total + size * length, heads, computed.shape[-1])
        return whole.index_copy(0, own, computed).index_copy(0, first.flatten().long(), start)

    keys, values = joined(prefix.keys, k), joined(prefix.values, v)
    states = varlen_attention(
        q,
        keys,
        values,
        offsets,
        longest,
        dropout=dropout,
        key_offsets=key_offsets,
        key_longest=longest + length,
    )
    return states[None]


def _mask(*arguments: Any, **more: Any) -> torch.Tensor | None:
    """The usual mask, but written out for causal models too, whose triangle would not fit beside a prefix."""
    return sdpa_mask(*arguments, **more | {"allow_is_causal_skip": False})
