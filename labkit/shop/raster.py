"""Fills polygons with anti-aliased edges, many at once, in arithmetic that is the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PIXELS = 64
_LINES = 4  # scan lines per row of pixels
_WIDE = PIXELS + 2


@dataclass(frozen=True)
class Cover:
    """Each part's coverage of the pixels, only the rows and columns that it reaches."""

    boxes: list[tuple[slice, slice]]  # rows and columns of the picture
    filled: list[np.ndarray]  # float32 in [0, 1], as large as the box
    rims: list[np.ndarray]  # the share of it that lies at the part's edge, about a pixel wide


def coverage(corners: np.ndarray, following: np.ndarray, part: np.ndarray, first: np.ndarray) -> Cover:
    """How much of every pixel each part covers.

    On each scan line an edge adds its direction to all that lies right of it, exactly in x; the sum over a
    closed outline is 1 inside and 0 outside (signed-area accumulation, as font renderers do it). Where
    outlines of one part overlap they count once; a loop that runs the other way round cuts a hole.

    Args:
        corners: (E, 2) float64, x and y in pixels.
        following: (E,) int, the corner to which the edge goes.
        part: (E,) int, the part whose outline it is, ascending from 0.
        first: (P,) int, the first corner of each part.

    Example:
        >>> square = np.array([[8.0, 8.0], [16.0, 8.0], [16.0, 16.5], [8.0, 16.5]])
        >>> cover = coverage(square, np.array([1, 2, 3, 0]), np.zeros(4, int), np.zeros(1, int))
        >>> cover.boxes[0], float(cover.filled[0][-1, 2])
        ((slice(8, 17, None), slice(8, 16, None)), 0.5)
    """
    low = np.clip(np.floor(np.minimum.reduceat(corners, first)), 0, PIXELS).astype(np.int64)
    high = np.clip(np.ceil(np.maximum.reduceat(corners, first)), 0, PIXELS).astype(np.int64)
    # The rows of all parts stand in one table; an empty row above and below each keeps them apart.
    heights = high[:, 1] - low[:, 1]
    starts = np.cumsum(heights + 2) - heights - 1
    rows = int(starts[-1] + heights[-1] + 1)

    x0, y0 = corners[:, 0], corners[:, 1]
    x1, y1 = x0[following], y0[following]
    top, bottom = np.minimum(y0, y1), np.maximum(y0, y1)
    begin = np.clip(np.ceil(top * _LINES - 0.5), 0, PIXELS * _LINES).astype(np.int64)
    count = np.clip(np.ceil(bottom * _LINES - 0.5), 0, PIXELS * _LINES).astype(np.int64) - begin
    slope = (x1 - x0) / np.where(y1 == y0, 1.0, y1 - y0)
    weight = np.where(y1 > y0, 1.0 / _LINES, -1.0 / _LINES)

    edge = np.repeat(np.arange(len(corners)), count)
    line = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - begin, count)
    x = np.clip(x0[edge] + ((line + 0.5) / _LINES - y0[edge]) * slope[edge], 0.0, float(PIXELS))
    column = x.astype(np.int64)
    signed = weight[edge]
    right = (x - column) * signed
    place = (line // _LINES + (starts - low[:, 1])[part][edge]) * _WIDE + column
    size = rows * _WIDE
    steps = np.bincount(place, signed - right, size) + np.bincount(place + 1, right, size + 1)[:size]
    table = np.cumsum(steps.reshape(rows, _WIDE)[:, :PIXELS], axis=1).astype(np.float32)
    table = np.minimum(np.abs(table), np.float32(1.0))
    rims = table - _inner(table)

    boxes, filled, edges = [], [], []
    for (left, upper), (end, _), start, height in zip(
        low.tolist(), high.tolist(), starts.tolist(), heights.tolist(), strict=True
    ):
        boxes.append((slice(upper, upper + height), slice(left, end)))
        filled.append(table[start : start + height, left:end])
        edges.append(rims[start : start + height, left:end])
    return Cover(boxes, filled, edges)


def _inner(table: np.ndarray) -> np.ndarray:
    """The coverage drawn in by one pixel on all sides."""
    least = table.copy()
    np.minimum(least[1:], table[:-1], out=least[1:])
    np.minimum(least[:-1], table[1:], out=least[:-1])
    np.minimum(least[:, 1:], table[:, :-1], out=least[:, 1:])
    np.minimum(least[:, :-1], table[:, 1:], out=least[:, :-1])
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
