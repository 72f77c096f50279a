"""A transformer from scratch: encoder, causal decoder, decoder with cross-attention; packed or padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from labkit.models.attention import padded_attention, varlen_attention
from labkit.models.positions import rotate, rotation
from labkit.models.seeding import weights_from
from labkit.text.packing import Packed

Attend = Callable[..., torch.Tensor]  # (q, k, v, dropout=share), each (..., H, Dh), to (..., H, Dh)
Read = Callable[["CrossAttention", torch.Tensor], torch.Tensor]  # what a block's cross-attention adds


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a transformer; the defaults are those of MiniLM and BERT."""

    vocabulary: int  # V, how many token ids there are
    width: int = 384  # D, numbers per token
    layers: int = 6
    heads: int = 12  # H, each of D / H numbers
    feedforward: int = 1536  # width of the hidden layer within each block
    longest: int = 512  # places that learned positions know; rotary ones and none have no limit
    positions: Literal["learned", "rotary", "none"] = "learned"
    norm: Literal["post", "pre"] = "post"  # after each addition (BERT), or before each sub-layer (GPT-2)
    causal: bool = False  # a token sees only what stands before it
    cross: bool = False  # each block also reads the states of another transformer
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    dropout: float = 0.0  # of embeddings and of what each sub-layer adds
    attention_dropout: float = 0.0  # of attention weights
    segments: int = 0  # kinds of segments that tokens can belong to; BERT has 2
    epsilon: float = 1e-12  # added to the variance in each normalisation

    def __post_init__(self) -> None:
        for name in ("vocabulary", "width", "layers", "heads", "feedforward", "longest"):
            if getattr(self, name) < 1:
                raise ValueError(f"TransformerConfig.{name} must be at least 1, not {getattr(self, name)}.")
        if self.width % self.heads:
            raise ValueError(f"A width of {self.width} cannot be shared equally by {self.heads} heads.")
        if self.positions == "rotary" and self.width // self.heads % 2:
            raise ValueError(
                f"Rotary positions need an even number per head, not {self.width // self.heads}."
            )


class Attention(nn.Module):
    """Attention of one sequence to itself: queries, keys and values in one matrix product."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self,
        x: torch.Tensor,  # (..., D)
        attend: Attend,
        turn: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)  # each (..., H, Dh)
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        states = attend(q, k, v, dropout=self.dropout if self.training else 0.0)
        return self.out(states.flatten(-2))  # (..., D)


class CrossAttention(nn.Module):
    """Attention of one sequence to the states of another."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def keys_values(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What there is to read in the states (..., D), (..., H, Dh) each."""
        k, v = self.kv(memory).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        return k, v

    def forward(self, x: torch.Tensor, k: torch.Tensor, v: torch.Tensor, attend: Attend) -> torch.Tensor:
        q = self.q(x).unflatten(-1, (self.heads, -1))  # (..., H, Dh)
        states = attend(q, k, v, dropout=self.dropout if self.training else 0.0)
        return self.out(states.flatten(-2))


def curve(config: TransformerConfig) -> nn.Module:
    """The activation: BERT has the exact GELU, GPT-2 its approximation through tanh."""
    if config.activation == "relu":
        return nn.ReLU()
    return nn.GELU(approximate="tanh" if config.activation == "gelu_tanh" else "none")


class FeedForward(nn.Module):
    """Two linear layers with a curve between them, on each token alone."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, config.feedforward)
        self.down = nn.Linear(config.feedforward, config.width)
        self.curve = curve(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.curve(self.up(x)))


class Block(nn.Module):
    """One layer: attention, cross-attention where there is some, feed-forward; each adds to its input."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.dropout = nn.Dropout(config.dropout)
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.epsilon)
        if config.cross:
            self.cross = CrossAttention(config)
            self.cross_norm = nn.LayerNorm(config.width, eps=config.epsilon)
        self.feedforward = FeedForward(config)
        self.feedforward_norm = nn.LayerNorm(config.width, eps=config.epsilon)

    def forward(
        self,
        x: torch.Tensor,  # (..., D)
        attend: Attend,
        turn: tuple[torch.Tensor, torch.Tensor] | None = None,
        read: Read | None = None,
    ) -> torch.Tensor:
        x = self._add(x, self.attention_norm, lambda y: self.attention(y, attend, turn))
        if read is not None:
            x = self._add(x, self.cross_norm, partial(read, self.cross))
        return self._add(x, self.feedforward_norm, self.feedforward)

    def _add(self, x: torch.Tensor, norm: nn.LayerNorm, layer: Callable) -> torch.Tensor:
        if self.pre:
            return x + self.dropout(layer(norm(x)))
        return norm(x + self.dropout(layer(x)))


