"""Missing values: whether they are missing by chance, and filling them without looking at the test part."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import polars as pl

from labkit.data.features import Moment, refuse_future
from labkit.data.steps import Change, rows


def missing_shares(frame: pl.DataFrame, column: str, by: Sequence[str], bins: int = 5) -> pl.DataFrame:
    """Compare how often a column is missing across the values of others.

    If the share differs between groups, values are not missing completely at random, and filling in the mean
    or dropping the rows shifts every later number. Equal shares prove nothing: what decides may not be in
    the table (missing *not* at random).

    Args:
        frame: the table.
        column: whose nulls are counted.
        by: columns to compare across; numbers and dates with more than ``bins`` values are cut at quantiles.
        bins: number of groups of a number.

    Returns:
        by str, group str, rows u32, missing f64 (share), chance f64 (p-value of the chi-squared test that
        the share is the same in all groups of this ``by``), ordered by chance, by and group.

    Example:
        >>> device = ["phone"] * 30 + ["desktop"] * 30
        >>> people = pl.DataFrame({"income": [None] * 30 + [1] * 30, "device": device})
        >>> missing_shares(people, "income", ["device"]).select("group", "missing").rows()
        [('desktop', 0.0), ('phone', 1.0)]
    """
    from scipy.stats import chi2

    absent = frame[column].is_null().cast(pl.Float64)
    overall = float(absent.mean() or 0.0)  # type: ignore[arg-type]
    parts = []
    for name in by:
        groups = _groups(frame[name], bins)
        table = (
            pl.DataFrame({"group": groups, "absent": absent})
            .group_by("group")
            .agg(rows=pl.len(), missing=pl.col("absent").mean())
            .sort("group", nulls_last=True)
        )
        variance = overall * (1 - overall)
        excess = float(((table["missing"] - overall) ** 2 * table["rows"]).sum())
        chance = float(chi2.sf(excess / variance, max(table.height - 1, 1))) if variance > 0 else 1.0
        parts.append(
            table.select(pl.lit(name).alias("by"), "group", "rows", "missing", pl.lit(chance).alias("chance"))
        )
    return pl.concat(parts).sort("chance", "by", "group", nulls_last=True)


@dataclass(frozen=True)
class Imputation:
    """What to fill in, learned from the training part.

    Attributes:
        usual: by column: the value where the group is unknown, or for all.
        values: by column: the value for each group (by its text); empty without a group.
        group: the column whose value chooses, or "" for one value for all.
    """

    usual: Mapping[str, float | str]
    values: Mapping[str, Mapping[str, float | str]]
    group: str = ""

    def as_json(self) -> str:
        """All that was learned, as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Imputation:
        """What `as_json` wrote."""
        return cls(**json.loads(text))

    def apply(self, frame: pl.LazyFrame) -> tuple[pl.LazyFrame, Change]:
        """Fill nulls, and say in ``<column>_missing`` where, so that a model can tell a guess from a fact."""
        marks = [pl.col(name).is_null().alias(f"{name}_missing") for name in self.usual]
        fills = []
        for name, usual in self.usual.items():
            filled = pl.lit(usual)
            if known := dict(self.values.get(name, {})):
                filled = pl.col(self.group).cast(pl.String).replace_strict(known, default=filled)
            fills.append(pl.col(name).fill_null(filled))
        count = rows(frame)
        changed = rows(frame, pl.any_horizontal(*[pl.col(name).is_null() for name in self.usual], False))
        note = f"filled {', '.join(self.usual)}" + (f" by {self.group}" if self.group else "")
        return frame.with_columns(marks).with_columns(fills), Change("missing", count, count, changed, note)


def fit_imputation(
    train: pl.DataFrame,
    columns: Sequence[str],
    group: str = "",
    until: Moment | None = None,
    time: str = "time",
) -> Imputation:
    """Learn what to fill in: the median of a number, the most frequent text, per group if one is given.

    Args:
        train: the training part only.
        columns: numbers, text, enums or Booleans.
        group: a column of few values.
        until, time: if the end of training is given, no row's time may be at or after it.

    Raises:
        LeakageError: a row is not before ``until``.
        ValueError: a column has no value at all in the training part.

    Example:
        >>> train = pl.DataFrame({"kind": ["a", "a", "b"], "weight": [1.0, 3.0, 10.0]})
        >>> fitted = fit_imputation(train, ["weight"], "kind")
        >>> test = pl.LazyFrame({"kind": ["b", "c", "a"], "weight": [None, None, 5.0]})
        >>> fitted.apply(test)[0].collect()["weight"].to_list()
        [10.0, 3.0, 5.0]
    """
    if until is not None:
        refuse_future(train, time, until)
    usual: dict[str, float | str] = {}
    values: dict[str, dict[str, float | str]] = {}
    for name in columns:
        known = train.filter(pl.col(name).is_not_null())
        if not known.height:
            raise ValueError(
                f"The column {name} is empty in the training part: there is nothing to learn it from."
            )
        usual[name] = _usual(known[name])
        if group:
            groups = known.with_columns(__group=pl.col(group).cast(pl.String)).drop_nulls("__group")
            parts = groups.sort("__group").group_by("__group", maintain_order=True)
            values[name] = {str(key): _usual(part[name]) for (key,), part in parts}
    return Imputation(usual, values, group)


def _usual(column: pl.Series) -> float | str:
    if column.dtype.is_float():
        return float(column.median())  # type: ignore[arg-type]
    if column.dtype.is_integer():
        return math.floor(float(column.median()) + 0.5)  # type: ignore[arg-type]
    counts = column.cast(pl.String).value_counts(name="n")
    best = counts.sort("n", column.name, descending=[True, False])[column.name][0]
    return best == "true" if column.dtype == pl.Boolean else str(best)


def _groups(column: pl.Series, bins: int) -> pl.Series:
    numeric = column.dtype.is_numeric() or column.dtype.is_temporal()
    if not numeric or column.n_unique() <= bins:
        return column.cast(pl.String).rename("group")
    rank = column.rank("average") / max(len(column) - column.null_count(), 1)
    number = (rank * bins).ceil().clip(1, bins).cast(pl.Int64)
    table = pl.DataFrame({"value": column, "bin": number})
    ends = pl.format("{} to {}", pl.col("value").min().over("bin"), pl.col("value").max().over("bin"))
    return table.select(
        group=pl.when(pl.col("bin").is_not_null()).then(pl.format("{}: {}", "bin", ends))
    ).to_series()
