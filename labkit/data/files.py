"""Reading published files, with one clear sentence where a file is not what it should be."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import polars as pl

from labkit.data.schemas import Column, Schema, SchemaError, validate

_WORDS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
MARK = b"\xef\xbb\xbf"  # that some programs put before UTF-8


class BadFile(ValueError):
    """A file can't be read as what it should be; the message is one sentence that names it."""


def once_more(path: Path) -> str:
    """How to get a file of a data set anew, as a clause; a command where there is one."""
    from labkit.data.sets import DATA_SETS  # its loaders read through this module

    data = DATA_SETS.get(path.parent.name)
    if data and data.fetchable and path.name in data.published_files:
        return f"fetch it again with `labkit data fetch {data.name} --again`"
    return "fetch it again"


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a reader raises into a :class:`BadFile` that names the file.

    Args:
        path: the file being read.
        what: what it should be, such as "a table separated by commas".

    Example:
        >>> with reading(Path("a.csv"), "UTF-8 text"):
        ...     b"\\xff".decode()
        Traceback (most recent call last):
        ...
        labkit.data.files.BadFile: a.csv can't be read as UTF-8 text: 'utf-8' codec can't decode byte 0xff...
    """
    try:
        yield
    except (BadFile, SchemaError):
        raise
    except FileNotFoundError:
        raise BadFile(f"{path.name} is not in {path.parent}; {once_more(path)}.") from None
    except (
        pl.exceptions.PolarsError,
        UnicodeDecodeError,
        csv.Error,
        EOFError,
        zlib.error,
        OSError,
        ValueError,
        KeyError,
        # polars reports some broken files by a panic of its engine, which is no Exception.
        pl.exceptions.PanicException,
    ) as error:
        reason = " ".join(str(error).split("\n")[0].split()).rstrip(".:") or type(error).__name__
        reason = reason if len(reason) < 200 else reason[:200] + " …"
        raise BadFile(f"{path.name} can't be read as {what}: {reason}; {once_more(path)}.") from None


def scan_table(
    path: Path,
    columns: Mapping[str, Any],
    *,
    separator: str = ",",
    also: Mapping[str, str] | None = None,
    nulls: list[str] | None = None,
    optional: tuple[str, ...] = (),
) -> pl.LazyFrame:
    """A text table as a lazy frame: the named columns, in their dtypes, in any order in the file.

    The header and the number of fields in each row are looked at now, the values when the frame is collected:
    do that inside :func:`table_errors`. Blank lines are no rows.

    Args:
        path: the file, UTF-8, with a header; may be compressed with gzip.
        columns: names and polars dtypes.
        separator: one character.
        also: other names under which columns may stand in the file, ``{theirs: ours}``.
        nulls: texts that stand for a missing value, beside the empty one.
        optional: columns that may be missing; they are then left out.

    Returns:
        A lazy frame of the columns.

    Raises:
        BadFile: the file is empty or is not UTF-8 text, or a row has too few or too many fields.
        SchemaError: a column is missing; the message asks about the separator where that is the likely cause.
    """
    with reading(path, f"a table separated by {_WORDS.get(separator, separator)}"):
        with open_bytes(path) as stream:
            first = stream.readline(1 << 16).removeprefix(MARK)
            while first in (b"\n", b"\r\n"):  # polars skips them too
                first = stream.readline(1 << 16)
        if not first.strip():
            raise BadFile(f"{path.name} is empty; {once_more(path)}.")
        first_line = first.decode("utf-8").rstrip("\r\n")
        header = pl.read_csv(first, separator=separator, n_rows=0).columns
    names = {theirs: (also or {}).get(theirs, theirs) for theirs in header}
    missing = [name for name in columns if name not in names.values() and name not in optional]
    if missing:
        other = next((mark for mark in _WORDS if mark != separator and first_line.count(mark) >= 1), None)
        if len(header) == 1 and other:
            hint = f": its first line has one column when split at {_WORDS.get(separator, separator)}; "
            hint += f"it seems to be separated by {_WORDS[other]}"
        else:
            there = ", ".join(header)
            hint = f" (there are {there if len(there) < 200 else there[:200] + ' …'})"
        raise missing_column(path, missing, hint)
    with reading(path, f"a table separated by {_WORDS.get(separator, separator)}"):
        _check_fields(path, separator, len(header))
    chosen = [pl.col(theirs).alias(ours) for theirs, ours in names.items() if ours in columns]
    table = pl.scan_csv(
        path,
        separator=separator,
        schema_overrides={theirs: columns.get(ours, pl.String) for theirs, ours in names.items()},
        infer_schema=False,
        null_values=nulls,
    )
    # polars reads a blank line as a row without values.
    return table.filter(~pl.all_horizontal(pl.all().is_null())).select(chosen)


def _check_fields(path: Path, separator: str, fields: int) -> None:
    """Raise if a row has fewer or more fields than the header: polars takes those that are missing for null.

    polars counts the separators of each line. Where a line looks wrong, the file is read once more by the
    standard library, which knows about line ends within quotes and names the first line that is.
    """
    lines = pl.scan_csv(path, has_header=False, separator="\x00", quote_char=None, schema={"line": pl.String})
    line = pl.col("line")
    bare = line.str.replace_all(r'"[^"]*"', "")
    many = bare.str.count_matches(separator, literal=True) != fields - 1
    open_quote = bare.str.contains('"', literal=True)
    try:
        if not lines.filter(many | open_quote).head(1).collect(engine="streaming").height:
            return
    except pl.exceptions.ComputeError:
        pass  # it has bytes that are no text; the other way tells where
    limit = csv.field_size_limit(1 << 30)
    try:
        with open_bytes(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
            rows = csv.reader(text, delimiter=separator)
            for row in rows:
                if row and len(row) != fields:
                    few = f"line {rows.line_num} has {len(row)} of {fields} fields"
                    raise BadFile(
                        f"{path.name} can't be read as a table separated by "
                        f"{_WORDS.get(separator, separator)}: {few}; {once_more(path)}."
                    )
    finally:
        csv.field_size_limit(limit)


def open_bytes(path: Path) -> IO[bytes]:
    """A file's bytes, unpacked when it is compressed with gzip."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def missing_column(path: Path, missing: list[str], hint: str = "") -> SchemaError:
    """The error that says which columns a file lacks; ``hint`` follows "is missing"."""
    rows = [(name, None, "missing column", None) for name in missing]
    kinds = {"column": pl.String, "row": pl.Int64, "rule": pl.String, "value": pl.String}
    counts = {(name, "missing column"): 0 for name in missing}
    message = f"{path.name}: column {missing[0]} is missing{hint}."
    return SchemaError(message, pl.DataFrame(rows, schema=kinds, orient="row"), counts)


