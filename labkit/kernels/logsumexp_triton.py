"""Logsumexp of a linear layer and its gradient on a GPU: two passes, each like the forward pass of attention.

The first pass is attention with the hidden states as queries and the classes as keys and values: it keeps,
per position, a running maximum m, the sum l of exp(z - m), and sum_v exp(z_v - m) w_v, rescaled whenever m
grows (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
"FlashAttention", 2022). That is the logsumexp and the gradient by hidden in one walk over the classes. The
second pass owns a block of classes and walks over the positions: logits again, p = exp(z - lse), and p^T h.
Four matrix products in all, no logit in memory, and no atomics: where one pass has too few blocks to fill
the GPU, its walk is split and the parts, which are N x D or V x D, are added in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from labkit.kernels.logsumexp import LOG2_E, Terms, reference
from labkit.kernels.triton_setup import configurations, on_its_gpu, precision, splits, widened


@triton.autotune(
    configurations(((128, 128), (128, 64), (64, 128), (64, 64), (64, 32), (32, 32))),
    key=["BD", "KIND", "MEAN"],
)
@triton.jit
def _over_classes(
    hidden, weight, offset, best_out, total_out, mean_out, count, classes, span, scale,
    D: tl.constexpr, BD: tl.constexpr, KIND: tl.constexpr, MEAN: tl.constexpr, OFFSET: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One block of positions over one span of classes; ``scale`` is in base 2, so that exp2 serves."""
    # Programs that run together differ in their positions and share the classes: the L2 cache holds those.
    rows = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    part = tl.program_id(1).to(tl.int64)
    first = part * span
    last = tl.minimum(first + span, classes)
    d = tl.arange(0, BD)
    h = tl.load(
        hidden + rows[:, None] * D + d[None, :], mask=(rows[:, None] < count) & (d[None, :] < D), other=0.0
    )  # (BM, BD)
    best = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    mean = tl.zeros((BM, BD), tl.float32)
    for start in range(first, last, BN):
        columns = start + tl.arange(0, BN)
        inside = columns < last
        w = tl.load(
            weight + columns[:, None] * D + d[None, :], mask=inside[:, None] & (d[None, :] < D), other=0.0
        )  # (BN, BD)
        z = tl.dot(h, tl.trans(w), input_precision=PRECISION) * scale  # (BM, BN) float32
        if OFFSET:
            z += tl.load(offset + columns, mask=inside, other=0.0)[None, :]
        z = tl.where(inside[None, :], z, float("-inf"))
        higher = tl.maximum(best, tl.max(z, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)  # else -inf - -inf
        e = tl.exp2(z - shift[:, None])
        shrink = tl.exp2(best - shift)
        total = total * shrink + tl.sum(e, 1)
        if MEAN:
            mean = tl.dot(e.to(KIND), w.to(KIND), mean * shrink[:, None], input_precision=PRECISION)
        best = higher
    tl.store(best_out + part * count + rows, best, mask=rows < count)
    tl.store(total_out + part * count + rows, total, mask=rows < count)
    if MEAN:
        tl.store(
            mean_out + (part * count + rows[:, None]) * D + d[None, :], mean,
            mask=(rows[:, None] < count) & (d[None, :] < D),
        )  # fmt: skip


@triton.autotune(
    configurations(((64, 128), (128, 128), (64, 64), (128, 64), (32, 64), (32, 32))),
    key=["BD", "KIND", "OFFSET"],
)
@triton.jit
def _over_positions(
    hidden, weight, offset, lse, row_weight, weight_out, offset_out, count, classes, span, scale,
    D: tl.constexpr, BD: tl.constexpr, KIND: tl.constexpr, OFFSET: tl.constexpr,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One block of classes over one span of positions; ``scale``, ``offset`` and ``lse`` are in base 2."""
    columns = (tl.program_id(0) * BN + tl.arange(0, BN)).to(tl.int64)
    part = tl.program_id(1).to(tl.int64)
    first = part * span
    last = tl.minimum(first + span, count)
    d = tl.arange(0, BD)
    inside = columns < classes
    w = tl.load(
        weight + columns[:, None] * D + d[None, :], mask=inside[:, None] & (d[None, :] < D), other=0.0
    )  # (BN, BD)
    if OFFSET:
        c = tl.load(offset + columns, mask=inside, other=0.0)
    by_weight = tl.zeros((BN, BD), tl.float32)
    by_offset = tl.zeros((BN,), tl.float32)
    for start in range(first, last, BM):
        rows = start + tl.arange(0, BM)
        h = tl.load(
            hidden + rows[:, None] * D + d[None, :], mask=(rows[:, None] < last) & (d[None, :] < D), other=0.0
        )  # (BM, BD)
        z = tl.dot(w, tl.trans(h), input_precision=PRECISION) * scale  # (BN, BM) float32
        if OFFSET:
            z += c[:, None]
        # Rows beyond the end have an infinite logsumexp, hence probability 0.
        p = tl.exp2(z - tl.load(lse + rows, mask=rows < last, other=float("inf"))[None, :])
        p *= tl.load(row_weight + rows, mask=rows < last, other=0.0)[None, :]
        by_weight = tl.dot(p.to(KIND), h.to(KIND), by_weight, input_precision=PRECISION)
        if OFFSET:
            by_offset += tl.sum(p, 1)
    tl.store(
        weight_out + (part * classes + columns[:, None]) * D + d[None, :], by_weight,
        mask=inside[:, None] & (d[None, :] < D),
    )  # fmt: skip
    if OFFSET:
        tl.store(offset_out + part * classes + columns, by_offset, mask=inside)


@on_its_gpu
def fused(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor | None,
    scale: float,
    row_weight: torch.Tensor | None,
    by_weight: bool,
    by_offset: bool,
) -> Terms:
    """As :func:`labkit.kernels.logsumexp.reference`, for vectors up to 256 wide."""
    if not len(hidden):  # every position was left out: no walk to split, and nothing to time block sizes on
        return reference(hidden, weight, offset, scale, row_weight, by_weight, by_offset)
    hidden, weight = widened(hidden), widened(weight)
    (count, width), classes = hidden.shape, len(weight)
    settings = {
        "D": width,
        "BD": max(16, triton.next_power_of_2(width)),
        "PRECISION": precision(hidden.dtype),
    }
    # float16 has too few exponents for probabilities over a million classes; bf16 has those of float32.
    settings["KIND"] = tl.float32 if hidden.dtype == torch.float32 else tl.bfloat16
    base_2 = None if offset is None else offset.float() * LOG2_E
    settings["OFFSET"] = offset is not None
    mean_wanted = row_weight is not None
    parts = splits(triton.cdiv(count, 128), classes)
    span = triton.cdiv(classes, parts)
    best = hidden.new_empty((parts, count), dtype=torch.float32)
    total = torch.empty_like(best)
    mean = hidden.new_empty((parts, count, width) if mean_wanted else (1,), dtype=torch.float32)
    _over_classes[lambda meta: (triton.cdiv(count, meta["BM"]), parts)](
        hidden, weight, base_2, best, total, mean, count, classes, span, scale * LOG2_E,
        MEAN=mean_wanted, **settings,
    )  # fmt: skip
    highest = best.amax(dim=0)  # (N,)
    share = (best - highest).exp2()  # (parts, N)
    total = (total * share).sum(dim=0)
    lse_2 = total.log2() + highest
    if row_weight is None:
        return Terms(lse_2 / LOG2_E, None, None, None)
    by_hidden = (mean * (share * (scale * row_weight / total))[:, :, None]).sum(dim=0)
    if not by_weight and not by_offset:
        return Terms(lse_2 / LOG2_E, by_hidden, None, None)

    parts = splits(triton.cdiv(classes, 128), count)
    span = triton.cdiv(count, parts)
    weight_slope = weight.new_empty((parts, classes, width), dtype=torch.float32)
    offset_slope = weight.new_empty((parts, classes if offset is not None else 1), dtype=torch.float32)
    _over_positions[lambda meta: (triton.cdiv(classes, meta["BN"]), parts)](
        hidden, weight, base_2, lse_2, row_weight, weight_slope, offset_slope, count, classes, span,
        scale * LOG2_E, **settings,
    )  # fmt: skip
    return Terms(
        lse_2 / LOG2_E,
        by_hidden,
        (weight_slope[0] if parts == 1 else weight_slope.sum(dim=0)).mul_(scale) if by_weight else None,
        offset_slope.sum(dim=0) if by_offset else None,
    )
