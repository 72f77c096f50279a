"""Freezing: most of a model keeps the weights it came with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from labkit.train.peft.targets import parameters


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model has, and how many of them training changes."""

    trainable: int
    total: int

    @property
    def share(self) -> float:
        return self.trainable / self.total

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters train ({self.share:.2%})"


def freeze(model: nn.Module, keep: Sequence[str] = ()) -> None:
    """Stop training every parameter but those of the named parts.

    A frozen parameter costs no gradient and no optimiser state (AdamW holds two numbers for each it trains),
    and no backward pass goes below the lowest part that trains. What still costs is the forward pass.
    Batch normalisation is the trap: its running means are no parameters and would drift on in training mode,
    so a frozen one stays in evaluation mode for as long as it is frozen.

    Relations: :func:`labkit.train.peft.layerwise_rates` trains low layers slowly rather than not at all.
    Source: Yosinski et al., "How transferable are features in deep neural networks?", NeurIPS 2014.

    Args:
        model: changed in place.
        keep: parts that train, by whole parts of names: ``"head"``, ``"layer.5"``, ``"LayerNorm"``.

    Raises:
        ValueError: one of ``keep`` occurs in no parameter's name.

    Example:
        >>> model = nn.ModuleDict({"body": nn.Linear(8, 8), "head": nn.Linear(8, 2)})
        >>> freeze(model, keep=["head"])
        >>> print(count(model))
        18 of 90 parameters train (20.00%)
    """
    kept = parameters(model, keep)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in kept)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_still)


def count(model: nn.Module) -> Parameters:
    """Count the parameters, shared ones once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return Parameters(sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes))


def _still(module: nn.Module, inputs: object) -> None:
    # Asked at each forward pass, because the training loop puts the whole model into training mode.
    if not any(parameter.requires_grad for parameter in module.parameters()):
        module.eval()
