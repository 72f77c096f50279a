"""Train, validation and test parts, and the check that nothing of one is known to another.

Which split to take: `by_time` unless there is a reason. A recommender is trained today and used tomorrow, and
`by_time` measures just that. Leave-last-out, the habit of the literature, gives each user a cut of their own:
user A's March is trained on while user B's January is tested, so the model knows what became popular after
the moment it is asked about (https://github.com/recommenders-team/recommenders/issues/1675; Ji et al., "A
critical study on data leakage in recommender system offline evaluation", TOIS 2023).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import polars as pl


class LeakageError(ValueError):
    """Something that must only be known in one part of a split is in another."""


@dataclass(frozen=True)
class Split:
    """Three parts of one table; no row is in two of them.

    Attributes:
        train: what a model may learn from.
        valid: what choices are made on.
        test: what is reported, once.
        how: how it was split, in words.
    """

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    how: str = ""

    def parts(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """The parts with their names, train first."""
        yield from (("train", self.train), ("valid", self.valid), ("test", self.test))


Share = tuple[float, float, float]
USUAL: Share = (0.8, 0.1, 0.1)


def key_share(keys: pl.Series, seed: int = 0) -> np.ndarray:
    """A number in [0, 1) for every key, the same on every machine, whatever the other keys are.

    Args:
        keys: any column; equal values get equal numbers.
        seed: another seed gives unrelated numbers.

    Returns:
        f64, one per key.

    Example:
        >>> float(key_share(pl.Series(["a", "b"]))[1]) == float(key_share(pl.Series(["b"]))[0])
        True
    """
    distinct = keys.unique()
    salt = str(seed).encode()
    hashed = [
        int.from_bytes(hashlib.blake2b(str(key).encode(), digest_size=8, key=salt).digest(), "little") >> 11
        for key in distinct
    ]
    table = pl.DataFrame({"key": distinct, "share": np.array(hashed, dtype=np.float64) / 2.0**53})
    placed = (
        keys.rename("key")
        .to_frame()
        .join(table, on="key", how="left", nulls_equal=True, maintain_order="left")
    )
    return placed["share"].to_numpy()


def random(frame: pl.DataFrame, key: str | Sequence[str], share: Share = USUAL, seed: int = 0) -> Split:
    """Split by a hash of each row's key: rows added later move no other row.

    Args:
        frame: the table.
        key: column or columns that identify a row; rows with the same key stay together.
        share: of train, valid and test; they sum to 1.
        seed: of the hash.

    Raises:
        ValueError: the shares are negative or do not sum to 1.

    Example:
        >>> split = random(pl.DataFrame({"id": range(1000)}), "id")
        >>> [part.height for _, part in split.parts()]
        [790, 104, 106]
    """
    return _hashed(frame, key, share, seed, f"random by {key}, seed {seed}")


def by_user(frame: pl.DataFrame, user: str = "shopper_id", share: Share = USUAL, seed: int = 0) -> Split:
    """All rows of a user go to one part: measures how a model does for people it has never met.

    Example:
        >>> split = by_user(pl.DataFrame({"shopper_id": [1, 1, 2, 2]}))
        >>> sum(part["shopper_id"].n_unique() for _, part in split.parts() if part.height)
        2
    """
    return _hashed(frame, user, share, seed, f"by user ({user}), seed {seed}")


def by_time(
    frame: pl.DataFrame,
    valid_from: datetime | date,
    test_from: datetime | date,
    time: str = "time",
) -> Split:
    """The past trains, the next stretch validates, the last one tests; the default for logs.

    Rows at exactly ``valid_from`` are validation, at exactly ``test_from`` test.

    Args:
        frame: the table.
        valid_from: first moment of the validation part.
        test_from: first moment of the test part, not before ``valid_from``.
        time: Date or Datetime column without nulls.

    Raises:
        ValueError: the cuts are out of order, or a row has no time.

    Example:
        >>> days = pl.DataFrame({"time": [date(2026, 1, day) for day in (1, 10, 20)]})
        >>> [part.height for _, part in by_time(days, date(2026, 1, 5), date(2026, 1, 15)).parts()]
        [1, 1, 1]
    """
    if pl.select(pl.lit(valid_from) > pl.lit(test_from)).item():
        raise ValueError(f"Validation must begin before the test: {valid_from} is after {test_from}.")
    if missing := frame[time].null_count():
        raise ValueError(
            f"{missing} rows have no {time}, so they are neither past nor future; repair them first."
        )
    when = pl.col(time)
    return Split(
        frame.filter(when < valid_from),
        frame.filter((when >= valid_from) & (when < test_from)),
        frame.filter(when >= test_from),
        f"by time, validation from {valid_from}, test from {test_from}",
    )


def leave_last_out(
    frame: pl.DataFrame, user: str = "shopper_id", time: str = "time", order: str | None = None
) -> Split:
    """Each user's last event tests, the one before validates, the rest trains.

    For comparison with published numbers only: the training part holds what other users did after this
    user's test event (see the note at the top of the module); `check_leakage` with ``time`` says so. Users
    with fewer than three events train only.

    Args:
        frame: the table.
        user: whose last event is left out.
        time: orders a user's events; ties go by ``order``, else by place in the table.
        order: a second column that orders.

    Example:
        >>> log = pl.DataFrame({"shopper_id": [1, 1, 1], "time": [1, 2, 3], "item": ["a", "b", "c"]})
        >>> split = leave_last_out(log)
        >>> split.valid["item"].to_list(), split.test["item"].to_list()
        (['b'], ['c'])
    """
    place = "__place"
    ordered = frame.with_row_index(place).sort(user, time, *([order] if order else []), place)
    left = pl.len().over(user) - pl.int_range(pl.len()).over(user)  # 1 is the last
    many = pl.len().over(user) >= 3
    ordered = ordered.with_columns(__left=left, __many=many).sort(place)
    last, before = pl.col("__many") & (pl.col("__left") == 1), pl.col("__many") & (pl.col("__left") == 2)
    drop = (place, "__left", "__many")
    return Split(
        ordered.filter(~(last | before)).drop(drop),
        ordered.filter(before).drop(drop),
        ordered.filter(last).drop(drop),
        f"leave last out per {user}",
    )


def check_leakage(
    split: Split,
    keys: Sequence[str] = (),
    time: str | None = None,
    row: str | None = None,
    content: Sequence[str] = (),
    launched: str | None = None,
    text: str | None = None,
    least: float = 0.8,
) -> None:
    """Raise if one part of a split knows something of another; do nothing if not.

    Args:
        split: what to check.
        keys: columns none of whose values may be in two parts (a shopper, a session).
        time: Date or Datetime column: nothing in train may be as late as the first row of valid or test, and
            nothing in valid as late as the first of test.
        row: a column that identifies a row; none may be in two parts.
        content: columns that together must not be the same in two parts (copies of a row).
        launched: column with the date a product was launched: none in train may be after the first moment of
            ``time`` in valid or test, none in valid after that of test.
        text: column of titles: none may be the same in two parts but for case and the coding of accents, or
            nearly the same (Jaccard of words and word pairs of at least ``least``).
        least: what counts as nearly the same.

    Raises:
        LeakageError: one sentence that says what is where, with an example and what to do.
        ValueError: there is nothing to check, ``launched`` is given without ``time``, a row has no time, or a
            column is missing in a part or of another type there.

    Example:
        >>> people = pl.DataFrame({"shopper_id": [1]})
        >>> check_leakage(Split(people, people.clear(), people), keys=["shopper_id"])
        Traceback (most recent call last):
        ...
        labkit.data.splits.LeakageError: 1 value of shopper_id is in train and in test (1, for example)...
    """
    if launched and not time:
        raise ValueError("To check launch dates, say which column holds the time.")
    _check_columns(split, [name for name in (*keys, *content, time, row, launched, text) if name])
    pairs = [
        ("train", split.train, "valid", split.valid),
        ("train", split.train, "test", split.test),
        ("valid", split.valid, "test", split.test),
    ]
    for one, early, other, late in pairs:
        for key in [*keys, *([row] if row else [])]:
            shared = early.select(key).drop_nulls().unique().join(late.select(key).unique(), on=key).sort(key)
            if shared.height:
                advice = "split by that column" if key != row else "each row belongs to one part"
                raise LeakageError(
                    f"{_many(shared.height, 'value')} of {key} {_is(shared.height)} in {one} and in {other} "
                    f"({shared[key][0]}, for example): {advice}."
                )
        if content:
            copies = (
                early.select(content)
                .unique()
                .join(late.select(content).unique(), on=list(content), nulls_equal=True)
            )
            if copies.height:
                raise LeakageError(
                    f"{_many(copies.height, 'row')} of {other} {_is(copies.height)} also in {one} with "
                    f"the same {', '.join(content)}: remove duplicates before splitting."
                )
        if text:
            _check_text(one, early, other, late, text, least)
    if time:
        _check_time(split, time, launched)


def _check_columns(split: Split, columns: Sequence[str]) -> None:
    if not columns:
        raise ValueError("There is nothing to check: name keys, time, row, content, launched or text.")
    for column in columns:
        dtypes = {name: part.schema.get(column) for name, part in split.parts()}
        if len(set(dtypes.values())) > 1 or None in dtypes.values():
            told = ", ".join(f"{dtype or 'missing'} in {name}" for name, dtype in dtypes.items())
            raise ValueError(f"The column {column} must be of one type in all parts, but it is {told}.")


def _check_time(split: Split, time: str, launched: str | None) -> None:
    for name, part in split.parts():
        if missing := part[time].null_count():
            raise ValueError(
                f"{_many(missing, 'row')} of {name} {'has' if missing == 1 else 'have'} no {time}, so they "
                "are neither past nor future; repair or drop them first."
            )
    zone = getattr(split.train.schema[time], "time_zone", None)
    first = {name: part[time].min() for name, part in split.parts() if part.height}
    for one, early, later in (("train", split.train, ("valid", "test")), ("valid", split.valid, ("test",))):
        for other in later:
            if other not in first or not early.height:
                continue
            future = early.filter(pl.col(time) >= first[other]).height
            if future:
                raise LeakageError(
                    f"{_many(future, 'row')} of {one} {_is(future)} as late as {other}, which begins at "
                    f"{first[other]!s}: the model would learn from the future; split by_time."
                )
            if launched:
                day = pl.col(launched).cast(pl.Datetime)
                day = (
                    day.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null") if zone else day
                )
                unborn = early.filter(day > pl.lit(first[other])).height
                if unborn:
                    raise LeakageError(
                        f"{_many(unborn, 'row')} of {one} {_is(unborn)} about a product launched after "
                        f"{other} begins at {first[other]!s}: remove what did not exist yet."
                    )


def _check_text(
    one: str, early: pl.DataFrame, other: str, late: pl.DataFrame, text: str, least: float
) -> None:
    from labkit.data.duplicates import near_duplicates

    both = pl.concat([early.select(text), late.select(text)]).with_row_index("row")
    plain = pl.col(text).cast(pl.String).str.normalize("NFKC").str.to_lowercase().str.strip_chars()
    told = both.with_columns(plain.alias(text))
    # Titles of signs alone have no words to be compared by.
    one_of = told.filter(pl.col(text) != "")
    early_ones, late_ones = (
        one_of.filter(side) for side in (pl.col("row") < early.height, pl.col("row") >= early.height)
    )
    same = early_ones.join(late_ones, on=text).select(of="row", row="row_right")
    pairs = near_duplicates(told, [text], [], attributes=None, least=least)
    across = pairs.filter((pl.col("of") < early.height) & (pl.col("row") >= early.height))
    across = pl.concat([across.select("of", "row"), same.cast(pl.Int64)]).unique().sort("of", "row")
    if across.height:
        a, b = both[text][int(across["of"][0])], both[text][int(across["row"][0])]
        raise LeakageError(
            f"{_many(across.height, 'pair')} of nearly the same {text} {_is(across.height)} in {one} "
            f"and {other} ({a!r} and {b!r}, for example): remove near duplicates before splitting."
        )


def _hashed(frame: pl.DataFrame, key: str | Sequence[str], share: Share, seed: int, how: str) -> Split:
    if min(share) < 0 or abs(sum(share) - 1) > 1e-9:
        raise ValueError(
            f"The shares of train, valid and test must sum to 1 and none be negative, not {share}."
        )
    names = [key] if isinstance(key, str) else list(key)
    if len(names) == 1:
        keys = frame[names[0]]
    else:
        # JSON, because joining with a character would make ("a-b", "c") and ("a", "b-c") one key.
        keys = frame.select(pl.struct(names).struct.json_encode()).to_series()
    place = key_share(keys, seed)
    train, valid = place < share[0], (place >= share[0]) & (place < share[0] + share[1])
    return Split(frame.filter(train), frame.filter(valid), frame.filter(~(train | valid)), how)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
