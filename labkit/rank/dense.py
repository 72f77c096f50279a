"""Exact search by inner product, a block of items at a time."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def top_k(queries: Array, items: Array, k: int, chunk: int = 65_536) -> tuple[Array, Array]:
    """Find the k items with the largest inner product for each query, exactly.

    The scores of a block of items are reduced to their k best before the next block is computed, so memory
    grows with Q * chunk and not with Q * N. For cosine similarity, normalise both sides first
    (``BiEncoder.encode`` does).

    Args:
        queries: (Q, D) floating-point vectors, a NumPy array or a tensor on any device.
        items: (N, D) vectors, of the same kind.
        k: how many items to return; min(k, N) come back.
        chunk: how many items to score at once.

    Returns:
        Scores (Q, k), highest first, in the dtype of the product, and item ids (Q, k) int64; arrays for
        arrays and tensors for tensors. Equal scores: lower id first. Equal means equal as computed: products
        that are equal on paper may differ in their last bit, and a copy of an item need not tie with it.

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
        scores, ids = top_k(torch.as_tensor(queries), torch.as_tensor(items), k, chunk)
        return scores.numpy(), ids.numpy()
    if queries.ndim != 2 or items.ndim != 2 or queries.shape[1] != items.shape[1]:
        raise ValueError(
            "top_k needs queries (Q, D) and items (N, D), "
            f"not {tuple(queries.shape)} and {tuple(items.shape)}."
        )
    if k < 1 or chunk < 1:
        raise ValueError(f"top_k needs k and chunk of at least 1, not {k} and {chunk}.")
    best = queries.new_empty((len(queries), 0))
    best_ids = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
    for start in range(0, len(items), chunk):
        scores, ids = _best(queries @ items[start : start + chunk].T, k)  # (Q, <= k)
        # Earlier blocks stand first, so position in the row still follows the item id among equal scores.
        best, order = _best(torch.cat([best, scores], dim=1), k)
        best_ids = torch.cat([best_ids, ids + start], dim=1).gather(1, order)
    return best, best_ids


def _kind(vectors: np.ndarray | torch.Tensor) -> str:
    place = f" {vectors.device}" if isinstance(vectors, torch.Tensor) else ""
    return f"{type(vectors).__name__} {vectors.dtype}{place}"


def _best(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row of (Q, N) and their columns; equal values: lower column first."""
    k = min(k, scores.shape[1])
    values, columns = scores.topk(k, dim=1)  # which of several equal values torch takes is left open
    if k == 0:
        return values, columns
    last = values[:, -1:]
    for row in torch.nonzero((scores >= last).sum(dim=1) > k).flatten().tolist():
        above = torch.nonzero(scores[row] > last[row]).flatten()
        level = torch.nonzero(scores[row] == last[row]).flatten()[: k - len(above)]
        columns[row] = torch.cat([above, level])
    columns = columns.sort(dim=1).values
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)
