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
BLOCK_BYTES = 16 << 20  # exponentials of one block of positions, all classes: within the last-level cache,
ROWS = 256  # except that fewer positions would read and write the weight's gradient too often
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
    tile, which is never above the row's, so that nothing vanishes, does unless another class is e^66 times as
    likely. The block is then done again with the true maximum.
    """
    if hidden.dtype == torch.float16:  # e_nv reaches 2^96
        hidden, weight = hidden.float(), weight.float()
    wide = torch.promote_types(hidden.dtype, torch.float32)
    (count, width), classes = hidden.shape, len(weight)
    rows = min(count, max(BLOCK_BYTES // (4 * classes), min(ROWS, 8 * BLOCK_BYTES // (4 * classes)), 16))
    wanted = row_weight is not None
    by_weight, by_offset = by_weight and wanted, by_offset and wanted
    tiles = _Tiles(weight, offset, rows, wide, keep=by_weight or by_offset)
    lse = hidden.new_empty(count, dtype=wide)
    hidden_slope = hidden.new_empty((count, width), dtype=wide) if wanted else None
    weight_slope = weight.new_zeros((classes, width), dtype=wide) if by_weight else None
    offset_slope = weight.new_zeros(classes, dtype=wide) if by_offset else None
    for start in range(0, count, max(1, rows)):
        block = slice(start, start + rows)
        h = hidden[block].to(wide)
        # Base 2: exp2 costs a third of exp in PyTorch on AVX-512.
        scaled = (h * (scale * LOG2_E)).to(weight.dtype)
        shift, total, mean = tiles.exponentials(scaled, None, wanted)
        if not (total < torch.finfo(wide).max ** 0.75).all():  # room for the products with w
            shift, total, mean = tiles.exponentials(scaled, tiles.maximum(scaled), wanted)
        lse[block] = (total.log2() + shift[:, 0]) / LOG2_E
        if row_weight is None or hidden_slope is None:
            continue
        factor = row_weight[block].to(wide) / total  # (rows,)
        torch.mul(mean, (scale * factor)[:, None], out=hidden_slope[block])
        if by_weight or by_offset:
            tiles.add_slopes(h, factor, scale, weight_slope, offset_slope)
    return Terms(lse, hidden_slope, weight_slope, offset_slope)


class _Tiles:
    """The classes cut into tiles, and the buffers that one block of positions needs."""

    def __init__(
        self, weight: torch.Tensor, offset: torch.Tensor | None, rows: int, wide: torch.dtype, keep: bool
    ) -> None:
        self.weight = weight
        self.offset = None if offset is None else offset.to(wide) * LOG2_E
        self.starts = range(0, len(weight), TILE)
        # Without a weight gradient no exponential is needed again, and every tile uses the same buffer.
        self.kept = len(self.starts) if keep else 1
        size = rows * min(TILE, len(weight))
        self.buffer = weight.new_empty((self.kept, size))  # in the dtype of the products
        self.working = self.buffer.new_empty(size, dtype=wide)  # a tile of bf16 products, widened

    def tile(self, number: int, rows: int) -> tuple[slice, torch.Tensor, torch.Tensor]:
        """Which classes tile ``number`` has, their weights (C, D), and its buffer (rows, C)."""
        columns = slice(self.starts[number], min(self.starts[number] + TILE, len(self.weight)))
        width = columns.stop - columns.start
        buffer = self.buffer[number % self.kept][: rows * width].view(rows, width)
        return columns, self.weight[columns], buffer

    def logits(self, number: int, scaled: torch.Tensor) -> torch.Tensor:
        """The logits of a tile in base 2, (rows, C), in at least float32, to be overwritten."""
        columns, weight, out = self.tile(number, len(scaled))
        torch.mm(scaled, weight.T, out=out)
        if out.dtype != self.working.dtype:
            out = self.working[: out.numel()].view_as(out).copy_(out)
        if self.offset is not None:
            out += self.offset[columns]
        return out

    def exponentials(
        self, scaled: torch.Tensor, shift: torch.Tensor | None, multiply: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The shift (rows, 1), the sums of the shifted exponentials (rows,), and sum_v e_nv w_v (rows, D)."""
        total = self.working.new_zeros(len(scaled))
        mean = self.working.new_zeros(scaled.shape)
        for number in range(len(self.starts)):
            powers = self.logits(number, scaled)
            if shift is None:
                shift = _finite(powers.amax(dim=1, keepdim=True))
            powers.sub_(shift).exp2_()
            total += powers.sum(dim=1)
            if multiply:
                _, weight, kept = self.tile(number, len(scaled))
                _add_product(mean, powers if kept.dtype == powers.dtype else kept.copy_(powers), weight)
        assert shift is not None
        return shift, total, mean

    def maximum(self, scaled: torch.Tensor) -> torch.Tensor:
        """The largest logit of each row, (rows, 1)."""
        best = self.working.new_full((len(scaled), 1), -torch.inf)
        for number in range(len(self.starts)):
            torch.maximum(best, self.logits(number, scaled).amax(dim=1, keepdim=True), out=best)
        return _finite(best)

    def add_slopes(
        self,
        hidden: torch.Tensor,
        factor: torch.Tensor,
        scale: float,
        by_weight: torch.Tensor | None,
        by_offset: torch.Tensor | None,
    ) -> None:
        """Add the last exponentials' part to the gradients by weight (V, D) and by offset (V,)."""
        weighted = (hidden * (scale * factor)[:, None]).to(self.weight.dtype)  # (rows, D)
        for number in range(len(self.starts)):
            columns, _, kept = self.tile(number, len(hidden))
            if by_offset is not None:
                by_offset[columns] += factor @ kept.to(factor.dtype)
            if by_weight is not None:
                _add_product(by_weight[columns], kept.T, weighted)


def _add_product(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """total += left @ right, where total may be wider than the product."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _finite(shift: torch.Tensor) -> torch.Tensor:
    """A row whose classes so far are all impossible has a maximum of -inf, and -inf - -inf is NaN."""
    return shift.clamp_(min=torch.finfo(shift.dtype).min / 4)
