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
    name: str, sources: list[Path], build: Callable[[], Tables], check: Callable[[Tables], None]
) -> dict[str, pl.LazyFrame]:
    """Convert a set's files into parquet under LABKIT_HOME, or find them converted.

    The tables are streamed, so that a set larger than memory goes through; they are checked as they then are,
    and appear together, when all is right.

    Args:
        name: of the set, with what was chosen of it; part of the folder's name.
        sources: the files that the tables are made from; changed files are converted anew.
        build: makes the lazy tables.
        check: raises if the tables are not as they should be.

    Returns:
        The tables, lazy, over the parquet files. Where LABKIT_HOME can't be written, over the sources.
    """
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    version = hashlib.sha256(repr((_VERSION, state)).encode()).hexdigest()[:12]
    folder = home() / "prepared" / f"{name}-{version}"
    if not folder.is_dir():
        tables = build()
        draft = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        try:
            draft.mkdir(parents=True)
        except OSError:
            check(tables)
            return dict(tables)
        try:
            with _status(name):
                for table, frame in tables.items():
                    frame.sink_parquet(draft / f"{table}.parquet")
                check({table: pl.scan_parquet(draft / f"{table}.parquet") for table in tables})
            if not folder.is_dir():  # another process may have been quicker
                draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return {path.stem: pl.scan_parquet(path) for path in sorted(folder.glob("*.parquet"))}


def _status(name: str) -> AbstractContextManager[object]:
    from rich.console import Console

    return Console(stderr=True).status(f"Preparing {name}: converting and checking, once")


_VERSION = 1  # raise when a loader makes other tables from the same files
