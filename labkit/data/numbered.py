"""Row numbers for the ids of a source."""

from __future__ import annotations

import polars as pl


def number(keys: pl.Series, name: str) -> pl.DataFrame:
    """A table of different keys, sorted, with row numbers.

    Args:
        keys: ids as a source has them, with repetitions; missing ones are left out.
        name: of the number's column, such as "user_id".

    Returns:
        The column ``name`` (i32, 0..n-1) and ``key`` (str); whole numbers are sorted as numbers.

    Example:
        >>> number(pl.Series([10, 9, 10]), "user_id").rows()
        [(0, '9'), (1, '10')]
    """
    different = keys.drop_nulls().unique().sort().cast(pl.String).alias("key")
    return different.to_frame().with_row_index(name).with_columns(pl.col(name).cast(pl.Int32))


def numbered(events: pl.LazyFrame, tables: dict[str, pl.DataFrame]) -> pl.LazyFrame:
    """Replace key columns by the row numbers of their tables, keeping the order of the rows.

    Args:
        events: has a column of keys (str) under each of the names in ``tables``.
        tables: as :func:`number` makes them, by the number's name.
    """
    for name, table in tables.items():
        other = table.lazy().select(pl.col("key").alias(name), pl.col(name).alias("number"))
        events = events.join(other, on=name, how="left", maintain_order="left").drop(name)
        events = events.rename({"number": name})
    return events
