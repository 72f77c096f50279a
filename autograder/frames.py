"""polars columns as plain values, for :mod:`autograder.values`.

Not as Arrow IPC: its reader decompresses and allocates whatever the sender says. Here numbers and times cross
as numpy arrays, which take as much memory as they take in the message, and anything else as bounded lists.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

_NUMBERS = frozenset(
    f"{kind}{bits}" for kind, sizes in (("Int", (8, 16, 32, 64)), ("UInt", (8, 16, 32, 64))) for bits in sizes
) | {"Float32", "Float64", "Boolean"}
_TIMES = frozenset({"Date", "Time", "Datetime", "Duration"})
_OTHERS = frozenset({"String", "Binary", "Null", "Categorical"})
_MAX_DEPTH = 16
# A null of a struct takes memory for each of its fields: values times fields that one column may have.
_MAX_CELLS = 50_000_000


def take_apart(series: Any) -> list[Any]:
    """A Series as ``[type, values, missing]``: values a numpy array or a list, missing a mask or None.

    Raises:
        TypeError: the column's type can't cross.
    """
    dtype, name = series.dtype, _name(series.dtype)
    if name == "Array" and _name(dtype.inner) in _NUMBERS and len(dtype.shape) == 1:
        if series.null_count() or series.explode().null_count():
            raise TypeError("an Array column with nulls: make it a List")
        return [["Array", _name(dtype.inner)], np.ascontiguousarray(series.to_numpy()), None]
    tree = _tree(dtype)
    if name not in _NUMBERS and name not in _TIMES:
        return [tree, series.to_list(), None]
    missing = series.is_null().to_numpy() if series.null_count() else None
    plain = series.to_physical()
    plain = plain.fill_null(False if name == "Boolean" else 0) if missing is not None else plain
    return [tree, plain.to_numpy(), missing]


def put_together(name: str, tree: Any, values: Any, missing: Any, size: int) -> Any:
    """Inverse of :func:`take_apart` for parts that may come from anyone; ``size`` counts the values' items.

    Raises:
        Exception: the parts are not a column's.
    """
    polars = importlib.import_module("polars")
    if isinstance(values, list):
        dtype, fields = _dtype(polars, tree, 0)
        if missing is not None or fields * max(1, size) > _MAX_CELLS:
            raise ValueError("too large")
        return polars.Series(name, values, dtype=dtype)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise ValueError("no numbers")
    if values.ndim == 2 and tree[0] == "Array" and tree[1] in _NUMBERS and missing is None:
        return polars.Series(name, values, dtype=polars.Array(getattr(polars, tree[1]), values.shape[1]))
    dtype, _ = _dtype(polars, tree, 0)
    if values.ndim != 1 or _name(dtype) not in _NUMBERS | _TIMES:
        raise ValueError("no numbers")
    series = polars.Series(name, values).cast(dtype)
    if missing is None:
        return series
    if not isinstance(missing, np.ndarray) or missing.dtype != bool or missing.shape != values.shape:
        raise ValueError("no mask")
    return polars.select(polars.when(polars.Series(~missing)).then(series)).to_series().alias(name)


def _name(dtype: Any) -> str:
    return str(dtype.base_type().__name__)


def _tree(dtype: Any) -> Any:
    name = _name(dtype)
    if name == "Datetime":
        return [name, dtype.time_unit, dtype.time_zone]
    if name == "Duration":
        return [name, dtype.time_unit]
    if name == "List":
        return [name, _tree(dtype.inner)]
    if name == "Struct":
        return [name, *[[field.name, _tree(field.dtype)] for field in dtype.fields]]
    if name == "Enum":
        return [name, *dtype.categories.to_list()]
    if name in _NUMBERS or name in _TIMES or name in _OTHERS:
        return [name]
    raise TypeError(f"a column of type {name}")


def _dtype(polars: Any, tree: Any, depth: int) -> tuple[Any, int]:
    """The type that a tree describes, and its number of fields."""
    name, *rest = tree
    if depth > _MAX_DEPTH or type(name) is not str:
        raise ValueError("no type")
    if name == "List":
        inner, fields = _dtype(polars, rest[0], depth + 1)
        return polars.List(inner), fields
    if name == "Struct":
        parts = [(field, *_dtype(polars, part, depth + 1)) for field, part in rest]
        return polars.Struct({field: inner for field, inner, _ in parts}), sum(p[2] for p in parts) + 1
    if name == "Enum":
        return polars.Enum(rest), 1
    if name in _TIMES:
        return (getattr(polars, name)(*rest) if rest else getattr(polars, name)()), 1
    if name in _NUMBERS or name in _OTHERS:
        return getattr(polars, name)(), 1
    raise ValueError("no type")
