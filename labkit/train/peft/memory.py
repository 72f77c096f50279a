"""How much memory a training needs at its worst moment, measured rather than estimated."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(model: nn.Module, train: Callable[[], object]) -> int:
    """The most bytes of tensors that are alive at one time while ``train`` runs.

    That is weights, gradients, optimiser state, the activations kept for the backward pass, and whatever is
    temporary beside them. On a GPU it is what PyTorch's allocator counts. On a CPU every tensor that an
    operation returns is counted until it is freed; this agrees with ``torch.profiler``'s record of the CPU
    allocator, and leaves out what the C library holds back of freed memory, which the process's resident size
    includes and which depends on what ran before. Counting slows training down: take the time elsewhere.

    Args:
        model: its parameters and buffers count from the beginning.
        train: a few steps are enough: from the second on the optimiser's state is there.

    Returns:
        Bytes.

    Example:
        >>> linear = nn.Linear(256, 256, bias=False)
        >>> step = lambda: linear(torch.zeros(1, 256)).sum().backward()
        >>> round(peak_memory(linear, step) / 2**20, 1)  # MB: the weight and its gradient
        0.5
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        train()
        return torch.cuda.max_memory_allocated(device)
    counter = _Counter()
    for tensor in (*model.parameters(), *model.buffers()):
        counter.see(tensor)
    with counter:
        train()
    return counter.peak


class _Counter(TorchDispatchMode):
    """Adds up the storages of all tensors that operations return, each until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}  # address of the storage → bytes
        self.now = self.peak = 0

    def see(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address not in self.alive:
            self.alive[address] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, address)

    def _freed(self, address: int) -> None:
        self.now -= self.alive.pop(address)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.see(value)
        return result
