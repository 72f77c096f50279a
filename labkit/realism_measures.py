"""Statistics that describe a log, the same for a simulated one and a real one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from labkit.text import stem, tokenize

Z = 1.959964  # of a 95 % interval
TAIL = 100  # a power law is not fitted to fewer items than this


@dataclass(frozen=True)
class Value:
    """A number with its 95 % interval; the ends are None where no interval makes sense."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PowerLaw:
    """A discrete power law fitted to the upper tail of counts."""

    exponent: Value  # of p(x) ~ x ** -exponent
    start: int  # the lowest count of the tail
    tail: int  # how many counts lie in it
    distance: float  # Kolmogorov-Smirnov, between the tail and the law


def power_law(counts: np.ndarray, tail: int = TAIL, seed: int = 0) -> PowerLaw:
    """Fit a power law to counts by maximum likelihood; the tail starts where the law fits best.

    Source: Clauset, Shalizi and Newman, "Power-law distributions in empirical data", SIAM Review 51 (2009):
    the discrete likelihood (their equation 3.5), and the start of the tail that minimises the distance of
    Kolmogorov and Smirnov. The interval is a bootstrap of the exponent with the start held fixed.

    Args:
        counts: (N,) integers >= 0; zeros are not used.
        tail: at least so many counts must lie in the tail.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer counts than ``tail``, or all of them are equal.

    Example:
        >>> x = np.arange(1, 400)
        >>> counts = np.repeat(x, np.round(1e6 * x ** -2.5).astype(int))
        >>> round(power_law(counts).exponent.value, 1)
        2.5
    """
    from scipy.special import zeta

    counts = np.sort(np.asarray(counts, dtype=np.int64))
    counts = counts[counts > 0]
    if len(counts) < tail or counts[-tail] == counts[-1]:
        raise ValueError(f"A power law needs {tail} counts that are not all alike; there are {len(counts)}.")
    best: tuple[float, int, float] | None = None
    starts = [start for start in np.unique(counts) if start <= counts[-tail] and start < counts[-1]]
    for start in starts:
        above = counts[np.searchsorted(counts, start) :]
        exponent = _likeliest(float(np.log(above).mean()), int(start))
        seen, number = np.unique(above, return_counts=True)
        expected = 1 - zeta(exponent, seen + 1) / zeta(exponent, start)
        distance = float(np.abs(np.cumsum(number) / len(above) - expected).max())
        if best is None or distance < best[0]:
            best = (distance, int(start), exponent)
    assert best is not None
    distance, start, exponent = best
    logs = np.log(counts[np.searchsorted(counts, start) :])
    drawn = np.random.default_rng(seed)
    again = [
        _likeliest(float(logs[drawn.integers(0, len(logs), len(logs))].mean()), start) for _ in range(200)
    ]
    low, high = np.quantile(again, [0.025, 0.975])
    return PowerLaw(Value(exponent, float(low), float(high)), start, len(logs), distance)


def _likeliest(mean_log: float, start: int) -> float:
    """The exponent with the highest likelihood; the data enter by the mean of their logarithms alone."""
    from scipy.optimize import minimize_scalar
    from scipy.special import zeta

    found = minimize_scalar(
        lambda a: np.log(zeta(a, start)) + a * mean_log, bounds=(1.01, 20.0), method="bounded"
    )
    return float(found.x)


def top_share(counts: np.ndarray, share: float = 0.1) -> float:
    """The share of all counts that the highest tenth (or another share) of the items has.

    Example:
        >>> top_share(np.array([91, 1, 1, 1, 1, 1, 1, 1, 1, 1]))
        0.91
    """
    ordered = np.sort(counts)[::-1]
    return float(ordered[: max(1, round(share * len(ordered)))].sum() / ordered.sum())


def core(events: pl.DataFrame, users: int = 5, items: int = 5) -> pl.DataFrame:
    """Leave out users and items with too few events, again and again until none is left to leave out.

    Args:
        events: user_id, item_id.
        users: a user needs so many events.
        items: an item needs so many events.
    """
    while True:
        kept = events.filter((pl.len().over("user_id") >= users) & (pl.len().over("item_id") >= items))
        if kept.height == events.height:
            return kept
        events = kept


