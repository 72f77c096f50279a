"""Fused kernels, each beside its plain PyTorch reference; :func:`chosen` says which one runs where."""

from labkit.kernels.cross_entropy import linear_cross_entropy
from labkit.kernels.dispatch import Choice, chosen

__all__ = ["Choice", "chosen", "linear_cross_entropy"]
