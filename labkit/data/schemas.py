"""What a table must look like, and one clear sentence when it does not.

A schema is declared in a few words (:class:`Schema`, :class:`Column`), checked by pandera and reported
by us: pandera knows every rule that was broken; a person wants table, column, row and rule in a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

import numpy as np
import polars as pl

# Dtypes that serve the same purpose; a column may be declared with one dtype or with such a group.
INTEGER = (pl.Int64, pl.Int32, pl.Int16, pl.Int8, pl.UInt64, pl.UInt32, pl.UInt16, pl.UInt8)
FLOAT = (pl.Float64, pl.Float32)
NUMBER = (*FLOAT, *INTEGER)
TEXT = (pl.String, pl.Categorical, pl.Enum)

Frame = TypeVar("Frame", pl.DataFrame, pl.LazyFrame)

BATCH = 250_000  # rows checked at a time: about 50 MB of a wide table
KEPT = 100  # failing rows kept for each column and rule


@dataclass(frozen=True)
class Column:
    """What a column must hold.

    Attributes:
        dtype: a polars dtype, or a tuple of those that will do.
        low: smallest value allowed, itself included; None for any.
        high: largest value allowed, itself included; None for any.
        among: the only values allowed; None for any.
        pattern: a regular expression that texts must match from their first character; None for any.
        null: whether values may be missing.
        to: ``"table.column"`` when every value must be found there (checked where that table is given).
        optional: whether the column itself may be missing.
    """

    dtype: Any
    low: Any = None
    high: Any = None
    among: Sequence[Any] | None = None
    pattern: str | None = None
    null: bool = False
    to: str | None = None
    optional: bool = False

    def accepts(self, dtype: pl.DataType) -> bool:
        """Whether a column of this dtype will do."""
        choices = self.dtype if isinstance(self.dtype, tuple) else (self.dtype,)
        return any(dtype == choice for choice in choices)

    def named(self) -> str:
        """The dtype in words: ``Int32``, ``Float64 or Float32``."""
        choices = self.dtype if isinstance(self.dtype, tuple) else (self.dtype,)
        return " or ".join(str(choice) for choice in choices)


@dataclass(frozen=True)
class Schema:
    """What a table must hold.

    Attributes:
        name: the table's name, for messages.
        columns: name and declaration of each. Columns that are not declared are allowed.
        key: columns that together name a row: no two rows may agree in all of them.
    """

    name: str
    columns: Mapping[str, Column]
    key: tuple[str, ...] = ()

    def but(self, name: str, **columns: Column) -> Schema:
        """The same schema under another name with some columns added or declared anew."""
        return replace(self, name=name, columns={**self.columns, **columns})


class SchemaError(ValueError):
    """A table is not what its schema says.

    Attributes:
        failures: a frame with column, row (i64, counted from 0 as ``frame[row]`` does; null where the whole
            column is wrong), rule and value (as text): at most 100 rows for each column and rule.
        counts: how many rows break each (column, rule).
    """

    def __init__(self, message: str, failures: pl.DataFrame, counts: Mapping[tuple[str, str], int]):
        super().__init__(message)
        self.failures = failures
        self.counts = dict(counts)


@dataclass
class _Report:
    """Collects what is wrong, in the order in which it was found."""

    table: str
    rows: list[tuple[str, int | None, str, str | None]] = field(default_factory=list)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    sentences: dict[tuple[str, str], str] = field(default_factory=dict)

    def column(self, column: str, rule: str, sentence: str) -> None:
        """A whole column is wrong."""
        self.counts[column, rule] = 0
        self.sentences[column, rule] = sentence
        self.rows.append((column, None, rule, None))

    def values(
        self, column: str, rule: str, rows: Sequence[int], values: Sequence[Any], count: int, says: str
    ) -> None:
        """Some rows of a column are wrong; ``says`` completes the sentence that the value begins."""
        known = self.counts.get((column, rule), 0)
        self.counts[column, rule] = known + count
        plural = "columns" if ", " in column else "column"
        for row, value in zip(rows[: KEPT - known], values, strict=False):
            self.rows.append((column, row, rule, None if value is None else _text(value)))
            start = f"{self.table}: {plural} {column}, row {row}: "
            subject = "the value" if value is None else _text(value, 60)
            self.sentences.setdefault((column, rule), f"{start}{subject} {says}")

    def raise_if_any(self) -> None:
        if not self.counts:
            return
        first = next(iter(self.counts))
        notes = []
        if self.counts[first] > 1:
            more = self.counts[first] - 1
            notes.append(f"and {more:,} more row{'s' if more > 1 else ''}")
        if len(self.counts) > 1:
            others = [f"column {column} ({rule})" for column, rule in self.counts if (column, rule) != first]
            notes.append(f"and also {', '.join(others[:3])}{' and others' if len(others) > 3 else ''}")
        tail = f" ({'; '.join(notes)})" if notes else ""
        frame = pl.DataFrame(
            self.rows,
            schema={"column": pl.String, "row": pl.Int64, "rule": pl.String, "value": pl.String},
            orient="row",
        )
        raise SchemaError(self.sentences[first] + tail + ".", frame, self.counts)


def validate(
    frame: Frame,
    schema: str | Schema,
    *,
    table: str | None = None,
    references: Mapping[str, pl.DataFrame | pl.LazyFrame] | None = None,
) -> Frame:
    """Check a table against its schema: columns, dtypes, missing values, ranges, sets, keys.

    The rules are pandera's (https://pandera.readthedocs.io). A lazy frame is read in batches of 250,000 rows,
    in order, so that a table of 20 million rows is checked within 1 GB; uniqueness of the key takes 8 bytes
    per row besides.

    Args:
        frame: the table, eager or lazy.
        schema: a :class:`Schema`, or the name of a declared one, such as "events"; see :data:`SCHEMAS`.
        table: what messages call the table, such as "orders.csv"; the schema's name when None.
        references: tables by name that foreign keys refer to; a key into a table not given is not checked.

    Returns:
        The frame, as given.

    Raises:
        SchemaError: the table breaks a rule. One sentence names table, column, row and rule;
            ``.failures`` has the rows.
        ValueError: no schema of that name is declared.

    Example:
        >>> orders = Schema("orders", {"id": Column(pl.Int64), "rating": Column(pl.Int64, 1, 5)}, key=("id",))
        >>> validate(pl.DataFrame({"id": [1, 2], "rating": [5, 7]}), orders, table="orders.csv")
        Traceback (most recent call last):
        ...
        labkit.data.schemas.SchemaError: orders.csv: column rating, row 1: 7 is not in 1..5.
    """
    declared = _declared(schema) if isinstance(schema, str) else schema
    report = _Report(table or declared.name)
    have = frame.collect_schema() if isinstance(frame, pl.LazyFrame) else frame.schema
    usable = _check_columns(declared, have, report)
    checker, rules = _checker(usable, have, references or {})
    key = [name for name in declared.key if name in usable]
    hashes: list[np.ndarray] = []
    start = 0
    needed = list(usable)
    for batch in _batches(frame, needed):
        _check_batch(batch, start, checker, rules, report)
        if key and len(key) == len(declared.key):
            # A missing key is reported as such; null keys get hashes of their own below.
            hashes.append(batch.select(key).hash_rows(seed=0).to_numpy())
        start += batch.height
    if hashes:
        _check_key(frame, tuple(key), np.concatenate(hashes), report)
    report.raise_if_any()
    return frame


def _declared(name: str) -> Schema:
    from labkit.data.set_tables import SET_SCHEMAS
    from labkit.data.shop_tables import SHOP_SCHEMAS

    known = {**SHOP_SCHEMAS, **SET_SCHEMAS}
    if name not in known:
        raise ValueError(f"No schema is called {name!r}; declared are {', '.join(known)}.")
    return known[name]


def _check_columns(schema: Schema, have: pl.Schema, report: _Report) -> dict[str, Column]:
    """Report columns that are missing or of another dtype; return those that can be looked into."""
    usable = {}
    for name, column in schema.columns.items():
        if name not in have:
            if not column.optional:
                there = ", ".join(have) or "no columns"
                there = there if len(there) < 200 else there[:200] + " …"
                report.column(
                    name, "missing column", f"{report.table}: column {name} is missing (there are {there})"
                )
        elif not column.accepts(have[name]):
            says = f"{report.table}: column {name} is {have[name]}, not {column.named()}"
            report.column(name, "dtype", says)
        else:
            usable[name] = column
    return usable


def _checker(
    columns: Mapping[str, Column], have: pl.Schema, references: Mapping[str, pl.DataFrame | pl.LazyFrame]
) -> tuple[Any, dict[str, str]]:
    """A pandera schema for these columns, and how to complete a sentence about each of its rules."""
    import pandera.polars as pa

    says = {"not_nullable": "is missing"}
    built = {}
    for name, column in columns.items():
        checks = []
        for rule, sentence, check in _rules(column, have[name], references):
            says[f"{name}/{rule}"] = sentence
            checks.append(check)
        built[name] = pa.Column(have[name], checks, nullable=column.null)
    return pa.DataFrameSchema(built), says


def _rules(
    column: Column, dtype: pl.DataType, references: Mapping[str, pl.DataFrame | pl.LazyFrame]
) -> Iterator[tuple[str, str, Any]]:
    """(rule, how its sentence ends, pandera check) for each rule of a column."""
    import pandera.polars as pa

    def custom(rule: str, expression: Any) -> Any:
        return pa.Check(lambda data: data.lazyframe.select(expression(pl.col(data.key))), name=rule)

    if dtype.is_float():
        # polars orders NaN above every number, so that a lower bound alone would let it pass.
        yield "number", "is not a number", custom("number", lambda value: value.is_not_nan())
    low, high = column.low, column.high
    if low is not None and high is not None:
        check = pa.Check.in_range(low, high, name="range")
        yield "range", f"is not in {_text(low)}..{_text(high)}", check
    elif low is not None:
        yield "range", f"is below {_text(low)}", pa.Check.ge(low, name="range")
    elif high is not None:
        yield "range", f"is above {_text(high)}", pa.Check.le(high, name="range")
    if column.among is not None:
        allowed = list(column.among)
        words = ", ".join(_text(value) for value in allowed[:12]) + (" …" if len(allowed) > 12 else "")
        check = custom("set", lambda value: value.cast(_plain(dtype)).is_in(allowed))
        yield "set", f"is not one of {words}", check
    if column.pattern is not None:
        pattern = f"^(?:{column.pattern})"
        re.compile(pattern)
        says = f"does not match the pattern {column.pattern}"
        yield "pattern", says, custom("pattern", lambda v: v.cast(pl.String).str.contains(pattern))
    if column.to is not None and (target := column.to.split("."))[0] in references:
        there = references[target[0]].lazy().select(target[1]).unique().collect()[target[1]]
        # Both sides as plain values: an i32 id may refer to an i64 one.
        there = there.cast(_plain(dtype), strict=False).drop_nulls()
        check = custom("foreign key", lambda value: value.cast(_plain(dtype)).is_in(there.implode()))
        yield "foreign key", f"is not in {column.to}", check


def _plain(dtype: pl.DataType) -> Any:
    """The dtype to compare in: categories and enums compare as text, integers as i64."""
    if dtype in (pl.Categorical, pl.Enum):
        return pl.String
    return pl.Int64 if dtype.is_integer() else dtype


def _batches(frame: pl.DataFrame | pl.LazyFrame, names: list[str]) -> Iterator[pl.DataFrame]:
    """The named columns, so many rows at a time, in order."""
    if not names:
        return
    if isinstance(frame, pl.DataFrame):
        yield from frame.select(names).iter_slices(BATCH)
    else:
        yield from frame.select(names).collect_batches(
            chunk_size=BATCH, maintain_order=True, engine="streaming"
        )


def _check_batch(
    batch: pl.DataFrame, start: int, checker: Any, says: Mapping[str, str], report: _Report
) -> None:
    """Run pandera on one batch and take over what it found, rows counted from the table's first."""
    from pandera.config import ValidationDepth, config_context
    from pandera.errors import SchemaErrors

    try:
        # pandera can be switched off or made to look at dtypes alone by environment variables; not here.
        with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
            checker.validate(batch, lazy=True)
    except SchemaErrors as found:
        for error in found.schema_errors:
            column = error.schema.name
            rule = error.check if isinstance(error.check, str) else error.check.name
            rule = cast(str, rule).split("(")[0]
            if not isinstance(error.check_output, pl.DataFrame):
                # A rule that could not be run at all is a mistake in a schema, not in the data.
                raise RuntimeError(f"The rule {rule} of column {column} could not be run: {error}") from found
            failed = ~error.check_output["check_output"].fill_null(True)
            if rule == "not_nullable":  # pandera counts NaN as missing; the rule "number" reports it
                failed &= batch[column].is_null()
            wrong = failed.arg_true()
            if not len(wrong):
                continue
            rows = (wrong[:KEPT].cast(pl.Int64) + start).to_list()
            values = batch[column].gather(wrong[:KEPT]).to_list()
            sentence = says.get(f"{column}/{rule}", says.get(rule, f"breaks the rule {rule}"))
            name = "null" if rule == "not_nullable" else rule
            report.values(column, name, rows, values, len(wrong), sentence)