class Transformer(nn.Module):
    """Token ids in, one state per token out.

    The same weights run on packed batches (:class:`labkit.text.packing.Packed`, every linear layer on the T
    real tokens) and on padded ones, with equal results up to rounding. Embeddings of tokens, places and
    segments are summed; with ``norm="post"`` they are normalised too, with ``"pre"`` the last states are.
    :func:`labkit.models.hugging_face.from_hugging_face` makes one with BERT's or GPT-2's weights. Source:
    Vaswani et al., "Attention is all you need", NeurIPS 2017; Devlin et al., "BERT", NAACL 2019; Xiong et
    al., "On layer normalization in the transformer architecture", ICML 2020, for the two places of the norm.

    Args:
        config: its shape.
        seed: of the first weights, normal with deviation 0.02; those that add to the running sum are divided
            by the root of how many do, as in GPT-2.

    Example:
        >>> from labkit.text.packing import pack
        >>> shape = TransformerConfig(vocabulary=100, width=16, layers=2, heads=2, feedforward=32)
        >>> model = Transformer(shape)
        >>> model(pack([[5, 6, 7], [8, 9]])).shape
        torch.Size([5, 16])
        >>> model(torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])).shape
        torch.Size([2, 3, 16])
    """

    def __init__(self, config: TransformerConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with weights_from(seed):
            self.tokens = nn.Embedding(config.vocabulary, config.width)
            if config.positions == "learned":
                self.places = nn.Embedding(config.longest, config.width)
            if config.segments:
                self.segments = nn.Embedding(config.segments, config.width)
            self.norm = nn.LayerNorm(config.width, eps=config.epsilon)
            self.dropout = nn.Dropout(config.dropout)
            self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
            self._initialize()

    def forward(
        self,
        batch: Packed | torch.Tensor,
        mask: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
        memory: tuple[torch.Tensor, Packed] | None = None,
    ) -> torch.Tensor:
        """The states of all tokens.

        Args:
            batch: a packed batch of T tokens, or padded ids (B, L) int64.
            mask: (B, L), true or 1 where a padded place is real; None: everywhere.
            segments: (B, L) int64, of padded ids; a packed batch brings its own. None: all 0.
            memory: for a decoder with cross-attention, the states (S, D) of another transformer and the
                packed batch that they are of.

        Returns:
            (T, D) for a packed batch; (B, L, D) for a padded one, where padded places mean nothing.

        Raises:
            ValueError: a token is not in the vocabulary, a sequence is longer than learned positions reach,
                or memory is missing, or given to a model without cross-attention.
        """
        self.require_memory(memory is not None)
        if not isinstance(batch, Packed):
            return self._padded(batch, mask, segments, memory)
        # A GPU attends over sequences in any order; a CPU wants those of one length side by side.
        order = None
        if not batch.ids.is_cuda and memory is None:
            batch, order = batch.by_length()
        x = self.embed(batch.ids, batch.positions, batch.longest, batch.segments)  # (T, D)
        attend = partial(
            varlen_attention, offsets=batch.offsets, longest=batch.longest, causal=self.config.causal
        )
        x = self.run(
            x,
            [attend] * len(self.blocks),
            batch.positions,
            None if memory is None else reader(batch, *memory),
        )
        return x if order is None else x.index_copy(0, order, x)

    def require_memory(self, given: bool) -> None:
        """Refuse a memory that can't be read, and the lack of one that must be."""
        if self.config.cross != given:
            wanted = "needs" if self.config.cross else "has no cross-attention to read"
            raise ValueError(f"This transformer {wanted} the memory of another one.")

    def embed(
        self, ids: torch.Tensor, positions: torch.Tensor, longest: int, segments: torch.Tensor | None
    ) -> torch.Tensor:
        """What the first block reads: (..., D) for ids and positions (...,)."""
        config = self.config
        if config.positions == "learned" and longest > config.longest:
            raise ValueError(
                f"A sequence has {longest} tokens, and this transformer knows {config.longest} places; "
                "cut the sequence."
            )
        if not ids.is_cuda and bool(
            ((ids < 0) | (ids >= config.vocabulary)).any()
        ):  # a GPU would stop for it
            raise ValueError(
                f"Token {int(ids.max() if ids.max() >= config.vocabulary else ids.min())} is not among the "
                f"{config.vocabulary} of this transformer; it was tokenised with another vocabulary."
            )
        x = self.tokens(ids)
        if config.positions == "learned":
            x = x + self.places(positions)
        if config.segments:
            x = x + (self.segments.weight[0] if segments is None else self.segments(segments))
        return self.dropout(self.norm(x) if config.norm == "post" else x)

    def run(
        self,
        x: torch.Tensor,
        attends: Sequence[Attend],
        positions: torch.Tensor,
        read: Read | None = None,
    ) -> torch.Tensor:
        """All blocks: embedded tokens (..., D) to states (..., D); how to attend is given for each block."""
        turn = None
        if self.config.positions == "rotary":
            turn = rotation(positions, self.config.width // self.config.heads, x.dtype)
        for block, attend in zip(self.blocks, attends, strict=True):
            x = block(x, attend, turn, read)
        return self.norm(x) if self.config.norm == "pre" else x

    def _padded(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        segments: torch.Tensor | None,
        memory: tuple[torch.Tensor, Packed] | None,
    ) -> torch.Tensor:
        if memory is not None:
            raise ValueError("A decoder with cross-attention reads packed batches; pack the ids.")
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()  # (B, L)
        positions = (real.cumsum(1) - 1).clamp(min=0)  # (B, L), right on whichever side the padding is
        x = self.embed(ids, positions, ids.shape[1], segments)  # (B, L, D)
        attend = partial(padded_attention, mask=None if mask is None else real, causal=self.config.causal)
        return self.run(x, [attend] * len(self.blocks), positions)

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        additions = (3 if self.config.cross else 2) * self.config.layers
        for name, weight in self.named_parameters():
            if self.config.norm == "pre" and name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(weight, std=0.02 / additions**0.5)


def reader(batch: Packed, states: torch.Tensor, source: Packed) -> Read:
    """Cross-attention of each sequence of the batch to its own sequence of states (S, D)."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float) -> torch.Tensor:
        span, keys = (batch.offsets, batch.longest), (source.offsets, source.longest)
        return varlen_attention(q, k, v, *span, False, dropout, None, None, *keys)

    return lambda cross, x: cross(x, *cross.keys_values(states), attend)
