"""Surfaces: how velvet, wood, metal or a floral print change a flat colour, as fields over the picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from labkit.shop.chance import stream

Field = np.ndarray  # (64, 64) float32
F = np.float32


@cache
def _tiles() -> tuple[np.ndarray, np.ndarray]:
    """Fixed noise in [-1, 1], (128, 128): fine, and in soft patches."""
    fine = stream(0, "pictures", "noise").random((128, 128)).astype(F) * F(2) - F(1)
    soft = fine
    for reach in (1, 2):
        for axis in (0, 1):
            soft = ((np.roll(soft, reach, axis) + np.roll(soft, -reach, axis)) * F(0.5) + soft) * F(0.5)
    return fine, np.clip(soft * F(5), F(-1), F(1))


def wave(x: Field) -> Field:
    """A triangle wave of period 1, in [-1, 1]."""
    return np.abs(x - np.floor(x) - F(0.5)) * F(4) - F(1)


def _at(tile: np.ndarray, u: Field, v: Field) -> Field:
    return tile[np.floor(v).astype(np.int32) & 127, np.floor(u).astype(np.int32) & 127]


def _band(x: Field, width: float) -> Field:
    """1 on a soft band around x = 0."""
    return np.maximum(F(1) - np.abs(x) * F(1 / width), F(0))


def _sheen(u: Field, v: Field) -> Field:
    return F(0.13) * wave(u * F(0.045) + v * F(0.03)) + F(0.07) * _at(_tiles()[1], u * F(0.6), v * F(0.6))


def _leather(u: Field, v: Field) -> Field:
    gloss = F(0.3) * _band(wave(u * F(0.018) + v * F(0.028) + F(0.2)) - F(0.75), 0.35)
    return gloss + F(0.06) * _at(_tiles()[1], u * F(1.3), v * F(1.3)) - F(0.05)


def _gloss(u: Field, v: Field) -> Field:
    return F(0.34) * _band(wave(u * F(0.022) + v * F(0.012) + F(0.3)) - F(0.6), 0.45) - F(0.06)


def _linen(u: Field, v: Field) -> Field:
    fine = _tiles()[0]
    return F(0.05) * (_at(fine, u * F(0.15), v) + _at(fine, u, v * F(0.15)))


def _boucle(u: Field, v: Field) -> Field:
    return F(0.2) * _at(_tiles()[1], u * F(1.6), v * F(1.6)) + F(0.06) * _at(_tiles()[0], u, v)


def _ribs(u: Field, v: Field) -> Field:
    return F(0.12) * wave(u * F(0.3)) + F(0.04) * _at(_tiles()[0], u, v)


def _grain(u: Field, v: Field) -> Field:
    soft = _tiles()[1]
    return F(0.1) * wave(v * F(0.16) + F(0.35) * _at(soft, u * F(0.2), v * F(0.5))) + F(0.06) * _at(
        soft, u * F(0.12), v * F(1.5)
    )


def _metal(u: Field, v: Field) -> Field:
    return F(0.2) * wave(u * F(0.035) + F(0.3)) + F(0.05) * _at(_tiles()[0], u * F(0.05), v)


def _knit(u: Field, v: Field) -> Field:
    return F(0.13) * wave(v * F(0.22) + np.abs(wave(u * F(0.14))) * F(0.6))


def _fleece(u: Field, v: Field) -> Field:
    return F(0.1) * _at(_tiles()[1], u, v) + F(0.05) * _at(_tiles()[0], u, v)


def _denim(u: Field, v: Field) -> Field:
    return F(0.09) * wave((u + v) * F(0.26)) + F(0.08) * _at(_tiles()[1], u * F(0.4), v * F(0.4))


def _weave(u: Field, v: Field) -> Field:
    return F(0.17) * wave(u * F(0.2)) * wave(v * F(0.2)) + F(0.06) * wave(v * F(0.4))


def _speckle(u: Field, v: Field) -> Field:
    fine = _at(_tiles()[0], u, v)
    return F(0.16) * np.where(fine > F(0.6), fine, F(0)) - F(0.14) * np.where(fine < F(-0.7), F(1), F(0))


def _ripple(u: Field, v: Field) -> Field:
    return F(0.14) * wave(v * F(0.13) + F(0.45) * wave(u * F(0.05))) - F(0.03)


def _matt(u: Field, v: Field) -> Field:
    return F(0.02) * _at(_tiles()[0], u, v)


TEXTURES: dict[str, Callable[[Field, Field], Field]] = {
    "sheen": _sheen,
    "leather": _leather,
    "gloss": _gloss,
    "linen": _linen,
    "boucle": _boucle,
    "ribs": _ribs,
    "grain": _grain,
    "metal": _metal,
    "knit": _knit,
    "fleece": _fleece,
    "denim": _denim,
    "weave": _weave,
    "speckle": _speckle,
    "ripple": _ripple,
    "glass": _gloss,
    "matt": _matt,
}


def _sharp(x: Field) -> Field:
    """A soft step: 0 below -0.25, 1 above 0.25."""
    return np.clip(x * F(2) + F(0.5), F(0), F(1))


def _stripe(u: Field, v: Field) -> Field:
    return _sharp(wave(u * F(0.115)) - F(0.25))


def _check(u: Field, v: Field) -> Field:
    return F(0.5) * (_sharp(wave(u * F(0.1)) - F(0.1)) + _sharp(wave(v * F(0.1)) - F(0.1)))


def _floral(u: Field, v: Field) -> Field:
    """Flowers with four petals on a shifted grid: r = a + b cos 4 phi, written as a fraction."""
    row = np.floor(v * F(0.075))
    x = u * F(0.075) + (row - F(2) * np.floor(row * F(0.5))) * F(0.5)
    dx, dy = x - np.floor(x) - F(0.5), v * F(0.075) - row - F(0.5)
    square = dx * dx + dy * dy + F(0.0001)
    reach = F(0.42) - F(0.75) * (dx * dx) * (dy * dy) / (square * square)
    distance = np.sqrt(square)
    return np.clip(np.minimum(reach - distance, distance - F(0.06)) * F(11), F(0), F(1))


def _geometric(u: Field, v: Field) -> Field:
    return _sharp(wave(u * F(0.085)) * F(0.8) + wave(v * F(0.085)) * F(0.8) - F(0.1))


# How much of the second colour a print shows.
PATTERNS: dict[str, Callable[[Field, Field], Field]] = {
    "stripe": _stripe,
    "check": _check,
    "floral": _floral,
    "geometric": _geometric,
}
