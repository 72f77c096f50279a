"""Which implementation of a kernel runs where, and why."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch

# kernel -> implementation -> "module:function", imported when it is first chosen (Triton takes a second)
IMPLEMENTATIONS = {
    "linear_cross_entropy": {
        "reference": "logsumexp:reference",
        "chunked": "logsumexp:chunked",
        "triton": "logsumexp_triton:fused",
    },
    "top_k": {
        "reference": "topk:reference",
        "chunked": "topk:chunked",
        "faiss": "topk:with_faiss",
        "triton": "topk_triton:grouped",
    },
    "attention_pool": {
        "reference": "pool:reference",
        "chunked": "pool:packed",
        "triton": "pool_triton:packed",
    },
    "embedding_bag": {
        "reference": "bag:reference",
        "chunked": "bag:chunked",
        "triton": "bag_triton:gathered",
    },
}
# Widest vectors: a matrix product keeps whole ones in shared memory, a pooled sum in registers.
TRITON_WIDTH = {"linear_cross_entropy": 256, "top_k": 256, "attention_pool": 4096, "embedding_bag": 1 << 30}
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Choice:
    """The implementation of a kernel on a device, and the reason."""

    kernel: str
    device: str
    implementation: str  # "reference", "chunked", "faiss" or "triton"
    why: str

    @property
    def run(self) -> Any:
        """The function itself, or the pair of a forward and a backward function."""
        module, function = IMPLEMENTATIONS[self.kernel][self.implementation].split(":")
        return getattr(importlib.import_module(f"labkit.kernels.{module}"), function)

    def __str__(self) -> str:
        return f"{self.kernel} on {self.device}: {self.implementation}, because {self.why}"


def choose(kernel: str, device: torch.device, dtype: torch.dtype = torch.float32, width: int = 1) -> Choice:
    """Choose the implementation of one kernel.

    Args:
        kernel: a name from ``IMPLEMENTATIONS``.
        device: where the tensors are.
        dtype: of the matrix products.
        width: of the vectors.

    Returns:
        The choice. ``LABKIT_KERNELS=reference`` (or ``chunked``, ``triton``) in the environment overrules it.

    Raises:
        ValueError: ``LABKIT_KERNELS`` names no implementation.

    Example:
        >>> choose("linear_cross_entropy", torch.device("cpu")).implementation
        'chunked'
    """
    known, place = IMPLEMENTATIONS[kernel], device.type
    forced = os.environ.get("LABKIT_KERNELS")
    if forced and forced not in known:
        raise ValueError(f"LABKIT_KERNELS is {forced!r}; it can be one of {', '.join(known)}, or unset.")
    if forced == "triton" and place == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError("LABKIT_KERNELS=triton runs on a CPU only with TRITON_INTERPRET=1.")
    if forced and forced != "triton":
        return Choice(kernel, place, forced, f"LABKIT_KERNELS={forced}")
    if dtype not in TRITON_DTYPES:
        return Choice(kernel, place, "chunked", f"{dtype} is computed by PyTorch")
    if not forced and place == "cpu" and "faiss" in known and dtype == torch.float32 and _installed("faiss"):
        return Choice(kernel, place, "faiss", "faiss is installed and faster from 20 queries on")
    if not forced and place != "cuda":
        return Choice(kernel, place, "chunked", f"Triton compiles for CUDA, not for {place}")
    if place == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability(device) < (8, 0):
        return Choice(kernel, place, "chunked", "the card is older than Ampere, for which the kernels are")
    if not _installed("triton"):
        return Choice(kernel, place, "chunked", "triton is not installed")
    if width > TRITON_WIDTH[kernel]:
        why = f"the Triton kernel takes vectors up to {TRITON_WIDTH[kernel]} wide, not {width}"
        return Choice(kernel, place, "chunked", why)
    why = "LABKIT_KERNELS=triton" if forced else "the device is CUDA and triton is installed"
    return Choice(kernel, place, "triton", why)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def chosen(device: str | torch.device | None = None) -> list[Choice]:
    """Say which implementation of each kernel runs on a device, and why.

    Args:
        device: a device or its name; None for CUDA where it is available, else the CPU.

    Returns:
        One choice per kernel, ready to print.

    Raises:
        ValueError: ``LABKIT_KERNELS`` in the environment names no implementation.

    Example:
        >>> print(chosen("cpu")[0])
        linear_cross_entropy on cpu: chunked, because Triton compiles for CUDA, not for cpu
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return [choose(kernel, place) for kernel in IMPLEMENTATIONS]
