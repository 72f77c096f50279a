"""Attention pooling of sequences of any length, packed one after another without padding.

For sequence b with rows v_t and a learned query q, with s_t = scale v_t . q and a = softmax of s within b:

    o_b     = sum_t a_t v_t
    da_t    = g_b . v_t                             g_b the slope of the loss by o_b
    ds_t    = a_t (da_t - g_b . o_b)                (softmax; sum_t a_t da_t = g_b . o_b)
    dL/dv_t = a_t g_b + scale ds_t q
    dL/dq   = scale sum_t ds_t v_t

Everything but T numbers (the scores, or their logsumexp per sequence) is recomputed in the backward pass.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from labkit.kernels.bag import check_offsets
from labkit.kernels.dispatch import choose


def attention_pool(
    values: torch.Tensor, offsets: torch.Tensor, query: torch.Tensor, scale: float | None = None
) -> torch.Tensor:
    """Pool each sequence into one vector, weighting its rows by a softmax of their products with a query.

    Relations: with a query of zeros it is mean pooling; it is what :func:`scaled_dot_product_attention` does
    for one query and one head per sequence, keys and values being the same. Source: Yang et al.,
    "Hierarchical attention networks for document classification", NAACL 2016 (without their projection).

    Args:
        values: (T, D) floating-point rows of all sequences.
        offsets: (B + 1,) int32 or int64, from 0 to T: sequence b is ``values[offsets[b]:offsets[b + 1]]``.
        query: (D,) the learned query, of the same dtype.
        scale: of the products before the softmax; None for 1 / sqrt(D).

    Returns:
        (B, D) in the dtype of values (softmax and sums are float32); 0 for an empty sequence. NaN or an
        infinity in a sequence makes its own result NaN, and the gradient by the query.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or offsets do not rise from 0 to T.

    Example:
        >>> values = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 5.0]])
        >>> attention_pool(values, torch.tensor([0, 2, 3]), torch.zeros(2))
        tensor([[2., 0.],
                [5., 5.]])
    """
    if values.ndim != 2 or query.shape != values.shape[1:] or 0 in query.shape:
        raise ValueError(
            "attention_pool needs values (T, D) and a query (D,), "
            f"not {tuple(values.shape)} and {tuple(query.shape)}."
        )
    if (values.dtype, values.device) != (query.dtype, query.device) or not values.is_floating_point():
        raise ValueError(
            "attention_pool needs floating-point values and query of one dtype on one device, "
            f"not {values.dtype} on {values.device} and {query.dtype} on {query.device}."
        )
    check_offsets("attention_pool", offsets, values)
    if scale is None:
        scale = 1 / math.sqrt(len(query))
    # Without autocast: the softmax is float32 whatever the dtype of the values.
    with torch.autocast(values.device.type, enabled=False):
        return _AttentionPool.apply(values, offsets.long().contiguous(), query, scale)


class _AttentionPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, offsets: torch.Tensor, query: torch.Tensor, scale: float
    ) -> torch.Tensor:
        ctx.forward_pass, ctx.backward_pass = choose(
            "attention_pool", values.device, values.dtype, values.shape[1]
        ).run
        pooled, lse = ctx.forward_pass(values.detach(), offsets, query.detach(), scale)
        ctx.save_for_backward(values, offsets, query, pooled, lse)
        ctx.scale = scale
        return pooled.to(values.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, offsets, query, pooled, lse = ctx.saved_tensors
        by_values, by_query = ctx.backward_pass(
            values, offsets, query, ctx.scale, pooled, lse, slope.contiguous()
        )
        return by_values.to(values.dtype), None, by_query.to(query.dtype), None


def reference_forward(
    values: torch.Tensor, offsets: torch.Tensor, query: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition, one sequence after the other: pooled (B, D) and logsumexp of the scores (B,)."""
    wide = torch.promote_types(values.dtype, torch.float32)
    pooled, lse = [], []
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        rows = values[start:stop].to(wide)  # (L, D)
        scores = rows @ query.to(wide) * scale  # (L,)
        pooled.append(scores.softmax(dim=0) @ rows)
        lse.append(scores.logsumexp(dim=0))
    return torch.stack(pooled), torch.stack(lse)


def reference_backward(
    values: torch.Tensor,
    offsets: torch.Tensor,
    query: torch.Tensor,
    scale: float,
    pooled: torch.Tensor,
    lse: torch.Tensor,
    slope: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What autograd makes of the definition: the gradients by values (T, D) and query (D,)."""
    with torch.enable_grad():
        wide = torch.promote_types(values.dtype, torch.float32)
        inputs = values.detach().to(wide).requires_grad_(), query.detach().to(wide).requires_grad_()
        again, _ = reference_forward(inputs[0], offsets, inputs[1], scale)
        by_values, by_query = torch.autograd.grad(again, inputs, slope.to(wide))
        return by_values, by_query


def packed_forward(
    values: torch.Tensor, offsets: torch.Tensor, query: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`reference_forward`, all sequences at once, without gathering or padding any row."""
    wide = torch.promote_types(values.dtype, torch.float32)
    scores = _scores(values, query, scale)  # (T,)
    sequence = _sequence(offsets)  # (T,)
    best = torch.segment_reduce(scores, "max", offsets=offsets)  # (B,), -inf where empty
    powers = (scores - best[sequence]).exp()
    total = torch.segment_reduce(powers, "sum", offsets=offsets, initial=0)  # (B,)
    shares = powers / total[sequence]
    places = torch.arange(len(values), device=values.device)
    pooled = F.embedding_bag(
        places, values.to(wide), offsets, mode="sum", per_sample_weights=shares, include_last_offset=True
    )
    return pooled, total.log() + best


def packed_backward(
    values: torch.Tensor,
    offsets: torch.Tensor,
    query: torch.Tensor,
    scale: float,
    pooled: torch.Tensor,
    lse: torch.Tensor,
    slope: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As :func:`reference_backward`, by the formulas above."""
    wide = torch.promote_types(values.dtype, torch.float32)
    rows, slope, sequence = values.to(wide), slope.to(wide), _sequence(offsets)
    shares = (_scores(values, query, scale) - lse[sequence]).exp()  # (T,)
    by_values = slope[sequence]  # (T, D)
    by_score = shares * ((by_values * rows).sum(dim=1) - (slope * pooled).sum(dim=1)[sequence])  # (T,)
    by_values *= shares[:, None]
    by_values.addr_(scale * by_score, query.to(wide))
    return by_values, scale * (by_score @ rows)


reference = reference_forward, reference_backward
packed = packed_forward, packed_backward


def _scores(values: torch.Tensor, query: torch.Tensor, scale: float) -> torch.Tensor:
    wide = torch.promote_types(values.dtype, torch.float32)
    return values.to(wide) @ (query.to(wide) * scale)


def _sequence(offsets: torch.Tensor) -> torch.Tensor:
    """Which sequence each row belongs to, (T,)."""
    return torch.arange(len(offsets) - 1, device=offsets.device).repeat_interleave(offsets.diff())
