"""What every loss asks of its inputs: shapes that fit, at least one example, labels that exist, no NaN."""

from __future__ import annotations

import torch


def same_shape(*tensors: torch.Tensor) -> None:
    """Refuse an empty batch and shapes that differ."""
    # Broadcasting (B,) against (B, 1) would silently compare every pair with every other.
    if len({tensor.shape for tensor in tensors}) != 1:
        raise ValueError(
            f"These must have the same shape, not {[tuple(tensor.shape) for tensor in tensors]}."
        )
    not_empty(tensors[0])


def not_empty(batch: torch.Tensor) -> None:
    """Refuse a batch of nothing, whose mean would be NaN."""
    if not batch.numel():
        raise ValueError(
            f"The batch is empty (shape {tuple(batch.shape)}); a loss needs at least one example."
        )


def labels_exist(labels: torch.Tensor, classes: int, what: str) -> None:
    """Refuse numbers that are no class: on a GPU they would stop the process without saying which."""
    if labels.dtype != torch.int64:
        raise ValueError(f"{what} must be integers (int64), not {str(labels.dtype).removeprefix('torch.')}.")
    lowest, highest = labels.aminmax()
    if lowest < 0 or highest >= classes:
        raise ValueError(f"{what} must lie in 0 to {classes - 1}; found {int(lowest)} to {int(highest)}.")


def no_nan(values: torch.Tensor, what: str) -> None:
    """Refuse NaN where the loss would pass it on to every weight."""
    if count := int(values.isnan().sum()):
        raise ValueError(f"{what} hold {count} NaN; look at what computed them.")


def exact(values: torch.Tensor) -> torch.Tensor:
    """At least float32: in bf16 close scores become equal and their order is lost."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """All inner products of (B, D) with (N, D), in float32 or better also under autocast: (B, N)."""
    with torch.autocast(left.device.type, enabled=False):
        return exact(left) @ exact(right).T
