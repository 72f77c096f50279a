"""Training and measuring next-item models on users' histories."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F

from labkit.evaluate.full_ranking import Ranks, full_ranks
from labkit.kernels import linear_cross_entropy
from labkit.models.sequential import SequenceModel
from labkit.text.packing import Packed
from labkit.train.batches import Batches
from labkit.train.job import Job
from labkit.train.loop import History, TrainConfig
from labkit.train.losses import bce, sampled_softmax

Loss = Literal["full", "sampled", "bce"]


@dataclass(frozen=True)
class Histories:
    """What each of U users did, oldest first, in one row of S actions.

    Args:
        ids: (S,) int64 items.
        offsets: (U + 1,) int64, user u's are ``ids[offsets[u]:offsets[u + 1]]``.
        times: (S,) int64 seconds from any zero, or None.

    Example:
        >>> histories = Histories.from_events(np.array([7, 7, 9, 7]), np.array([1, 2, 5, 3]))
        >>> histories.ids.tolist(), histories.offsets.tolist()
        ([1, 2, 3, 5], [0, 3, 4])
        >>> histories.without_last(1).ids.tolist(), histories.without_last(1).offsets.tolist()
        ([1, 2], [0, 2, 2])
    """

    ids: torch.Tensor  # (S,)
    offsets: torch.Tensor  # (U + 1,)
    times: torch.Tensor | None = None  # (S,)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_events(cls, users: np.ndarray, items: np.ndarray, times: np.ndarray | None = None) -> Histories:
        """From one row per action; users may be mixed.

        Args:
            users: (S,) integers of any size; users come out in ascending order.
            items: (S,) integers from 0.
            times: (S,) integer seconds, which order each user's actions, those of one second as they come;
                None: each user's rows are in order already.

        Raises:
            ValueError: the arrays differ in length or are empty.
        """
        if not len(users) == len(items) > 0 or (times is not None and len(times) != len(users)):
            raise ValueError("Histories need one user, one item and, where given, one time per action.")
        # Stable. Were the last row not the latest action, a test on it would train on what came after.
        order = np.argsort(users, kind="stable") if times is None else np.lexsort((times, users))
        lengths = np.unique(users, return_counts=True)[1]
        offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
        seconds = None if times is None else torch.from_numpy(times[order].astype(np.int64))
        return cls(torch.from_numpy(items[order].astype(np.int64)), offsets, seconds)

    def last(self) -> torch.Tensor:
        """(U,) the last item of each user.

        Raises:
            ValueError: a user did nothing.
        """
        if bool((self.offsets.diff() < 1).any()):
            raise ValueError("A user's history is empty, so it has no last item; leave such users out.")
        return self.ids[self.offsets[1:] - 1]

    def without_last(self, count: int) -> Histories:
        """All users without their last ``count`` actions."""
        lengths = self.offsets.diff()
        kept = torch.arange(len(self.ids)) < (self.offsets[1:] - count).repeat_interleave(lengths)  # (S,)
        offsets = F.pad((lengths - count).clamp(min=0).cumsum(0), (1, 0))
        return Histories(self.ids[kept], offsets, None if self.times is None else self.times[kept])

    def packed(self, users: torch.Tensor, longest: int) -> tuple[Packed, torch.Tensor | None]:
        """The latest ``longest`` actions of some users as a packed batch, shortest history first.

        Args:
            users: (B,) int64 numbers of users, each with at least one action.
            longest: how many actions to take at most.

        Returns:
            The batch, whose sequence b is that of ``users`` sorted by length, and its times (T,) float32
            seconds since each history's first, or None.
        """
        lengths = (self.offsets[users + 1] - self.offsets[users]).clamp(max=longest)  # (B,)
        lengths, order = lengths.sort(stable=True)
        ends = lengths.cumsum(0)
        starts = self.offsets[users[order] + 1] - ends  # (B,) what to add to a place in the batch
        places = torch.arange(int(ends[-1])) + starts.repeat_interleave(lengths)  # (T,)
        batch = Packed(self.ids[places], F.pad(ends, (1, 0)).int(), int(lengths[-1]))
        if self.times is None:
            return batch, None
        seconds = self.times[places]
        # float32 is off by up to a minute since 1970, and by 2 s two years after a history's beginning.
        return batch, (seconds - seconds[batch.offsets[:-1].long()][batch.rows]).float()


def train_sequences(
    model: SequenceModel,
    histories: Histories,
    config: TrainConfig | None = None,
    loss: Loss = "full",
    negatives: int = 1,
    valid: Callable[[SequenceModel], float] | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Teach a model what comes next, on packed histories.

    Losses, with x the state of a place, w_j the vector of item j, y the right item:

    - ``"full"``: softmax over all items, by :func:`labkit.kernels.linear_cross_entropy`. The best where it
      can be afforded, which with that kernel is up to a million items.
    - ``"sampled"``: softmax over the right item and ``negatives`` drawn by popularity, which are shared by
      all places of a batch, with the logQ correction of :func:`labkit.train.losses.sampled_softmax`; it
      approaches ``"full"`` as ``negatives`` grows.
    - ``"bce"``: SASRec's own loss, each place against ``negatives`` evenly drawn items of its own (a draw of
      the right item does not count): overconfident scores and a worse ranking; here to be compared with.

    Args:
        model: trained in place.
        histories: to learn from; users with fewer than two actions are left out, of long ones the latest
            ``model.longest + 1`` actions are taken.
        config: how to train; ``batch_size`` counts users.
        loss: see above.
        negatives: how many; without effect on ``"full"``.
        valid: measures the model, higher is better, such as nDCG from :func:`next_item_ranks`.
        checkpoint: a file to keep the run in.
        progress: show a bar.

    Returns:
        Losses and validations.

    Raises:
        ValueError: nobody did two things, an item is not the model's, or the checkpoint is another run's.
        FloatingPointError: the loss or a validation is not a finite number.

    Example:
        >>> from labkit.models.sequential import GRU4Rec
        >>> histories = Histories.from_events(np.repeat([0, 1], 3), np.array([0, 1, 2, 0, 1, 2]))
        >>> config = TrainConfig(epochs=50, batch_size=2, learning_rate=0.01)
        >>> model = GRU4Rec(items=3, width=8, hidden=8, dropout=0.0)
        >>> history = train_sequences(model, histories, config, progress=False)
        >>> next_item_ranks(model, histories.without_last(1), histories.last()).hit_rate(1)
        1.0
    """
    config = config or TrainConfig(batch_size=256, learning_rate=1e-3)
    job = sequence_job(model, histories, config, loss, negatives, valid)
    return job.run(config, checkpoint, progress)


