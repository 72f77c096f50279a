"""Fills polygons with anti-aliased edges, many at once, in arithmetic that is the same on every machine."""

from __future__ import annotations

import numpy as np

PIXELS = 64
_LINES = 4  # scan lines per row of pixels
_WIDE = PIXELS + 2


def coverage(corners: np.ndarray, following: np.ndarray, part: np.ndarray, parts: int) -> np.ndarray:
    """How much of every pixel each part covers.

    On each scan line an edge adds its direction to all that lies right of it, exactly in x; the sum over a
    closed outline is 1 inside and 0 outside (signed-area accumulation, as font renderers do it).

    Args:
        corners: (E, 2) float64, x and y in pixels.
        following: (E,) int, the corner to which the edge goes.
        part: (E,) int, the part whose outline it is.
        parts: how many parts there are.

    Returns:
        (parts, 64, 64) float32 in [0, 1]. Where outlines of one part overlap they count once; a loop that runs
        the other way round cuts a hole.

    Example:
        >>> square = np.array([[8.0, 8.0], [16.0, 8.0], [16.0, 16.5], [8.0, 16.5]])
        >>> float(coverage(square, np.array([1, 2, 3, 0]), np.zeros(4, int), 1)[0, 16, 10])
        0.5
    """
    x0, y0 = corners[:, 0], corners[:, 1]
    x1, y1 = x0[following], y0[following]
    low, high = np.minimum(y0, y1), np.maximum(y0, y1)
    start = np.clip(np.ceil(low * _LINES - 0.5), 0, PIXELS * _LINES).astype(np.int64)
    stop = np.clip(np.ceil(high * _LINES - 0.5), 0, PIXELS * _LINES).astype(np.int64)
    count = stop - start
    slope = (x1 - x0) / np.where(y1 == y0, 1.0, y1 - y0)
    weight = np.where(y1 > y0, 1.0 / _LINES, -1.0 / _LINES)

    edge = np.repeat(np.arange(len(corners)), count)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - start, count)
    x = np.clip(x0[edge] + ((line + 0.5) / _LINES - y0[edge]) * slope[edge], 0.0, float(PIXELS))
    column = x.astype(np.int64)
    right = (x - column) * weight[edge]
    place = (part[edge] * PIXELS + line // _LINES) * _WIDE + column
    size = parts * PIXELS * _WIDE
    steps = np.bincount(place, weight[edge] - right, size) + np.bincount(place + 1, right, size + 1)[:size]
    filled = np.cumsum(steps.reshape(parts, PIXELS, _WIDE)[:, :, :PIXELS], axis=2).astype(np.float32)
    return np.minimum(np.abs(filled), np.float32(1.0))


def inner(cover: np.ndarray) -> np.ndarray:
    """The coverage drawn in by one pixel on all sides: what is left is the rim.

    Args:
        cover: (P, 64, 64) float32.
    """
    least = cover.copy()
    np.minimum(least[:, 1:], cover[:, :-1], out=least[:, 1:])
    np.minimum(least[:, :-1], cover[:, 1:], out=least[:, :-1])
    np.minimum(least[:, :, 1:], cover[:, :, :-1], out=least[:, :, 1:])
    np.minimum(least[:, :, :-1], cover[:, :, 1:], out=least[:, :, :-1])
    return least


def soften(field: np.ndarray, times: int = 1) -> np.ndarray:
    """Blur with the kernel 1-2-1 over 4, ``times`` times with growing distance; the border stays as it is.

    Args:
        field: (64, 64) float32.
        times: 1 reaches 1 pixel far, 2 reaches 3, 3 reaches 7.
    """
    quarter, half = np.float32(0.25), np.float32(0.5)
    for distance in [1 << k for k in range(times)]:
        d = distance
        wide = field.copy()
        wide[:, d:-d] = (field[:, : -2 * d] + field[:, 2 * d :]) * quarter + field[:, d:-d] * half
        field = wide.copy()
        field[d:-d] = (wide[: -2 * d] + wide[2 * d :]) * quarter + wide[d:-d] * half
    return field
