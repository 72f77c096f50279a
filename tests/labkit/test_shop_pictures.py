"""The pictures: reproducible, true to the declared facts, and neither trivial nor hopeless to learn from."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.shop.chance import Dice
from labkit.shop.declarations import Category, departments
from labkit.shop.market import Market
from labkit.shop.pictures import draw, draw_many, silhouette
from labkit.shop.raster import coverage
from labkit.shop.shapes import KINDS, drawings, ink_table

CATEGORIES: dict[str, Category] = {
    name: c for d in departments().values() for name, c in d.categories.items()
}
# Pictures of seed 0 as every machine must make them. Whoever changes a drawing on purpose puts here what the
# failing test prints.
GOLDEN = "1b7b8958a1a9e1af"
FINGERPRINT = """
import hashlib
from labkit.shop.pictures import draw
digest = hashlib.sha256()
for number, facts in enumerate([
    ("sofas", {"colour": "navy", "seats": "three", "upholstery": "velvet"}, "Norrvik"),
    ("kettles", {"finish": "glass"}, "Brevanti"),
    ("duvet covers", {"colour": "pink", "pattern": "floral"}, "Cloudrest"),
    ("rugs", {"colour": "multi", "fabric": "wool"}, "Homeroost"),
    ("running shoes", {"colour": "green", "line": "Dash"}, "Stridewell"),
    ("cat trees", {"tree_height": "180 cm"}, "Purrfolk"),
]):
    digest.update(draw(*facts, seed=0, product_id=number).tobytes())
