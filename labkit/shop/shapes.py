"""Reads the drawings (``drawings/*.yaml``) and turns their parts into polygons.

A drawing is a list of parts, from the back to the front, on a sheet of 64 x 64 units with y downwards. A part
is one line, ``ink kind numbers``; a part under ``attribute=value,value`` (or ``attribute!=value``) is drawn
only for products that have (or lack) the value. ``-`` and ``+`` behind an ink make it darker and lighter,
``*`` behind a kind draws the part a second time, mirrored at the middle. The kinds:

    box x0 y0 x1 y1 [r]        a rectangle, its corners rounded by r
    frame x0 y0 x1 y1 r w      the outline of a box, w wide
    poly r x y x y ...         a polygon with rounded corners
    blob x y x y ...           a closed smooth curve that follows these points
    ell cx cy rx ry            an ellipse
    ring cx cy rx ry w         the outline of an ellipse, w wide
    line w x y x y ...         a stroke through the points
    curve w x y cx cy x y ...  a stroke along quadratic Bezier curves: point, control, point, control ...
    dots x0 y0 x1 y1 nx ny r   nx times ny discs, evenly spread
    cells x0 y0 x1 y1 nx ny g  nx times ny boxes with gaps of g
    star cx cy r               a star with five points
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

FOLDER = Path(__file__).parent / "drawings"
SHEET = 64.0
Point = tuple[float, float]
Loop = list[Point]
TONES = {"--": -0.5, "-": -0.24, "": 0.0, "+": 0.22, "++": 0.45}

# A fifth of a turn: cosines and sines of 18, 54, ... degrees as constants, for machines differ in theirs.
_STAR = (
    (0.0, -1.0),
    (0.951057, -0.309017),
    (0.587785, 0.809017),
    (-0.587785, 0.809017),
    (-0.951057, -0.309017),
)


def _quarter(steps: int) -> Loop:
    """Points on a quarter of the unit circle by its rational parametrisation, the last one left out."""
    parameters = [k / steps for k in range(steps)]
    return [((1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)) for t in parameters]


def ellipse(cx: float, cy: float, rx: float, ry: float) -> Loop:
    """A polygon of 16 or 24 corners on the ellipse."""
    quarter = _quarter(6 if max(rx, ry) > 6 else 4)
    turned = [*quarter, *[(-y, x) for x, y in quarter]]
    return [(cx + rx * x, cy + ry * y) for x, y in (*turned, *[(-x, -y) for x, y in turned])]


def rounded(corners: Loop, radius: float) -> Loop:
    """Replace each corner by a quadratic curve that begins and ends ``radius`` before and behind it."""
    if radius <= 0:
        return corners
    path: Loop = []
    for index, corner in enumerate(corners):
        before = _towards(corner, corners[index - 1], radius)
        behind = _towards(corner, corners[(index + 1) % len(corners)], radius)
        path += _bezier(before, corner, behind, 4)
        path.append(behind)
    return path


def _towards(start: Point, end: Point, distance: float) -> Point:
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = float(np.sqrt(dx * dx + dy * dy))
    share = min(distance / length, 0.5) if length > 0 else 0.0
    return start[0] + dx * share, start[1] + dy * share


def _bezier(a: Point, control: Point, b: Point, steps: int) -> Loop:
    """Points from a, without b."""
    points = []
    for k in range(steps):
        t = k / steps
        p, q, r = (1 - t) * (1 - t), 2 * t * (1 - t), t * t
        points.append((p * a[0] + q * control[0] + r * b[0], p * a[1] + q * control[1] + r * b[1]))
    return points


def _box(x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> list[Loop]:
    return [rounded([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], r)]


def _frame(x0: float, y0: float, x1: float, y1: float, r: float, w: float) -> list[Loop]:
    inside = rounded([(x0 + w, y0 + w), (x1 - w, y0 + w), (x1 - w, y1 - w), (x0 + w, y1 - w)], max(r - w, 0))
    return [*_box(x0, y0, x1, y1, r), inside[::-1]]


def _ring(cx: float, cy: float, rx: float, ry: float, w: float) -> list[Loop]:
    return [ellipse(cx, cy, rx, ry), ellipse(cx, cy, rx - w, ry - w)[::-1]]


def _points(numbers: Iterable[float]) -> Loop:
    flat = list(numbers)
    return list(zip(flat[::2], flat[1::2], strict=True))


def _blob(*numbers: float) -> list[Loop]:
    corners = _points(numbers)
    middles = [
        ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    path: Loop = []
    for index, corner in enumerate(corners):
        path += _bezier(middles[index - 1], corner, middles[index], 4)
    return [path]


def _stroke(path: Loop, width: float) -> list[Loop]:
    """One capsule for each piece of the path; overlaps count once, for coverage is cut at 1."""
    half, loops = width / 2, []
    for (ax, ay), (bx, by) in pairwise(path):
        dx, dy = bx - ax, by - ay
        length = float(np.sqrt(dx * dx + dy * dy))
        if length == 0:
            continue
        ux, uy = dx / length * half, dy / length * half
        ends = ((1.0, 0.0), (0.8, 0.6), (0.0, 1.0))
        front = [(bx + ux * c - uy * s, by + uy * c + ux * s) for c, s in ends]
        front_low = [(bx + ux * c + uy * s, by + uy * c - ux * s) for c, s in ends[:0:-1]]
        back = [(ax - ux * c - uy * s, ay - uy * c + ux * s) for c, s in ends[::-1]]
        back_low = [(ax - ux * c + uy * s, ay - uy * c - ux * s) for c, s in ends[1:]]
        loops.append([*front_low, *front, *back, *back_low])
    return loops


def _curve(w: float, *numbers: float) -> list[Loop]:
    points = _points(numbers)
    path: Loop = []
    for k in range(0, len(points) - 2, 2):
        path += _bezier(points[k], points[k + 1], points[k + 2], 6)
    return _stroke([*path, points[-1]], w)


def _dots(x0: float, y0: float, x1: float, y1: float, nx: float, ny: float, r: float) -> list[Loop]:
    def along(a: float, b: float, n: float) -> list[float]:
        return [a + (b - a) * k / (n - 1) for k in range(int(n))] if n > 1 else [(a + b) / 2]

    return [ellipse(x, y, r, r) for y in along(y0, y1, ny) for x in along(x0, x1, nx)]


def _cells(x0: float, y0: float, x1: float, y1: float, nx: float, ny: float, gap: float) -> list[Loop]:
    w, h = (x1 - x0 - gap * (nx - 1)) / nx, (y1 - y0 - gap * (ny - 1)) / ny
    return [
        _box(x0 + i * (w + gap), y0 + j * (h + gap), x0 + i * (w + gap) + w, y0 + j * (h + gap) + h)[0]
        for j in range(int(ny))
        for i in range(int(nx))
    ]


def _star(cx: float, cy: float, r: float) -> list[Loop]:
    outer = [(cx + r * x, cy + r * y) for x, y in _STAR]
    inner = [(cx - r * 0.45 * x, cy - r * 0.45 * y) for x, y in (*_STAR[3:], *_STAR[:3])]
    return [[point for pair in zip(outer, inner, strict=True) for point in pair]]


KINDS: dict[str, Callable[..., list[Loop]]] = {
    "box": _box,
    "frame": _frame,
    "poly": lambda r, *numbers: [rounded(_points(numbers), r)],
    "blob": _blob,
    "ell": lambda *numbers: [ellipse(*numbers)],
    "ring": _ring,
    "line": lambda w, *numbers: _stroke(_points(numbers), w),
    "curve": _curve,
    "dots": _dots,
    "cells": _cells,
    "star": _star,
}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One painted shape: its ink and tone, its outline, and the conditions under which it is drawn."""

    ink: str
    tone: float
    loops: tuple[tuple[Point, ...], ...]
    conditions: tuple[tuple[str, bool, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Drawing:
    """A category's drawing as declared."""

    inks: dict[str, tuple[str, ...]]
    scales: dict[str, dict[str, tuple[float, float]]]  # "size", "wide" or "tall" -> attribute -> least, most
    parts: tuple[Part, ...]
    decisive: tuple[str, ...]  # the attributes that conditions ask for
    mark: tuple[float, float, float] | None  # centre and half-height of the brand's mark
    tilt: float  # how far pictures of it are turned, 1 as usual


@dataclass(frozen=True)
class Outline:
    """The polygons of the parts that one product has; E corners, P parts."""

    corners: np.ndarray  # (E, 2) float64, in sheet units
    following: np.ndarray  # (E,) the next corner of the same loop
    part: np.ndarray  # (E,) to which part the corner belongs, ascending
    first: np.ndarray  # (P,) the first corner of every part
    inks: tuple[str, ...]
    tones: tuple[float, ...]


@cache
def drawings() -> dict[str, Drawing]:
    """All drawings by category.

    Raises:
        ValueError: A line can't be read; the sentence quotes it.

    Example:
        >>> drawings()["sofas"].inks["main"]
        ('colour', 'upholstery')
    """
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        if path.stem != "inks":
            for category, entry in _load(path).items():
                found[str(category)] = _drawing(str(category), entry)
    return found


@cache
def ink_table() -> dict[str, Any]:
    """``drawings/inks.yaml``: the colours, and what the values of an attribute look like."""
    return _load(FOLDER / "inks.yaml")


def _load(path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def _drawing(category: str, entry: dict[str, Any]) -> Drawing:
    parts = tuple(_parts(category, entry["draw"], ()))
    decisive = {name for part in parts for name, _, _ in part.conditions if name != "design"}
    scales: dict[str, dict[str, tuple[float, float]]] = {
        axis: {name: (float(low), float(high)) for name, (low, high) in entry[axis].items()}
        for axis in ("size", "wide", "tall")
        if axis in entry
    }
    return Drawing(
        inks={name: tuple(str(text).split()) for name, text in entry.get("inks", {}).items()},
        scales=scales,
        parts=parts,
        decisive=tuple(sorted(decisive)),
        mark=tuple(map(float, entry["mark"].split())) if "mark" in entry else None,  # type: ignore[arg-type]
        tilt=float(entry.get("tilt", 1)),
    )


def _parts(category: str, entries: list[Any], conditions: tuple) -> Iterable[Part]:
    for entry in entries:
        if isinstance(entry, dict):
            for key, inner in entry.items():
                wanted = "!=" not in key
                name, _, values = key.partition("=" if wanted else "!=")
                condition = (name.strip(), wanted, tuple(value.strip() for value in values.split(",")))
                yield from _parts(category, inner, (*conditions, condition))
        else:
            yield _part(category, entry, conditions)


def _part(category: str, line: str, conditions: tuple) -> Part:
    try:
        ink, kind, *numbers = line.split()
        name = ink.rstrip("+-")
        loops = KINDS[kind.rstrip("*")](*map(float, numbers))
        tone = TONES[ink[len(name) :]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"The drawing of {category} has a line that can't be read: {line!r}.") from error
    if kind.endswith("*"):
        loops = [*loops, *([(SHEET - x, y) for x, y in loop[::-1]] for loop in loops)]
    return Part(name, tone, tuple(map(tuple, loops)), conditions)


# What a brand puts on its products, centred at (x, y) and about 2 r high.
MARKS: tuple[Callable[[float, float, float], list[Loop]], ...] = (
    lambda x, y, r: [ellipse(x, y, r, r)],
    lambda x, y, r: _box(x - 1.8 * r, y - 0.6 * r, x + 1.8 * r, y + 0.6 * r),
    lambda x, y, r: [[(x, y - 1.2 * r), (x + 1.2 * r, y), (x, y + 1.2 * r), (x - 1.2 * r, y)]],
    lambda x, y, r: _ring(x, y, 1.2 * r, 1.2 * r, 0.6 * r),
    lambda x, y, r: _stroke([(x - 1.3 * r, y - r), (x, y + 0.8 * r), (x + 1.3 * r, y - r)], 0.7 * r),
    lambda x, y, r: [
        *_box(x - 1.2 * r, y - r, x - 0.3 * r, y + r),
        *_box(x + 0.3 * r, y - r, x + 1.2 * r, y + r),
    ],
    lambda x, y, r: [[(x, y - 1.1 * r), (x + 1.2 * r, y + r), (x - 1.2 * r, y + r)]],
    lambda x, y, r: _star(x, y, 1.3 * r),
)


@lru_cache(maxsize=8192)
def outline(category: str, values: tuple[str, ...], design: int, form: int) -> Outline:
    """The polygons of one product.

    Args:
        category: a key of :func:`drawings`.
        values: what the product has for each attribute in ``drawings()[category].decisive``, "" for nothing.
        design: which of the category's six designs it is; ``design=...`` in conditions.
        form: which of MARKS its brand has.
    """
    drawing = drawings()[category]
    have = dict(zip(drawing.decisive, values, strict=True)) | {"design": str(design)}
    chosen = [
        part
        for part in drawing.parts
        if all((have[name] in allowed) == wanted for name, wanted, allowed in part.conditions)
    ]
    if drawing.mark:
        chosen.append(Part("brand", 0.0, tuple(map(tuple, MARKS[form](*drawing.mark))), ()))
    corners: Loop = []
    following: list[int] = []
    owner: list[int] = []
    first: list[int] = []
    for number, part in enumerate(chosen):
        first.append(len(corners))
        for loop in part.loops:
            start = len(corners)
            corners += loop
            following += [*range(start + 1, start + len(loop)), start]
            owner += [number] * len(loop)
    return Outline(
        np.array(corners),
        np.array(following),
        np.array(owner),
        np.array(first),
        tuple(part.ink for part in chosen),
        tuple(part.tone for part in chosen),
    )
