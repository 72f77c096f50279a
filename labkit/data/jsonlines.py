"""Reading files with one JSON object a line, with one clear sentence where a line is not one."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from labkit.data.files import MARK, BadFile, missing_column, once_more, open_bytes, reading
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
        with open_bytes(path) as stream:
            first = stream.readline()
            marked = first.startswith(MARK)
            first = first.removeprefix(MARK)
            while first and not first.strip():
                first = stream.readline()
        if not first.strip():
            raise BadFile(f"{path.name} is empty; {once_more(path)}.")
        try:
            found = json.loads(first.decode("utf-8"))
        except json.JSONDecodeError as error:
            raise BadFile(
                f"{path.name} can't be read as {_WHAT}: line 1 is not JSON ({error.msg}); {once_more(path)}."
            ) from None
    if not isinstance(found, dict):
        raise BadFile(
            f"{path.name} can't be read as {_WHAT}: line 1 is another kind of JSON; {once_more(path)}."
        )
    if lacking := [name for name in required if name not in found]:
        raise missing_column(path, lacking, f" (its first line has {', '.join(found)})")
    # polars does not know the mark that some programs put before UTF-8; such a file is read as a whole.
    with reading(path, _WHAT):
        source = io.BytesIO(open_bytes(path).read().removeprefix(MARK)) if marked else path
    return pl.scan_ndjson(source, schema=dict(columns))


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
    with open_bytes(path) as stream:
        for number, line in enumerate(stream):
            try:
                text = line.removeprefix(MARK).decode("utf-8")
                if not text.strip():
                    continue
                found = json.loads(text)
            except ValueError as error:
                why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON"
                raise BadFile(
                    f"{path.name} can't be read as {_WHAT}: line {number + 1} is {why}; {once_more(path)}."
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