@dataclass(frozen=True)
class Spread:
    """A distribution of lengths or counts in a few numbers."""

    n: int
    mean: Value
    median: float
    p90: float
    shares: dict[int, float]  # of the lengths 1, 2, 3, ...


def spread(lengths: np.ndarray, longest: int = 6) -> Spread:
    """Describe lengths; the mean has a normal interval.

    Example:
        >>> spread(np.array([1, 1, 2, 4])).shares[1]
        0.5
    """
    lengths = np.asarray(lengths)
    mean = mean_value(lengths)
    shares = {k: float((lengths == k).mean()) for k in range(1, longest + 1)}
    return Spread(len(lengths), mean, float(np.median(lengths)), float(np.quantile(lengths, 0.9)), shares)


def mean_value(values: np.ndarray) -> Value:
    """The mean with its normal 95 % interval."""
    values = np.asarray(values, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Value(mean)
    reach = Z * float(values.std(ddof=1)) / np.sqrt(len(values))
    return Value(mean, float(mean - reach), float(mean + reach))


def share_value(hits: int, of: int) -> Value:
    """A share with its 95 % interval (Wilson 1927), which holds for rare events too.

    Example:
        >>> share_value(0, 100).high < 0.04
        True
    """
    p, z2 = hits / of, Z * Z
    centre = (p + z2 / (2 * of)) / (1 + z2 / of)
    reach = Z / (1 + z2 / of) * np.sqrt(p * (1 - p) / of + z2 / (4 * of * of))
    return Value(p, float(max(0.0, centre - reach)), float(min(1.0, centre + reach)))


def click_curve(shown: pl.DataFrame, reference: int = 1) -> dict[int, Value]:
    """Click-through rate by position, relative to one position's.

    The interval of each ratio is that of Katz et al. (Biometrics 1978); for the reference itself there is
    none.

    Args:
        shown: position, clicked: one row per product shown.
        reference: the position whose rate is 1.

    Raises:
        ValueError: nothing was clicked at the reference position.
    """
    table = shown.group_by("position").agg(n=pl.len(), clicks=pl.col("clicked").sum()).sort("position")
    counts = {int(p): (int(n), int(c)) for p, n, c in table.iter_rows()}
    n0, c0 = counts.get(reference, (0, 0))
    if not c0:
        raise ValueError(f"Nothing was clicked at position {reference}, so no rate can be relative to it.")
    curve: dict[int, Value] = {}
    for position, (n, c) in counts.items():
        ratio = (c / n) / (c0 / n0)
        if position == reference:
            curve[position] = Value(1.0)
        elif not c:
            curve[position] = Value(0.0)
        else:
            reach = np.exp(Z * np.sqrt(1 / c - 1 / n + 1 / c0 - 1 / n0))
            curve[position] = Value(ratio, float(ratio / reach), float(ratio * reach))
    return curve


def words(texts: list[str]) -> np.ndarray:
    """How many words, parted by spaces, each text has. Returns (N,) int64."""
    return np.array([len(text.split()) for text in texts], dtype=np.int64)


def characters(texts: list[str]) -> np.ndarray:
    """How many characters each text has, spaces included. Returns (N,) int64."""
    return np.array([len(text) for text in texts], dtype=np.int64)


def found_words(queries: list[str], titles: list[str]) -> np.ndarray:
    """Whether some title has all the words of a query, up to a plural s.

    Example:
        >>> found_words(["red lamps", "blue lamp"], ["A lamp, red", "blue desk"]).tolist()
        [True, False]
    """
    holders: dict[str, set[int]] = {}
    for row, title in enumerate(titles):
        for token in tokenize(title):
            holders.setdefault(stem(token), set()).add(row)
    found = []
    for query in queries:
        rows = [holders.get(stem(token), set()) for token in tokenize(query)]
        found.append(bool(rows) and bool(set.intersection(*rows)))
    return np.array(found)
