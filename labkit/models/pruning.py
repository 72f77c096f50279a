"""Making a model smaller by taking parts away: single weights, or whole heads and neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def cubic_sparsity(step: int, start: int, end: int, final: float) -> float:
    """The share of weights that should be 0 at a step: fast at first, slow at the end.

        s(t) = final * (1 - (1 - (t - start) / (end - start))^3)

    The first weights to go are worth little; the last ones need time for the others to take over. Source: Zhu
    and Gupta, "To prune, or not to prune", 2017.

    Example:
        >>> [round(cubic_sparsity(step, 10, 20, 0.8), 3) for step in (0, 10, 15, 20, 99)]
        [0.0, 0.0, 0.7, 0.8, 0.8]
    """
    done = min(1.0, max(0.0, (step - start) / max(1, end - start)))
    return final * (1 - (1 - done) ** 3)


class MagnitudePruner:
    """Sets the smallest weights to 0 and keeps them there.

    Zeros in a dense matrix cost as much time as any number; they compress well on disk, and they show how
    much of a model is needed. For speed, remove whole rows: :func:`prune_heads`, :func:`prune_neurons`.
    Source: Han et al., "Learning both weights and connections for efficient neural networks", NeurIPS 2015.

    Args:
        model: the weights of its linear layers are pruned in place, all of them in one ranking. A ranking for
            each layer would cut as deep into a layer that is full of large weights as into an idle one.
        skip: parts of names of layers that are left alone, such as ``"head"``.

    Raises:
        ValueError: no linear layer is left.

    Example:
        >>> model = nn.Linear(4, 4)
        >>> pruner = MagnitudePruner(model)
        >>> pruner.prune(0.75)
        >>> pruner.sparsity, int((model.weight != 0).sum())
        (0.75, 4)
    """

    def __init__(self, model: nn.Module, skip: Sequence[str] = ()) -> None:
        self.weights = {
            name: module.weight
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not any(part in name for part in skip)
        }
        if not self.weights:
            raise ValueError("There is no linear layer to prune.")
        self.kept = {name: torch.ones_like(w, dtype=torch.bool) for name, w in self.weights.items()}

    @property
    def sparsity(self) -> float:
        """The share of weights that are pruned."""
        total = sum(mask.numel() for mask in self.kept.values())
        return 1 - sum(int(mask.sum()) for mask in self.kept.values()) / total

    def prune(self, sparsity: float) -> None:
        """Set the smallest weights to 0: exactly round(sparsity * all), ties by position.

        Raises:
            ValueError: the sparsity is not a share.
        """
        if not 0 <= sparsity <= 1:
            raise ValueError(f"The sparsity is a share of the weights, 0 to 1, not {sparsity}.")
        with torch.no_grad():
            sizes = torch.cat([w.abs().flatten() for w in self.weights.values()])
            kept = torch.ones_like(sizes, dtype=torch.bool)
            kept[sizes.argsort(stable=True)[: round(sparsity * len(sizes))]] = False
            parts = kept.split([w.numel() for w in self.weights.values()])
            for (name, w), part in zip(self.weights.items(), parts, strict=True):
                self.kept[name] = part.view_as(w)
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Set the pruned weights to 0 again; an optimiser's step moves them (by momentum, by a gradient)."""
        for name, w in self.weights.items():
            w.mul_(self.kept[name])

    def gradually(
        self, step_loss: Callable[[int], torch.Tensor], start: int, end: int, final: float, every: int = 10
    ) -> Callable[[int], torch.Tensor]:
        """Wrap the loss of ``labkit.train.fit`` so that the model is pruned while it learns.

        Before a step's loss is computed the pruned weights are set back to 0, and every so many steps more
        are taken, up to ``final`` at step ``end``. Call :meth:`apply` once after the training, for its last
        step. A pruned weight counts as 0 from then on. The masks are not part of a checkpoint, so such a run
        is started anew rather than resumed; and with ``valid`` the best weights may be an early, denser
        model's, which :meth:`apply` then cuts unprepared.

        Args:
            step_loss: as ``fit`` takes it.
            start, end: the steps between which the sparsity rises, see :func:`cubic_sparsity`; with
                ``accumulate`` they are counted in micro-batches, as ``fit`` numbers them.
            final: the share that is 0 in the end.
            every: steps between prunings, which give the rest time to adapt.

        Returns:
            A step_loss for ``fit``.
        """

        def pruned(step: int) -> torch.Tensor:
            self.apply()
            if start <= step <= end and ((step - start) % every == 0 or step == end):
                self.prune(cubic_sparsity(step, start, end, final))
            return step_loss(step)

        return pruned