print(digest.hexdigest()[:16])
"""


def _product(category: str, number: int) -> tuple[str, dict[str, str], str]:
    """A possible product: random values and a brand of the right department."""
    dice = Dice(number, "test", category)
    owner = next(d for d in departments().values() if category in d.categories)
    brands = [b.name for b in owner.brands.values() if category in b.makes]
    values = {name: dice.one(list(a.values)) for name, a in CATEGORIES[category].attributes.items()}
    return category, {**values, "line": str(dice.below(9))}, dice.one(brands)


def test_the_same_on_every_machine() -> None:
    run = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == GOLDEN


def test_no_function_whose_rounding_differs_between_machines() -> None:
    folder = Path(sys.modules["labkit.shop.pictures"].__file__ or "").parent
    for name in ("pictures", "shapes", "raster", "textures"):
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        assert not re.search(
            r"np\.(sin|cos|exp|log|power|sum|mean|dot|matmul|einsum)\b|\*\*(?=[\d(]| \d)| @ ", text
        ), name


def test_a_picture_is_64_by_64_and_another_product_is_another_picture() -> None:
    picture = draw("kettles", {"finish": "red"}, "Brevanti", 0, 1)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, draw("kettles", {"finish": "red"}, "Brevanti", 0, 1))
    assert not np.array_equal(picture, draw("kettles", {"finish": "red"}, "Brevanti", 0, 2))
    assert not np.array_equal(picture, draw("kettles", {"finish": "red"}, "Brevanti", 1, 1))


def test_every_value_of_every_category_is_drawn_in_the_middle() -> None:
    assert set(drawings()) == set(CATEGORIES)
    for number, (name, category) in enumerate(CATEGORIES.items()):
        _, usual, brand = _product(name, 0)
        for key, attribute in category.attributes.items():
            for value in attribute.values:
                seen = silhouette(name, {**usual, key: value}, brand, 0, number)
                assert 0.05 < seen.mean() < 0.85, (name, key, value)
                assert seen[14:50, 14:50].any(), (name, key, value)
        assert silhouette(name, {}, "a brand nobody knows", 0, number).any(), name


def test_drawings_ask_only_for_what_the_catalogue_declares() -> None:
    for name, drawing in drawings().items():
        attributes = CATEGORIES[name].attributes
        for part in drawing.parts:
            assert part.ink in {*drawing.inks, *ink_table()["always"], "brand"}, (name, part.ink)
            for key, _, values in part.conditions:
                known = [str(k) for k in range(6)] if key == "design" else list(attributes[key].values)
                assert set(values) <= set(known), (name, key, values)
        for scale in drawing.scales.values():
            assert set(scale) <= set(attributes), name
        for sources in drawing.inks.values():
            for source in sources:
                if source[0] not in "#~@%" and source != "brand":
                    assert source in attributes, (name, source)
                    table = ink_table()["colours"] if source == "colour" else ink_table()["looks"][source]
                    assert set(attributes[source].values) <= set(map(str, table)), (name, source)


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no drawing of 'teapots'"):
        draw("teapots", {}, "Brevanti", 0, 0)
    table = pl.DataFrame({"product_id": [3], "category": ["kettles"], "brand": ["x"], "attributes": ["{}"]})
    with pytest.raises(ValueError, match="no product 4 in this table of 1 products"):
        draw_many(table, 0, ids=[4])


def test_many_pictures_are_the_single_ones_in_the_order_asked_for() -> None:
    facts = [_product(name, 1) for name in list(CATEGORIES)[:5]]
    table = pl.DataFrame(
        {
            "product_id": [10, 11, 12, 13, 14],
            "category": [f[0] for f in facts],
            "brand": [f[2] for f in facts],
            "attributes": [json.dumps(f[1]) for f in facts],
        }
    )
    pictures = draw_many(table, 7, ids=[13, 10])
    assert np.array_equal(pictures, np.stack([draw(*facts[3], 7, 13), draw(*facts[0], 7, 10)]))
    assert len(draw_many(table, 7)) == 5


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(-10, 74), st.floats(-10, 74)), min_size=3, max_size=9))
def test_coverage_agrees_with_counting_points(points: list[tuple[float, float]]) -> None:
    """Against a brute force: winding numbers of 4 x 16 points in every pixel, on the same four scan lines."""
    corners = np.array(points)
    following = np.roll(np.arange(len(points)), -1)
    cover = coverage(corners, following, np.zeros(len(points), int), np.zeros(1, int))
    table = np.zeros((64, 64))
    table[cover.boxes[0]] = cover.filled[0]

    x, y = np.meshgrid((np.arange(64 * 16) + 0.5) / 16, (np.arange(64 * 4) + 0.5) / 4)
    winding = np.zeros_like(x)
    for (ax, ay), (bx, by) in zip(corners, corners[following], strict=True):
        if ay == by:
            continue
        crosses = (np.minimum(ay, by) <= y) & (y < np.maximum(ay, by))
        winding += np.where(crosses & (ax + (y - ay) * (bx - ax) / (by - ay) < x), np.sign(by - ay), 0)
    expected = np.minimum(np.abs(winding.reshape(64, 4, 64, 16).mean(axis=(1, 3))), 1.0)
    # A crossing may lie half a point (1/32 of a pixel) off; a line crosses each edge at most once.
    assert np.abs(table - expected).max() <= len(points) / 32 + 1e-6
    assert np.abs(table - expected).mean() < 0.002 * len(points)


def test_shapes_have_the_areas_of_geometry() -> None:
    def area(kind: str, *numbers: float) -> float:
        total = 0.0
        for loop in KINDS[kind](*numbers):
            x, y = np.array(loop).T
            total += 0.5 * float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
        return abs(total)

    assert area("box", 10, 20, 30, 26) == pytest.approx(120)
    assert area("ell", 32, 32, 20, 10) == pytest.approx(np.pi * 200, rel=0.02)
    assert area("ring", 32, 32, 20, 20, 5) == pytest.approx(np.pi * (400 - 225), rel=0.02)
    assert area("frame", 0, 0, 20, 10, 0, 2) == pytest.approx(200 - 16 * 6)
    assert area("line", 4, 10, 10, 30, 10) == pytest.approx(80 + np.pi * 4, rel=0.05)
    assert area("dots", 10, 10, 40, 40, 3, 2, 2) == pytest.approx(6 * np.pi * 4, rel=0.05)


def test_the_declared_colour_can_be_seen() -> None:
    """By a vote: each of the product's pixels for the nearest colour of the palette."""
    colours = {name: text.split()[0] for name, text in ink_table()["colours"].items() if name != "multi"}
    palette = np.array([[int(text[k : k + 2], 16) for k in (1, 3, 5)] for text in colours.values()], float)
    right, wrong = 0, Counter[tuple[str, str]]()
    for number in range(6):
        for name in CATEGORIES:
            facts = _product(name, number)
            declared = facts[1].get("colour", "multi")
            if declared == "multi" or facts[1].get("pattern", "plain") != "plain":
                continue
            if drawings()[name].inks.get("main", ("",))[0] != "colour":
                continue
            seen = draw(*facts, 0, number)[silhouette(*facts, 0, number)].astype(float)
            nearest = np.argmin(((seen[:, None] - palette) ** 2).sum(axis=2), axis=1)
            found = list(colours)[int(np.bincount(nearest, minlength=len(palette)).argmax())]
            right += found == declared
            if found != declared:
                wrong[declared, found] += 1
    total = right + wrong.total()
    assert total > 200
    assert right / total >= 0.9, wrong.most_common(8)


