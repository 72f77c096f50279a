"""What the sets of interactions have in common: their tables are checked together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import polars as pl

from labkit.data.schemas import validate


def check_interactions(name: str, tables: Mapping[str, pl.LazyFrame]) -> None:
    """Check events, users, items and, where given, links.

    Raises:
        SchemaError: a table breaks its schema, or refers to a user or an item that is not there.
    """
    for part in ("users", "items"):
        validate(tables[part], f"interactions.{part}", table=f"{name} {part}")
    known = {part: tables[part] for part in ("users", "items")}
    validate(tables["events"], "interactions", table=f"{name} events", references=known)
    if "links" in tables:
        validate(tables["links"], "interactions.links", table=f"{name} links", references=known)


def milliseconds(time: pl.Expr, unit: Literal["s", "ms"] = "ms") -> pl.Expr:
    """Whole seconds ("s") or milliseconds ("ms") since 1970 as Datetime("ms"), in UTC."""
    return pl.from_epoch(time, time_unit=unit).cast(pl.Datetime("ms"))