def part_importance(
    body: PreTrainedModel, losses: Iterable[Callable[[], torch.Tensor]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """How much the loss would change without each attention head and feed-forward neuron, to first order.

    Think of a gate that multiplies a head's or a neuron's output and stands at 1. The loss's derivative by
    the gate is the sum of output times gradient; its size for each text, averaged over texts, is the
    importance. Source: Michel, Levy and Neubig, "Are sixteen heads really better than one?", NeurIPS 2019;
    Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019.

    Args:
        body: a BERT-shaped encoder with L layers, read in evaluation mode; its gradients stay as they are.
        losses: each computes the loss of one padded batch with ``body``, summed over its texts; by a mean,
            texts of a large batch would count less than those of a small one.

    Returns:
        Heads (L, H) and neurons (L, F) float32, 0 or more.

    Raises:
        ValueError: another kind of body, one that was pruned unevenly, or no batch.
    """
    layers = _layers(body)
    outs = [layer.attention.output.dense for layer in layers] + [layer.output.dense for layer in layers]
    if len({dense.in_features for dense in outs}) > 2:
        raise ValueError("The layers of this body differ in size; measure importance before pruning.")
    size = layers[0].attention.self.attention_head_size
    seen: dict[nn.Module, torch.Tensor] = {}

    def remember(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        (x,) = inputs
        seen[module] = x if x.requires_grad else x.detach().requires_grad_()  # a frozen body has gates too
        return (seen[module],)

    hooks = [dense.register_forward_pre_hook(remember) for dense in outs]
    totals: list[torch.Tensor] = []
    texts, was_training = 0, body.training
    body.eval()
    try:
        for loss in losses:
            value = loss()
            inputs = [seen[dense] for dense in outs]  # (B, T, H * Dh) and (B, T, F)
            gradients = torch.autograd.grad(value, inputs)
            gates = [(x * g).detach().sum(1) for x, g in zip(inputs, gradients, strict=True)]  # (B, ·)
            gates = [g.unflatten(1, (-1, size)).sum(2) if i < len(layers) else g for i, g in enumerate(gates)]
            sums = [g.abs().sum(0) for g in gates]
            totals = [a + b for a, b in zip(totals, sums, strict=True)] if totals else sums
            texts += len(inputs[0])
    finally:
        for hook in hooks:
            hook.remove()
        body.train(was_training)
    if not texts:
        raise ValueError("Importance needs the loss of at least one batch.")
    return torch.stack(totals[: len(layers)]) / texts, torch.stack(totals[len(layers) :]) / texts


def weakest(importance: torch.Tensor, share: float) -> dict[int, list[int]]:
    """The least important parts over all layers, at least one being left in each.

    Args:
        importance: (L, K) of K heads or neurons in each of L layers.
        share: of all of them, 0 to below 1.

    Returns:
        For each layer that loses something, the parts it loses, ascending.

    Example:
        >>> weakest(torch.tensor([[1.0, 5.0, 2.0], [0.1, 0.2, 0.3]]), share=0.5)
        {1: [0, 1], 0: [0]}
    """
    if not 0 <= share < 1:
        raise ValueError(f"The share to take away is 0 to below 1, not {share}.")
    layers, parts = importance.shape
    wanted = round(share * layers * parts)
    lost: dict[int, list[int]] = {}
    for place in importance.flatten().argsort(stable=True).tolist():
        if wanted == 0:
            break
        layer, part = divmod(place, parts)
        if len(lost.get(layer, [])) < parts - 1:
            lost.setdefault(layer, []).append(part)
            wanted -= 1
    return {layer: sorted(several) for layer, several in lost.items()}


def prune_heads(body: PreTrainedModel, heads: Mapping[int, Sequence[int]]) -> None:
    """Take attention heads out: the layer's four matrices become smaller, and the layer faster.

    The result is the same as if the outputs of those heads were 0. The configuration cannot describe layers
    of different sizes, so ``from_pretrained`` cannot read the weights back: prune a fresh body the same way
    and load the state dict into it.

    Args:
        body: a BERT-shaped encoder, changed in place.
        heads: for each layer (from 0) the heads (from 0) to take out, as they are numbered now.

    Raises:
        ValueError: another kind of body, no such layer or head, or a layer would lose all its heads.
    """
    layers = _layers(body)
    for number, gone in heads.items():
        attention = _layer(layers, number).attention
        own = attention.self
        size, count = own.attention_head_size, own.num_attention_heads
        kept = _kept(count, gone, f"heads in layer {number}")
        rows = (kept.unsqueeze(1) * size + torch.arange(size)).flatten()  # (kept heads * Dh,)
        own.query, own.key, own.value = (_rows(part, rows) for part in (own.query, own.key, own.value))
        attention.output.dense = _columns(attention.output.dense, rows)
        own.num_attention_heads, own.all_head_size = len(kept), len(rows)


def prune_neurons(body: PreTrainedModel, neurons: Mapping[int, Sequence[int]]) -> None:
    """Take neurons out of the feed-forward parts; two thirds of a layer's arithmetic are there.

    The result is the same as if those neurons answered 0. See :func:`prune_heads`.

    Args:
        body: a BERT-shaped encoder, changed in place.
        neurons: for each layer the neurons to take out, as they are numbered now.

    Raises:
        ValueError: another kind of body, no such layer or neuron, or a layer would lose all of them.
    """
    layers = _layers(body)
    for number, gone in neurons.items():
        layer = _layer(layers, number)
        kept = _kept(layer.output.dense.in_features, gone, f"neurons in layer {number}")
        layer.intermediate.dense = _rows(layer.intermediate.dense, kept)
        layer.output.dense = _columns(layer.output.dense, kept)


def _layers(body: PreTrainedModel) -> Any:
    layers = getattr(getattr(body, "encoder", None), "layer", None)
    if layers is None or not hasattr(layers[0], "intermediate"):
        raise ValueError(f"Only BERT-shaped encoders can be pruned by parts, not {type(body).__name__}.")
    return layers


def _layer(layers: Any, number: int) -> Any:
    if not 0 <= number < len(layers):
        raise ValueError(f"There is no layer {number}; the body has layers 0 to {len(layers) - 1}.")
    return layers[number]


def _kept(count: int, gone: Sequence[int], what: str) -> torch.Tensor:
    if not set(gone) <= set(range(count)):
        raise ValueError(f"There are {count} {what}, numbered from 0; {sorted(set(gone))} were to go.")
    if len(set(gone)) == count:
        raise ValueError(f"All {count} {what} were to go; leave at least one.")
    return torch.tensor([i for i in range(count) if i not in set(gone)])


def _rows(linear: nn.Linear, rows: torch.Tensor) -> nn.Linear:
    return _linear(linear.weight[rows], linear.bias[rows])


def _columns(linear: nn.Linear, columns: torch.Tensor) -> nn.Linear:
    return _linear(linear.weight[:, columns], linear.bias)


def _linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], device="meta")  # draws no random numbers
    made.weight = nn.Parameter(weight.detach().clone())
    made.bias = nn.Parameter(bias.detach().clone())
    return made
