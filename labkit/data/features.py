"""Numbers that a model can use, learned from the past only.

Every feature is a frozen dataclass of what was learned, with ``transform`` and ``as_json``; a function
``fit_…`` makes it from training rows. A fit that is told the end of training refuses rows at or after it: a
feature that has seen the test is the commonest way to a result that does not hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime

import numpy as np
import polars as pl

from labkit.data.duplicates import words_of
from labkit.data.splits import LeakageError, key_share

Moment = datetime | date


def refuse_future(frame: pl.DataFrame, time: str, until: Moment) -> None:
    """Raise if any row is at or after a moment.

    A Date on the moment's day counts as late: it may mean any time of that day.

    Raises:
        LeakageError: how many rows, and from when; or how many rows have no time.

    Example:
        >>> refuse_future(pl.DataFrame({"time": [date(2026, 1, 1)]}), "time", date(2026, 2, 1))
    """
    if missing := frame[time].null_count():
        raise LeakageError(
            f"{missing} rows have no {time}, so they may be from after {until}: repair them first."
        )
    if frame.schema[time] == pl.Date and isinstance(until, datetime):
        late = frame.filter(pl.col(time) >= until.date())
    else:
        late = frame.filter(pl.col(time) >= until)
    if late.height:
        raise LeakageError(
            f"{late.height} rows are not before {until}, the end of training (the first is from "
            f"{late[time].min()!s}): fit on the training part only."
        )


def _refuse_if_cut(frame: pl.DataFrame, time: str, until: Moment | None) -> None:
    if until is not None:
        refuse_future(frame, time, until)


@dataclass(frozen=True)
class Fitted:
    """What the features share: they can be written down."""

    def as_json(self) -> str:
        """All that was learned, as text; two fits are equal exactly when their texts are."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True, default=str)


@dataclass(frozen=True)
class Habits(Fitted):
    """Recency, frequency and monetary value of each shopper at the end of training.

    Attributes:
        until: the moment that recency counts back from.
        table: by shopper: days since the last purchase, purchases, mean amount.
        nobody: what unknown shoppers get: the longest recency, no purchase, amount 0.
        key: column that names the shopper.
    """

    until: str
    table: Mapping[str, tuple[float, int, float]]
    nobody: tuple[float, int, float]
    key: str

    def transform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with recency_days f64, frequency i64, monetary f64."""
        found = [self.table.get(str(key), self.nobody) for key in frame[self.key]]
        return frame.with_columns(
            recency_days=pl.Series([row[0] for row in found], dtype=pl.Float64),
            frequency=pl.Series([row[1] for row in found], dtype=pl.Int64),
            monetary=pl.Series([row[2] for row in found], dtype=pl.Float64),
        )


def fit_habits(
    purchases: pl.DataFrame,
    until: Moment,
    key: str = "shopper_id",
    time: str = "time",
    amount: str = "price",
) -> Habits:
    """Learn when, how often and for how much each shopper bought (RFM).

    Args:
        purchases: one row per purchase in the training time.
        until: the end of training.
        key, time, amount: names of the columns.

    Raises:
        LeakageError: a purchase is not before ``until``, or has no time.

    Example:
        >>> days = [datetime(2026, 1, 1), datetime(2026, 1, 8)]
        >>> bought = pl.DataFrame({"shopper_id": [1, 1], "time": days, "price": 10.0})
        >>> habits = fit_habits(bought, until=datetime(2026, 1, 10))
        >>> habits.transform(pl.DataFrame({"shopper_id": [1, 5]})).rows()
        [(1, 2.0, 2, 10.0), (5, 9.0, 0, 0.0)]
    """
    refuse_future(purchases, time, until)
    days = (
        pl.lit(until).cast(pl.Datetime) - pl.col(time).cast(pl.Datetime)
    ).dt.total_milliseconds() / 86_400_000
    table = (
        purchases.filter(pl.col(key).is_not_null())
        .group_by(key)
        .agg(days=days.min(), count=pl.len(), mean=pl.col(amount).mean())
        .sort(key)
    )
    longest = purchases.select(days.max()).item() if purchases.height else 0.0
    known = {str(k): (d, n, round(m or 0.0, 6)) for k, d, n, m in table.iter_rows()}
    return Habits(str(until), known, (float(longest), 0, 0.0), key)


@dataclass(frozen=True)
class PriceLevel(Fitted):
    """How dear a product is among its kind.

    Attributes:
        median: by category.
        overall: for unseen categories.
        category, price: names of the columns.
    """

    median: Mapping[str, float]
    overall: float
    category: str = "category"
    price: str = "price"

    def transform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with price_level f64: log2(price / the category's median), so 1 is twice as dear."""
        usual = (
            pl.col(self.category)
            .cast(pl.String)
            .replace_strict(dict(self.median), default=self.overall, return_dtype=pl.Float64)
        )
        return frame.with_columns(price_level=(pl.col(self.price) / usual).log(2))


