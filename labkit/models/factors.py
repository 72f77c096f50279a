"""Matrix factorisation: a score is the inner product of a user's and an item's vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_matrix

from labkit.rank import top_k


@dataclass(frozen=True)
class MatrixFactorisation:
    """User and item vectors, as :func:`labkit.train.fit_als` and :func:`labkit.train.fit_bpr` learn them.

    An item bias needs no field of its own: it is one more column of ``items`` against a column of ones in
    ``users``, so that every index that knows inner products can serve the model.

    Attributes:
        users: (U, D) floating point.
        items: (I, D), of the same dtype, on the same device.

    Raises:
        ValueError: the two do not fit each other.

    Source: Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems", IEEE
    Computer 42(8), 2009.

    Example:
        >>> tastes, goods = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 9.0], [2.0, 0.0], [1.0, 1.0]])
        >>> model = MatrixFactorisation(tastes, goods)
        >>> model.scores([0])
        tensor([[3., 2., 1.]])
        >>> seen = csr_matrix(([1.0], ([0], [0])), shape=(1, 3))
        >>> model.recommend([0], k=2, seen=seen)[1]
        tensor([[1, 2]])
    """

    users: torch.Tensor
    items: torch.Tensor

    def __post_init__(self) -> None:
        shapes = tuple(self.users.shape), tuple(self.items.shape)
        if self.users.ndim != 2 or self.items.ndim != 2 or shapes[0][1] != shapes[1][1]:
            raise ValueError(f"Factors are users (U, D) and items (I, D), not {shapes[0]} and {shapes[1]}.")
        if self.users.dtype != self.items.dtype or self.users.device != self.items.device:
            raise ValueError("Factors of users and items need one dtype and one device.")

    def scores(self, users: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Score every item for some users.

        Args:
            users: B row numbers of ``self.users``.

        Returns:
            (B, I): large where the item suits. ALS aims at 1 for a bought item and 0 for any other; of BPR
            only the order means something.
        """
        return self.users[self._rows(users)] @ self.items.T

    def recommend(
        self,
        users: Sequence[int] | np.ndarray | torch.Tensor,
        k: int,
        seen: csr_matrix | None = None,
        batch: int = 1024,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best items for some users, exactly (``labkit.rank.top_k``); equal scores: lower id first.

        Args:
            users: B row numbers of ``self.users``.
            k: how many items.
            seen: (U, I); items that hold an entry in a user's row are never recommended to that user.
            batch: users at once.

        Returns:
            Scores and item ids (int64), each (B, min(k, I)), best first. A user who has seen all but fewer
            than k items gets id -1 and score -inf in the places left over.

        Raises:
            ValueError: a user is out of range, k is below 1, or ``seen`` has another shape.
        """
        rows = self._rows(users)
        if seen is None:
            parts = [top_k(self.users[part], self.items, k) for part in rows.split(batch)]
            return _together(parts, rows, k, self.items)
        if seen.shape != (len(self.users), len(self.items)):
            shape = len(self.users), len(self.items)
            raise ValueError(f"seen has the shape {seen.shape}; the factors are for {shape}.")
        # The best k + s of all items hold the best k of those not among the s seen ones. Users with long
        # histories go together, so that only their batches pay for the length.
        counts = np.diff(seen.indptr)[rows.cpu().numpy()]
        order = torch.as_tensor(np.argsort(counts, kind="stable"))
        parts = []
        for part in order.split(batch):
            some = rows[part.to(rows.device)]
            scores, ids = top_k(self.users[some], self.items, k + int(counts[part].max(initial=0)))
            parts.append(_without_seen(scores, ids, seen[some.cpu().numpy()], k))
        scores, ids = _together(parts, rows, k, self.items)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return scores[back.to(scores.device)], ids[back.to(ids.device)]

    def _rows(self, users: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        rows = torch.as_tensor(users, dtype=torch.int64, device=self.users.device)
        if rows.ndim != 1 or (len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.users)):
            raise ValueError(f"Users are row numbers from 0 to {len(self.users) - 1}, in one dimension.")
        return rows


def _without_seen(
    scores: torch.Tensor, ids: torch.Tensor, seen: csr_matrix, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Drop from each row of (B, K) rankings what that row of ``seen`` (B, I) holds; the first k left."""
    items = seen.shape[1]
    row = np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr))
    known = torch.as_tensor(row * items + seen.indices, device=ids.device)
    drop = torch.isin(torch.arange(len(ids), device=ids.device)[:, None] * items + ids, known)  # (B, K)
    kept = drop.to(torch.int8).argsort(dim=1, stable=True)[:, : min(k, items)]
    gone = drop.gather(1, kept)
    return scores.gather(1, kept).masked_fill(gone, -torch.inf), ids.gather(1, kept).masked_fill(gone, -1)


def _together(
    parts: list[tuple[torch.Tensor, torch.Tensor]], rows: torch.Tensor, k: int, items: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if not len(rows):
        width = min(k, len(items))
        return items.new_empty((0, width)), torch.empty((0, width), dtype=torch.int64, device=items.device)
    return torch.cat([scores for scores, _ in parts]), torch.cat([ids for _, ids in parts])
