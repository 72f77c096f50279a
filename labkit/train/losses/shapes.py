"""Shapes that do not fit are refused, in one sentence, before anything is computed."""

from __future__ import annotations

import torch


def same_shape(*tensors: torch.Tensor) -> None:
    # Broadcasting (B,) against (B, 1) would silently compare every pair with every other.
    if len({tensor.shape for tensor in tensors}) != 1:
        raise ValueError(
            f"These must have the same shape, not {[tuple(tensor.shape) for tensor in tensors]}."
        )
