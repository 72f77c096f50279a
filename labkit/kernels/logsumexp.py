"""Logsumexp of a linear layer over many classes, and its gradient, a tile of logits at a time.

For logits z_nv = scale h_n . w_v + c_v, lse_n = log sum_v exp z_nv and p_nv = exp(z_nv - lse_n), the gradient
of sum_n g_n lse_n is

    by h_n: scale g_n sum_v p_nv w_v        by w_v: scale sum_n g_n p_nv h_n        by c_v: sum_n g_n p_nv
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

LOG2_E = math.log2(math.e)
BLOCK_BYTES = 32 << 20  # exponentials of one block of positions, all classes: about the last-level cache
TILE = 2048  # classes whose logits are made, exponentiated and multiplied while they lie in the L2 cache


class Terms(NamedTuple):
    """Logsumexps and the gradient of sum_n g_n lse_n; a gradient that was not asked for is None."""

    lse: torch.Tensor  # (N,)
    by_hidden: torch.Tensor | None  # (N, D)
    by_weight: torch.Tensor | None  # (V, D)
    by_offset: torch.Tensor | None  # (V,)


def reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor | None,
    scale: float,
    row_weight: torch.Tensor | None,
    by_weight: bool,
    by_offset: bool,
) -> Terms:
    """The definition: all logits at once.

    Args:
        hidden: (N, D), weight: (V, D), of one dtype, that of the matrix products.
        offset: (V,) the constants c, in at least float32, or None.
        scale: factor of the inner products.
        row_weight: (N,) the weights g, or None for no gradient.
        by_weight, by_offset: whether these gradients, too, are wanted.

    Returns:
        The logsumexps and gradients, in at least float32.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    hidden, weight = hidden.to(wide), weight.to(wide)
    logits = hidden @ weight.T * scale  # (N, V)
    if offset is not None:
        logits = logits + offset.to(wide)
    lse = logits.logsumexp(dim=1)
    if row_weight is None:
        return Terms(lse, None, None, None)
    slope = (logits - lse[:, None]).exp() * row_weight[:, None]  # (N, V)
    return Terms(
        lse,
        scale * slope @ weight,
        scale * slope.T @ hidden if by_weight else None,
        slope.sum(dim=0) if by_offset else None,
    )


