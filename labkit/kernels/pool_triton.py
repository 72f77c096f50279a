"""Attention pooling on a GPU: one program per sequence, which reads each of its rows once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from labkit.kernels.triton_setup import on_its_gpu, widened

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def _forward(values, offsets, query, pooled, lse, scale, D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr):
    """The pooled vector of one sequence and the logsumexp of its scores, by an online softmax."""
    sequence = tl.program_id(0).to(tl.int64)
    first, last = tl.load(offsets + sequence), tl.load(offsets + sequence + 1)
    d = tl.arange(0, BD)
    q = tl.load(query + d, mask=d < D, other=0.0).to(tl.float32) * scale
    best = tl.full((1,), float("-inf"), tl.float32)
    total = tl.zeros((1,), tl.float32)
    mean = tl.zeros((BD,), tl.float32)
    for start in range(first, last, BT):
        t = start + tl.arange(0, BT)
        v = tl.load(
            values + t[:, None] * D + d[None, :], mask=(t[:, None] < last) & (d[None, :] < D), other=0.0
        ).to(tl.float32)  # (BT, BD)
        s = tl.where(t < last, tl.sum(v * q[None, :], 1) * LOG2_E, float("-inf"))  # (BT,)
        higher = tl.maximum(best, tl.max(s, 0))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        e = tl.exp2(s - shift)
        shrink = tl.exp2(best - shift)
        total = total * shrink + tl.sum(e, 0)
        mean = mean * shrink + tl.sum(e[:, None] * v, 0)
        best = higher
    empty = last == first
    tl.store(pooled + sequence * D + d, tl.where(empty, 0.0, mean / total), mask=d < D)
    tl.store(lse + sequence + tl.arange(0, 1), (best + tl.log2(total)) / LOG2_E)


@triton.jit
def _backward(
    values, offsets, query, pooled, lse, slope, by_values, by_query, scale,
    D: tl.constexpr, BD: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """The gradient by the rows of one sequence, and its part of the gradient by the query."""
    sequence = tl.program_id(0).to(tl.int64)
    first, last = tl.load(offsets + sequence), tl.load(offsets + sequence + 1)
    d = tl.arange(0, BD)
    q = tl.load(query + d, mask=d < D, other=0.0).to(tl.float32) * scale
    g = tl.load(slope + sequence * D + d, mask=d < D, other=0.0).to(tl.float32)
    level = tl.sum(g * tl.load(pooled + sequence * D + d, mask=d < D, other=0.0), 0)
    log_total = tl.load(lse + sequence)
    part = tl.zeros((BD,), tl.float32)
    for start in range(first, last, BT):
        t = start + tl.arange(0, BT)
        mask = (t[:, None] < last) & (d[None, :] < D)
        v = tl.load(values + t[:, None] * D + d[None, :], mask=mask, other=0.0).to(tl.float32)
        a = tl.exp2((tl.sum(v * q[None, :], 1) - log_total) * LOG2_E)  # (BT,)
        a = tl.where(t < last, a, 0.0)
        by_score = a * (tl.sum(v * g[None, :], 1) - level)
        tl.store(
            by_values + t[:, None] * D + d[None, :], a[:, None] * g[None, :] + by_score[:, None] * q[None, :],
            mask=mask,
        )  # fmt: skip
        part += tl.sum(by_score[:, None] * v, 0)
    tl.store(by_query + sequence * D + d, scale * part, mask=d < D)


def _blocks(width: int) -> dict[str, int]:
    """A block of at most 4,096 numbers: what a program's registers hold twice."""
    wide = triton.next_power_of_2(width)
    return {"D": width, "BD": wide, "BT": max(1, min(64, 4096 // wide))}


@on_its_gpu
def forward(
    values: torch.Tensor, offsets: torch.Tensor, query: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`labkit.kernels.pool.reference_forward`."""
    values, query = widened(values), widened(query)
    sequences = len(offsets) - 1
    pooled = values.new_empty((sequences, values.shape[1]), dtype=torch.float32)
    lse = values.new_empty(sequences, dtype=torch.float32)
    _forward[(sequences,)](values, offsets, query, pooled, lse, scale, **_blocks(values.shape[1]))
    return pooled, lse


@on_its_gpu
def backward(
    values: torch.Tensor,
    offsets: torch.Tensor,
    query: torch.Tensor,
    scale: float,
    pooled: torch.Tensor,
    lse: torch.Tensor,
    slope: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`labkit.kernels.pool.reference_backward`; the query's gradient is added up in order."""
    values, query, slope = widened(values), widened(query), widened(slope)
    by_values = torch.empty_like(values, dtype=torch.float32)
    by_query = torch.empty_like(pooled)
    _backward[(len(pooled),)](
        values, offsets, query, pooled, lse, slope, by_values, by_query, scale, **_blocks(values.shape[1])
    )
    return by_values, by_query.sum(dim=0)


packed = forward, backward
