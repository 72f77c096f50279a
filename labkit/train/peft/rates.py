"""Discriminative learning rates: the lower a layer, the more general it is, and the slower it should move."""

from __future__ import annotations

from torch import nn


def layerwise_rates(model: nn.Module, decay: float = 0.7) -> dict[str, float]:
    """A factor on the learning rate for each layer, for the ``rates`` of :func:`labkit.train.fit`.

    With L layers, layer l (0 the lowest) learns at ``decay ** (L - 1 - l)`` of the learning rate; what the
    model declares before its layers (embeddings) at ``decay ** L``; what it declares after them (a final
    normalisation, a head) at the full rate. Only the step's size changes: everything trains.

    Relations: ``decay`` → 0 is :func:`labkit.train.peft.freeze` of all but the top, 1 is plain fine-tuning.
    Source: Howard and Ruder, "Universal language model fine-tuning for text classification", ACL 2018 (decay
    1/2.6); for transformers Clark et al., "ELECTRA", ICLR 2020 (0.8 for a small one).

    Args:
        model: its longest ``nn.ModuleList`` holds the layers.
        decay: what each layer down multiplies by, above 0, at most 1.

    Returns:
        Parameter-name prefix → factor.

    Raises:
        ValueError: the decay is out of range, or the model has no list of layers.

    Example:
        >>> blocks = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        >>> model = nn.ModuleDict({"tokens": nn.Embedding(9, 2), "blocks": blocks, "head": nn.Linear(2, 1)})
        >>> layerwise_rates(model, decay=0.5)
        {'tokens.weight': 0.25, 'blocks.0': 0.5, 'blocks.1': 1.0}
    """
    if not 0 < decay <= 1:
        raise ValueError(f"The decay must be above 0 and at most 1, not {decay}.")
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    if not lists:
        raise ValueError("This model has no nn.ModuleList of layers whose rates could differ.")
    path = max(lists, key=lambda name: len(lists[name]))
    depth = len(lists[path])
    rates = {}
    for name, _ in model.named_parameters():
        if name.startswith(f"{path}."):
            break
        rates[name] = decay**depth
    return rates | {f"{path}.{layer}": decay ** (depth - 1 - layer) for layer in range(depth)}