def chunked(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor | None,
    scale: float,
    row_weight: torch.Tensor | None,
    by_weight: bool,
    by_offset: bool,
) -> Terms:
    """As :func:`reference`, a block of positions at a time and in it a tile of classes at a time.

    A tile's logits are made, shifted, exponentiated, summed and multiplied with the tile's weights before
    they leave the cache. The exponentials e_nv = exp(z_nv - m_n) stay unnormalised: 1 / sum_v e_nv is a
    factor of the row, applied to the (N, D) results, and to h before the gradient by weight. That one needs
    the sum over the whole row first, and is made in a second walk over the tiles. Each logit is computed
    once.

    The shift m_n need not be the row's maximum; it must only keep the sum finite. The maximum over the first
    tile, which is never above the row's, so that nothing vanishes, does unless another logit is e^88 times as
    likely. The sum is infinite then, and the block is done again with the true maximum.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    classes = len(weight)
    rows = max(1, min(len(hidden), BLOCK_BYTES // (4 * classes) // 16 * 16 or 16))
    run = _Tiles(weight, offset, rows, wide, keep=row_weight is not None and (by_weight or by_offset))
    lse = torch.empty(len(hidden), dtype=wide, device=hidden.device)
    by_hidden = None if row_weight is None else torch.empty(hidden.shape, dtype=wide, device=hidden.device)
    weight_slope = None
    if row_weight is not None and by_weight:
        weight_slope = torch.zeros(weight.shape, dtype=wide, device=hidden.device)
    offset_slope = None
    if row_weight is not None and by_offset:
        offset_slope = torch.zeros(classes, dtype=wide, device=hidden.device)
    for start in range(0, len(hidden), rows):
        block = slice(start, start + rows)
        h = hidden[block].to(wide)
        # Base 2: exp2 costs a third of exp in PyTorch on AVX-512.
        scaled = (h * (scale * LOG2_E)).to(run.dtype)
        shift, total, mean = run.exponentials(scaled, None, row_weight is not None)
        if not total.isfinite().all():
            shift, total, mean = run.exponentials(scaled, run.maximum(scaled), row_weight is not None)
        lse[block] = (total.log2() + shift[:, 0]) / LOG2_E
        if row_weight is None or by_hidden is None:
            continue
        factor = row_weight[block].to(wide) / total  # (rows,)
        torch.mul(mean, (scale * factor)[:, None], out=by_hidden[block])
        run.add_slopes(h, factor, scale, weight_slope, offset_slope)
    return Terms(lse, by_hidden, weight_slope, offset_slope)


class _Tiles:
    """The classes cut into tiles, and the buffers that one block of positions needs."""

    def __init__(
        self, weight: torch.Tensor, offset: torch.Tensor | None, rows: int, wide: torch.dtype, keep: bool
    ) -> None:
        self.weight = weight
        self.dtype = weight.dtype
        self.offset = None if offset is None else (offset.to(wide) * LOG2_E)
        self.wide = wide
        self.starts = range(0, len(weight), TILE)
        # Without a weight gradient no exponential is needed again, and every tile uses the same buffer.
        self.kept = len(self.starts) if keep else 1
        shape = (self.kept, rows * min(TILE, len(weight)))
        self.buffer = torch.empty(shape, dtype=wide, device=weight.device)

    def tile(self, number: int, rows: int) -> tuple[slice, torch.Tensor, torch.Tensor]:
        """Which classes tile ``number`` has, their weights (C, D), and its buffer (rows, C)."""
        columns = slice(self.starts[number], min(self.starts[number] + TILE, len(self.weight)))
        width = columns.stop - columns.start
        buffer = self.buffer[number % self.kept][: rows * width].view(rows, width)
        return columns, self.weight[columns], buffer

    def logits(self, number: int, scaled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The logits of a tile in base 2, (rows, C), in its buffer; and its weights."""
        columns, weight, out = self.tile(number, len(scaled))
        if self.dtype != self.wide:
            out.copy_(scaled @ weight.T)
        else:
            torch.mm(scaled, weight.T, out=out)
        if self.offset is not None:
            out += self.offset[columns]
        return out, weight

    def exponentials(
        self, scaled: torch.Tensor, shift: torch.Tensor | None, multiply: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The shift (rows, 1), the sums of the shifted exponentials (rows,), and sum_v e_nv w_v (rows, D)."""
        total = torch.zeros(len(scaled), dtype=self.wide, device=scaled.device)
        mean = torch.zeros(scaled.shape, dtype=self.wide, device=scaled.device)
        for number in range(len(self.starts)):
            tile, weight = self.logits(number, scaled)
            if shift is None:
                # Finite even where this tile has only classes of logit -inf.
                shift = tile.amax(dim=1, keepdim=True).clamp_(min=torch.finfo(self.wide).min / 4)
            tile.sub_(shift).exp2_()
            total += tile.sum(dim=1)
            if multiply:
                if self.dtype == self.wide:
                    mean.addmm_(tile, weight)
                else:
                    mean += tile.to(self.dtype) @ weight
        assert shift is not None
        return shift, total, mean

    def maximum(self, scaled: torch.Tensor) -> torch.Tensor:
        """The largest logit of each row, (rows, 1)."""
        best = torch.full((len(scaled), 1), -torch.inf, dtype=self.wide, device=scaled.device)
        for number in range(len(self.starts)):
            tile, _ = self.logits(number, scaled)
            torch.maximum(best, tile.amax(dim=1, keepdim=True), out=best)
        return best.clamp_(min=torch.finfo(self.wide).min / 4)

    def add_slopes(
        self,
        hidden: torch.Tensor,
        factor: torch.Tensor,
        scale: float,
        by_weight: torch.Tensor | None,
        by_offset: torch.Tensor | None,
    ) -> None:
        """Add this block's part to the gradients by weight (V, D) and by offset (V,)."""
        weighted = (hidden * (scale * factor)[:, None]).to(self.dtype)  # (rows, D)
        for number in range(len(self.starts)) if by_weight is not None or by_offset is not None else ():
            columns, _, tile = self.tile(number, len(hidden))
            if by_offset is not None:
                by_offset[columns] += factor @ tile
            if by_weight is not None:
                if self.dtype == self.wide:
                    by_weight[columns].addmm_(tile.T, weighted)
                else:
                    by_weight[columns] += tile.to(self.dtype).T @ weighted