def _check_key(
    frame: pl.DataFrame | pl.LazyFrame, key: tuple[str, ...], hashes: np.ndarray, report: _Report
) -> None:
    """Report rows whose key stands already in an earlier row.

    Only hashes of the keys are kept (8 bytes a row). Rows whose hash repeats are looked at themselves, so a
    collision of hashes reports nothing.
    """
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return
    suspects = np.flatnonzero(np.isin(hashes, repeated))
    del ordered, hashes
    numbered = frame.lazy().select(key).with_row_index("row")
    wanted = pl.LazyFrame({"row": pl.Series(suspects, dtype=numbered.collect_schema()["row"])})
    rows = (
        numbered.join(wanted, on="row", how="semi")
        .drop_nulls(list(key))
        .sort("row")
        .with_columns(first=pl.col("row").min().over(key))
        .filter(pl.col("row") > pl.col("first"))
        .collect(engine="streaming")
    )
    name = ", ".join(key)
    for row in rows.head(KEPT).iter_rows(named=True):
        value = row[key[0]] if len(key) == 1 else tuple(row[part] for part in key)
        report.values(name, "unique", [row["row"]], [value], 1, f"stands already in row {row['first']}")
    if rows.height > KEPT:
        report.counts[name, "unique"] += rows.height - KEPT


def _text(value: Any, most: int = 200) -> str:
    """A value as a person would write it, cut when it is long."""
    text = " ".join(str(value).split()) if not isinstance(value, str) else repr(value)
    return text if len(text) <= most else text[:most] + " …"
