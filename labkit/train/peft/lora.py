"""LoRA: learn the change of a weight matrix as a product of two thin ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from labkit.train.peft.freezing import freeze
from labkit.train.peft.storing import fill, read_trained, require_base, save_trained
from labkit.train.peft.targets import linears


@dataclass(frozen=True)
class LoRA:
    """How large the change may be, and where."""

    targets: Sequence[str] = ("query", "value")  # linear layers, by the end of their names
    rank: int = 8  # of the change; each layer learns rank * (inputs + outputs) numbers
    alpha: float = 16  # the change is scaled by alpha / rank, so that ranks share one learning rate
    dropout: float = 0.0  # share of the change's inputs that is dropped in training

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRA's rank must be at least 1, not {self.rank}.")


class LoRALinear(nn.Linear):
    """A linear layer with a frozen weight W (O, I) and a learned change of rank r.

        y = x W^T + b + (alpha / r) (x A^T) B^T        A (r, I), B (O, r)

    B starts at zero, so the model starts as it was. It is still an ``nn.Linear`` with its weight under its
    own name, so whatever reads ``layer.weight`` goes on working.
    """

    def __init__(self, linear: nn.Linear, config: LoRA, generator: torch.Generator | None = None) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias  # the very parameters, not copies
        start = torch.empty(config.rank, linear.in_features)
        nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        self.lora_A = nn.Parameter(start.to(linear.weight))  # (r, I)
        self.lora_B = nn.Parameter(linear.weight.new_zeros(linear.out_features, config.rank))  # (O, r)
        self.config = config
        self.scale = config.alpha / config.rank
        self.kept: torch.Tensor | None = None  # the base weight while merged
        self.train(linear.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = F.linear(x, self.weight, self.bias)  # (..., O)
        if self.kept is not None:
            if self.training:
                raise RuntimeError("Merged LoRA weights can't be trained; call unmerge_lora first.")
            return result
        x = F.dropout(x, self.config.dropout, self.training)
        return result + F.linear(F.linear(x, self.lora_A), self.lora_B) * self.scale

    @torch.no_grad()
    def merge(self) -> None:
        """Add the change to the weight: from now on the layer costs what it cost before LoRA."""
        if self.kept is None:
            # Subtracting the change again would leave rounding errors, so the base weight is put aside.
            self.kept = self.weight.clone()
            self.weight += self.scale * self.lora_B @ self.lora_A

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the base weight back, bit for bit."""
        if self.kept is not None:
            self.weight.copy_(self.kept)
            self.kept = None


def add_lora(
    model: nn.Module, config: LoRA | None = None, keep: Sequence[str] = (), seed: int = 0
) -> list[str]:
    """Freeze a model and give the chosen linear layers a change of low rank to learn.

    Relations: the outputs, gradients and training of ``peft``'s LoRA, to rounding; merged it is a plain
    fine-tuned model, which :func:`labkit.train.peft.add_adapters` can't become. Source: Hu et al., "LoRA:
    low-rank adaptation of large language models", ICLR 2022.

    Args:
        model: changed in place; its outputs stay what they were until it is trained.
        config: rank, scale and places.
        keep: other parts that train as well, such as a fresh ``"head"``.
        seed: of the starting values.

    Returns:
        The names of the changed layers.

    Raises:
        ValueError: a target fits no linear layer, or the model has LoRA already.

    Example:
        >>> model = nn.ModuleDict({"query": nn.Linear(16, 16), "key": nn.Linear(16, 16)})
        >>> add_lora(model, LoRA(targets=["query"], rank=2))
        ['query']
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)  # 2 * (16 + 16)
        64
    """
    config = config or LoRA()
    chosen = linears(model, config.targets)
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise ValueError("This model has LoRA weights already; fold them in first (fold_lora).")
    freeze(model, keep)
    generator = torch.Generator().manual_seed(seed)
    for name, linear in chosen.items():
        model.set_submodule(name, LoRALinear(linear, config, generator))
    return list(chosen)


def merge_lora(model: nn.Module) -> None:
    """Add every change to its weight, so that the model runs at the base model's speed."""
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.merge()


def unmerge_lora(model: nn.Module) -> None:
    """Undo :func:`merge_lora`; the base weights are the very bits they were."""
    for module in model.modules():
        if isinstance(module, LoRALinear):
            module.unmerge()


def fold_lora(model: nn.Module) -> None:
    """Merge for good: plain linear layers under the old names, ready to be saved like any model."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            module.merge()
            linear = nn.Linear(module.in_features, module.out_features, device="meta")
            linear.weight, linear.bias = module.weight, module.bias
            model.set_submodule(name, linear.train(module.training))


def save_lora(model: nn.Module, path: str | Path) -> int:
    """Write A, B and whatever else trains (a head) to a small safetensors file.

    Returns:
        Its size in bytes.

    Raises:
        ValueError: the model has no LoRA weights, or they are merged.
    """
    layers = [module for module in model.modules() if isinstance(module, LoRALinear)]
    if not layers or any(layer.kept is not None for layer in layers):
        raise ValueError("Only unmerged LoRA weights can be saved; call add_lora or unmerge_lora first.")
    return save_trained(model, path, "lora", asdict(layers[0].config))


def load_lora(model: nn.Module, path: str | Path) -> list[str]:
    """Put saved LoRA weights on the model that they were trained on, which must have none yet.

    Returns:
        The names of the changed layers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds other weights, or the model is not the one they were trained on.
    """
    tensors, settings, base = read_trained(path, "lora")
    require_base(model, tensors, base, path, added=".lora_")
    names = add_lora(model, LoRA(**settings))
    fill(model, tensors)
    return names
