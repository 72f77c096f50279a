"""A cleaning step, what it reports, and a row of steps that runs without holding the table in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl


@dataclass(frozen=True)
class Change:
    """What one step did to a table.

    Attributes:
        step: the step's name.
        rows_in: rows before.
        rows_out: rows after.
        changed: rows dropped, or rows with a corrected value.
        note: what a reader should know, in a few words.
    """

    step: str
    rows_in: int
    rows_out: int
    changed: int
    note: str = ""


Step = Callable[[pl.LazyFrame], tuple[pl.LazyFrame, Change]]


@dataclass
class Pipeline:
    """Steps run one after the other, each reading what the one before it wrote.

    Args:
        steps: functions of a LazyFrame that return a LazyFrame and a `Change`.
        folder: where each step's result is written by the streaming engine, so that a table larger than
            memory passes through; only the latest is kept. None keeps results in memory.

    Example:
        >>> def cheap(frame):
        ...     kept = frame.filter(pl.col("price") < 10)
        ...     return kept, change_of("cheap", frame, kept)
        >>> frame, changes = Pipeline([cheap]).run(pl.LazyFrame({"price": [5.0, 50.0]}))
        >>> changes[0].rows_in, changes[0].rows_out, frame.collect()["price"].to_list()
        (2, 1, [5.0])
    """

    steps: Sequence[Step]
    folder: Path | None = None
    changes: list[Change] = field(default_factory=list)

    def run(self, frame: pl.LazyFrame) -> tuple[pl.LazyFrame, list[Change]]:
        """Run every step; returns the last frame and one `Change` per step.

        Raises:
            RuntimeError: a step did not return as many rows as it reports.
        """
        self.changes = []
        written: Path | None = None
        for number, step in enumerate(self.steps):
            frame, change = step(frame)
            self.changes.append(change)
            if self.folder is None:
                frame = frame.collect().lazy()
                as_reported(change.step, frame, change.rows_out)
                continue
            self.folder.mkdir(parents=True, exist_ok=True)
            target = self.folder / f"{number:02d}_{change.step.replace(' ', '_')}.parquet"
            frame.sink_parquet(target, engine="streaming")
            frame = pl.scan_parquet(target)
            as_reported(change.step, frame, change.rows_out)
            if written:
                written.unlink()
            written = target
        return frame, self.changes

    def report(self) -> pl.DataFrame:
        """The changes as a table: step, rows_in, rows_out, changed, note."""
        return report(self.changes)


def report(changes: Sequence[Change]) -> pl.DataFrame:
    """Changes as a table, one row per step.

    Example:
        >>> report([Change("bots", 10, 8, 2)]).rows()
        [('bots', 10, 8, 2, '')]
    """
    schema = {
        "step": pl.String, "rows_in": pl.Int64, "rows_out": pl.Int64, "changed": pl.Int64, "note": pl.String
    }  # fmt: skip
    rows = [(c.step, c.rows_in, c.rows_out, c.changed, c.note) for c in changes]
    return pl.DataFrame(rows, schema=schema, orient="row")


def rows(frame: pl.LazyFrame, *conditions: pl.Expr) -> int:
    """How many rows of a frame fulfil all conditions, counted by the streaming engine."""
    return int(frame.filter(*conditions).select(pl.len()).collect(engine="streaming").item())


def change_of(step: str, before: pl.LazyFrame, after: pl.LazyFrame, note: str = "") -> Change:
    """The `Change` of a step that only drops rows."""
    rows_in, rows_out = rows(before), rows(after)
    return Change(step, rows_in, rows_out, rows_in - rows_out, note)


def without(frame: pl.LazyFrame, keys: pl.Series, column: str) -> pl.LazyFrame:
    """The frame without the rows whose ``column`` is among the keys; order is kept.

    A row without a value there stays: it is nobody's, so not one of these.

    Example:
        >>> without(pl.LazyFrame({"id": [1, 2, None]}), pl.Series([2]), "id").collect()["id"].to_list()
        [1, None]
    """
    return frame.filter(~pl.col(column).is_in(keys.implode()).fill_null(False))


def as_reported(table: str, frame: pl.LazyFrame, count: int) -> None:
    """Raise if a table does not have as many rows as its changes say.

    Raises:
        RuntimeError: rows were lost, or came, that no step reported.
    """
    if (found := rows(frame)) != count:
        raise RuntimeError(
            f"{table} has {found} rows, though its steps report {count}: one lost some silently."
        )


def corrected(frame: pl.LazyFrame, column: str, values: pl.DataFrame, row: str = "row") -> pl.LazyFrame:
    """The frame with some values of one column replaced.

    Args:
        frame: any table with a key column.
        column: the column to correct.
        values: the key column (unique) and ``value``: the right values; null is a value too.
        row: name of the key column.

    Example:
        >>> frame = pl.LazyFrame({"row": [0, 1], "price": [2.0, 300.0]})
        >>> corrected(frame, "price", pl.DataFrame({"row": [1], "value": [3.0]})).collect()["price"].to_list()
        [2.0, 3.0]
    """
    marked = values.select(row, pl.col("value").alias("__value"), pl.lit(True).alias("__known"))
    chosen = pl.when(pl.col("__known")).then(pl.col("__value")).otherwise(pl.col(column)).alias(column)
    joined = frame.join(marked.lazy(), on=row, how="left", maintain_order="left")
    return joined.with_columns(chosen).drop("__value", "__known")
