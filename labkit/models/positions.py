"""Rotary positions: a token's place turns its queries and keys, so that scores depend on distances."""

from __future__ import annotations

import torch


def rotation(
    positions: torch.Tensor, width: int, dtype: torch.dtype = torch.float32, base: float = 10_000.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the angles for each place.

    Pair i of a head's Dh numbers turns by ``position * base ** (-2i / Dh)``: the first pairs tell neighbours
    apart, the last ones the far ends of a text.

    Args:
        positions: (...,) places from 0.
        width: Dh, an even number.
        dtype: of the result.
        base: the slowest pair turns once in about 2π times so many places.

    Returns:
        Two tensors (..., 1, Dh / 2), ready to be used for all heads.

    Raises:
        ValueError: the width is odd.

    Example:
        >>> cos, sin = rotation(torch.arange(3), width=4)
        >>> cos.shape, cos[0].tolist()
        (torch.Size([3, 1, 2]), [[1.0, 1.0]])
    """
    if width % 2:
        raise ValueError(f"Rotary positions turn pairs of numbers; a head of {width} has an odd one.")
    # In float64: at place 10,000 a float32 angle is off by half a thousandth.
    pairs = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device)  # (Dh / 2,)
    angles = positions[..., None, None] * base ** (-pairs / width)  # (..., 1, Dh / 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(values: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn queries or keys by their places.

    The inner product of a query turned by place i and a key turned by place j depends on i - j alone, since
    (R_i q)ᵀ (R_j k) = qᵀ R_{j-i} k. Number i is paired with number i + Dh / 2, as Hugging Face's Llama does,
    rather than with its neighbour as in the paper; that is a renaming of the dimensions. Source: Su et al.,
    "RoFormer", 2021.

    Args:
        values: (..., H, Dh).
        cos, sin: (..., 1, Dh / 2) of :func:`rotation`.

    Returns:
        (..., H, Dh), in the format of ``values``.

    Example:
        >>> query = torch.tensor([[[1.0, 0.0]]])  # one token, one head
        >>> quarter = torch.tensor([[[torch.pi / 2]]])
        >>> rotate(query, quarter.cos(), quarter.sin()).round().abs().tolist()
        [[[0.0, 1.0]]]
    """
    cos, sin = cos.to(values.dtype), sin.to(values.dtype)
    first, second = values.chunk(2, dim=-1)  # (..., H, Dh / 2)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
