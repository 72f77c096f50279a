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
        ValueError: ``name`` is neither a CPU nor a CUDA device, or this machine does not have it. Falling
            back to the CPU in silence would turn minutes into hours.

    Example:
        >>> choose_device("cpu").device
        device(type='cpu')
    """
    device = _parsed(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        card = torch.cuda.get_device_name(device)
        if torch.cuda.get_device_capability(device)[0] >= 8:
            return Device(device, torch.bfloat16, f"{card} multiplies bf16 matrices in hardware")
        return Device(device, torch.float32, f"{card} has no bf16 units")
    why = "the CPU was asked for" if name else "no GPU was found"
    if torch.cpu._is_avx512_bf16_supported():
        return Device(device, torch.bfloat16, f"{why}, and this CPU has AVX-512 bf16 instructions")
    # Without those instructions bf16 on a CPU is emulated, and about nine times slower than float32.
    return Device(device, torch.float32, f"{why}, and this CPU has no bf16 instructions")


def _parsed(name: str) -> torch.device:
    """The device of that name, which this machine has."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"There is no device {name!r}; use 'cpu', 'cuda' or one GPU, such as 'cuda:1'.")
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= cards:
        seen = f"{cards} CUDA GPU{'s' * (cards > 1)}, numbered from 0" if cards else "no CUDA GPU"
        raise ValueError(
            f"The device {name!r} was asked for, but PyTorch sees {seen}; use another or leave it out."
        )
    return device