def fit_price_level(
    train: pl.DataFrame,
    category: str = "category",
    price: str = "price",
    until: Moment | None = None,
    time: str = "time",
) -> PriceLevel:
    """Learn the usual price of each category.

    Args:
        train: the training part.
        category, price: names of the columns.
        until, time: if the end of training is given, no row's time may be at or after it.

    Raises:
        LeakageError: a row is not before ``until``.
        ValueError: there is no positive price to learn from.

    Example:
        >>> train = pl.DataFrame({"category": ["sofas", "sofas", "mugs"], "price": [400.0, 600.0, 5.0]})
        >>> level = fit_price_level(train)
        >>> level.transform(pl.DataFrame({"category": ["sofas"], "price": [1000.0]}))["price_level"].item()
        1.0
    """
    _refuse_if_cut(train, time, until)
    known = train.filter(pl.col(price) > 0)
    if not known.height:
        raise ValueError(f"The training part has no {price} above zero to learn from.")
    table = (
        known.filter(pl.col(category).is_not_null())
        .group_by(category)
        .agg(pl.col(price).median())
        .sort(category)
    )
    return PriceLevel(
        {str(name): float(value) for name, value in table.iter_rows()},
        float(known[price].median()),  # type: ignore[arg-type]
        category,
        price,
    )


def clock_features(frame: pl.DataFrame, time: str = "time") -> pl.DataFrame:
    """Time of day, of the week and of the year as points on circles, so that 23:59 is next to 0:00.

    Nothing is learned, so there is nothing to fit.

    Args:
        frame: with a Datetime column.
        time: its name.

    Returns:
        the frame with hour_sin, hour_cos, week_sin, week_cos, year_sin, year_cos, f64 in [-1, 1].

    Example:
        >>> noon = pl.DataFrame({"time": [datetime(2026, 1, 1, 12)]})
        >>> clock_features(noon).select(pl.col("hour_cos").round(6)).item()
        -1.0
    """
    at = pl.col(time)
    hour = at.dt.hour() + at.dt.minute() / 60
    turns = {
        "hour": hour / 24,
        "week": (at.dt.weekday() - 1 + hour / 24) / 7,
        "year": (at.dt.ordinal_day() - 1) / 365.25,
    }
    columns = [
        function.alias(f"{name}_{word}")
        for name, turn in turns.items()
        for word, function in (("sin", (turn * 2 * math.pi).sin()), ("cos", (turn * 2 * math.pi).cos()))
    ]
    return frame.with_columns(columns)


@dataclass(frozen=True)
class HashedText(Fitted):
    """TF-IDF in a fixed number of columns, whatever words come.

    Attributes:
        idf: (width,) inverse document frequency of each column.
        width: columns; a word's column is its hash, so a new word needs no vocabulary.
        text: name of the column.
    """

    idf: tuple[float, ...]
    width: int
    text: str

    def transform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with <text>_words i64 and <text>_tfidf Array(f32, width), rows of length 1 (or 0)."""
        counts = _hashed_counts(frame[self.text], self.width)
        weighted = np.sqrt(counts) * np.array(self.idf)
        norm = np.sqrt((weighted**2).sum(axis=1, keepdims=True))
        scaled = np.divide(weighted, norm, out=np.zeros_like(weighted), where=norm > 0).astype(np.float32)
        return frame.with_columns(
            pl.Series(f"{self.text}_words", counts.sum(axis=1).astype(np.int64)),
            pl.Series(f"{self.text}_tfidf", scaled, dtype=pl.Array(pl.Float32, self.width)),
        )


def fit_hashed_text(
    train: pl.DataFrame,
    text: str = "title",
    width: int = 256,
    until: Moment | None = None,
    time: str = "time",
) -> HashedText:
    """Learn how common each hashed word is.

    Source: Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009.

    Args:
        train: the training part.
        text: a text column; null is empty.
        width: number of columns.
        until, time: if the end of training is given, no row's time may be at or after it.

    Raises:
        LeakageError: a row is not before ``until``.
        ValueError: the width is not positive.

    Example:
        >>> fitted = fit_hashed_text(pl.DataFrame({"title": ["red mug", "blue mug"]}), width=64)
        >>> fitted.transform(pl.DataFrame({"title": ["green teapot"]}))["title_words"].item()
        2
    """
    _refuse_if_cut(train, time, until)
    if width < 1:
        raise ValueError(f"Text needs at least one column, not {width}.")
    present = (_hashed_counts(train[text], width) > 0).sum(axis=0)
    idf = np.log((1 + train.height) / (1 + present)) + 1
    return HashedText(tuple(round(float(value), 9) for value in idf), width, text)


def _hashed_counts(texts: pl.Series, width: int) -> np.ndarray:
    words = words_of(texts)
    counts = np.zeros((len(texts), width))
    if words.height:
        column = np.minimum((key_share(words["word"]) * width).astype(np.int64), width - 1)
        np.add.at(counts, (words["document"].to_numpy(), column), 1.0)
    return counts


@dataclass(frozen=True)
class TargetRate(Fitted):
    """How often the label is true for each value of a column, drawn towards the mean where there is little.

    Attributes:
        rate: by value.
        mean: for unseen values.
        column: name of the column.
    """

    rate: Mapping[str, float]
    mean: float
    column: str

    def transform(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The frame with <column>_rate f64. For training rows take `out_of_fold_rates` instead."""
        rate = (
            pl.col(self.column)
            .cast(pl.String)
            .replace_strict(dict(self.rate), default=self.mean, return_dtype=pl.Float64)
        )
        return frame.with_columns(rate.alias(f"{self.column}_rate"))


