"""Clothing photos: 3 781 pictures of ten kinds of clothes, taken by their owners."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl

from labkit.data.files import BadFile, read_parquet
from labkit.data.schemas import Column, Schema, validate
from labkit.data.sources import DataSet, locate
from labkit.data.tables import LabelledImages

CLOTHING = DataSet(
    name="clothing_images_small",
    title="3 781 clothing photos in 10 classes, at most 160 pixels wide or high",
    source=(
        "https://github.com/alexeygrigorev/clothing-dataset-small "
        "(commit 11961516512414bf9f6c150a832cfd21b54a6b54)"
    ),
    licence="CC0 1.0.",
    files={"images.parquet": "9eb5e6407206280e725275ff0425079c52e41c82f0fac5a852f4e78fc37f2118"},
)


def load_clothing(split: str | None = None) -> LabelledImages:
    """Load the clothing photos, decoded.

    The classes differ in size (795 T-shirts, 123 hats in train), and the pictures in shape.

    Args:
        split: "train", "valid" or "test"; None for all (about 200 MB of pixels).

    Raises:
        ValueError: there is no such split.
        DataMissing: the file is in none of the searched folders.
        BadFile: the file, or a picture in it, is broken.

    Example:
        >>> photos = load_clothing("test")  # doctest: +SKIP
        >>> photos.array(96).shape  # doctest: +SKIP
        (372, 96, 96, 3)
    """
    if split not in (None, "train", "valid", "test"):
        raise ValueError(f"There is no split {split!r}; there are test, train, valid.")
    path = locate(CLOTHING) / "images.parquet"
    rows = read_parquet(path, _IMAGES).with_columns(pl.col("split").replace("validation", "valid"))
    if split:
        rows = rows.filter(pl.col("split") == split)
    images = [_decode(path, key, jpeg) for key, jpeg in rows.select("image_id", "jpeg").iter_rows()]
    table = rows.select("label", "split", key="image_id")
    return LabelledImages(CLOTHING.name, images, validate(table, "labelled.images", table=path.name))


def _decode(path: Path, key: str, jpeg: bytes) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            return np.asarray(image.convert("RGB"))  # (H, W, 3) uint8
    except OSError as error:
        raise BadFile(f"{path.name}: picture {key} can't be decoded ({error}); fetch it again.") from None


_IMAGES = Schema(
    "images",
    {
        "split": Column(pl.String, among=("train", "validation", "test")),
        "label": Column(pl.String),
        "image_id": Column(pl.String),
        "jpeg": Column(pl.Binary),
    },
    key=("image_id",),
)