def test_variants_have_one_silhouette_and_differ_only_on_the_product() -> None:
    for name in ("sofas", "mice", "backpacks", "throws", "hair dryers", "dog beds"):
        _, facts, brand = _product(name, 3)
        first, second = list(CATEGORIES[name].attributes["colour"].values)[:2]
        one, other = {**facts, "colour": first}, {**facts, "colour": second}
        seen = silhouette(name, one, brand, 0, 5)
        assert np.array_equal(seen, silhouette(name, other, brand, 0, 5)), name
        change = np.abs(draw(name, one, brand, 0, 5).astype(int) - draw(name, other, brand, 0, 5)).max(axis=2)
        assert np.median(change[seen]) > 25, name
        # Two pixels away from it, where neither blurred edges nor coarse colour reach, nothing changes.
        near = seen.copy()
        for _ in range(3):
            grown = np.pad(near, 1)
            near = grown[1:-1, 1:-1] | grown[2:, 1:-1] | grown[:-2, 1:-1] | grown[1:-1, 2:] | grown[1:-1, :-2]
        assert change[~near].max() == 0, name


def test_brands_of_a_department_leave_different_marks() -> None:
    """The same chair in the same photograph by every brand: all pictures differ, but only in the mark."""
    makers = [b.name for b in departments()["furniture"].brands.values()]
    pictures = np.stack([draw("mattresses", {"firmness": "firm"}, brand, 0, 9) for brand in makers]).astype(
        int
    )
    for number, one in enumerate(pictures[:-1]):
        for other in pictures[number + 1 :]:
            assert (np.abs(one - other).max(axis=2) > 30).sum() >= 2
    # Line and model are the same, so what differs in form is the brand's own design, and small.
    assert (pictures.std(axis=0).max(axis=2) > 60).mean() < 0.2


def test_sizes_widen_and_no_two_categories_share_an_outline() -> None:
    def width(seats: str) -> int:
        return int(silhouette("sofas", {"seats": seats}, "Norrvik", 0, 3).any(axis=0).sum())

    assert width("1.5") < width("two") < width("three") < width("four")
    outlines = {name: silhouette(name, {}, "Norrvik", 0, 1) for name in CATEGORIES}
    names = list(outlines)
    flat = np.stack([outlines[name].ravel() for name in names]).astype(float)
    both = flat @ flat.T
    either = flat.sum(1)[:, None] + flat.sum(1)[None, :] - both
    overlap = both / either - np.eye(len(names))
    worst = np.unravel_index(int(overlap.argmax()), overlap.shape)
    assert overlap.max() < 0.98, (names[worst[0]], names[worst[1]])
    # Relatives look alike: of all categories, a jumper is most like other things with two sleeves.
    like = overlap[names.index("jumpers")]
    closest = {names[k] for k in np.argsort(-like)[:4]}
    assert len(closest & {"hoodies", "rain jackets", "winter coats", "t-shirts"}) >= 2, closest


def test_there_is_signal_and_there_is_nuisance() -> None:
    """20 categories, 36 pictures each: a linear model on raw pixels learns something but not all."""
    from sklearn.linear_model import LogisticRegression

    names = list(CATEGORIES)[::5][:20]
    pixels, masks, labels = [], [], []
    for label, name in enumerate(names):
        for number in range(36):
            facts = _product(name, number)
            picture = draw(*facts, 0, 1000 * label + number).astype(float) / 255
            pixels.append(picture.reshape(16, 4, 16, 4, 3).mean(axis=(1, 3)).ravel())
            masks.append(silhouette(*facts, 0, 1000 * label + number).ravel())
            labels.append(label)
    x, m, y = np.stack(pixels) - 0.7, np.stack(masks).astype(np.float32), np.array(labels)
    train = np.arange(len(y)) % 3 != 0
    linear = (
        LogisticRegression(C=0.1, max_iter=60, tol=0.01).fit(x[train], y[train]).score(x[~train], y[~train])
    )
    both = m[~train] @ m[train].T
    overlap = both / (m[~train].sum(1)[:, None] + m[train].sum(1)[None, :] - both)
    outline = float((y[train][overlap.argmax(axis=1)] == y[~train]).mean())
    assert 4 / len(names) < linear < 0.9
    assert outline > linear, (outline, linear)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_contact_sheet_is_drawn(folder: Path, lang: str) -> None:
    from labkit.shop.gallery import catalogue_sheet

    names = list(CATEGORIES)[:19]
    facts = [_product(name, 2) for name in names]
    products = pl.DataFrame(
        {
            "product_id": np.arange(len(names), dtype=np.int32),
            "category": names,
            "brand": [f[2] for f in facts],
            "department": [CATEGORIES[name].department for name in names],
            "attributes": [json.dumps(f[1]) for f in facts],
        }
    )
    empty = pl.DataFrame()
    market = Market(products, empty, empty, empty)
    path = catalogue_sheet(market, folder / "deep" / "sheet.png", lang)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert path.stat().st_size > 200_000
    with pytest.raises(ValueError, match="no sheet in 'fr'"):
        catalogue_sheet(market, folder / "sheet.png", "fr")
