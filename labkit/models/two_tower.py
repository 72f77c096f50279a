"""Two towers: one turns users into vectors, one items; the inner product says how well they fit."""

from __future__ import annotations

import torch
from torch import nn

from labkit.kernels import embedding_bag
from labkit.models.factors import MatrixFactorisation
from labkit.models.seeding import weights_from
from labkit.text.packing import Packed


class TwoTower(nn.Module):
    """A user tower over features and history, an item tower over text (or attributes) and id.

    Matrix factorisation knows an item by its number alone, and a new item by nothing. Here an item is also
    what is known of it: its title's embedding, its attributes. In training the ids of a share of the items
    are left out at random, which makes the features carry as much as they can (DropoutNet), and an item that
    was not there in training is an item whose id is left out. Both towers end in one space, so that the item
    side is computed once, put in any index for inner products, and a request costs one user vector.

    Args:
        items: N, how many items there are, those to come included.
        features: (N, F) float32, what is known of the items: embeddings of their titles, one column per
            attribute, or both side by side; None: the ids alone, and no cold start.
        user_features: how many numbers describe a user; 0: the history alone.
        width: D, of the shared space.
        hidden: width of the layer before.
        id_dropout: share of ids left out in training, where there are features.
        seed: of the first weights.

    Raises:
        ValueError: features and items do not fit.

    Source: Covington, Adams and Sargin, "Deep neural networks for YouTube recommendations", RecSys 2016; Yi
    et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019;
    Volkovs, Yu and Poutanen, "DropoutNet", NeurIPS 2017.

    Example:
        >>> from labkit.text.packing import pack
        >>> model = TwoTower(items=3, features=torch.eye(3), width=8).eval()
        >>> users = model.users(pack([[0, 1], [2]]))  # by their histories
        >>> (users @ model.item_vectors().T).shape
        torch.Size([2, 3])
    """

    features: torch.Tensor  # (N, F)
    known: torch.Tensor  # (N,) bool, those whose id was trained

    def __init__(
        self,
        items: int,
        features: torch.Tensor | None = None,
        user_features: int = 0,
        width: int = 64,
        hidden: int = 128,
        id_dropout: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if items < 1 or (features is not None and (features.ndim != 2 or len(features) != items)):
            shape = None if features is None else tuple(features.shape)
            raise ValueError(f"Features are (N, F) with a row for each of the {items} items, not {shape}.")
        features = torch.zeros(items, 0) if features is None else features.float()
        self.id_dropout = id_dropout if features.shape[1] else 0.0
        self.user_features = user_features
        self.register_buffer("features", features)
        self.register_buffer("known", torch.zeros(items, dtype=torch.bool))
        with weights_from(seed):
            self.item_tower = _Tower(items, features.shape[1], hidden, width)
            # Its own tables: what an item says of those who looked at it is not what it is.
            self.user_tower = _Tower(items, features.shape[1] + user_features, hidden, width)
        self.to(features.device)

    @property
    def device(self) -> torch.device:
        return self.item_tower.out.weight.device

    def items(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors (B, D) of items (B,), with gradients."""
        return self.item_tower(self.item_tower.ids(self._said(ids)), self.features[ids])

    def users(self, histories: Packed, features: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors of B users, with gradients.

        Args:
            histories: packed item ids, the mean of which is taken; a user may have none.
            features: (B, F_user), where the model was made for some.

        Returns:
            (B, D).

        Raises:
            ValueError: features are missing, or not wanted; or an item does not exist.
        """
        given = 0 if features is None else features.shape[1]
        if given != self.user_features:
            raise ValueError(f"The model was made for {self.user_features} user features, not {given}.")
        ids, offsets = histories.ids, histories.offsets
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.known):
            raise ValueError(f"A history holds an item that is not among the {len(self.known)} of the model.")
        seen = embedding_bag(self.user_tower.ids.weight, self._said(ids), offsets, "mean")  # (B, hidden)
        known = embedding_bag(self.features, ids, offsets, "mean")  # (B, F)
        return self.user_tower(seen, known if features is None else torch.cat([known, features], dim=1))

    def new_items(self, features: torch.Tensor) -> torch.Tensor:
        """Vectors (B, D) of items that came after the model was made, from their features (B, F)."""
        nameless = torch.full((len(features),), len(self.known), device=self.device)
        return self.item_tower(self.item_tower.ids(nameless), features)

    @torch.no_grad()
    def item_vectors(self, batch: int = 65_536) -> torch.Tensor:
        """Vectors (N, D) of all items, without dropout: what goes into an index."""
        training = self.training
        self.eval()
        everything = torch.arange(len(self.known), device=self.device)
        vectors = torch.cat([self.items(part) for part in everything.split(batch)])
        self.train(training)
        return vectors

    @torch.no_grad()
    def factors(self, histories: Packed, features: torch.Tensor | None = None) -> MatrixFactorisation:
        """Users and items as vectors, with what :class:`labkit.models.MatrixFactorisation` can do."""
        training = self.training
        self.eval()
        users = self.users(histories, features)
        self.train(training)
        return MatrixFactorisation(users, self.item_vectors())

    def _said(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids, and N instead of those that mean nothing: never trained, or left out this time."""
        told = self.known[ids]
        if self.training and self.id_dropout:
            told = told & (torch.rand(ids.shape, device=ids.device) >= self.id_dropout)
        return torch.where(told, ids, len(self.known))


class _Tower(nn.Module):
    """An id's vector plus what the features say, a curve, and a linear layer."""

    def __init__(self, items: int, features: int, hidden: int, width: int) -> None:
        super().__init__()
        self.ids = nn.Embedding(items + 1, hidden)  # the last one stands for every item without an id
        self.ids.weight.data.mul_(0.1)
        self.described = nn.Linear(features, hidden) if features else None
        self.out = nn.Linear(hidden, width)

    def forward(self, named: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        x = named if self.described is None else named + self.described(features)  # (B, hidden)
        return self.out(nn.functional.gelu(x))
