"""Whether a file whose checksum nobody states is there to its end, as far as the file itself tells.

A connection that breaks off may look like the end of the file, and a login page may come under any name. What
passes here is remembered as the right content (see :mod:`labkit.data.checksums`), so it is looked at before.
"""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from pathlib import Path

import polars as pl

from labkit.data.checksums import watched

_CHUNK = 1 << 20
_TAIL = 1 << 16
_TEXTS = (".csv", ".tsv", ".dat", ".jsonl", ".txt")
_PAGES = (b"<!doctype html", b"<html")


def unfinished(path: Path, name: str = "") -> str | None:
    """Why a file can't be all of what its name says, as a clause; None when nothing speaks against it.

    Packed files and parquet are read to their end; lines of text must end with one, or with a whole row.

    Args:
        path: the file.
        name: the name that it is to have, where it has another one yet; its ending says what it should be.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.csv"
        ...     _ = path.write_bytes(b"id,price\\n1,5\\n2")
        ...     unfinished(path)
        'its last row is cut off'
    """
    kind = Path(name or path.name).suffix.lower()
    if kind not in (*_TEXTS, ".gz", ".zip", ".parquet"):
        return None
    with path.open("rb") as stream:
        first = stream.read(_TAIL)
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL))
        last = stream.read()
    if not first:
        return "it is empty"
    if first.removeprefix(b"\xef\xbb\xbf").lstrip()[:20].lower().startswith(_PAGES):
        return "it is a web page"
    if kind in _TEXTS:
        return None if last.endswith(b"\n") or _complete(first, last, kind) else "its last row is cut off"
    try:
        if kind == ".gz":
            with watched(path) as whole, gzip.GzipFile(fileobj=whole) as packed:
                while packed.read(_CHUNK):
                    pass
        elif kind == ".zip":
            with zipfile.ZipFile(path) as archive:
                if broken := archive.testzip():
                    raise zipfile.BadZipFile(f"{broken} in it is damaged")
        else:
            pl.read_parquet_schema(path)
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        zipfile.BadZipFile,
        NotImplementedError,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
    ) as error:
        reason = str(error).split("\n")[0].rstrip(".:")[:100] or type(error).__name__
        return f"not a whole {kind.removeprefix('.')} file: {reason}"
    return None


def miscounted(path: Path, rows: int | None, name: str = "") -> str | None:
    """Whether a text table has another number of rows than its publisher states, as a clause.

    Args:
        path: the file; its first line is a header, except in ``.dat`` files.
        rows: how many there should be; None when nobody says.
        name: as for :func:`unfinished`.
    """
    if rows is None:
        return None
    if Path(name or path.name).suffix == ".dat":
        with watched(path) as stream:
            found = sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(_CHUNK), b""))
    else:
        table = pl.scan_csv(path, infer_schema=False).filter(~pl.all_horizontal(pl.all().is_null()))
        try:
            found = table.select(pl.len()).collect(engine="streaming").item()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            return None  # whoever reads it says better what is wrong
    return None if found == rows else f"it has {found:,} rows, its publisher says {rows:,}"


def _complete(first: bytes, last: bytes, kind: str) -> bool:
    """Whether a table without a line end at its end has as many fields in its last line as in its first."""
    if kind not in (".csv", ".tsv"):
        return False
    header, row = first.lstrip().split(b"\n")[0], last.split(b"\n")[-1]
    mark = max((b",", b"\t", b";", b"|"), key=header.count)
    return row.count(mark) >= header.count(mark) and row.count(b'"') % 2 == 0
