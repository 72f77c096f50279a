"""Where a computation runs and in which number format, decided in one place that says why."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """A device, the format of its matrix products, and the reason for both."""

    device: torch.device
    dtype: torch.dtype  # of matrix products under autocast; parameters stay float32
    reason: str

    def autocast(self) -> AbstractContextManager:
        """Mixed precision where it helps, and nothing at all where it does not."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def __str__(self) -> str:
        return f"{self.device} in {str(self.dtype).removeprefix('torch.')}: {self.reason}"


def choose_device(name: str | None = None) -> Device:
    """Choose the fastest device that this machine really has.

    Args:
        name: ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` to insist on one; None to choose.

    Returns:
        The device with its number format and the reason, ready to print.

    Raises:
        ValueError: ``name`` asks for a GPU that this machine does not have. Falling back to the CPU in
            silence would turn minutes into hours.

    Example:
        >>> choose_device("cpu").device
        device(type='cpu')
    """
    if name is not None and torch.device(name).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"The device {name!r} was asked for, but PyTorch sees no CUDA GPU; use 'cpu' or leave it out."
        )
    if name is None and torch.cuda.is_available():
        name = "cuda"
    if name is not None and torch.device(name).type == "cuda":
        card = torch.cuda.get_device_name(torch.device(name))
        if torch.cuda.get_device_capability(torch.device(name))[0] >= 8:
            return Device(torch.device(name), torch.bfloat16, f"{card} multiplies bf16 matrices in hardware")
        return Device(torch.device(name), torch.float32, f"{card} has no bf16 units")
    if torch.cpu._is_avx512_bf16_supported():
        return Device(
            torch.device("cpu"),
            torch.bfloat16,
            "no GPU was found, and this CPU has AVX-512 bf16 instructions",
        )
    # Without those instructions bf16 on a CPU is emulated, and about nine times slower than float32.
    return Device(
        torch.device("cpu"), torch.float32, "no GPU was found, and this CPU has no bf16 instructions"
    )
