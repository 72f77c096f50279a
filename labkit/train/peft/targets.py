"""Choosing parts of any model by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def linears(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers whose names end with one of ``targets``.

    Names are compared by whole parts: ``"query"`` finds ``encoder.layer.0.attention.self.query``, and
    ``"attention.output.dense"`` not the ``output.dense`` of the feed-forward part.

    Args:
        model: any model.
        targets: ends of names.

    Returns:
        Layers by name, in the model's order.

    Raises:
        ValueError: a target that is the name of no linear layer, or of one whose weight torch's own attention
            reads without calling the layer, so that nothing put in its place would be asked.

    Example:
        >>> model = nn.ModuleDict({"query": nn.Linear(2, 2), "old_query": nn.Linear(2, 2)})
        >>> list(linears(model, ["query"]))
        ['query']
    """
    found, seen = {}, set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            hits = [target for target in targets if f".{name}".endswith(f".{target}")]
            seen.update(hits)
            if hits:
                found[name] = module
    if missing := [target for target in targets if target not in seen]:
        names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        raise ValueError(
            f"No linear layer's name ends with {missing[0]!r}; this model's are {_shortened(names)}."
        )
    for name in found:
        owner = model.get_submodule(name.rpartition(".")[0])
        # An encoder layer calls its linear layers in training, and in evaluation mode takes a fast path.
        if isinstance(owner, nn.MultiheadAttention | nn.TransformerEncoderLayer):
            raise ValueError(
                f"{name} can't be changed: "
                f"torch's {type(owner).__name__} reads its weight and does not call it."
            )
    return found


def parameters(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters in whose names one of ``patterns`` occurs, by whole parts.

    ``"layer.1"`` finds ``encoder.layer.1.output.dense.weight`` and nothing of ``encoder.layer.10``.

    Raises:
        ValueError: a pattern that occurs in no name.
    """
    found, seen = {}, set()
    for name, parameter in model.named_parameters():
        hits = [pattern for pattern in patterns if f".{pattern}." in f".{name}."]
        seen.update(hits)
        if hits:
            found[name] = parameter
    if missing := [pattern for pattern in patterns if pattern not in seen]:
        names = [name for name, _ in model.named_parameters()]
        raise ValueError(f"No parameter's name holds {missing[0]!r}; this model's are {_shortened(names)}.")
    return found


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" … ({len(names)} in all)" if len(names) > 4 else "")
