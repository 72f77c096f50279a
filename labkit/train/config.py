"""How to train, and what happened: plain data that the loop reads and writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train."""

    epochs: int = 1  # passes over the training data
    batch_size: int = 32  # examples per micro-batch; with in-batch negatives also how many negatives
    accumulate: int = 1  # micro-batches per step over all processes; the gradient is the mean over them
    learning_rate: float = 5e-5  # at its peak, after the warm-up
    weight_decay: float = (
        0.01  # of what multiplies activations; see labkit.train.optimizer for what is spared
    )
    warmup: float = 0.1  # share of all steps over which the learning rate rises from 0
    clip_norm: float = 1.0  # longest gradient taken, over all parameters together
    temperature: float = 0.05  # of the contrastive loss
    max_length: int = 64  # tokens kept of each text
    evaluate_every: int | None = None  # steps between validations; None: after each epoch
    patience: int | None = None  # stop after so many validations without a new best; None: never
    checkpoint_every: int = 100  # steps between checkpoints
    seed: int = 0  # of the order of the data and of dropout
    precision: Precision = "auto"  # of matrix products; labkit.device says what auto takes and why
    compile: bool | Literal["auto"] = (
        False  # torch.compile the model; see labkit.train.compiling for when it pays
    )
    shard: bool = (
        False  # under torchrun: split weights and optimiser over the processes (FSDP2), not copy (DDP)
    )

    def __post_init__(self) -> None:
        optional = [n for n in ("evaluate_every", "patience") if getattr(self, n) is not None]
        for name in ("epochs", "batch_size", "accumulate", "checkpoint_every", "max_length", *optional):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig.{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("learning_rate", "temperature", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"TrainConfig.{name} must be above 0, not {getattr(self, name)}.")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"TrainConfig.warmup is a share of the steps, 0 to below 1, not {self.warmup}.")
        if not self.weight_decay >= 0:
            raise ValueError(f"TrainConfig.weight_decay must be at least 0, not {self.weight_decay}.")
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"TrainConfig.precision is one of {', '.join(get_args(Precision))}, not {self.precision!r}."
            )
        if self.compile not in (True, False, "auto"):
            raise ValueError(f"TrainConfig.compile is True, False or 'auto', not {self.compile!r}.")


@dataclass
class History:
    """What happened during training."""

    losses: list[float] = field(default_factory=list)  # one per step, the mean over its micro-batches
    valid: list[tuple[int, float]] = field(default_factory=list)  # (steps done, value), higher is better
    best_step: int = 0  # the steps done when the weights that were kept were reached
    stopped_early: bool = False
    resumed_at: int | None = None  # the step a checkpoint brought us to; None for a run in one piece
