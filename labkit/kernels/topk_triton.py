"""Exact top-k on a GPU: group maxima first, then only the groups that can hold a result.

The k best items lie in the k groups of consecutive items with the best maxima, lower group first among
equal ones: were the group of one of them not among those, each of k groups would hold an item that is
better, or as good with a lower id. So one pass over all products keeps a single number for each group,
and the products of each query's best groups are computed again. What is stored is bounded by KEYS, not by
Q x N.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from labkit.kernels.topk import pack, unpack
from labkit.kernels.triton_setup import INTERPRETED, on_its_gpu, precision, splits, widened

KEYS = 1 << 24  # int64 keys held at once, 128 MiB


@triton.autotune(
    [
        triton.Config({}, num_warps=w, num_stages=stages)
        for w, stages in ((8, 2), (8, 3), (4, 2), (4, 3), (8, 1))
    ]
    if not INTERPRETED
    else [triton.Config({})],
    key=["BQ", "BD"],
)
@triton.jit
def _group_maxima(
    queries, items, keys, count, size, first, groups, span,
    D: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The largest score of each query in each of ``span`` groups, as a key; NaN does not count."""
    rows = (tl.program_id(0) * BQ + tl.arange(0, BQ)).to(tl.int64)
    d = tl.arange(0, BD)
    q = tl.load(
        queries + rows[:, None] * D + d[None, :], mask=(rows[:, None] < count) & (d[None, :] < D), other=0.0
    )  # (BQ, BD)
    begin = tl.program_id(1) * span
    for group in range(begin, tl.minimum(begin + span, groups)):
        columns = (first + group).to(tl.int64) * GROUP + tl.arange(0, GROUP)
        x = tl.load(
            items + columns[:, None] * D + d[None, :],
            mask=(columns[:, None] < size) & (d[None, :] < D), other=0.0,
        )  # (GROUP, BD)  # fmt: skip
        z = tl.dot(q, tl.trans(x), input_precision=PRECISION)  # (BQ, GROUP) float32
        z = tl.where((columns[None, :] < size) & (z == z), z, float("-inf"))
        # The key of labkit.kernels.topk.pack; adding 0 makes -0 the same as 0.
        bits = (tl.max(z, 1) + 0.0).to(tl.int32, bitcast=True)
        ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.int64)
        tl.store(
            keys + rows * groups + group, (ordered << 32) | (0x7FFFFFFF - (first + group)), mask=rows < count
        )


@triton.jit
def _scores(
    queries, items, groups, scores, size, chosen,
    D: tl.constexpr, BD: tl.constexpr, GROUP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The scores of one query with the items of one chosen group, in float32."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BD)
    q = tl.load(queries + row * D + d, mask=d < D, other=0.0).to(tl.float32)
    group = tl.load(groups + row * chosen + tl.program_id(1))
    for start in range(0, GROUP, BN):
        place = start + tl.arange(0, BN)
        columns = group * GROUP + place  # int64
        x = tl.load(
            items + columns[:, None] * D + d[None, :],
            mask=(columns[:, None] < size) & (d[None, :] < D), other=0.0,
        )  # fmt: skip
        z = tl.sum(x.to(tl.float32) * q[None, :], 1)
        z = tl.where(columns < size, z, float("-inf"))
        tl.store(scores + (row * chosen + tl.program_id(1)) * GROUP + place, z)


@on_its_gpu
def grouped(queries: torch.Tensor, items: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`labkit.kernels.topk.reference`; rows without k scores above -inf are left wrong."""
    dtype = queries.dtype
    queries, items = widened(queries), widened(items)
    group = block_sizes(items)[1]
    groups = triton.cdiv(len(items), group)
    chosen = min(k, groups)
    rows = max(1, KEYS // max(2 * chosen * group, 1024))  # queries done together
    found = [
        _block(part, items, k, chosen, groups, min(groups, max(chosen, KEYS // len(part))))
        for part in queries.split(rows)
    ]
    scores, ids = unpack(torch.cat(found))
    return scores.to(dtype), ids


def block_sizes(items: torch.Tensor) -> tuple[int, int]:
    """Queries and items of a matrix product's block; the items are a group.

    A block of items has at most 64 KiB and one of queries 32, so that two of the former and one of the latter
    fit in the shared memory of an A100.
    """
    if INTERPRETED:
        return 16, 16
    row = max(16, triton.next_power_of_2(items.shape[1])) * items.element_size()
    return min(128, (32 << 10) // row), min(256, (64 << 10) // row)


def _block(
    queries: torch.Tensor, items: torch.Tensor, k: int, chosen: int, groups: int, slab: int
) -> torch.Tensor:
    """The keys (Q, k) of the best items of a block of queries; ``slab`` groups are looked at together."""
    count, size = len(queries), len(items)
    most, group = block_sizes(items)
    rows = min(most, max(16, triton.next_power_of_2(count)))
    settings = {"D": items.shape[1], "BD": max(16, triton.next_power_of_2(items.shape[1])), "GROUP": group}
    best = queries.new_empty((count, 0), dtype=torch.int64)
    for first in range(0, groups, slab):
        now = min(slab, groups - first)
        keys = queries.new_empty((count, now), dtype=torch.int64)
        blocks = triton.cdiv(count, rows)
        span = triton.cdiv(now, splits(blocks, now * group))
        _group_maxima[(blocks, triton.cdiv(now, span))](
            queries, items, keys, count, size, first, now, span,
            BQ=rows, PRECISION=precision(queries.dtype), **settings,
        )  # fmt: skip
        best = torch.cat([best, keys], dim=1)
        best = best.topk(min(chosen, best.shape[1]), dim=1).values
    wanted = unpack(best)[1]  # (Q, chosen)
    scores = queries.new_empty((count, chosen, group), dtype=torch.float32)
    _scores[(count, chosen)](queries, items, wanted, scores, size, chosen, BN=min(64, group), **settings)
    ids = wanted[:, :, None] * group + torch.arange(group, device=items.device)
    return pack(scores.flatten(1), ids.flatten(1)).topk(k, dim=1).values