def sequence_job(
    model: SequenceModel,
    histories: Histories,
    config: TrainConfig,
    loss: Loss = "full",
    negatives: int = 1,
    valid: Callable[[SequenceModel], float] | None = None,
) -> Job:
    """What :func:`train_sequences` trains; the arguments are the same."""
    if loss not in ("full", "sampled", "bce"):
        raise ValueError(f"The loss is 'full', 'sampled' or 'bce', not {loss!r}.")
    if loss != "full" and negatives < 1:
        raise ValueError(f"The loss {loss!r} needs at least one negative.")
    if len(histories.ids) and not 0 <= int(histories.ids.min()) <= int(histories.ids.max()) < model.items:
        raise ValueError(f"The histories hold an item that is not among the model's 0 to {model.items - 1}.")
    device = model.item_vectors().device
    users = (histories.offsets.diff() >= 2).nonzero().squeeze(1)  # those with something to predict
    if not len(users):
        raise ValueError("No user did two things, so there is no next item to learn.")
    batches = Batches(len(users), config)
    counts = torch.bincount(histories.ids, minlength=model.items).float() + 1  # an unseen item has a chance
    chances = (counts / counts.sum()).to(device)  # (N,)

    def step_loss(micro: int) -> torch.Tensor:
        chosen = users[torch.tensor(batches.batch(micro))]
        batch, times = histories.packed(chosen, model.longest + 1)
        example = model.example(batch.to(device), None if times is None else times.to(device))
        # At the widths of these models a CPU loses more on converting to bf16 than it gains by it; only the
        # softmax over all items gains. A GPU's precision stays the one that was asked for.
        with torch.autocast("cpu", enabled=False):
            states = model(example.inputs, example.times)  # (T, D)
        if example.places is not None:
            states = states[example.places]  # (P, D)
        vectors, targets = model.item_vectors(), example.targets
        if loss == "full":
            return linear_cross_entropy(states, vectors, targets)
        if loss == "sampled":
            drawn = torch.multinomial(chances, negatives, replacement=True)
            return sampled_softmax(states, vectors, targets, drawn, chances[drawn].log())
        drawn = torch.randint(len(vectors), (len(targets), negatives), device=device)
        return binary_loss(states, vectors, targets, drawn)

    return Job(
        model,
        step_loss,
        batches.steps,
        batches.steps_per_epoch,
        valid=None if valid is None else lambda: valid(model),
        identity=f"{loss} {negatives} {_hash(histories)}",
        counts=(config.batch_size, "users"),
    )


