"""A hash of what a table says, whatever file format or library version wrote it down."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import polars as pl


def fingerprint(place: Path) -> str:
    """SHA-256 of a table's column names, types and values.

    Args:
        place: a parquet file, or a folder of parts that are read one after the other.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path in sorted(place.glob("*.parquet")) if place.is_dir() else [place]:
        table = pl.read_parquet(path)
        for column in table:
            digest.update(f"{column.name}:{column.dtype}:{len(column)}\n".encode())
            _add(digest, column)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, column: pl.Series) -> None:
    digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
    if isinstance(column.dtype, pl.List):
        digest.update(column.list.len().fill_null(0).to_numpy().astype("<u4").tobytes())
        _add(digest, column.explode(empty_as_null=False, keep_nulls=False))
        return
    plain = column.to_physical()
    if plain.dtype == pl.String:
        digest.update(plain.str.len_bytes().fill_null(0).to_numpy().astype("<u4").tobytes())
        digest.update("".join(plain.fill_null("").to_list()).encode())
        return
    values = plain.fill_null(False if plain.dtype == pl.Boolean else 0).to_numpy()
    digest.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes())
