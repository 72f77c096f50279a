"""Several views of one product (text, picture, price, clicks) as one vector, also where some are missing.

Each number of each view is normalised first, over the rows that have it: a sentence vector of length 1 beside
a price in cents would otherwise be noise. A missing view is replaced by a learned placeholder; what stands in
its place in the batch is never looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

Views = Mapping[str, torch.Tensor]  # by name: (B, D_name)
Present = Mapping[str, torch.Tensor]  # by name: (B,) bool; a name that is not in it is there in every row


class _Views(nn.Module):
    """What all fusions share: normalised views, placeholders for missing ones."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        if not widths:
            raise ValueError("A fusion needs at least one view.")
        self.widths = dict(widths)
        # Over rows, not within one: layer normalisation would make 0 of a view of one number, as of a price.
        # Without scale and shift of their own, which the layers behind have.
        self.norms = nn.ModuleDict(
            {name: nn.BatchNorm1d(width, affine=False) for name, width in widths.items()}
        )
        self.placeholders = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(width)) for name, width in widths.items()}
        )

    def prepared(self, views: Views, present: Present | None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The normalised views by name, (B, D_name), and which of them are there, (B, views) bool."""
        present = present or {}
        unknown = sorted(({*views, *present}) - set(self.widths))
        missing = sorted(set(self.widths) - set(views))
        if unknown or missing:
            what = f"{unknown[0]!r} is unknown" if unknown else f"{missing[0]!r} is not given"
            raise ValueError(
                f"This fusion reads the views {', '.join(self.widths)}; {what}. Where a view is missing in "
                "every row, give zeros and mark them as not present."
            )
        size = len(next(iter(views.values())))
        ready, there = {}, []
        for name, width in self.widths.items():
            view, here = views[name], present.get(name)
            if view.shape != (size, width) or (here is not None and here.shape != (size,)):
                raise ValueError(
                    f"The view {name!r} must be ({size}, {width}) and its presence ({size},), not "
                    f"{tuple(view.shape)} and {None if here is None else tuple(here.shape)}."
                )
            here = torch.ones(size, dtype=torch.bool, device=view.device) if here is None else here.bool()
            normed = self._normed(name, view[here])  # (rows that have it, D_name)
            filled = self.placeholders[name].to(normed.dtype).expand(size, width)
            ready[name] = filled.index_put((here,), normed)
            there.append(here)
        together = torch.stack(there, dim=1)  # (B, views)
        if not bool(together.any(dim=1).all()):
            raise ValueError("A row has none of its views; leave such rows out.")
        return ready, together

    def _normed(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        norm = self.norms[name]
        assert isinstance(norm, nn.BatchNorm1d), "ModuleDict does not say what it holds"
        if len(rows) > 1 or not self.training:
            return norm(rows)
        # One row has no deviation of its own: it is seen as in eval mode.
        return nn.functional.batch_norm(rows, norm.running_mean, norm.running_var)


class EarlyFusion(_Views):
    """All views side by side into one network, which can learn how they interact.

    Relations: :class:`LateFusion` combines only decisions, :class:`GatedFusion` decides for each row whom to
    believe. Source of the terms: Baltrušaitis, Ahuja and Morency, "Multimodal machine learning: a survey and
    taxonomy", TPAMI 2019.

    Args:
        widths: by view, its numbers per row.
        width: D, of the result.
        dropout: within the network.

    Example:
        >>> fuse = EarlyFusion({"text": 4, "image": 3}, width=8)
        >>> fuse({"text": torch.ones(2, 4), "image": torch.ones(2, 3)}).shape
        torch.Size([2, 8])
    """

    def __init__(self, widths: Mapping[str, int], width: int, dropout: float = 0.1) -> None:
        super().__init__(widths)
        self.width = width
        # Placeholders say what is missing, but one could equal a real view; the flags cannot be mistaken.
        self.network = nn.Sequential(
            nn.Linear(sum(widths.values()) + len(widths), 2 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
        )

    def forward(self, views: Views, present: Present | None = None) -> torch.Tensor:
        """(B, D) from the views.

        Raises:
            ValueError: a view is unknown, not given or of the wrong shape, or a row has none.
        """
        ready, there = self.prepared(views, present)
        return self.network(torch.cat([*ready.values(), there.to(next(iter(ready.values())).dtype)], dim=1))


class LateFusion(_Views):
    """Each view decides on its own; the decision is the mean of those that are there.

    Args:
        widths: by view, its numbers per row.
        outputs: of each decision, such as the number of classes.

    Example:
        >>> fuse = LateFusion({"text": 4, "image": 3}, outputs=2)
        >>> views = {"text": torch.ones(1, 4), "image": torch.ones(1, 3)}
        >>> alone = fuse(views, {"image": torch.tensor([False])})
        >>> torch.equal(alone, fuse.decisions(views)["text"])
        True
    """

    def __init__(self, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__(widths)
        self.heads = nn.ModuleDict({name: nn.Linear(width, outputs) for name, width in widths.items()})

    def decisions(self, views: Views, present: Present | None = None) -> dict[str, torch.Tensor]:
        """Each view's own logits, (B, outputs) by name; of a missing one, what its placeholder decides."""
        ready, _ = self.prepared(views, present)
        return {name: self.heads[name](view) for name, view in ready.items()}

    def forward(self, views: Views, present: Present | None = None) -> torch.Tensor:
        """(B, outputs), the mean logits of the views that are there. Raises as :class:`EarlyFusion`."""
        ready, there = self.prepared(views, present)
        each = torch.stack([self.heads[name](view) for name, view in ready.items()], dim=1)  # (B, views, out)
        return each.masked_fill(~there[..., None], 0).sum(dim=1) / there.sum(dim=1, keepdim=True)


class GatedFusion(_Views):
    """A weighted sum of the views, where a gate that has seen all of them decides the weights for each row.

    With x_m the normalised views and the gate's scores c = G [x_1, x_2, …], missing ones at -inf:

        g = softmax(c)                  (a missing view gets exactly 0)
        h = sum over m of g_m * tanh(W_m x_m + b_m)

    The weights can be read: they say which view each product was judged by. Relations: Arevalo et al.'s gate
    for more than two views is a sigmoid for each; the softmax makes the weights shares. Source: Arevalo et
    al., "Gated multimodal units for information fusion", ICLR workshop 2017.

    Args:
        widths: by view, its numbers per row.
        width: D, of the result.

    Example:
        >>> fuse = GatedFusion({"text": 4, "image": 3}, width=8)
        >>> views = {"text": torch.ones(1, 4), "image": torch.full((1, 3), torch.nan)}
        >>> fuse.weights(views, {"image": torch.tensor([False])})
        tensor([[1., 0.]], grad_fn=<SoftmaxBackward0>)
    """

    def __init__(self, widths: Mapping[str, int], width: int) -> None:
        super().__init__(widths)
        self.width = width
        self.projections = nn.ModuleDict({name: nn.Linear(size, width) for name, size in widths.items()})
        self.gate = nn.Linear(sum(widths.values()), len(widths))

    def weights(self, views: Views, present: Present | None = None) -> torch.Tensor:
        """(B, views), how much each view counts, in the order of ``widths``; rows sum to 1."""
        return self._gate(*self.prepared(views, present))

    def forward(self, views: Views, present: Present | None = None) -> torch.Tensor:
        """(B, D) from the views. Raises as :class:`EarlyFusion`."""
        ready, there = self.prepared(views, present)
        hidden = torch.stack(
            [torch.tanh(self.projections[name](view)) for name, view in ready.items()], dim=1
        )
        return (self._gate(ready, there)[..., None] * hidden).sum(dim=1)  # (B, views, D) to (B, D)

    def _gate(self, ready: Mapping[str, torch.Tensor], there: torch.Tensor) -> torch.Tensor:
        return (
            self.gate(torch.cat(list(ready.values()), dim=1)).masked_fill(~there, -torch.inf).softmax(dim=1)
        )
