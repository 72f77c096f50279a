"""HSTU: attention by a gate instead of a softmax, biased by how far back and how long ago."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from labkit.models.seeding import weights_from
from labkit.models.sequential.base import SequenceModel
from labkit.text.packing import Packed


@dataclass(frozen=True)
class Rectangles:
    """Where the tokens of a packed batch stand when sequences of similar length are padded together.

    Padding all sequences to the longest wastes most of the work, and one product per length wastes it on
    calls. A causal model needs no mask for padding on the right: it comes after everything real.
    """

    shapes: list[tuple[int, int]]  # sequences and places of each rectangle
    gather: torch.Tensor  # (P,) token of each place, rectangle after rectangle; padding repeats a last token
    back: torch.Tensor  # (T,) the place of each token

    @classmethod
    def of(cls, batch: Packed) -> Rectangles:
        device = batch.ids.device
        lengths, starts = batch.lengths.long(), batch.offsets[:-1].long()  # (B,)
        if device.type == "cuda":
            groups = [(torch.arange(len(batch), device=device), batch.longest)]  # asks nothing of the GPU
        else:
            # Widths grow by half, so at most a third of a rectangle is padding.
            widths = [1]
            while widths[-1] < batch.longest:
                widths.append(widths[-1] + max(1, widths[-1] // 2))
            kind = torch.searchsorted(torch.tensor(widths), lengths)
            members = [(kind == k).nonzero().squeeze(1) for k in kind.unique()]
            groups = [(rows, int(lengths[rows].max())) for rows in members]
        shapes: list[tuple[int, int]] = []
        gather, done = [], 0
        first = torch.empty_like(lengths)  # (B,) place of each sequence's first token
        for rows, width in groups:
            places = torch.arange(width, device=device)
            gather.append((starts[rows, None] + places.minimum(lengths[rows, None] - 1)).flatten())
            first[rows] = done + width * torch.arange(len(rows), device=device)
            shapes.append((len(rows), width))
            done += len(rows) * width
        return cls(shapes, torch.cat(gather), first[batch.rows] + batch.positions)

    def split(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Packed values (T, ...) as one (n, L, ...) per rectangle."""
        flat = F.embedding(self.gather, values) if values.ndim == 2 else values[self.gather]  # (P, ...)
        parts = flat.split([n * width for n, width in self.shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def join(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """The inverse of :meth:`split` for (n, L, D): (T, D)."""
        return F.embedding(self.back, torch.cat([part.flatten(0, 1) for part in parts]))


class Bias(nn.Module):
    """One number for each distance in places and for each bucket of elapsed time."""

    def __init__(self, longest: int, buckets: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(longest) * 0.02)
        self.elapsed = nn.Parameter(torch.randn(buckets) * 0.02) if buckets else None

    def forward(self, width: int, times: torch.Tensor | None) -> torch.Tensor:
        """(L, L), or (n, L, L) with times (n, L); only i >= j (a key before its query) means anything."""
        place = torch.arange(width, device=self.places.device)
        bias = self.places[(place[:, None] - place).clamp(min=0)]  # (L, L)
        if self.elapsed is None:
            return bias
        if times is None:
            raise ValueError("This HSTU has time buckets; give the times of the actions, or build it with 0.")
        passed = (times[:, :, None] - times[:, None, :]).clamp(min=1.0)  # (n, L, L)
        # A bucket for every doubling: a second, two, four, …; the last one takes the rest.
        bucket = passed.log2().long().clamp(max=len(self.elapsed) - 1)
        return bias + F.embedding(bucket, self.elapsed[:, None]).squeeze(-1)


class HSTULayer(nn.Module):
    """x + f2(LN(A v) * u) with A = SiLU(q k^T + bias) / n, where u, v, q, k = SiLU(f1(LN(x)))."""

    def __init__(self, width: int, heads: int, longest: int, buckets: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.longest = heads, longest
        self.before = nn.LayerNorm(width)
        self.uvqk = nn.Linear(width, 4 * width)
        self.bias = Bias(longest, buckets)
        self.gathered = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: torch.Tensor, where: Rectangles, times: list[torch.Tensor] | list[None]
    ) -> torch.Tensor:
        u, vqk = F.silu(self.uvqk(self.before(x))).split(
            [x.shape[1], 3 * x.shape[1]], dim=1
        )  # (T, D), (T, 3D)
        parts = []
        for dense, seconds in zip(where.split(vqk), times, strict=True):
            v, q, k = dense.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (n, H, L, Dh)
            bias = self.bias(dense.shape[1], seconds)  # (L, L) or (n, L, L)
            scores = q @ k.transpose(-1, -2) + (bias if bias.ndim == 2 else bias[:, None])  # (n, H, L, L)
            # No softmax: an action can count against (SiLU reaches below 0) and none takes another's share.
            # The divisor keeps sums over many in the range of sums over few; the norm below does the rest.
            weights = F.silu(scores).tril() / self.longest
            parts.append((weights @ v).transpose(1, 2).flatten(2))  # (n, L, D)
        return x + self.out(self.dropout(self.gathered(where.join(parts)) * u))


class HSTU(SequenceModel):
    """Hierarchical sequential transduction units.

    Attention weights are SiLU(q k^T + bias) without a softmax, and the result is gated by u, which takes the
    place of a feed-forward layer. The bias knows how many places and how much time lie between two actions.
    Time since a query's own action is used, not (as in the authors' code) until the next one, which would
    have to be known when asking. Source: Zhai et al., "Actions speak louder than words: trillion-parameter
    sequential transducers for generative recommendations", ICML 2024.

    Args:
        items: N, how many items there are.
        width: D, numbers per item.
        layers, heads: of the network.
        longest: how many of the latest items it reads.
        dropout: of embeddings and within layers.
        time_buckets: for elapsed seconds, one for every doubling (26 reach two years); 0: times are not read.
        seed: of the first weights.

    Example:
        >>> from labkit.text.packing import pack
        >>> model = HSTU(items=10, width=8, longest=5, time_buckets=26)
        >>> times = torch.tensor([0.0, 60.0, 86_400.0, 0.0, 5.0])
        >>> model(pack([[3, 1, 4], [1, 5]]), times).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        items: int,
        width: int = 64,
        layers: int = 2,
        heads: int = 2,
        longest: int = 50,
        dropout: float = 0.5,
        time_buckets: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(items, longest)
        if width % heads:
            raise ValueError(f"A width of {width} cannot be shared equally by {heads} heads.")
        self.time_buckets = time_buckets
        with weights_from(seed):
            self.embedding = nn.Embedding(items, width)
            self.places = nn.Embedding(longest, width)
            self.layers = nn.ModuleList(
                HSTULayer(width, heads, longest, time_buckets, dropout) for _ in range(layers)
            )
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Embedding):
                    nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)
            self.dropout = nn.Dropout(dropout)
            self.norm = nn.LayerNorm(width)

    def forward(self, batch: Packed, times: torch.Tensor | None = None) -> torch.Tensor:
        if batch.longest > self.longest:
            raise ValueError(f"A history of {batch.longest} items is longer than the {self.longest} places.")
        where = Rectangles.of(batch)
        dense: list[torch.Tensor] | list[None] = [None] * len(where.shapes)
        if self.time_buckets and times is not None:
            dense = where.split(times)
        x = self.dropout(self.embedding(batch.ids) + self.places(batch.positions))  # (T, D)
        for layer in self.layers:
            x = layer(x, where, dense)
        return self.norm(x)

    def item_vectors(self) -> torch.Tensor:
        return self.embedding.weight
