"""Next-item prediction measured among all items, and among a sample to show what that hides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

Seen = tuple[torch.Tensor, torch.Tensor]
"""Items by user: ids (S,) int64 one user after another, and offsets (U + 1,) into them."""


@dataclass(frozen=True)
class Ranks:
    """The rank of each user's one right item, 1 the best; measures are means over users.

    With a single right item per user HR@k (hit rate) and recall@k are the same number, the ideal DCG is 1 and
    nDCG is the discount at the item's rank.

    Args:
        ranks: (U,) int64, from 1.

    Example:
        >>> ranks = Ranks(torch.tensor([1, 3, 20]))
        >>> round(ranks.hit_rate(10), 4), round(ranks.ndcg(10), 4), round(ranks.mrr(), 4)
        (0.6667, 0.5, 0.4611)
    """

    ranks: torch.Tensor  # (U,)

    def per_user(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """HR@k and nDCG@k of each user, float64 (U,) both, for paired tests between two models."""
        ranks = self.ranks.cpu().numpy()
        hits = ranks <= k
        return hits.astype(np.float64), np.where(hits, 1 / np.log2(ranks + 1.0), 0.0)

    def hit_rate(self, k: int) -> float:
        """The share of users whose item is among the first k."""
        return float(self.per_user(k)[0].mean())

    recall = hit_rate

    def ndcg(self, k: int) -> float:
        """Mean of 1 / log2(rank + 1) where the rank is at most k, else 0."""
        return float(self.per_user(k)[1].mean())

    def mrr(self) -> float:
        """Mean of 1 / rank, without a cut-off."""
        return float((1 / self.ranks.double()).mean())


def full_ranks(
    states: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    seen: Seen | None = None,
    bias: torch.Tensor | None = None,
    chunk: int = 1024,
) -> Ranks:
    """Rank the right item of each user among ALL items by inner product.

    Ties count against the model: every other item with the same score stands before the right one. So a model
    that scores everything alike gets the worst rank and not, as with a sort that keeps the order of ids, a
    rank that depends on how the items happen to be numbered.

    Whether seen items may be ranked is a choice that changes the numbers and must be reported. Where nobody
    buys twice, leaving them out (as S3-Rec's published numbers do) is right and raises them; where people do,
    it removes right answers from everyone else's list but never the target itself, which always stays.

    Args:
        states: (U, D), one per user.
        items: (N, D), the output vectors of the items.
        targets: (U,) int64, the right item of each user.
        seen: items to leave out of each user's ranking, see :data:`Seen`; None: rank all of them.
        bias: (N,), added to the scores.
        chunk: users at a time; memory is ``chunk * N`` scores.

    Returns:
        The rank of each user's item.

    Raises:
        ValueError: numbers of rows differ, an id is not in 0 … N - 1, or a score is NaN (which would compare
            as "not better" and give the model rank 1).

    Example:
        >>> items = torch.eye(3)
        >>> full_ranks(torch.tensor([[0.1, 0.5, 0.9]]), items, torch.tensor([0])).ranks
        tensor([3])
        >>> seen = torch.tensor([2]), torch.tensor([0, 1])
        >>> full_ranks(torch.tensor([[0.1, 0.5, 0.9]]), items, torch.tensor([0]), seen).ranks
        tensor([2])
    """
    parts = []
    for scores, right in _scored(states, items, targets, seen, bias, chunk):
        parts.append((scores >= right).sum(dim=1))  # the right item itself is one of them
    return Ranks(torch.cat(parts))


def sampled_ranks(
    states: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    negatives: int = 100,
    seen: Seen | None = None,
    bias: torch.Tensor | None = None,
    popularity: torch.Tensor | None = None,
    seed: int = 0,
    chunk: int = 1024,
) -> Ranks:
    """Rank the right item among a few sampled ones, as many papers did. Don't choose models by it.

    An item of full rank r beats each uniform negative with probability 1 - (r - 1) / (N - 1). Its sampled
    rank is one more than a hypergeometric number with mean negatives * (r - 1) / (N - 1): among 12 000 items
    the full ranks 1 to 60 mostly become rank 1 or 2, so differences at the top vanish and two models can
    change places. Source: Krichene and Rendle, "On sampled metrics for item recommendation",
    KDD 2020. Relation: :func:`full_ranks` is what to report.

    Args:
        states, items, targets, seen, bias, chunk: as in :func:`full_ranks`; seen items are never drawn.
        negatives: how many other items each user's right one is ranked among.
        popularity: (N,) counts to draw by; None: every item alike.
        seed: of the sample.

    Returns:
        Ranks from 1 to negatives + 1.

    Raises:
        ValueError: as in :func:`full_ranks`, or a user has fewer other items than ``negatives``.

    Example:
        >>> states, items = torch.ones(1, 1), torch.tensor([[3.0], [2.0], [1.0]])
        >>> sampled_ranks(states, items, torch.tensor([1]), negatives=2).ranks
        tensor([2])
    """
    generator = torch.Generator(device=states.device).manual_seed(seed)
    weights = torch.ones(len(items)) if popularity is None else popularity.float()
    weights = weights.to(states.device)
    parts, done = [], 0
    for scores, right in _scored(states, items, targets, seen, bias, chunk):
        own = targets[done : done + len(scores)].to(scores.device)
        done += len(scores)
        drawable = (scores != -torch.inf) * weights  # (C, N)
        drawable.scatter_(1, own[:, None], 0.0)
        fewest = int((drawable > 0).sum(dim=1).min())
        if fewest < negatives:
            raise ValueError(f"A user has only {fewest} other items, fewer than {negatives} negatives.")
        # The largest of log(weight) + Gumbel noise are a draw without replacement by weight.
        noise = torch.empty_like(drawable).exponential_(generator=generator)
        drawn = (drawable / noise).topk(negatives, dim=1).indices  # (C, negatives)
        parts.append(1 + (scores.gather(1, drawn) >= right).sum(dim=1))
    return Ranks(torch.cat(parts))


def _scored(
    states: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    seen: Seen | None,
    bias: torch.Tensor | None,
    chunk: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Chunks of scores (C, N), -inf where an item was seen, with the right item's score (C, 1)."""
    _check(states, items, targets, seen)
    for start in range(0, len(states), chunk):
        scores = states[start : start + chunk] @ items.T  # (C, N)
        if bias is not None:
            scores += bias
        if scores.isnan().any():
            raise ValueError(f"A score of user {start} or a later one is NaN; the model has diverged.")
        own = targets[start : start + chunk, None].to(scores.device)  # (C, 1)
        right = scores.gather(1, own)
        if seen is not None:
            ids, offsets = seen
            bounds = offsets[start : start + len(scores) + 1].long()  # (C + 1,)
            rows = torch.repeat_interleave(torch.arange(len(scores), device=bounds.device), bounds.diff())
            scores[rows.to(scores.device), ids[bounds[0] : bounds[-1]].to(scores.device)] = -torch.inf
            scores.scatter_(1, own, right)
        yield scores, right


def _check(states: torch.Tensor, items: torch.Tensor, targets: torch.Tensor, seen: Seen | None) -> None:
    if len(states) != len(targets) or not len(states):
        raise ValueError(f"There are {len(states)} states for {len(targets)} targets; give one each.")
    if seen is not None and len(seen[1]) != len(states) + 1:
        raise ValueError(f"Seen items of {len(seen[1]) - 1} users were given for {len(states)} users.")
    for name, ids in (("target", targets), ("seen item", seen[0] if seen else targets)):
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(items):
            raise ValueError(f"A {name} is not among the items 0 to {len(items) - 1}.")
