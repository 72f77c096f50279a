"""The ways of tuning that are compared, each as what it does to a model and asks of the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from labkit.train.peft.adalora import AdaLoRA, add_adalora
from labkit.train.peft.adapters import Adapters, add_adapters
from labkit.train.peft.freezing import freeze
from labkit.train.peft.lora import LoRA, add_lora
from labkit.train.peft.prefix import add_prefix
from labkit.train.peft.rates import layerwise_rates


@dataclass(frozen=True)
class Tuning:
    """What a prepared model asks of the training."""

    rates: Mapping[str, float] | None = None  # factors on the learning rate, for fit
    penalty: Callable[[], torch.Tensor] | None = None  # added to the loss
    around: Callable[[], AbstractContextManager[None]] = nullcontext  # entered while training
    finish: Callable[[], None] = lambda: None  # called after it


@dataclass(frozen=True)
class Method:
    """One way of tuning."""

    name: str
    prepare: Callable[[nn.Module, int], Tuning]  # changes a fresh model, told the number of steps
    learning_rates: Sequence[float]  # to choose from on validation data


def standard_methods(
    start: torch.Tensor,
    keep: Sequence[str] = (),
    top: str = "layer.5",
    decay: float = 0.7,
    adapters: Adapters | None = None,
    lora: LoRA | None = None,
    adalora: AdaLoRA | None = None,
) -> list[Method]:
    """Full, frozen, discriminative rates, adapter, prefix, LoRA and AdaLoRA, for a Hugging Face encoder.

    The fewer numbers a method trains, and the further they start from doing anything, the higher the rate it
    needs; so each has rates of its own to choose from, equally many.

    Args:
        start: (P,) int64, the tokens that the prefix starts from.
        keep: parts that train in every method, such as a fresh ``"head"``.
        top: what "frozen" trains where nothing is kept: the top layer.
        decay: of the discriminative rates.
        adapters, lora, adalora: their sizes and places.
    """

    def frozen(model: nn.Module, steps: int) -> Tuning:
        freeze(model, keep or [top])
        return Tuning()

    def adapted(model: nn.Module, steps: int) -> Tuning:
        add_adapters(model, adapters, keep)
        return Tuning()

    def prefixed(model: nn.Module, steps: int) -> Tuning:
        add_prefix(model, start, keep)
        return Tuning()

    def low_rank(model: nn.Module, steps: int) -> Tuning:
        add_lora(model, lora, keep)
        return Tuning()

    def adaptive(model: nn.Module, steps: int) -> Tuning:
        allocator = add_adalora(model, steps, adalora, keep)
        return Tuning(penalty=allocator.penalty, around=allocator.allocating, finish=allocator.cut)

    return [
        Method("full", lambda model, steps: Tuning(), (3e-5, 1e-4, 3e-4)),
        Method("frozen", frozen, (3e-3, 1e-2, 3e-2) if keep else (1e-4, 3e-4, 1e-3)),
        Method(
            "discriminative", lambda model, steps: Tuning(layerwise_rates(model, decay)), (5e-5, 1.5e-4, 5e-4)
        ),
        Method("adapter", adapted, (3e-4, 1e-3, 3e-3)),
        Method("prefix", prefixed, (3e-3, 1e-2, 3e-2)),
        Method("LoRA", low_rank, (3e-4, 1e-3, 3e-3)),
        Method("AdaLoRA", adaptive, (3e-3, 1e-2, 3e-2)),
    ]
