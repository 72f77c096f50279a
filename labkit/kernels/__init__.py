"""Fused kernels, each beside its plain PyTorch reference; :func:`chosen` says which one runs where."""

from labkit.kernels.bag import embedding_bag
from labkit.kernels.cross_entropy import linear_cross_entropy
from labkit.kernels.dispatch import Choice, chosen
from labkit.kernels.pool import attention_pool
from labkit.kernels.topk import top_k

__all__ = ["Choice", "attention_pool", "chosen", "embedding_bag", "linear_cross_entropy", "top_k"]