def fit_target_rate(
    train: pl.DataFrame,
    column: str,
    label: str,
    weight: float = 20.0,
    until: Moment | None = None,
    time: str = "time",
) -> TargetRate:
    """Learn the smoothed mean of a label per value of a column.

    (sum of labels + weight * mean) / (rows + weight). Source: Micci-Barreca, "A preprocessing scheme for
    high-cardinality categorical attributes", SIGKDD Explorations 2001.

    Args:
        train: the training part.
        column: of many values: category, brand, seller.
        label: Boolean or number.
        weight: rows that the overall mean counts as.
        until, time: if the end of training is given, no row's time may be at or after it.

    Raises:
        LeakageError: a row is not before ``until``.
        ValueError: the training part has no row with a label.

    Example:
        >>> train = pl.DataFrame({"brand": ["a", "a", "b", "b"], "bought": [True, True, False, False]})
        >>> fit_target_rate(train, "brand", "bought", weight=2).rate
        {'a': 0.75, 'b': 0.25}
    """
    _refuse_if_cut(train, time, until)
    known = train.select(pl.col(column).cast(pl.String), pl.col(label).cast(pl.Float64)).drop_nulls(label)
    if not known.height:
        raise ValueError(f"The training part has no row with a {label}.")
    mean = float(known[label].mean())  # type: ignore[arg-type]
    smoothed = (pl.col(label).sum() + weight * mean) / (pl.len() + weight)
    table = known.drop_nulls(column).group_by(column).agg(smoothed.round(12)).sort(column)
    return TargetRate(dict(table.iter_rows()), round(mean, 12), column)


def out_of_fold_rates(
    train: pl.DataFrame,
    column: str,
    label: str,
    key: str | Sequence[str],
    folds: int = 5,
    weight: float = 20.0,
    seed: int = 0,
) -> pl.DataFrame:
    """Target rates for the training rows themselves, none computed from the row's own label.

    A model trained on rates that contain the row's label learns to trust them too much. Rows with the same
    key (a session, a shopper) are in one fold, so their labels do not help each other either.

    Args:
        train, column, label, weight: as for `fit_target_rate`.
        key: column that holds together.
        folds: at least 2.
        seed: of the folds.

    Returns:
        the frame with <column>_rate f64, rows in their order.

    Raises:
        ValueError: fewer than 2 folds.

    Example:
        >>> train = pl.DataFrame({"id": range(4), "brand": ["a", "b", "c", "d"], "bought": [True, False] * 2})
        >>> out_of_fold_rates(train, "brand", "bought", "id")["brand_rate"].is_in([0.0, 1.0]).any()
        False
    """
    if folds < 2:
        raise ValueError(f"Out-of-fold rates need at least 2 folds, not {folds}.")
    keys = (
        train[key] if isinstance(key, str) else train.select(pl.struct(key).struct.json_encode()).to_series()
    )
    fold = np.minimum((key_share(keys, seed) * folds).astype(np.int64), folds - 1)
    place = "__place"
    numbered = train.with_row_index(place)
    parts = []
    for number in range(folds):
        mine = numbered.filter(fold == number)
        others = train.filter(fold != number)
        if not mine.height:
            continue
        if not others[label].count():  # everything is in one fold: nothing is known of its rows
            parts.append(mine.with_columns(pl.lit(None, pl.Float64).alias(f"{column}_rate")))
            continue
        parts.append(fit_target_rate(others, column, label, weight).transform(mine))
    return pl.concat(parts).sort(place).drop(place) if parts else train
