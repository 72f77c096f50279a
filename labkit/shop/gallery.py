"""A contact sheet of the shop: every category once, and what attributes, brand and chance change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from labkit.learn.figures import FAINT, INK, figure_style
from labkit.shop.chinese import chinese, chinese_department_of
from labkit.shop.declarations import departments
from labkit.shop.pictures import draw

if TYPE_CHECKING:
    from labkit.shop.market import Market

# What the lower rows vary in one category (an attribute, the brand, or only the photograph), and attributes
# that stay as they are, chosen so that the difference is easy to see.
ROWS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("sofas", "colour", {"seats": "three", "upholstery": "linen"}),
    ("sofas", "seats", {"colour": "teal", "upholstery": "velvet"}),
    ("armchairs", "upholstery", {"colour": "green"}),
    ("desks", "wood", {}),
    ("duvet covers", "pattern", {"colour": "navy"}),
    ("water bottles", "bottle_size", {"colour": "blue"}),
    ("phone cases", "case_type", {"colour": "purple"}),
    ("headphones", "brand", {"colour": "white"}),
    ("kettles", "photograph", {"finish": "red"}),
)
TEXT = {
    "en": {
        "title": "The simulated shop in pictures: one product of each of its {count} categories",
        "below": "One product, one thing changed at a time",
        "brand": "brand",
        "photograph": "only the photograph",
    },
    "zh": {
        "title": "模拟商店图鉴：{count} 个品类，每类一件商品",
        "below": "同一件商品，每行只改变一个因素",
        "brand": "品牌",
        "photograph": "只换拍摄条件",
    },
}
DEPARTMENTS_ZH = {
    "furniture": "家具",
    "kitchen": "厨房",
    "computing": "电脑办公",
    "audio and phones": "影音与手机",
    "bed, bath and textiles": "家纺",
    "clothing": "服装",
    "shoes, bags and luggage": "鞋靴箱包",
    "sports and outdoors": "运动户外",
    "baby": "母婴",
    "toys and games": "玩具与桌游",
    "beauty and care": "美妆个护",
    "garden and DIY": "园艺与五金",
    "pets": "宠物",
}
_COLUMNS = 10
_CELL = 1.3  # a picture is 1 wide and high, the rest is its caption and the gap


def catalogue_sheet(market: Market, path: Path, lang: str = "en") -> Path:
    """Draw the contact sheet.

    Args:
        market: from :func:`labkit.shop.load`; "tiny" has only the first two departments.
        path: where to write; the ending decides the format.
        lang: ``"en"`` or ``"zh"``, the language of the names.

    Returns:
        The path.

    Raises:
        ValueError: The language is another one.

    Example:
        >>> import labkit.shop, tempfile
        >>> market = labkit.shop.load("tiny")
        >>> catalogue_sheet(market, Path(tempfile.mkdtemp()) / "sheet.png").name
        'sheet.png'
    """
    from matplotlib.figure import Figure

    if lang not in TEXT:
        raise ValueError(f"There is no sheet in {lang!r}; choose 'en' or 'zh'.")
    examples = _examples(market.products)
    shelves = _shelves(examples, market.seed, lang)
    rows = [*shelves, None, *_variations(examples, market.seed, lang)]
    with figure_style(dpi=100):
        figure = Figure(figsize=(13.5, 0.985 * len(rows) * _CELL + 0.6), layout="constrained")
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_aspect("equal")
        axes.set_xlim(-2.1, _COLUMNS * 1.12)
        axes.set_ylim(len(rows) * _CELL - 0.1, -0.1)
        figure.suptitle(TEXT[lang]["title"].format(count=len(examples)), fontsize=17, fontweight="bold")
        for number, row in enumerate(rows):
            top = number * _CELL
            if row is None:
                axes.plot([-2.1, _COLUMNS * 1.12], [top + 0.25, top + 0.25], color=FAINT, linewidth=1.2)
                axes.text(-2.1, top + 0.78, TEXT[lang]["below"], fontsize=15, fontweight="bold", va="center")
            else:
                _draw_row(axes, row, top)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else None)
    return path


Row = tuple[str, list[tuple[str, np.ndarray]]]


def _draw_row(axes: Any, row: Row, top: float) -> None:
    heading, cells = row
    axes.text(-2.1, top + 0.5, heading, fontsize=11.5, fontweight="bold", va="center", linespacing=1.35)
    for column, (caption, picture) in enumerate(cells):
        left = column * 1.12
        axes.imshow(picture, extent=(left, left + 1, top + 1, top), interpolation="bicubic", zorder=2)
        axes.text(left + 0.5, top + 1.03, caption, fontsize=8.6, color=INK, ha="center", va="top")


def _examples(products: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """One product of every category on sale; not always the first, or their colours would be alike."""
    found = {}
    for number, (_, shelf) in enumerate(products.group_by("category", maintain_order=True)):
        row = shelf.row(number * 5 % min(shelf.height, 23), named=True)
        found[row["category"]] = {**row, "attributes": json.loads(row["attributes"])}
    return found


def _shelves(examples: dict[str, dict[str, Any]], seed: int, lang: str) -> Iterator[Row]:
    for department in departments().values():
        names = [name for name in department.categories if name in examples]
        title = _wrapped(department.name) if lang == "en" else DEPARTMENTS_ZH[department.name]
        for start in range(0, len(names), _COLUMNS):
            cells = []
            for name in names[start : start + _COLUMNS]:
                row = examples[name]
                picture = draw(name, row["attributes"], row["brand"], seed, row["product_id"])
                cells.append((_noun(name, lang), picture))
            yield ("" if start else title), cells


def _wrapped(title: str) -> str:
    """The heading in at most two lines."""
    if len(title) < 16:
        return title
    words = title.split()
    return " ".join(words[: (len(words) + 1) // 2]) + "\n" + " ".join(words[(len(words) + 1) // 2 :])


def _noun(category: str, lang: str) -> str:
    if lang == "zh":
        return chinese_department_of()[category].categories[category].nouns.listed[0]
    return category


def _variations(examples: dict[str, dict[str, Any]], seed: int, lang: str) -> Iterator[Row]:
    for category, factor, stays in ROWS:
        if category not in examples:
            continue
        example = {**examples[category], "attributes": {**examples[category]["attributes"], **stays}}
        heading = f"{_noun(category, lang)}:\n{_label(category, factor, lang)}"
        cells = []
        for caption, changed in _versions(category, factor, example, lang):
            product = {**example, **changed}
            picture = draw(category, product["attributes"], product["brand"], seed, product["product_id"])
            cells.append((caption, picture))
        yield heading, cells[:_COLUMNS]


def _versions(
    category: str, factor: str, example: dict[str, Any], lang: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    department = departments()[example["department"]]
    if factor == "brand":
        for name, brand in department.brands.items():
            if category in brand.makes:
                yield name if lang == "en" else chinese()[department.name].brands[name].name, {"brand": name}
    elif factor == "photograph":
        for number in range(_COLUMNS):
            yield "", {"product_id": example["product_id"] + number}
    else:
        for value in department.categories[category].attributes[factor].values:
            words = chinese()[department.name].attributes[factor][value].listed[0] if lang == "zh" else value
            yield words, {"attributes": {**example["attributes"], factor: value}}


def _label(category: str, factor: str, lang: str) -> str:
    if factor in TEXT[lang]:
        return TEXT[lang][factor]
    department = chinese_department_of()[category]
    if lang == "zh":
        return department.labels.get(factor, factor)
    return (
        next(d for d in departments().values() if category in d.categories)
        .categories[category]
        .attributes[factor]
        .label
    )
