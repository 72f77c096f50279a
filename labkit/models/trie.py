"""The tree of all IDs that exist, kept as sorted lists, so that a GPU can ask it about many nodes at once."""

from __future__ import annotations

import torch

from labkit.models.semantic_ids import SemanticIds


class Trie:
    """Which codes may follow which beginnings.

    The nodes of level l are the different beginnings of l + 1 codes, numbered in lexicographic order. A node
    is stored as parent * K_l + code, a whole number, and these are sorted by construction: whether a code may
    follow is one binary search. A catalogue of N items costs at most N L numbers, where tables of all
    transitions would take K times that.

    Args:
        ids: of the catalogue.

    Example:
        >>> trie = Trie(SemanticIds(torch.tensor([[0, 1], [2, 0], [2, 1]]), (3, 2)))
        >>> trie.children(0, torch.tensor([0]))  # from the root: codes 0 and 2 exist
        tensor([[ 0, -1,  1]])
        >>> trie.children(1, torch.tensor([0, 1]))  # after 0 comes 1; after 2 either
        tensor([[-1,  0],
                [ 1,  2]])
        >>> trie.items(torch.tensor([1, -1]))
        tensor([ 1, -1])
    """

    def __init__(self, ids: SemanticIds) -> None:
        self.sizes = ids.sizes
        self.levels: list[torch.Tensor] = []  # (M_l,) sorted
        parent = torch.zeros(len(ids), dtype=torch.int64, device=ids.codes.device)  # each item's node so far
        for codes, size in zip(ids.codes.unbind(1), ids.sizes, strict=True):
            nodes, parent = (parent * size + codes).unique(return_inverse=True)  # unique sorts
            self.levels.append(nodes)
        self._items = torch.empty_like(parent)  # the last level's nodes are the items in another order
        self._items[parent] = torch.arange(len(ids), device=parent.device)

    def children(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """The node of level ``level`` that each code leads to.

        Args:
            level: 0 for the first codes.
            nodes: (...,) int64 nodes of the level before; at level 0 all are 0, the root. -1 has no children.

        Returns:
            (..., K) int64, -1 where no item continues so.
        """
        size, keys = self.sizes[level], self.levels[level]
        wanted = nodes[..., None] * size + torch.arange(size, device=nodes.device)  # (..., K)
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(keys[place] == wanted, place, -1)

    def items(self, nodes: torch.Tensor) -> torch.Tensor:
        """The items (...,) that nodes of the last level are; -1 for -1."""
        return torch.where(nodes < 0, -1, self._items[nodes.clamp(min=0)])
