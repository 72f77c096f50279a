"""AdaLoRA: start with more rank than wanted everywhere, and keep it where it turns out to matter.

The tuning itself is ``peft``'s; this file fits it to the training loop and to models that are not Hugging
Face's, and shows where the rank went.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from labkit.train.peft.freezing import freeze
from labkit.train.peft.targets import linears, parameters
from labkit.train.randomness import own_random_numbers, seed_micro_batch


@dataclass(frozen=True)
class AdaLoRA:
    """How much rank to start with and to end with, and when it is taken away."""

    targets: Sequence[str] = ("query", "key", "value", "dense")  # linear layers, by the end of their names
    start_rank: int = 6  # of each layer's change
    rank: int = 4  # on average over the layers, at the end
    alpha: int = 16  # the change is scaled by alpha / start_rank
    warm: float = 0.2  # share of the steps before the first rank is taken
    settle: float = 0.3  # share of the steps after the last one is
    every: int = 1  # steps between two rounds
    orthogonality: float = 0.1  # weight of the penalty that keeps the directions apart

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= self.start_rank:
            raise ValueError(
                f"AdaLoRA goes from start_rank {self.start_rank} down to rank, not to {self.rank}."
            )
        if not (self.warm >= 0 and self.settle > 0 and self.warm + self.settle < 1):
            raise ValueError(
                f"AdaLoRA takes rank away between warm and 1 - settle, which {self.warm} and {self.settle} "
                "leave no room for."
            )


class Allocator:
    """What :func:`add_adalora` returns: the penalty for the loss, and the taking away of rank."""

    def __init__(self, tuner: Any, config: AdaLoRA) -> None:
        self._tuner, self._config = tuner, config  # peft's AdaLoraModel around the model
        self.done = 0  # optimiser steps so far

    def penalty(self) -> torch.Tensor:
        """The mean over all P and Q of ||P^T P - I||, times its weight, to be added to the loss.

        With orthonormal directions a singular value alone says how much its direction matters. The paper
        squares the norm; this is what ``peft`` adds to losses that Hugging Face models compute themselves.
        """
        norms = []
        for name, matrix in self._tuner.model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                square = matrix @ matrix.T if ".lora_A." in name else matrix.T @ matrix  # (r, r)
                norms.append(torch.linalg.norm(square - torch.eye(len(square)).to(square)))
        return self._config.orthogonality * torch.stack(norms).mean()

    @contextmanager
    def allocating(self) -> Iterator[None]:
        """Inside, each optimiser step over the model's weights is followed by one of the allocation."""
        own = set(self._tuner.model.parameters())

        def allocate(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            # The gradients of the step are still there: sensitivity is |weight * gradient|.
            if any(parameter in own for group in optimizer.param_groups for parameter in group["params"]):
                self.done += 1
                self._tuner.update_and_allocate(self.done)

        hook = register_optimizer_step_post_hook(allocate)
        try:
            yield
        finally:
            hook.remove()

    def ranks(self) -> dict[str, int]:
        """The rank that each layer's change has now: its singular values that are not 0."""
        values = {n: p for n, p in self._tuner.model.named_parameters() if ".lora_E." in n}
        return {name.split(".lora_E.")[0]: int((value != 0).sum()) for name, value in values.items()}

    def cut(self) -> None:
        """After training: drop the triplets without a singular value, which compute nothing any more."""
        trained = [
            name for name, parameter in self._tuner.model.named_parameters() if parameter.requires_grad
        ]
        # Without the adapter's own name in the key, as peft wants it after loading.
        kept = {
            f"{layer}.lora_E.default": (self._tuner.model.get_submodule(layer).lora_E["default"] != 0)
            for layer in self.ranks()
        }
        self._tuner.resize_modules_by_rank_pattern(kept, "default")
        for name, parameter in self._tuner.model.named_parameters():
            parameter.requires_grad_(name in trained)

    def fold(self) -> None:
        """After training: add every change to its weight; the model has plain linear layers again."""
        self._tuner.merge_and_unload()


def add_adalora(
    model: nn.Module, steps: int, config: AdaLoRA | None = None, keep: Sequence[str] = (), seed: int = 0
) -> Allocator:
    """Freeze a model and give chosen linear layers a change P diag(e) Q, its rank decided in training.

    The budget of rank over all layers falls by a cubic curve from ``start_rank`` to ``rank`` times the number
    of layers; at each round the triplets (p, e, q) with the least smoothed sensitivity lose their singular
    value. Train inside ``allocator.allocating()`` and add ``allocator.penalty()`` to the loss. Importances
    are not part of a training checkpoint, so such a run can't be resumed. Nor may fit get ``valid``: the best
    weights, which it puts back, may be from before the last rank was taken, and exceed the budget.

    Relations: with equal ranks everywhere it is :func:`labkit.train.peft.add_lora`. Source: Zhang et al.,
    "Adaptive budget allocation for parameter-efficient fine-tuning", ICLR 2023; the ``peft`` library.

    Args:
        model: changed in place; its outputs stay what they were until it is trained.
        steps: of the whole training, exactly.
        config: ranks, places and times.
        keep: other parts that train as well, such as a fresh ``"head"``.
        seed: of the starting values.

    Returns:
        The allocator.

    Raises:
        ValueError: a target fits no linear layer, one of ``keep`` no parameter, or the steps are too few for
            the schedule.

    Example:
        >>> model = nn.ModuleDict({"query": nn.Linear(16, 16), "value": nn.Linear(16, 16)})
        >>> add_adalora(model, 100, AdaLoRA(targets=["query", "value"], start_rank=3, rank=2)).ranks()
        {'query': 0, 'value': 0}
    """
    from peft import AdaLoraConfig  # a bare machine trains without it
    from peft.tuners.adalora import AdaLoraModel

    config = config or AdaLoRA()
    names = list(linears(model, config.targets))
    parameters(model, keep)  # refuses unknown parts while the model is as it was
    warm, settle = round(config.warm * steps), max(1, round(config.settle * steps))
    if warm + settle + config.every >= steps:
        raise ValueError(
            f"{steps} steps are too few to warm up ({warm}), take rank away and settle ({settle})."
        )
    settings = AdaLoraConfig(
        target_modules=names,
        init_r=config.start_rank,
        target_r=config.rank,
        lora_alpha=config.alpha,
        tinit=warm,
        tfinal=settle,
        deltaT=config.every,
        total_step=steps,
        orth_reg_weight=config.orthogonality,
    )
    device = next(model.parameters()).device
    with own_random_numbers(device):  # peft draws from the global ones
        seed_micro_batch(seed, 0, device)
        tuner = AdaLoraModel(model, settings, "default")
    freeze(model, [*keep, "lora_A", "lora_B", "lora_E"])
    return Allocator(tuner, config)
