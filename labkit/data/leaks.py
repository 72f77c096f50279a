"""Columns that know the answer: filled in after, or because of, what is to be predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

SAMPLE = 200_000
SEED = 0
FEW = 100  # a number with no more values than this may be a code, which has no order


def auc(scores: np.ndarray, label: np.ndarray) -> float:
    """Chance that a random positive scores above a random negative; ties count half.

    Args:
        scores: (N,) numbers.
        label: (N,) bool.

    Returns:
        0..1; nan when one of the classes is empty.

    Example:
        >>> auc(np.array([1.0, 2.0, 3.0]), np.array([False, False, True]))
        1.0
    """
    from scipy.stats import rankdata

    label = np.asarray(label, dtype=bool)
    positive, negative = int(label.sum()), int((~label).sum())
    if not positive or not negative:
        return float("nan")
    ranks = rankdata(scores)
    return float((ranks[label].sum() - positive * (positive + 1) / 2) / (positive * negative))


def leaking_columns(
    frame: pl.LazyFrame | pl.DataFrame,
    label: str,
    allowed: Sequence[str] = (),
    above: float = 0.99,
    sample: int = SAMPLE,
) -> pl.DataFrame:
    """Find columns that predict a label too well to be honest.

    Three things can leak: whether a column is filled at all (a delivery time exists only after a purchase),
    the order of its values, and the values as categories (of numbers with few values too: they may be codes;
    NaN is missing). Each is scored by AUC; categories are scored on the
    half of the rows from which their rates were *not* taken, so that a column of unique values does not look
    like a leak.

    Args:
        frame: the table.
        label: Boolean column (or 0 and 1) to be predicted.
        allowed: columns known to be fine, such as the label's own synonyms.
        above: AUC beyond which a column leaks, in either direction.
        sample: rows looked at; all positives of them and as many others at most, evenly spread.

    Returns:
        column str, how str ("filled", "value" or "category"), auc f64, highest first; columns at or below
        ``above`` are left out.

    Raises:
        ValueError: the label has only one value.

    Example:
        >>> log = pl.DataFrame({"days": [None, 3, None, 2] * 50, "n": range(200)})
        >>> leaking_columns(log.with_columns(bought=pl.col("days").is_not_null()), "bought").rows()
        [('days', 'filled', 1.0)]
    """
    lazy = frame.lazy()
    known = lazy.filter(pl.col(label).is_not_null())
    positive = known.filter(pl.col(label).cast(pl.Boolean))
    negative = known.filter(~pl.col(label).cast(pl.Boolean))
    parts = [_every(part, sample // 2) for part in (positive, negative)]
    if not parts[0].height or not parts[1].height:
        raise ValueError(
            f"The label {label} has only one value, so nothing can be said about what predicts it."
        )
    table = pl.concat(parts)
    truth = table[label].cast(pl.Boolean).to_numpy()
    found = []
    for name in table.columns:
        if name == label or name in allowed:
            continue
        scores = _scores(table[name], truth)
        how, best = max(scores.items(), key=lambda item: item[1])
        if best > above:
            found.append((name, how, best))
    schema = {"column": pl.String, "how": pl.String, "auc": pl.Float64}
    return pl.DataFrame(found, schema=schema, orient="row").sort("auc", "column", descending=[True, False])


def _scores(column: pl.Series, truth: np.ndarray) -> dict[str, float]:
    def either(scores: np.ndarray, label: np.ndarray) -> float:
        value = auc(scores, label)
        return max(value, 1 - value) if value == value else 0.0

    if column.dtype.is_float():
        column = column.fill_nan(None)  # how numpy and pandas say that a value is missing
    scores = {"filled": either(column.is_not_null().to_numpy(), truth)}
    present = column.is_not_null().to_numpy()
    ordered = column.dtype.is_numeric() or column.dtype.is_temporal() or column.dtype == pl.Boolean
    if ordered:
        values = column.drop_nulls().to_physical().cast(pl.Float64).to_numpy()
        scores["value"] = either(values, truth[present])
    if not ordered or column.n_unique() <= FEW:
        values = column.cast(pl.String, strict=False).fill_null("").to_numpy()
        _, code = np.unique(values.astype(str), return_inverse=True)
        order = np.random.default_rng(SEED).permutation(len(code))
        learn, judge = order[: len(order) // 2], order[len(order) // 2 :]
        size = int(code.max()) + 1
        shown = np.bincount(code[learn], minlength=size)
        rate = (np.bincount(code[learn], truth[learn], size) + 0.5) / (shown + 1)
        scores["category"] = either(rate[code[judge]], truth[judge])
    return scores


def _every(part: pl.LazyFrame, most: int) -> pl.DataFrame:
    """At most so many rows, evenly spread over the table."""
    count = int(part.select(pl.len()).collect(engine="streaming").item())
    step = max(1, -(-count // max(most, 1)))
    return part.gather_every(step).collect(engine="streaming")
