"""Sums over bags on a GPU: one program per bag, which gathers its rows and adds them in order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from labkit.kernels.triton_setup import INTERPRETED, on_its_gpu, widened

LONGEST = 20 if INTERPRETED else 1024  # rows that one program adds up


@triton.jit
def _sum(weight, ids, offsets, sums, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr):
    """The sum of the rows of one bag, in float32, a block of columns at a time."""
    bag = tl.program_id(0).to(tl.int64)
    first, last = tl.load(offsets + bag), tl.load(offsets + bag + 1)
    d = tl.program_id(1) * BD + tl.arange(0, BD)
    total = tl.zeros((BD,), tl.float32)
    for start in range(first, last, BT):
        t = start + tl.arange(0, BT)
        row = tl.load(ids + t, mask=t < last, other=0)
        rows = tl.load(
            weight + row[:, None] * D + d[None, :], mask=(t[:, None] < last) & (d[None, :] < D), other=0.0
        )
        total += tl.sum(rows.to(tl.float32), 0)
    tl.store(sums + bag * D + d, total, mask=d < D)


@on_its_gpu
def gathered(weight: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """As :func:`labkit.kernels.bag.reference`.

    In a gradient the bags are the positions of one id, and a best-seller has very many. Bags of more than
    LONGEST rows are therefore cut into pieces, and the sums of the pieces added by the same kernel.
    """
    sizes = offsets.diff()
    pieces = (sizes + LONGEST - 1) // LONGEST  # (B,), 0 for an empty bag
    if len(ids) <= LONGEST or int(pieces.max()) <= 1:
        return _sums(weight, ids, offsets)
    ends = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])  # (B + 1,) pieces before each bag
    bag = torch.arange(len(pieces), device=ids.device).repeat_interleave(pieces)  # (P,) of each piece
    within = torch.arange(len(bag), device=ids.device) - ends[bag]
    cuts = torch.cat([offsets[bag] + within * LONGEST, offsets[-1:]])
    parts = _sums(weight, ids, cuts)  # (P, D)
    return gathered(parts, torch.arange(len(parts), device=ids.device), ends)


def _sums(weight: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    weight = widened(weight)
    bags, width = len(offsets) - 1, weight.shape[1]
    sums = weight.new_empty((bags, width), dtype=torch.float32)
    columns = min(256, triton.next_power_of_2(width))
    _sum[(bags, triton.cdiv(width, columns))](
        weight, ids, offsets, sums, D=width, BD=columns, BT=max(8, min(32, 4096 // columns))
    )
    return sums