def binary_loss(
    states: torch.Tensor, vectors: torch.Tensor, targets: torch.Tensor, drawn: torch.Tensor
) -> torch.Tensor:
    """Binary cross-entropy of the right item against drawn ones, SASRec's loss.

        L = mean over places of  -log σ(x . w_y) - mean over drawn j != y of log σ(-x . w_j)

    The paper draws from what the user has not had; here only y itself is left out.

    Args:
        states: (P, D).
        vectors: (N, D).
        targets: (P,) int64.
        drawn: (P, M) int64.

    Example:
        >>> binary_loss(torch.zeros(1, 2), torch.ones(3, 2), torch.tensor([0]), torch.tensor([[1]]))
        tensor(1.3863)
    """
    # embedding() gathers rows and, unlike indexing, sums the gradient of repeated ones fast.
    right = (states * F.embedding(targets, vectors)).sum(1)  # (P,)
    wrong = (states[:, None] * F.embedding(drawn, vectors)).sum(2)  # (P, M)
    counted = drawn != targets[:, None]
    ones, zeros = torch.ones_like(right), torch.zeros_like(wrong[counted])
    loss = bce(right, ones)
    return loss + bce(wrong[counted], zeros) if len(zeros) else loss


@torch.no_grad()
def user_states(model: SequenceModel, histories: Histories, batch_size: int = 1024) -> torch.Tensor:
    """The state (U, D) in which each user's next item is predicted, without dropout.

    Raises:
        ValueError: a user did nothing.
    """
    if bool((histories.offsets.diff() < 1).any()):
        raise ValueError("A user's history is empty; leave such users out or recommend what is popular.")
    training, device = model.training, model.item_vectors().device
    model.eval()
    by_length = histories.offsets.diff().clamp(max=model.longest).argsort(stable=True)  # (U,)
    parts = []
    for users in by_length.split(batch_size):
        batch, times = histories.packed(users, model.longest)  # they are sorted, and stay in this order
        parts.append(model.user_states(batch.to(device), None if times is None else times.to(device)))
    model.train(training)
    states = torch.cat(parts)
    return torch.empty_like(states).index_copy(0, by_length.to(device), states)


def next_item_ranks(
    model: SequenceModel, histories: Histories, targets: torch.Tensor, exclude_seen: bool = True
) -> Ranks:
    """Rank each user's next item among all items; see :func:`labkit.evaluate.full_ranks`.

    For the usual protocol (leave-last-out) of whole histories ``h``: train on ``h.without_last(2)``; validate
    with ``next_item_ranks(model, h.without_last(2), h.without_last(1).last())``; test with
    ``next_item_ranks(model, h.without_last(1), h.last())``. So the validation item is part of what the model
    reads when it is tested, but is not trained on.

    Args:
        model: any sequence model.
        histories: what each user did before.
        targets: (U,) int64 what came next.
        exclude_seen: leave items of the history out of the ranking.

    Returns:
        The rank of each user's item, with HR@k and nDCG@k.
    """
    seen = (histories.ids, histories.offsets) if exclude_seen else None
    return full_ranks(user_states(model, histories), model.item_vectors().detach(), targets, seen)


def _hash(histories: Histories) -> str:
    digest = hashlib.sha256()
    for tensor in (histories.ids, histories.offsets, histories.times):
        digest.update(b"" if tensor is None else tensor.numpy().tobytes())
    return digest.hexdigest()
