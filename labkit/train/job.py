"""What is to be trained, apart from how: the model, its loss, its measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from labkit.train.config import History, TrainConfig
from labkit.train.loop import fit
from labkit.train.tracking import Tracker


@dataclass(frozen=True)
class Job:
    """One training that :func:`labkit.train.fit` can run; see there for what each part means.

    A function builds it from data and a :class:`labkit.train.TrainConfig`; the same job then runs in a
    notebook, from ``labkit train``, and in every process that torchrun starts.
    """

    model: nn.Module
    step_loss: Callable[[int], torch.Tensor]  # of micro-batch 0, 1, …
    steps: int
    steps_per_epoch: int | None = None
    valid: Callable[[], float] | None = None  # higher is better
    identity: str = ""  # a hash of the data
    rates: Mapping[str, float] | None = None  # factors on the learning rate by prefix of parameter names
    counts: tuple[int, str] | None = None  # what a micro-batch holds, for the speed: (32, "pairs")
    save: Callable[[Path], None] | None = None  # writes the trained model into a folder

    def run(
        self,
        config: TrainConfig,
        checkpoint: str | Path | None = None,
        progress: bool = True,
        tracker: Tracker | None = None,
    ) -> History:
        """Train the model; the arguments are those of :func:`labkit.train.fit`."""
        return fit(
            self.model,
            self.step_loss,
            self.steps,
            config,
            valid=self.valid,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            identity=self.identity,
            steps_per_epoch=self.steps_per_epoch,
            progress=progress,
            rates=self.rates,
            tracker=tracker,
            counts=self.counts,
        )
