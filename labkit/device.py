"""Where a computation runs and in which number format, decided in one place that says why."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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

    def scaler(self) -> torch.amp.GradScaler:
        """What keeps gradients in the range of float16; for the other formats it does nothing.

        float16 ends at 6e-8, where many gradients lie, so the loss is multiplied before the backward pass and
        the gradients are divided after it. bfloat16 has the range of float32 and needs none of this.
        """
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def __str__(self) -> str:
        return f"{self.device} in {str(self.dtype).removeprefix('torch.')}: {self.reason}"


def choose_device(name: str | None = None, precision: str = "auto") -> Device:
    """Choose the fastest device that this machine really has, and the fastest format that it multiplies in.

    Args:
        name: ``"cpu"``, ``"cuda"`` or ``"cuda:1"`` to insist on one; None to choose.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"`` to insist on one, even where the hardware only
            emulates it; ``"auto"`` takes bf16 where the hardware has it, fp16 on GPUs that have only that,
            and fp32 elsewhere.

    Returns:
        The device with its number format and the reason, ready to print.

    Raises:
        ValueError: ``name`` is neither a CPU nor a CUDA device, or this machine does not have it (falling
            back to the CPU in silence would turn minutes into hours); or there is no such precision.

    Example:
        >>> choose_device("cpu").device
        device(type='cpu')
        >>> print(choose_device("cpu", "fp32"))
        cpu in float32: the CPU was asked for, and fp32 too
    """
    if precision != "auto" and precision not in PRECISIONS:
        raise ValueError(f"There is no precision {precision!r}; use auto, {', '.join(PRECISIONS)}.")
    device = _parsed(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    where = device.type.upper().replace("CUDA", "GPU")
    why = (
        f"the {where} was asked for"
        if name
        else ("a GPU was found" if where == "GPU" else "no GPU was found")
    )
    if precision != "auto":
        return Device(
            device, PRECISIONS[precision], f"{why}, and {precision} {'too' if name else 'asked for'}"
        )
    if device.type == "cuda":
        card = torch.cuda.get_device_name(device)
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return Device(device, torch.bfloat16, f"{card} multiplies bf16 matrices in hardware")
        if capability >= (7, 0):
            return Device(device, torch.float16, f"{card} multiplies fp16 matrices in hardware, bf16 not")
        return Device(device, torch.float32, f"{card} multiplies neither bf16 nor fp16 matrices in hardware")
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
