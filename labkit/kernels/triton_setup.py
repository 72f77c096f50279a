"""What the Triton kernels share: block sizes to try, precision of products, the interpreter's limits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import wraps
from typing import TypeVar

import torch
import triton

# With TRITON_INTERPRET=1, set before the kernels are imported, they run on the CPU, block by block, in NumPy.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


Results = TypeVar("Results")


def on_its_gpu(launch: Callable[..., Results]) -> Callable[..., Results]:
    """Triton launches on the current GPU: make it that of the first argument, a tensor, for the call."""

    @wraps(launch)
    def launched(first: torch.Tensor, *others: object) -> Results:
        with torch.cuda.device_of(first):
            return launch(first, *others)

    return launched


def configurations(blocks: Iterable[tuple[int, int]]) -> list[triton.Config]:
    """Block sizes (BM, BN) with numbers of warps and pipeline stages worth trying on Ampere and Hopper.

    The autotuner leaves out what does not fit a card's shared memory; one of them must, also in 99 KiB.
    """
    if INTERPRETED:
        return [triton.Config({"BM": 32, "BN": 16})]
    return [
        triton.Config({"BM": rows, "BN": columns}, num_warps=warps, num_stages=stages)
        for rows, columns in blocks
        for warps in ((8,) if rows * columns > 128 * 64 else (4,))
        for stages in (2, 3)
    ]


def precision(dtype: torch.dtype) -> str:
    """How ``tl.dot`` multiplies float32: as PyTorch was told to, by default exactly."""
    fast = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return "tf32" if fast else "ieee"


def splits(blocks: int, walk: int) -> int:
    """Into how many parts to cut each of ``blocks`` walks so that they fill every multiprocessor."""
    if INTERPRETED:
        return 2 if walk > 1 else 1
    processors = torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count
    # Eight rounds of programs: the last, partly filled one then wastes little.
    return max(1, min(8 * processors // blocks, walk // 1024, 32))


def widened(vectors: torch.Tensor) -> torch.Tensor:
    """Contiguous; in float32 under the interpreter, which multiplies bf16 wrongly."""
    return (vectors.float() if INTERPRETED else vectors).contiguous()
