"""Training two towers on who chose what after which history."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from labkit.models.two_tower import TwoTower
from labkit.text.packing import Packed, offsets_of
from labkit.train.batches import Batches
from labkit.train.config import History, TrainConfig
from labkit.train.loop import fit
from labkit.train.losses import in_batch_softmax
from labkit.train.sequences import Histories

DEFAULTS = TrainConfig(epochs=10, batch_size=1024, learning_rate=3e-3, weight_decay=0.01)


def fit_two_tower(
    model: TwoTower,
    histories: Histories,
    user_features: torch.Tensor | None = None,
    config: TrainConfig = DEFAULTS,
    longest: int = 50,
    corrected: bool = True,
    valid: Callable[[TwoTower], float] | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Teach the towers which item comes next, by softmax over the items of the batch.

    Every action of a history is an example: the items before it, and it. With user features the first action
    is one too. The other examples' items are the wrong answers, and a popular item is one in nearly every
    batch; the logQ correction (:func:`labkit.train.losses.in_batch_softmax`) takes that back, so that scores
    tend to log p(item | user). Without it they tend to log p(item | user) - log popularity(item).

    Args:
        model: trained in place; items that are the right answer of some example become ``known``.
        histories: to learn from.
        user_features: (U, F_user) float32, where the model was made for some.
        config: how to train; ``batch_size`` counts examples, and is the number of items in each softmax.
        longest: items read of a history, the latest ones.
        corrected: whether to correct; without it recommendations are rarer, and fewer of them are right.
        valid: measures the model, higher is better.
        checkpoint: a file to keep the run in.
        progress: show a bar.

    Returns:
        Losses and validations.

    Raises:
        ValueError: there is no example, an item or a user's features are missing, or the checkpoint is
            another run's.
        FloatingPointError: the loss or a validation is not a finite number.

    Example:
        >>> import numpy as np
        >>> from labkit.text.packing import pack
        >>> histories = Histories.from_events(np.repeat([0, 1], 2), np.array([0, 2, 1, 3]))
        >>> model = TwoTower(items=5, features=torch.eye(5)[[0, 1, 2, 3, 2]], width=8, hidden=16)
        >>> config = TrainConfig(epochs=200, batch_size=2, learning_rate=0.02)
        >>> history = fit_two_tower(model, histories, config=config, progress=False)
        >>> factors = model.factors(pack([[0], [1]]))
        >>> factors.recommend([0, 1], k=1)[1].tolist()
        [[2], [3]]
        >>> bool(factors.scores([0])[0, 4] > factors.scores([0])[0, 3])  # 4 is new, and described as 2 is
        True
    """
    ids, offsets = histories.ids, histories.offsets
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(model.known):
        raise ValueError(f"The histories hold an item that is not among the model's {len(model.known)}.")
    if user_features is not None and len(user_features) != len(histories):
        raise ValueError(
            f"{len(user_features)} users are described, and there are {len(histories)} histories."
        )
    user = torch.repeat_interleave(torch.arange(len(histories)), offsets.diff())  # (S,)
    examples = torch.arange(len(ids))  # (E,) places in ids
    if user_features is None:
        examples = examples[examples > offsets[user]]  # those with something before them
    if not len(examples):
        raise ValueError("No history has two actions, so there is no next item to learn.")
    batches = Batches(len(examples), config)
    counts = torch.bincount(ids[examples], minlength=len(model.known))  # (N,)
    share = counts / len(examples) if corrected else torch.full((len(counts),), 1 / len(counts))
    log_q = share.log().to(model.device)
    model.known.copy_(counts > 0)

    def step_loss(micro: int) -> torch.Tensor:
        chosen = examples[torch.as_tensor(batches.batch(micro))]  # (B,)
        history = read_before(histories, chosen, longest).to(model.device)
        described = None if user_features is None else user_features[user[chosen]].to(model.device)
        right = ids[chosen].to(model.device)
        return in_batch_softmax(model.users(history, described), model.items(right), right, log_q[right])

    digest = hashlib.sha256(ids.numpy().tobytes() + offsets.numpy().tobytes())
    if user_features is not None:
        digest.update(user_features.cpu().numpy().tobytes())
    return fit(
        model,
        step_loss,
        batches.steps,
        config,
        valid=None if valid is None else lambda: valid(model),
        checkpoint=None if checkpoint is None else Path(checkpoint),
        identity=f"{longest} {corrected} {digest.hexdigest()}",
        steps_per_epoch=batches.steps_per_epoch,
        progress=progress,
    )


def read_before(histories: Histories, places: torch.Tensor, longest: int) -> Packed:
    """The items that stand before some actions in the same histories.

    Args:
        histories: of all users.
        places: (B,) int64 places in ``histories.ids``.
        longest: how many items to take at most, the latest ones.

    Returns:
        One sequence for each place; empty before a first action.

    Example:
        >>> import numpy as np
        >>> histories = Histories.from_events(np.array([0, 0, 0, 1]), np.array([5, 6, 7, 8]))
        >>> read_before(histories, torch.tensor([2, 3]), longest=9).lengths.tolist()
        [2, 0]
    """
    begins = histories.offsets[torch.searchsorted(histories.offsets, places, right=True) - 1]  # (B,)
    lengths = (places - begins).clamp(max=longest)
    ends = lengths.cumsum(0)
    read = torch.arange(int(ends[-1])) + (places - ends).repeat_interleave(lengths)  # (T,)
    return Packed(histories.ids[read], offsets_of(lengths), int(lengths.max()))
