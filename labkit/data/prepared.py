"""Large sets, converted once: text or JSON in, checked parquet out, read lazily ever after."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import polars as pl

from labkit.home import home

Tables = Mapping[str, pl.LazyFrame]


def prepared(
    name: str,
    sources: list[Path],
    build: Callable[[], Tables],
    check: Callable[[Tables], None],
    order: Mapping[str, str] | None = None,
) -> dict[str, pl.LazyFrame]:
    """Convert a set's files into parquet under LABKIT_HOME, or find them converted.

    The tables are streamed, and sorted a piece at a time, so that a set larger than memory goes
    through; they are checked as they then are, and appear together, when all is right.

    Args:
        name: of the set, with what was chosen of it; part of the folder's name.
        sources: the files that the tables are made from; changed files are converted anew.
        build: makes the lazy tables.
        check: raises if the tables are not as they should be.
        order: for tables that are to be sorted, the column; rows that agree in it stay in the order in which
            they were, and those without a value come first.

    Returns:
        The tables, lazy, over the parquet files. Where LABKIT_HOME can't be written, over the sources.
    """
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    version = hashlib.sha256(repr((_VERSION, state)).encode()).hexdigest()[:12]
    folder = home() / "prepared" / f"{name}-{version}"
    if not folder.is_dir():
        order = order or {}
        tables = build()
        draft = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        try:
            draft.mkdir(parents=True)
        except OSError:
            check(tables)
            sort = {table: tables[table].sort(column, maintain_order=True) for table, column in order.items()}
            return {**tables, **sort}
        try:
            with _status(name):
                for table, frame in tables.items():
                    (draft / table).mkdir()
                    if table in order:
                        _sink_sorted(frame, order[table], draft / table)
                    else:
                        frame.sink_parquet(draft / table / "all.parquet")
                check(_scan(draft))
            if not folder.is_dir():  # another process may have been quicker
                draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return _scan(folder)


def _scan(folder: Path) -> dict[str, pl.LazyFrame]:
    return {path.name: pl.scan_parquet(path / "*.parquet") for path in sorted(folder.iterdir())}


def _sink_sorted(frame: pl.LazyFrame, column: str, folder: Path) -> None:
    """Write a frame in the order of a column, as several files where it is long.

    Sorting texts needs all of them in memory at once. Only the column itself is sorted so; its quantiles say
    which rows belong to which file, and each file is sorted by itself.
    """
    loose = folder / "loose"
    frame.with_row_index("_row").sink_parquet(loose)
    rows = pl.scan_parquet(loose)
    values = rows.select(column).collect().to_series().sort()
    pieces = -(-loose.stat().st_size // PIECE)
    at_once = max(1, -(-len(values) // pieces))
    borders = values.gather_every(at_once, at_once).drop_nulls().unique().sort().to_list()
    for piece, (low, high) in enumerate(zip([None, *borders], [*borders, None], strict=True)):
        value = pl.col(column)
        wanted = pl.lit(True)
        if high is not None:
            wanted &= value < high
        if low is not None:
            wanted &= value >= low
        else:
            wanted |= value.is_null()
        chosen = rows.filter(wanted).sort(column, "_row").drop("_row").collect(engine="streaming")
        chosen.write_parquet(folder / f"{piece:05d}.parquet")
    loose.unlink()


def _status(name: str) -> AbstractContextManager[object]:
    from rich.console import Console

    return Console(stderr=True).status(f"Preparing {name}: converting and checking, once")


PIECE = 128 << 20  # bytes of parquet sorted at a time; some four times as many in memory
_VERSION = 1  # raise when a loader makes other tables from the same files
