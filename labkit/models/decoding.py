"""Reading on where a causal transformer stopped, with the keys and values of what it has read."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn.functional import pad

from labkit.models.attention import padded_attention, varlen_attention
from labkit.models.transformer import CrossAttention, Transformer, reader
from labkit.text.packing import Packed, to_padded


class Decoder:
    """B sequences that grow token by token.

    A new token costs one pass over itself instead of one over everything before it, since the keys and values
    of the past are kept: 2 D numbers per token and layer. The states equal those of the whole sequences, to
    rounding.

    Args:
        model: a causal transformer in evaluation mode.
        batch: how the B sequences begin.
        memory: for a model with cross-attention, as in :class:`labkit.models.transformer.Transformer`.

    Attributes:
        states: (B, D), of the last token of each sequence; what comes next is predicted from it.
        lengths: (B,) int64, tokens read so far.

    Raises:
        ValueError: the model is not causal, or refuses the batch or the memory.

    Example:
        >>> from labkit.models.transformer import TransformerConfig
        >>> from labkit.text.packing import pack
        >>> shape = TransformerConfig(50, width=8, layers=1, heads=2, feedforward=16, causal=True)
        >>> model = Transformer(shape).eval()
        >>> decoder = Decoder(model, pack([[1, 2, 3], [4]]))
        >>> states = decoder.step(torch.tensor([5, 6]))  # of [1, 2, 3, 5] and of [4, 6]
        >>> torch.allclose(states[1], model(pack([[4, 6]]))[1], atol=1e-5)
        True
    """

    @torch.no_grad()
    def __init__(
        self, model: Transformer, batch: Packed, memory: tuple[torch.Tensor, Packed] | None = None
    ) -> None:
        if not model.config.causal:
            raise ValueError("Only a causal transformer can read on; this one looks at both sides.")
        model.require_memory(memory is not None)
        self.model = model
        self.lengths = batch.lengths.long()
        self.longest = batch.longest
        self.keys: list[torch.Tensor] = []  # one per layer, (B, M, H, Dh) with room for M tokens
        self.values: list[torch.Tensor] = []
        self.readable: dict[CrossAttention, tuple[torch.Tensor, torch.Tensor]] = {}  # (B, S, H, Dh) each
        self.readable_mask: torch.Tensor | None = None  # (B, S)
        if memory is not None:
            states, source = memory
            for cross in (module for module in model.modules() if isinstance(module, CrossAttention)):
                k, v = cross.keys_values(states)
                k, self.readable_mask = to_padded(k, source.offsets, source.longest)
                self.readable[cross] = k, to_padded(v, source.offsets, source.longest)[0]
        x = model.embed(batch.ids, batch.positions, batch.longest, batch.segments)  # (T, D)
        attends = [partial(self._begin, batch)] * len(model.blocks)
        x = model.run(x, attends, batch.positions, None if memory is None else reader(batch, *memory))
        self.states = x[batch.offsets[1:].long() - 1]

    @torch.no_grad()
    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Read one more token of each sequence.

        Args:
            ids: (B,) int64.

        Returns:
            (B, D), the new ``states``.

        Raises:
            ValueError: a token is not in the vocabulary, or a sequence outgrows learned positions.
        """
        self.longest += 1
        room = self.keys[0].shape[1]
        if self.longest > room:  # twice the room each time: a token is moved once or twice, not at each step
            more = (0, 0, 0, 0, 0, room)
            self.keys, self.values = ([pad(x, more) for x in kept] for kept in (self.keys, self.values))
        places = self.lengths[:, None]  # (B, 1)
        x = self.model.embed(ids[:, None], places, self.longest, None)  # (B, 1, D)
        attends = [partial(self._go_on, layer) for layer in range(len(self.keys))]
        self.states = self.model.run(x, attends, places, self._read if self.readable else None)[:, 0]
        self.lengths = self.lengths + 1
        return self.states

    def choose(self, rows: torch.Tensor) -> None:
        """Go on with these sequences, in this order; one may be taken more than once, as beam search does.

        Args:
            rows: (B',) int64 numbers of present sequences.
        """
        self.states, self.lengths = self.states[rows], self.lengths[rows]
        self.longest = int(self.lengths.max())  # without the longest, the others have places left
        self.keys, self.values = ([x[rows] for x in kept] for kept in (self.keys, self.values))
        self.readable = {cross: (k[rows], v[rows]) for cross, (k, v) in self.readable.items()}
        self.readable_mask = None if self.readable_mask is None else self.readable_mask[rows]

    def _begin(
        self, batch: Packed, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float
    ) -> torch.Tensor:
        """Attention of one layer within the beginnings (T, H, Dh)."""
        self.keys.append(to_padded(k, batch.offsets, batch.longest)[0])
        self.values.append(to_padded(v, batch.offsets, batch.longest)[0])
        return varlen_attention(q, k, v, batch.offsets, batch.longest, causal=True)

    def _go_on(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float
    ) -> torch.Tensor:
        """Attention of one layer from the new tokens (B, 1, H, Dh) to all before them."""
        keys, values = self.keys[layer], self.values[layer]
        rows = torch.arange(len(k), device=k.device)
        keys[rows, self.lengths], values[rows, self.lengths] = (
            k[:, 0].to(keys.dtype),
            v[:, 0].to(values.dtype),
        )
        seen = torch.arange(keys.shape[1], device=k.device) <= self.lengths[:, None]  # (B, M)
        return padded_attention(q, keys, values, seen)

    def _read(self, cross: CrossAttention, x: torch.Tensor) -> torch.Tensor:
        return cross(x, *self.readable[cross], partial(padded_attention, mask=self.readable_mask))
