"""Pictures as numbers that a network learns from, and small changes that keep what they show."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F


def to_pixels(pictures: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Pictures as networks read them.

    Args:
        pictures: (B, H, W, 3) uint8, red, green, blue.

    Returns:
        (B, 3, H, W) float32 in -1 to 1. The memory keeps its order (channels last), in which convolutions
        are fastest.

    Raises:
        ValueError: these are not RGB pictures of bytes.

    Example:
        >>> to_pixels(np.full((1, 64, 64, 3), 255, dtype=np.uint8)).shape
        torch.Size([1, 3, 64, 64])
    """
    values = torch.as_tensor(pictures)
    if values.dtype != torch.uint8 or values.ndim != 4 or values.shape[3] != 3:
        raise ValueError(
            "Pictures must be (B, H, W, 3) uint8, "
            f"not {tuple(values.shape)} {str(values.dtype).removeprefix('torch.')}."
        )
    return values.permute(0, 3, 1, 2).float() / 127.5 - 1


def augment(pixels: torch.Tensor, seed: int, shift: int = 6) -> torch.Tensor:
    """Move each picture by up to a few pixels and mirror half of them: the same thing, another photograph.

    With few pictures a network would learn them by heart; one that never sees the same pixels twice has to
    learn what stays. The border that a move lays bare is filled with the picture's mirror image. Source:
    He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2.

    Args:
        pixels: (B, 3, H, W).
        seed: of the moves; the same gives the same.
        shift: the furthest move, in pixels.

    Returns:
        (B, 3, H, W).

    Example:
        >>> pictures = torch.arange(16.0).view(1, 1, 4, 4)
        >>> torch.equal(augment(pictures, seed=1, shift=1), augment(pictures, seed=1, shift=1))
        True
    """
    size, _, height, width = pixels.shape
    chance = np.random.default_rng(seed)
    downs, acrosses = chance.integers(0, 2 * shift + 1, (2, size))
    mirrored = chance.random(size) < 0.5
    wide = F.pad(pixels, (shift, shift, shift, shift), mode="reflect")
    moved = [
        picture[:, down : down + height, across : across + width]
        for picture, down, across in zip(wide, downs, acrosses, strict=True)
    ]
    moved = [picture.flip(2) if flip else picture for picture, flip in zip(moved, mirrored, strict=True)]
    return torch.stack(moved).contiguous(memory_format=torch.channels_last)
