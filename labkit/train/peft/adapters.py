"""Houlsby adapters: small bottlenecks that are put behind the sublayers of a frozen transformer."""

from __future__ import annotations

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
class Adapters:
    """How wide the bottlenecks are, and behind which layers they stand."""

    # The last linear layer of each sublayer, before its residual sum. In BERT's names this one ending finds
    # both places of the paper: attention.output.dense and the feed-forward part's output.dense.
    targets: Sequence[str] = ("output.dense",)
    bottleneck: int = 32  # m; each adapter of a layer D wide learns 2 m D + D + m numbers

    def __post_init__(self) -> None:
        if self.bottleneck < 1:
            raise ValueError(f"An adapter's bottleneck must be at least 1, not {self.bottleneck}.")


class Adapter(nn.Module):
    """A bottleneck with a skip connection.

        y = x + up(gelu(down(x)))        down (D → m), up (m → D)

    ``up`` starts at zero, so the adapter starts as the identity.
    """

    def __init__(self, width: int, bottleneck: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck, device="meta")
        self.up = nn.Linear(bottleneck, width, device="meta")
        # The paper draws both near 0 (standard deviation .01); with up at exactly 0 the start is exact.
        start = torch.empty(bottleneck, width).normal_(std=width**-0.5, generator=generator)
        self.down.weight, self.down.bias = nn.Parameter(start), nn.Parameter(torch.zeros(bottleneck))
        self.up.weight = nn.Parameter(torch.zeros(width, bottleneck))
        self.up.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (..., D)
        return x + self.up(F.gelu(self.down(x)))


class AdaptedLinear(nn.Linear):
    """A linear layer (frozen, its weight under its own name) and an adapter behind it."""

    def __init__(self, linear: nn.Linear, config: Adapters, generator: torch.Generator | None = None) -> None:
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias  # the very parameters, not copies
        self.config = config
        self.adapter = Adapter(linear.out_features, config.bottleneck, generator).to(linear.weight)
        self.train(linear.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.adapter(F.linear(x, self.weight, self.bias))


def add_adapters(
    model: nn.Module, config: Adapters | None = None, keep: Sequence[str] = (), seed: int = 0
) -> list[str]:
    """Freeze a model but for its layer normalisations, and put adapters behind the chosen layers.

    Unlike LoRA's change (:func:`labkit.train.peft.add_lora`) an adapter is not linear, so it can't be merged
    into the weights: it costs a little time in every forward pass, for good. Source: Houlsby et al.,
    "Parameter-efficient transfer learning for NLP", ICML 2019, which trains the layer normalisations too. In
    Hugging Face's BERT the dropout stands behind the adapter rather than before it.

    Args:
        model: changed in place; its outputs stay what they were until it is trained.
        config: width and places.
        keep: other parts that train as well, such as a fresh ``"head"``.
        seed: of the starting values.

    Returns:
        The names of the layers that have an adapter behind them.

    Raises:
        ValueError: a target fits no linear layer, or the model has adapters already.

    Example:
        >>> model = nn.ModuleDict({"proj": nn.Linear(64, 16), "norm": nn.LayerNorm(16)})
        >>> add_adapters(model, Adapters(targets=["proj"], bottleneck=4))
        ['proj']
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)  # 2 * 4 * 16 + 16 + 4, norm 2 * 16
        180
    """
    config = config or Adapters()
    chosen = linears(model, config.targets)
    if any(isinstance(module, AdaptedLinear) for module in model.modules()):
        raise ValueError("This model has adapters already.")
    freeze(model, keep)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    for name, linear in chosen.items():
        model.set_submodule(name, AdaptedLinear(linear, config, generator))
    return list(chosen)


def save_adapters(model: nn.Module, path: str | Path) -> int:
    """Write the adapters and whatever else trains (normalisations, a head) to a small safetensors file.

    Returns:
        Its size in bytes.

    Raises:
        ValueError: the model has no adapters.
    """
    layers = [module for module in model.modules() if isinstance(module, AdaptedLinear)]
    if not layers:
        raise ValueError("This model has no adapters to save; call add_adapters first.")
    return save_trained(model, path, "adapters", asdict(layers[0].config))


def load_adapters(model: nn.Module, path: str | Path) -> list[str]:
    """Put saved adapters on the model that they were trained on, which must have none yet.

    Returns:
        The names of the layers that have an adapter behind them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds other weights, or the model is not the one they were trained on.
    """
    tensors, settings, base = read_trained(path, "adapters")
    require_base(model, tensors, base, path, added=".adapter.")
    names = add_adapters(model, Adapters(**settings))
    fill(model, tensors)
    return names
