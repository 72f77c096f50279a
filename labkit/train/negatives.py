"""Drawing items that a user has not seen, exactly from a stated distribution and without a rejected draw."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix


class Unseen:
    """For any user, an item drawn in proportion to its weight among those that the user has not seen.

    The usual way draws from all items and draws again on a hit, which takes long for users who have seen
    most of what is popular, and libraries that give up after a few tries train on seen items as negatives.
    Here one number is enough. Lay the unseen items of user u on a line, each as long as its weight, and draw
    a whole number t on it. Before the seen item s_j lie C(s_j) - S_j of it, where C counts the weight of all
    items before s_j and S_j that of the seen ones. With j the number of seen items for which that is at most
    t, the place t + S_j on the line of *all* items falls into the item drawn. Two binary searches, in whole
    numbers, so nothing is lost to rounding.

    Args:
        interactions: (U, I), an entry where the user has seen the item.
        weights: (I,) whole numbers of at least 0; all 1 when left out. An item of weight 0 is never drawn.
        device: where to draw.

    Raises:
        ValueError: the weights do not fit, or a user has seen every item that could be drawn.

    Example:
        >>> unseen = Unseen(csr_matrix([[1, 0, 1, 0], [1, 1, 0, 1]]))
        >>> unseen.draw(torch.tensor([1, 0, 1]), torch.Generator().manual_seed(0)).tolist()
        [2, 3, 2]
    """

    def __init__(
        self,
        interactions: csr_matrix,
        weights: np.ndarray | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        users, items = interactions.shape
        weights = np.ones(items, dtype=np.int64) if weights is None else np.asarray(weights)
        if weights.shape != (items,) or not np.issubdtype(weights.dtype, np.integer) or (weights < 0).any():
            raise ValueError(f"Weights are one whole number of at least 0 for each of the {items} items.")
        seen = csr_matrix(interactions)
        if not seen.has_canonical_format:
            seen = seen.copy()
            seen.sum_duplicates()
        row = np.repeat(np.arange(users), np.diff(seen.indptr))  # (nnz,)
        ends = np.cumsum(weights, dtype=np.int64)  # (I,) where each item ends on the line of all items
        taken = np.concatenate([[0], np.cumsum(weights[seen.indices], dtype=np.int64)])  # (nnz + 1,)
        left = ends[-1] - np.diff(taken[seen.indptr])  # (U,) the length of each user's line
        if (left <= 0).any():
            full = int(np.argmax(left <= 0))
            raise ValueError(f"User {full} has seen every item that could be drawn; leave such users out.")
        before = taken[:-1] - taken[seen.indptr[row]]  # (nnz,) S_j
        starts = ends[seen.indices] - weights[seen.indices] - before  # (nnz,) C(s_j) - S_j
        self._span = int(ends[-1]) + 1  # rows one after another make a single sorted list
        self._starts = torch.as_tensor(row * self._span + starts, device=device)
        self._taken = torch.as_tensor(taken, device=device)
        self._first = torch.as_tensor(seen.indptr.astype(np.int64), device=device)  # (U + 1,)
        self._left = torch.as_tensor(left, device=device)
        self._ends = torch.as_tensor(ends, device=device)

    def draw(self, users: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """One unseen item for each of some users.

        Args:
            users: (B,) int64 row numbers; one may stand there often.
            generator: gives the random numbers, on the CPU, so that every device draws the same.

        Returns:
            (B,) int64 item ids.
        """
        chance = torch.rand(len(users), dtype=torch.float64, generator=generator).to(users.device)
        left = self._left[users]
        place = torch.minimum((chance * left).long(), left - 1)  # (B,) t
        first = self._first[users]
        last = torch.searchsorted(self._starts, users * self._span + place, right=True)  # (B,)
        skipped = self._taken[last] - self._taken[first]  # (B,) S_j
        return torch.searchsorted(self._ends, place + skipped, right=True)
