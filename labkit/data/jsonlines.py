"""Reading files with one JSON object a line, with one clear sentence where a line is not one."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import polars as pl

from labkit.data.files import BadFile, missing_column, reading
from labkit.data.schemas import SchemaError

_WHAT = "one JSON object a line"


def scan_lines(path: Path, columns: Mapping[str, Any], required: tuple[str, ...]) -> pl.LazyFrame:
    """A file of JSON lines as a lazy frame of some of its fields.

    The first line is looked at now, the others when the frame is collected: do that inside
    :func:`line_errors`.

    Args:
        path: the file, UTF-8; may be compressed with gzip.
        columns: field names and polars dtypes; a line without a field has null there.
        required: fields that the first line must have.

    Raises:
        BadFile: the file is empty, or its first line is no JSON object.
        SchemaError: the first line lacks a required field.
    """
    with reading(path, _WHAT):
        with _open(path) as stream:
            first = stream.readline()
        if not first.strip():
            raise BadFile(f"{path.name} is empty; fetch it again.")
        try:
            found = json.loads(first.decode("utf-8-sig"))
        except json.JSONDecodeError as error:
            raise BadFile(
                f"{path.name} can't be read as {_WHAT}: line 1 is not JSON ({error.msg}); fetch it again."
            ) from None
    if not isinstance(found, dict):
        raise BadFile(
            f"{path.name} can't be read as {_WHAT}: line 1 is another kind of JSON; fetch it again."
        )
    if lacking := [name for name in required if name not in found]:
        raise missing_column(path, lacking, f" (its first line has {', '.join(found)})")
    return pl.scan_ndjson(path, schema=dict(columns))


@contextlib.contextmanager
def line_errors(path: Path, columns: Mapping[str, Any]) -> Iterator[None]:
    """Say which line of a file of JSON lines was wrong when collecting it raised."""
    with reading(path, _WHAT):
        try:
            yield
        except pl.exceptions.ComputeError:
            # polars does not say where: look for the first line that is wrong.
            _explain(path, columns)
            raise


def _explain(path: Path, columns: Mapping[str, Any]) -> None:
    with _open(path) as stream:
        for number, line in enumerate(stream):
            try:
                found = json.loads(line.decode("utf-8"))
            except ValueError as error:
                why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
                raise BadFile(
                    f"{path.name} can't be read as {_WHAT}: line {number + 1} is {why}; fetch it again."
                ) from None
            for name, dtype in columns.items():
                value = found.get(name) if isinstance(found, dict) else None
                if isinstance(value, str | dict | list) and dtype.is_numeric():
                    rows = [(name, number, "dtype", str(value))]
                    kinds = {"column": pl.String, "row": pl.Int64, "rule": pl.String, "value": pl.String}
                    says = f"{path.name}: column {name}, row {number}: {value!r} is not a number."
                    raise SchemaError(
                        says, pl.DataFrame(rows, schema=kinds, orient="row"), {(name, "dtype"): 1}
                    )


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
