"""Sums of gathered rows, with a gradient that does not depend on the order of additions by threads.

Bag b is the ids between two offsets, and its sum is row b of A @ weight, A being the (B, V) matrix that
counts how often an id is in a bag. The gradient by weight is A^T @ g: for each id, the sum of the slopes of
the bags it is in. That is again a sum over bags, those of A^T: the positions of the same id, side by side
after a stable sort. So one kernel does both ways. Adding with atomics instead, as ``index_add_`` and
``torch.nn.EmbeddingBag`` do on a GPU, adds duplicates in the order in which threads arrive, and two runs
differ in the last bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from labkit.kernels.dispatch import choose


def embedding_bag(
    weight: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor, mode: str = "sum"
) -> torch.Tensor:
    """Sum or average the rows of a table over bags of ids.

    Relations: :func:`torch.nn.functional.embedding_bag` with ``include_last_offset=True``, but its gradient
    on a GPU is not deterministic, and its 16-bit sums are rounded as they go; here they are summed in
    float32.

    Args:
        weight: (V, D) the table, floating point.
        ids: (T,) int64 rows of the table, bag after bag; an id may occur many times.
        offsets: (B + 1,) int32 or int64, from 0 to T: bag b is ``ids[offsets[b]:offsets[b + 1]]``.
        mode: ``"sum"`` or ``"mean"``.

    Returns:
        (B, D), in the table's dtype; an empty bag is 0. Bags with a row that has NaN or an infinity get what
        the sum gives there, others are not touched by it. The gradient by weight is dense.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, an id is out of range, or offsets do not run from 0
            to T.

    Example:
        >>> embedding_bag(torch.eye(3), torch.tensor([0, 2, 2]), torch.tensor([0, 3, 3]))
        tensor([[1., 0., 2.],
                [0., 0., 0.]])
    """
    if weight.ndim != 2 or ids.ndim != 1 or not weight.is_floating_point() or ids.dtype != torch.int64:
        raise ValueError(
            "embedding_bag needs floating-point weight (V, D) and int64 ids (T,), "
            f"not {weight.dtype} {tuple(weight.shape)} and {ids.dtype} {tuple(ids.shape)}."
        )
    if mode not in ("sum", "mean"):
        raise ValueError(f"embedding_bag needs the mode sum or mean, not {mode!r}.")
    check_offsets("embedding_bag", offsets, ids)
    if len(ids):
        lowest, highest = torch.stack([ids.min(), ids.max()]).tolist()
        if lowest < 0 or highest >= len(weight):
            raise ValueError(
                f"embedding_bag got ids from {lowest} to {highest}, "
                f"but the table has the rows 0..{len(weight) - 1}."
            )
    # Contiguous, as the Triton kernel reads them by address: a column of a table of ids is not.
    return _EmbeddingBag.apply(weight, ids.contiguous(), offsets.long().contiguous(), mode)


class _EmbeddingBag(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor, mode: str
    ) -> torch.Tensor:
        ctx.save_for_backward(ids, offsets)
        ctx.size, ctx.mode = weight.shape, mode
        sums = sum_bags(weight, ids, offsets)  # (B, D)
        if mode == "mean":
            sums = sums / offsets.diff().clamp(min=1)[:, None]
        return sums.to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        ids, offsets = ctx.saved_tensors
        dtype, sizes = slope.dtype, offsets.diff()
        if ctx.mode == "mean":
            slope = slope.to(torch.promote_types(dtype, torch.float32)) / sizes.clamp(min=1)[:, None]
        bag = torch.arange(len(sizes), device=ids.device).repeat_interleave(sizes)  # (T,) of each id
        rows, sums = sum_by_id(slope, bag, ids)
        gradient = slope.new_zeros(ctx.size, dtype=dtype)
        gradient[rows] = sums.to(dtype)
        return gradient, None, None, None


def sum_by_id(
    rows: torch.Tensor, places: torch.Tensor | None, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum ``rows[places[t]]`` over all t with the same ``ids[t]``; deterministic, in at least float32.

    Args:
        rows: (R, D) floating-point rows.
        places: (T,) int64 which row stands at each position; None for row t at position t.
        ids: (T,) int64 what to sum by.

    Returns:
        The distinct ids (U,), ascending, and the sum for each, (U, D).
    """
    ordered, order = ids.sort(stable=True)
    distinct, counts = ordered.unique_consecutive(return_counts=True)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return distinct, sum_bags(rows, order if places is None else places[order], offsets)


def sum_bags(weight: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """The sums (B, D) of the rows of each bag, in at least float32, by the implementation of this device."""
    if len(offsets) == 1:
        return weight.new_zeros((0, weight.shape[1]), dtype=torch.promote_types(weight.dtype, torch.float32))
    return choose("embedding_bag", weight.device, weight.dtype, weight.shape[1]).run(
        weight.detach(), ids, offsets
    )


def reference(weight: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """The definition: one bag after the other."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    bags = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    return torch.stack([weight[ids[start:stop]].to(wide).sum(dim=0) for start, stop in bags])


def chunked(weight: torch.Tensor, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """PyTorch's own sum: it doesn't store the gathered rows, and one thread adds up a bag, in order."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    if weight.dtype == wide:
        return F.embedding_bag(ids, weight, offsets, mode="sum", include_last_offset=True)
    # Its 16-bit sums are rounded at every step, so what is used of the table is widened first.
    used, place = ids.unique(return_inverse=True)
    return F.embedding_bag(place, weight[used].to(wide), offsets, mode="sum", include_last_offset=True)


def check_offsets(name: str, offsets: torch.Tensor, values: torch.Tensor) -> None:
    """Refuse offsets that do not cut ``values`` (T, ...) into consecutive pieces."""
    if offsets.ndim != 1 or offsets.dtype not in (torch.int32, torch.int64) or len(offsets) < 2:
        raise ValueError(
            f"{name} needs offsets (B + 1,) in int32 or int64 with at least one bag or sequence, "
            f"not {offsets.dtype} {tuple(offsets.shape)}."
        )
    if offsets.device != values.device:
        raise ValueError(f"{name} needs all tensors on one device, not {values.device} and {offsets.device}.")
    first, last, shortest = torch.stack([offsets[0], offsets[-1], offsets.diff().min()]).tolist()
    if first != 0 or last != len(values) or shortest < 0:
        raise ValueError(
            f"{name} needs offsets that rise from 0 to {len(values)}, the number of rows; these run from "
            f"{first} to {last}" + (" and fall in between." if shortest < 0 else ".")
        )