def read_table(path: Path, columns: Mapping[str, Any], **options: Any) -> pl.DataFrame:
    """A text table as a frame; see :func:`scan_table` for the arguments.

    Raises:
        BadFile: it is not such a table.
        SchemaError: a column is missing, or a value is not of its column's dtype.
    """
    with table_errors(path, columns, **options):
        return scan_table(path, columns, **options).collect()


@contextlib.contextmanager
def table_errors(path: Path, columns: Mapping[str, Any], **options: Any) -> Iterator[None]:
    """Say which row and column of a text table was wrong when collecting it raised.

    polars says that *some* value could not be parsed. The file is then read once more as plain text, to find
    the first rows whose value is not of its column's dtype.
    """
    separator = options.get("separator", ",")
    with reading(path, f"a table separated by {_WORDS.get(separator, separator)}"):
        try:
            yield
        except pl.exceptions.ComputeError:
            _explain(path, columns, options)
            raise


def _explain(path: Path, columns: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise a :class:`SchemaError` that names the row, if a value of the wrong kind is what was wrong."""
    texts = scan_table(path, dict.fromkeys(columns, pl.String), **options)
    have = texts.collect_schema().names()
    wrong = pl.DataFrame()
    kinds = {name: dtype for name, dtype in columns.items() if dtype != pl.String and name in have}
    for name, dtype in kinds.items():
        try:
            rows = (
                texts.with_row_index("row")
                .filter(pl.col(name).is_not_null() & _parsed(name, dtype).is_null())
                .select("row", value=pl.col(name))
                .head(1)
                .collect()
            )
        except pl.exceptions.PolarsError:
            return  # not readable even as text: what polars said is the best there is
        if rows.height:
            wrong = rows
            number = Schema(path.name, {name: Column(dtype)})
            says = f"{rows['value'][0]!r} is not {'a number' if dtype.is_numeric() else f'a {dtype}'}"
            message = f"{number.name}: column {name}, row {rows['row'][0]}: {says}."
            failures = wrong.select(
                column=pl.lit(name), row=pl.col("row").cast(pl.Int64), rule=pl.lit("dtype"), value="value"
            )
            raise SchemaError(message, failures, {(name, "dtype"): 1})


def _parsed(name: str, dtype: Any) -> pl.Expr:
    if dtype == pl.Date:
        return pl.col(name).str.to_date(strict=False)
    if dtype == pl.Boolean:
        return pl.when(pl.col(name).str.to_lowercase().is_in(["true", "false"])).then(True)
    return pl.col(name).cast(dtype, strict=False)


def read_parquet(path: Path, schema: Schema, columns: list[str] | None = None) -> pl.DataFrame:
    """A parquet file as a frame, checked against a schema.

    Raises:
        BadFile: it is not a parquet file, or a broken one.
        SchemaError: a column is missing or of another dtype.
    """
    with reading(path, "parquet"):
        frame = pl.read_parquet(path)
        validate(frame, schema, table=path.name)
        return frame.select(columns) if columns else frame
