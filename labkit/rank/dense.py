"""Exact search by inner product."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from labkit import kernels

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def top_k(queries: Array, items: Array, k: int, chunk: int | None = None) -> tuple[Array, Array]:
    """Find the k items with the largest inner product for each query, exactly.

    :func:`labkit.kernels.top_k` for NumPy arrays as well as tensors; memory does not grow with Q * N. For
    cosine similarity, normalise both sides first (``BiEncoder.encode`` does).

    Args:
        queries: (Q, D) floating-point vectors, a NumPy array or a tensor on any device.
        items: (N, D) vectors, of the same kind.
        k: how many items to return; min(k, N) come back.
        chunk: how many items to score at once; None to let the implementation choose.

    Returns:
        Scores (Q, k), highest first, in the dtype of the product, and item ids (Q, k) int64; arrays for
        arrays and tensors for tensors. Equal scores: lower id first; NaN last. Equal means equal as computed:
        products that are equal on paper may differ in their last bit, and a copy of an item need not tie with
        it.

    Raises:
        ValueError: shapes do not fit, k is below 1, or queries and items differ in kind, dtype or device.

    Example:
        >>> scores, ids = top_k(np.array([[1.0, 0.0]]), np.array([[0.5, 1.0], [2.0, 0.0], [2.0, 5.0]]), k=2)
        >>> ids
        array([[1, 2]])
    """
    if _kind(queries) != _kind(items):
        raise ValueError(
            f"top_k needs queries and items of one kind, not {_kind(queries)} and {_kind(items)}."
        )
    if isinstance(queries, np.ndarray):
        scores, ids = kernels.top_k(torch.as_tensor(queries), torch.as_tensor(items), k, chunk)
        return scores.numpy(), ids.numpy()
    return kernels.top_k(queries, items, k, chunk)


def _kind(vectors: np.ndarray | torch.Tensor) -> str:
    place = f" {vectors.device}" if isinstance(vectors, torch.Tensor) else ""
    return f"{type(vectors).__name__} {vectors.dtype}{place}"
