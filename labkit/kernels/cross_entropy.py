"""Cross-entropy of a linear layer over many classes, without ever storing the logits.

For positions n, classes v and logits z_nv = scale (h_n . w_v + b_v) + c_v the loss of a position is

    L_n = lse_n - (1 - s) z_nt - s/V sum_v z_nv         with lse_n = log sum_v exp z_nv,
                                                        t the target and s the smoothing

Only lse_n touches all N x V logits; the other terms are linear in h and w and cost N x D (the sum over v is
h . sum_v w_v). So the kernel is the logsumexp of a linear layer and the gradient of its weighted sum
(:mod:`labkit.kernels.logsumexp`, ``logsumexp_triton``); the rest is here. With g_n the weight of position n
in the reduced loss:

    dL/dh_n = g_n (dlse_n/dh_n - scale ((1 - s) w_t + s/V sum_v w_v))       and likewise by w and b

The gradient is taken in the forward pass, while the exponentials are at hand, as in Liger (Hsu et al., "Liger
Kernel", 2024), so it must not be scaled by anything that is known only later, except one number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from labkit.kernels.bag import sum_by_id
from labkit.kernels.dispatch import choose


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor | None = None,
    scale: float = 1.0,
    ignore_index: int = -100,
    smoothing: float = 0.0,
    reduction: str = "mean",
    correction: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of ``scale * linear(hidden, weight, bias) + correction``; the logits are never stored.

    Matrix products run in the dtype of ``linear`` (the inputs', or autocast's), the softmax, all sums and the
    gradients in at least float32. The Triton kernel keeps the logits of 16-bit products in float32. Without
    it those of bf16 are rounded to bf16, as PyTorch's are, so that the loss of a sure position can be a
    little below 0, and fp16 is computed in float32.

    Relations: ``torch.nn.functional.cross_entropy(linear(hidden, weight, bias) * scale + correction, target,
    ignore_index=ignore_index, label_smoothing=smoothing, reduction=reduction)`` is the same number.
    :func:`labkit.kernels.chosen` says which implementation runs.

    Args:
        hidden: (N, D) floating-point vectors, one per position.
        weight: (V, D), one row per class, such as tied token or item embeddings.
        target: (N,) int64 in 0..V-1, or ``ignore_index``: such positions are not computed at all.
        bias: (V,) added to the inner products.
        scale: 1 / temperature.
        ignore_index: the target of positions to leave out.
        smoothing: share of the target's probability spread evenly over all V classes, in 0..1.
        reduction: ``"mean"`` over the positions not left out, ``"sum"``, or ``"none"`` (0 where left out).
        correction: (V,) constants added to the scaled logits, such as -log of the probability with which a
            class was sampled (logQ), or -inf for a class that can't be. It gets no gradient.

    Returns:
        The loss, a scalar, or (N,) with ``"none"``; in float32 for 16-bit inputs. Gradients flow to hidden,
        weight and bias, once (no second derivatives). NaN or an infinity in a row of ``hidden`` makes its
        loss NaN, one in ``weight`` every loss, and either makes the gradient by weight NaN.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, the batch is empty, a target is out of range, or a
            mean is asked for and every position is left out.

    Example:
        >>> hidden = torch.zeros(2, 4)
        >>> linear_cross_entropy(hidden, torch.randn(8, 4), torch.tensor([3, 5]))  # log 8
        tensor(2.0794)
    """
    _check(hidden, weight, target, bias, correction, smoothing, reduction)
    kept = target != ignore_index  # (N,)
    seen = torch.where(kept, target, 0)
    lowest, highest, positions = torch.stack([seen.min(), seen.max(), kept.sum()]).tolist()  # waits once
    if lowest < 0 or highest >= len(weight):
        at = int(torch.nonzero((seen < 0) | (seen >= len(weight)))[0])
        raise ValueError(
            f"The target of position {at} is {int(target[at])}, but the {len(weight)} classes are numbered "
            f"0..{len(weight) - 1}; positions to leave out need ignore_index={ignore_index}."
        )
    if positions == 0 and reduction == "mean":
        raise ValueError(
            f"All {len(target)} positions have the target {ignore_index}, so there is nothing to average."
        )
    places = None if positions == len(target) else kept.nonzero()[:, 0]
    if places is not None:
        hidden, target = hidden[places], target[places]
    if not torch.is_grad_enabled():  # else the gradient of whatever has requires_grad would be computed
        hidden, weight, bias = hidden.detach(), weight.detach(), None if bias is None else bias.detach()
    loss = _LinearCrossEntropy.apply(
        hidden, weight, bias, correction, target, scale, smoothing, reduction, _product_dtype(hidden, weight)
    )
    if places is not None and reduction == "none":
        return loss.new_zeros(len(kept)).index_copy(0, places, loss)
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    """The loss over positions that all count; the gradient is computed with it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        correction: torch.Tensor | None,
        target: torch.Tensor,
        scale: float,
        smoothing: float,
        reduction: str,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[:3]
        row_weight = None
        if any(wanted) and reduction != "none":
            share = 1 / len(target) if reduction == "mean" else 1.0
            row_weight = hidden.new_full(
                (len(target),), share, dtype=torch.promote_types(dtype, torch.float32)
            )
        ctx.problem = (target, scale, smoothing, dtype)
        loss, *gradients = _loss_and_gradients(
            hidden, weight, bias, correction, ctx.problem, row_weight, wanted
        )
        ctx.deferred = row_weight is None
        # With one weight per position the gradient has to wait for them, and computes the logits once more.
        ctx.save_for_backward(*((hidden, weight, bias, correction) if ctx.deferred else gradients))
        if reduction == "none":
            return loss
        return loss.mean() if reduction == "mean" else loss.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.deferred:
            hidden, weight, bias, correction = ctx.saved_tensors
            _, *gradients = _loss_and_gradients(
                hidden, weight, bias, correction, ctx.problem, slope.contiguous(), ctx.needs_input_grad[:3]
            )
        else:
            gradients = [None if each is None else each * slope for each in ctx.saved_tensors]
        return *gradients, None, None, None, None, None, None


def _loss_and_gradients(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    correction: torch.Tensor | None,
    problem: tuple[torch.Tensor, float, float, torch.dtype],
    row_weight: torch.Tensor | None,
    wanted: tuple[bool, bool, bool],
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """The losses (N,), and the gradients of sum_n row_weight_n L_n by hidden, weight and bias."""
    target, scale, smoothing, dtype = problem
    wide = torch.promote_types(dtype, torch.float32)
    h, w = hidden.detach().to(dtype), weight.detach().to(dtype)
    offset = None if bias is None else scale * bias.detach().to(wide)
    if correction is not None:
        offset = correction.to(wide) if offset is None else offset + correction.to(wide)
    hit, spread = 1 - smoothing, smoothing / len(weight)
    with torch.autocast(hidden.device.type, enabled=False):
        lse, by_hidden, by_weight, by_offset = choose(
            "linear_cross_entropy", hidden.device, dtype, hidden.shape[1]
        ).run(h, w, offset, scale, row_weight, wanted[1], wanted[2])
        of_target = w[target].to(wide)  # (N, D)
        logit = (h * of_target).sum(dim=1) * scale
        loss = lse - hit * (logit if offset is None else logit + offset[target])
        if spread:
            all_classes = w.sum(dim=0, dtype=wide)  # (D,)
            mean_offset = 0.0 if offset is None else offset.sum()
            loss -= spread * (scale * (h.to(wide) @ all_classes) + mean_offset)
        if row_weight is None:
            return loss, None, None, None
        pull = (scale * row_weight)[:, None]  # (N, 1)
        if by_hidden is not None:
            by_hidden.addcmul_(of_target, pull, value=-hit)
            if spread:
                by_hidden.sub_(spread * pull * all_classes)
        if by_weight is not None:
            pulled = h * pull  # (N, D)
            classes, pulls = sum_by_id(pulled, None, target)
            by_weight[classes] -= hit * pulls
            if spread:
                by_weight.sub_(spread * pulled.sum(dim=0))
        if by_offset is not None:
            classes, pulls = sum_by_id(row_weight[:, None], None, target)
            by_offset[classes] -= hit * pulls[:, 0]
            by_offset = scale * by_offset.sub_(spread * row_weight.sum())
    return (
        loss,
        None if by_hidden is None or not wanted[0] else by_hidden.to(_kept(hidden)),
        None if by_weight is None else by_weight.to(_kept(weight)),
        None if by_offset is None or bias is None else by_offset.to(_kept(bias)),
    )


def _kept(values: torch.Tensor) -> torch.dtype:
    """The dtype of a gradient until backward, where autograd makes it that of ``values``."""
    # The gradient of a mean over many positions is below float16's least number until a loss scale lifts it.
    return torch.float32 if values.dtype == torch.float16 else values.dtype


def _check(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    bias: torch.Tensor | None,
    correction: torch.Tensor | None,
    smoothing: float,
    reduction: str,
) -> None:
    if (
        hidden.ndim != 2
        or weight.ndim != 2
        or hidden.shape[1] != weight.shape[1]
        or target.shape != hidden.shape[:1]
    ):
        raise ValueError(
            "linear_cross_entropy needs hidden (N, D), weight (V, D) and target (N,), "
            f"not {tuple(hidden.shape)}, {tuple(weight.shape)} and {tuple(target.shape)}."
        )
    if 0 in hidden.shape or len(weight) == 0:
        raise ValueError(
            "linear_cross_entropy got an empty batch or no classes: "
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)}."
        )
    for name, vector in (("bias", bias), ("correction", correction)):
        if vector is not None and vector.shape != weight.shape[:1]:
            raise ValueError(
                f"The {name} needs one number per class, ({len(weight)},), not {tuple(vector.shape)}."
            )
    if not (hidden.is_floating_point() and weight.is_floating_point()) or target.dtype != torch.int64:
        raise ValueError(
            "linear_cross_entropy needs floating-point hidden and weight and an int64 target, "
            f"not {hidden.dtype}, {weight.dtype} and {target.dtype}."
        )
    places = {str(each.device) for each in (hidden, weight, target, bias, correction) if each is not None}
    if len(places) > 1:
        raise ValueError(f"linear_cross_entropy needs all tensors on one device, not on {sorted(places)}.")
    if not 0 <= smoothing <= 1 or reduction not in ("mean", "sum", "none"):
        raise ValueError(
            "linear_cross_entropy needs smoothing in 0..1 and a reduction of mean, sum or none, "
            f"not {smoothing} and {reduction!r}."
        )


def _product_dtype(hidden: torch.Tensor, weight: torch.Tensor) -> torch.dtype:
    """The dtype of the matrix products: what ``linear`` would use, unless this CPU only emulates it."""
    kind = hidden.device.type
    dtype = torch.promote_types(hidden.dtype, weight.dtype)
    if torch.is_autocast_enabled(kind) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
    fast = kind != "cpu" or (dtype == torch.bfloat16 and torch.cpu._is_avx512_bf16_supported())
    return dtype if fast else torch.promote_types(dtype, torch.float32)
