"""A picture of every product: 64 x 64 RGB pixels that follow from its structured facts alone.

What the product is decides the outline (``drawings/*.yaml``, read by ``shapes``), its attributes decide
colour, surface, print and proportions, its brand leaves a small mark. How the picture was taken is chance,
a named stream for each product: pose, light, backdrop, stickers, the grain of a compressed photograph.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import polars as pl

from labkit.shop.chance import Dice, stream
from labkit.shop.declarations import departments
from labkit.shop.raster import PIXELS, coverage, soften
from labkit.shop.shapes import MARKS, Drawing, Outline, drawings, ink_table, outline
from labkit.shop.textures import PATTERNS, TEXTURES, wave

F = np.float32
DESIGNS = 6
FILMS = ("shine", "shade", "hole")  # inks without a body: light, shadow, and the backdrop seen through a gap
_ROWS, _COLUMNS = (axis.astype(F) + F(0.5) for axis in np.mgrid[0:PIXELS, 0:PIXELS])
# Accents of brands, and the bright colours of prints: apart from each other, none of them grey.
_ACCENTS = (
    "#e4572e",
    "#17a398",
    "#3a6ea5",
    "#f2b134",
    "#8e4585",
    "#5fa55a",
    "#d94f70",
    "#b0243f",
    "#37506b",
    "#ed8b3b",
)
_PASTELS = ("#f6d9d5", "#d9e8f5", "#e2f0d9", "#fdf0cf", "#e6dcf2", "#d6efee", "#f3e3d3", "#cfd8dc")
_RAINBOW = ("#d8485a", "#f0b63a", "#3f9fb5", "#6fae58", "#7d5aa8", "#f2ead8")


@dataclass(frozen=True)
class Ink:
    colour: tuple[float, float, float]  # in [0, 1]
    texture: str
    opacity: float
    pattern: str


@dataclass(frozen=True)
class Scene:
    """How one picture was taken."""

    turn: tuple[float, float]  # cosine and sine
    zoom: tuple[float, float]  # across and down; a negative zoom mirrors
    centre: tuple[float, float]
    light: tuple[int, int]  # the direction to the lamp, in pixels
    exposure: float
    shift: tuple[float, float, float]  # how the colour of this sample differs from the declared one
    backdrop: tuple[float, float, float, float]  # kind, colour, gradient, tint: each in [0, 1)
    shadow: float
    sticker: tuple[float, float, float]
    cloth: tuple[float, float]  # where on the cloth the texture begins


def draw(category: str, attributes: dict[str, str], brand: str, seed: int, product_id: int) -> np.ndarray:
    """One picture.

    Args:
        category: such as ``"sofas"``.
        attributes: value keys by attribute name, as in the products table; names that the drawing does not
            use, or that are missing, do no harm.
        brand: its accent colour and mark are the same on all of its products.
        seed: of the market.
        product_id: the same facts under another number are another photograph of the same thing.

    Returns:
        (64, 64, 3) uint8: rows from the top, columns from the left, red, green, blue; the same everywhere.

    Raises:
        ValueError: Nobody has drawn this category.

    Example:
        >>> draw("sofas", {"colour": "navy", "seats": "three"}, "Norrvik", seed=0, product_id=7).shape
        (64, 64, 3)
    """
    return _render(category, attributes, brand, seed, product_id)[0]


def silhouette(
    category: str, attributes: dict[str, str], brand: str, seed: int, product_id: int
) -> np.ndarray:
    """Which pixels of :func:`draw`'s picture show the product: (64, 64) bool. Takes the same arguments.

    Example:
        >>> bool(silhouette("sofas", {}, "Norrvik", seed=0, product_id=7)[36, 32])
        True
    """
    return _render(category, attributes, brand, seed, product_id)[1] > 0.3  # glass is part of it


def draw_many(
    products: pl.DataFrame, seed: int, ids: Sequence[int] | None = None, progress: bool = True
) -> np.ndarray:
    """The pictures of many products, about a millisecond each.

    Args:
        products: with the columns product_id, category, brand and attributes (a JSON object), as in
            ``Market.products``.
        seed: of the market.
        ids: which products, in this order; None for all, in the table's order.
        progress: show a bar on stderr when there is more than about two seconds of work.

    Returns:
        (N, 64, 64, 3) uint8.

    Raises:
        ValueError: An id is not in the table, or nobody has drawn a category.

    Example:
        >>> table = pl.DataFrame({"product_id": [3], "category": ["kettles"], "brand": ["Brevanti"],
        ...                       "attributes": ['{"finish": "red"}']})
        >>> draw_many(table, seed=0).shape
        (1, 64, 64, 3)
    """
    facts = products.select("product_id", "category", "brand", "attributes")
    rows = facts.rows()
    if ids is not None:
        place = {row[0]: row for row in rows}
        missing = [int(i) for i in ids if i not in place]
        if missing:
            raise ValueError(f"There is no product {missing[0]} in this table of {len(rows)} products.")
        rows = [place[i] for i in ids]
    pictures = np.empty((len(rows), PIXELS, PIXELS, 3), dtype=np.uint8)
    for number, (product_id, category, brand, attributes) in enumerate(
        _counted(rows) if progress and len(rows) > 1_500 else rows
    ):
        pictures[number] = draw(category, json.loads(attributes), brand, seed, product_id)
    return pictures


def _counted(rows: list[tuple]) -> Sequence[tuple]:
    from rich.console import Console
    from rich.progress import track

    return track(rows, "Drawing the products", console=Console(stderr=True), transient=True)  # type: ignore[return-value]


def _render(
    category: str, attributes: dict[str, str], brand: str, seed: int, product_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """The picture, and how much of every pixel the product covers."""
    drawing = drawings().get(category)
    if drawing is None:
        raise ValueError(
            f"There is no drawing of {category!r}; labkit/shop/drawings has one for every category."
        )
    rng = stream(seed, "pictures", product_id)
    scene = _scene(rng, drawing.tilt)
    design, across, down = _design(category, brand, attributes.get("line", ""), attributes.get("model", ""))
    accent, form = _house_style(brand)
    shape = outline(category, tuple(attributes.get(name, "") for name in drawing.decisive), design, form)
    zoom = _proportions(category, drawing, attributes)
    corners, u, v = _place(shape, scene, (zoom[0] * across, zoom[1] * down))
    paint, left = _paint(
        shape, corners, _inks(drawing, shape, attributes, accent, design), scene, u, v, design
    )
    picture = _photograph(paint, left, scene, rng)
    return picture, F(1) - left


def _scene(rng: np.random.Generator, tilt: float) -> Scene:
    r = [float(x) for x in rng.random(24)]
    t = (r[0] + r[1] - 1) * 0.095 * tilt  # the angle is about 2 t
    zoom = 0.7 + 0.3 * r[2]
    return Scene(
        turn=((1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)),
        zoom=((-zoom if r[3] < 0.3 else zoom) * (0.95 + 0.1 * r[4]), zoom),
        centre=(32 + (r[5] + r[6] - 1) * 6.5, 32 + (r[7] + r[8] - 1) * 6),
        light=((-2, -1, 1, 2)[int(r[9] * 4)], (-2, -1)[int(r[10] * 2)]),
        exposure=0.93 + 0.16 * r[11],
        shift=tuple(0.96 + 0.08 * (0.5 * x + 0.5 * r[12]) for x in r[13:16]),  # type: ignore[arg-type]
        backdrop=(r[16], r[17], r[18], r[19]),
        shadow=0.18 + 0.4 * r[20],
        sticker=(r[21], r[22], r[23]),
        cloth=(float(int(r[22] * 97)), float(int(r[23] * 97))),
    )


@lru_cache(maxsize=8192)
def _design(category: str, brand: str, line: str, model: str) -> tuple[int, float, float]:
    """What all variants of one model share: one of a few designs, and proportions."""
    dice = Dice(0, "pictures", "design", category, brand, line, model)
    return dice.below(DESIGNS), dice.between(0.93, 1.06), dice.between(0.93, 1.05)


@cache
def _house_style(brand: str) -> tuple[str, int]:
    """A brand's accent colour and the form of its mark: no two brands of a department share both."""
    known = list(dict.fromkeys(name for d in departments().values() for name in d.brands))
    number = known.index(brand) if brand in known else Dice(0, "pictures", "brand", brand).below(80)
    return _ACCENTS[number % len(_ACCENTS)], (number + number // len(_ACCENTS)) % len(MARKS)


@cache
def _orders() -> dict[str, dict[str, tuple[str, ...]]]:
    """category -> attribute -> its values in the catalogue's order."""
    return {
        name: {key: tuple(attribute.values) for key, attribute in category.attributes.items()}
        for department in departments().values()
        for name, category in department.categories.items()
    }


def _proportions(category: str, drawing: Drawing, attributes: dict[str, str]) -> tuple[float, float]:
    """Ordered attributes make the product larger, wider or taller."""
    factors = {"size": 1.0, "wide": 1.0, "tall": 1.0}
    for axis, ranges in drawing.scales.items():
        for name, (least, most) in ranges.items():
            values = _orders()[category].get(name, ())
            rank = (
                values.index(attributes[name]) if attributes.get(name) in values else 0.5 * (len(values) - 1)
            )
            factors[axis] *= least + (most - least) * rank / max(len(values) - 1, 1)
    return factors["size"] * factors["wide"], factors["size"] * factors["tall"]


def _place(
    shape: Outline, scene: Scene, zoom: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners in pixels, and the sheet's coordinates of every pixel, on which textures lie."""
    (c, s), (cx, cy) = scene.turn, scene.centre
    zx, zy = scene.zoom[0] * zoom[0], scene.zoom[1] * zoom[1]
    x, y = (shape.corners[:, 0] - 32.0) * zx, (shape.corners[:, 1] - 32.0) * zy
    corners = np.stack([cx + x * c - y * s, cy + x * s + y * c], axis=1)
    dx, dy = _COLUMNS - F(cx), _ROWS - F(cy)
    return corners, (dx * F(c) + dy * F(s)) * F(1 / zx) + F(32), (dy * F(c) - dx * F(s)) * F(1 / zy) + F(32)


def _rgb(text: str) -> tuple[float, float, float]:
    return int(text[1:3], 16) / 255, int(text[3:5], 16) / 255, int(text[5:7], 16) / 255


def _brightness(colour: tuple[float, float, float]) -> float:
    return 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]


def _inks(
    drawing: Drawing, shape: Outline, attributes: dict[str, str], accent: str, design: int
) -> dict[str, Ink]:
    """The inks of the parts. The first source that has a colour (surface, opacity, print) decides it."""
    always = ink_table()["always"]
    inks = {}
    for name in dict.fromkeys(shape.inks):
        found: list[str] = []
        for source in drawing.inks.get(name, ()):
            if source[0] in "#~@%":
                found.append(source)
            elif source == "brand":
                found.append(accent)
            elif source in attributes:
                table = ink_table()["colours"] if source == "colour" else ink_table()["looks"].get(source, {})
                found += str(table.get(attributes[source], "")).split()
        usual = accent if name == "brand" else str(always.get(name, always["main"]))
        inks[name] = _mixed((*found, *usual.split()), design)
    return inks


@lru_cache(maxsize=8192)
def _mixed(ingredients: tuple[str, ...], design: int) -> Ink:
    def first(sign: str) -> str:
        return next((item[1:] for item in ingredients if item[0] == sign), "")

    options = first("#").split("/#")
    colour = options[design % len(options)]
    return Ink(_rgb("#" + colour), first("~"), float(first("@") or 1), first("%"))


def _paint(
    shape: Outline,
    corners: np.ndarray,
    inks: dict[str, Ink],
    scene: Scene,
    u: np.ndarray,
    v: np.ndarray,
    design: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The product on nothing: (64, 64, 3) premultiplied colours, and (64, 64) how much shows behind it."""
    cover = coverage(corners, shape.following, shape.part, shape.first)
    amount = {name: np.zeros((PIXELS, PIXELS), F) for name in inks}
    tones = {name: np.zeros((PIXELS, PIXELS), F) for name in inks}
    edges = {name: F(0.3 if _brightness(ink.colour) < 0.25 else -0.34) for name, ink in inks.items()}
    left = np.ones((PIXELS, PIXELS), F)  # how much of a pixel the parts further in front leave free
    for number in range(len(shape.inks) - 1, -1, -1):
        name = shape.inks[number]
        box, rim = cover.boxes[number], cover.rims[number]
        free = left[box]
        if inks[name].opacity < 1:
            # Glass is clear in the middle and dense at its rim; a shadow or a reflection is even.
            dense = F(0) if name in FILMS else F(0.6 * (1 - inks[name].opacity))
            seen = (cover.filled[number] * F(inks[name].opacity) + rim * dense) * free
        else:
            seen = cover.filled[number] * free
        amount[name][box] += seen
        if name not in FILMS:
            tones[name][box] += seen * F(shape.tones[number]) + rim * free * edges[name]
        left[box] = free - seen
    paint = np.zeros((PIXELS, PIXELS, 3), F)
    for name, ink in inks.items():
        if name == "hole":
            left = left + amount[name]
            continue
        colour = [
            F(min(channel * shift, 1.0)) for channel, shift in zip(ink.colour, scene.shift, strict=True)
        ]
        surface = amount[name]
        if ink.texture:
            field = TEXTURES[ink.texture](u + F(scene.cloth[0]), v + F(scene.cloth[1]))
            surface = surface + surface * field
        layers = _printed(ink, colour, u, v, design) if ink.pattern else colour
        for channel in range(3):
            paint[:, :, channel] += surface * layers[channel] + tones[name] * (
                F(0.5) * colour[channel] + F(0.1)
            )
    return paint, left


def _printed(ink: Ink, colour: list[F], u: np.ndarray, v: np.ndarray, design: int) -> list[np.ndarray]:
    """The colour of a printed cloth at every pixel, one (64, 64) array per channel."""
    if ink.pattern == "multi":
        turn = (u, v, (u + v) * F(0.7))[design % 3]
        band = np.floor(turn * F(0.13) + F(0.35) * wave(v * F(0.05))).astype(np.int32) % len(_RAINBOW)
        table = np.array([_rgb(text) for text in _RAINBOW], dtype=F)
        return [table[:, channel][band] for channel in range(3)]
    second = _rgb("#fbf6ea" if _brightness(ink.colour) < 0.62 else _ACCENTS[design])
    share = PATTERNS[ink.pattern](u, v)
    return [own + (F(other) - own) * share for own, other in zip(colour, second, strict=True)]


def _photograph(paint: np.ndarray, left: np.ndarray, scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """Set the painted product before a backdrop, light it, and compress the photograph."""
    solid = F(1) - left
    soft = soften(solid, 2)
    dx, dy = scene.light
    towards = _moved(soft, -dy, -dx)
    ramp = (_COLUMNS - F(32)) * F(0.0016 * dx) + (_ROWS - F(32)) * F(0.0022 * dy)
    light = (F(1) + F(0.5) * (soft - towards) + ramp) * F(scene.exposure)
    backdrop = _backdrop(scene)
    shadow = _moved(soften(soft, 3), 3 - dy, -2 * dx) * F(-scene.shadow) + F(1)
    picture = paint * light[:, :, None] + backdrop * (shadow * left)[:, :, None]
    if scene.sticker[0] < 0.05:  # a seller's "new" or "sale"
        x, y = (9.0 if scene.sticker[1] < 0.5 else 55.0), (9.0 if scene.sticker[2] < 0.7 else 55.0)
        distance = np.sqrt((_COLUMNS - F(x)) * (_COLUMNS - F(x)) + (_ROWS - F(y)) * (_ROWS - F(y)))
        disc = np.clip(F(6.5) - distance, F(0), F(1))[:, :, None]
        label = np.array(_rgb(_ACCENTS[int(scene.sticker[1] * len(_ACCENTS))]), dtype=F)
        picture = picture + (label - picture) * disc
    return _compressed(picture, rng)


def _moved(field: np.ndarray, down: int, right: int) -> np.ndarray:
    """The field, moved by whole pixels; its border fills what is left open."""
    places = np.arange(PIXELS)
    return field[np.clip(places - down, 0, PIXELS - 1)][:, np.clip(places - right, 0, PIXELS - 1)]


def _backdrop(scene: Scene) -> np.ndarray:
    """Mostly a white studio; sometimes grey, a coloured card, or a wall and a floor. (64, 64, 3) float32."""
    kind, choice, slope, tint = scene.backdrop
    colour: tuple[float, float, float] = (0.985, 0.985, 0.98)
    if kind > 0.72:
        colour = _rgb(_PASTELS[int(choice * len(_PASTELS))])
    elif kind > 0.5:
        grey = 0.8 + 0.14 * choice
        colour = (grey, grey, grey + 0.012)
    strength = 0.0005 if kind <= 0.5 else 0.003
    shade = F(1) + (_ROWS - F(32)) * F((slope - 0.5) * strength * 2)
    if kind > 0.88:
        shade = shade - np.clip(_ROWS - F(38 + 10 * tint), F(0), F(1)) * F(0.1)
    return shade[:, :, None] * np.array(colour, dtype=F)


def _compressed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What JPEG does (coarse colour, 8 x 8 blocks a little too bright or dark), and a sensor's grain."""
    level = (picture[:, :, 0] * F(0.3) + picture[:, :, 1] * F(0.59)) + picture[:, :, 2] * F(0.11)
    hue = picture - level[:, :, None]
    quarter = F(0.25)
    small = ((hue[::2, ::2] + hue[1::2, ::2]) + (hue[::2, 1::2] + hue[1::2, 1::2])) * quarter
    hue = hue * F(0.4) + np.repeat(np.repeat(small, 2, 0), 2, 1) * F(0.6)
    grain = 0.01 + 0.03 * float(rng.random())
    level = level + (rng.random((PIXELS, PIXELS)).astype(F) - F(0.5)) * F(grain)
    blocks = (rng.random((8, 8)).astype(F) - F(0.5)) * F(0.016)
    level = level + np.repeat(np.repeat(blocks, 8, 0), 8, 1)
    return (np.clip(level[:, :, None] + hue, F(0), F(1)) * F(255) + F(0.5)).astype(np.uint8)
