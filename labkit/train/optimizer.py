"""AdamW with its parameter groups, and the learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

# Their parameters scale or shift activations, or are looked up row by row.
_SPARED = (
    nn.Embedding,
    nn.EmbeddingBag,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,
)


def adamw(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float,
    rates: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019) over what can learn.

    Decay belongs to the matrices that multiply activations: there it bounds how far an output can move. Left
    alone are

    - biases and normalisation scales, whose pull towards 0 would change what the layer computes and bounds
      nothing;
    - embeddings. AdamW decays at every step, whether or not a parameter had a gradient, so the row of a rare
      word or item would shrink towards 0 in the many batches that do not contain it: the rarest items would
      be forgotten first. A matrix tied to an embedding (the output layer of a language model) is an
      embedding.

    Args:
        model: its parameters that require a gradient are trained; a tied one is taken once.
        learning_rate: of the groups without a factor.
        weight_decay: of the matrices.
        rates: discriminative learning rates (Howard and Ruder, "Universal language model fine-tuning", ACL
            2018): the prefix of a parameter's name, up to a dot, and the factor on its learning rate. The
            longest prefix wins; ``""`` means all the others.

    Returns:
        The optimiser. Each group has, beside the usual, its ``factor`` (see :func:`set_learning_rate`) and
        the ``names`` of its parameters.

    Raises:
        ValueError: nothing requires a gradient, a factor is negative or no parameter has a prefix.

    Example:
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))
        >>> groups = adamw(model, 1e-3, 0.1, {"0": 0.5}).param_groups
        >>> [(group["names"], group["weight_decay"], group["factor"]) for group in groups]
        [(['0.weight'], 0.0, 0.5), (['1.weight'], 0.1, 1.0), (['1.bias'], 0.0, 1.0)]
    """
    rates = dict(rates or {})
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise ValueError("The model has no parameter to train.")
    for prefix, factor in rates.items():
        if not factor >= 0:
            raise ValueError(f"The learning rate's factor for {prefix!r} must be at least 0, not {factor}.")
        if not any(_below(prefix, name) for name in trainable):
            raise ValueError(
                f"No trainable parameter's name begins with {prefix!r}; they are {', '.join(trainable)}."
            )
    spared = {
        parameter
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if isinstance(module, _SPARED) or parameter.ndim < 2
    }
    groups: dict[tuple[float, float], dict] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter in spared else weight_decay
            found = [prefix for prefix in rates if _below(prefix, name)]
            factor = rates[max(found, key=len)] if found else 1.0
            group = groups.setdefault(
                (decay, factor), {"params": [], "names": [], "weight_decay": decay, "factor": factor}
            )
            group["params"].append(parameter)
            group["names"].append(name)
    # Fused: one pass over memory for each parameter, on the CPU too.
    return torch.optim.AdamW(list(groups.values()), lr=learning_rate, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group of :func:`adamw` its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["factor"]


def schedule(step: int, steps: int, warmup: float) -> float:
    """The factor on the learning rate: a linear rise, then half a cosine to 0 (Loshchilov, Hutter 2017).

    Example:
        >>> [round(schedule(step, 10, 0.2), 2) for step in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    rise = int(steps * warmup)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def _below(prefix: str, name: str) -> bool:
    """Whole parts of the name only: "layer.1" is not a prefix of "layer.10.weight"."""
    return prefix in ("", name) or name.startswith(f"{prefix}.")
