"""Who allowed what, and how a person is forgotten in every table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from labkit.data.privacy import Identifiers, pseudonym

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "shopper_id": pl.Int64,
    "purpose": pl.String,
    "allowed": pl.Boolean,
    "at": pl.Datetime("ms"),
}


@dataclass
class ConsentRegister:
    """Grants and withdrawals in the order in which they came; nothing is overwritten.

    Attributes:
        entries: shopper_id i64, purpose str, allowed bool, at Datetime("ms").

    Example:
        >>> register = ConsentRegister()
        >>> register.grant(7, "recommendations", datetime(2026, 1, 1))
        >>> register.withdraw(7, "recommendations", datetime(2026, 3, 1))
        >>> register.allows(7, "recommendations", datetime(2026, 2, 1))
        True
        >>> register.allows(7, "recommendations", datetime(2026, 3, 1))
        False
    """

    entries: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCHEMA))

    def grant(self, shopper_id: int, purpose: str, at: datetime) -> None:
        """Note that a shopper allows a purpose from a moment on."""
        self._note(shopper_id, purpose, True, at)

    def withdraw(self, shopper_id: int, purpose: str, at: datetime) -> None:
        """Note that a shopper no longer allows a purpose from a moment on."""
        self._note(shopper_id, purpose, False, at)

    def allows(self, shopper_id: int, purpose: str, at: datetime) -> bool:
        """Whether a purpose is allowed at a moment; silence is no consent."""
        known = self.entries.filter(
            (pl.col("shopper_id") == shopper_id) & (pl.col("purpose") == purpose) & (pl.col("at") <= at)
        )
        return bool(known.height and known.sort("at", maintain_order=True)["allowed"][-1])

    def allowed(self, frame: pl.LazyFrame, purpose: str, at: datetime) -> pl.LazyFrame:
        """The rows of those shoppers who allow the purpose at the moment."""
        agreed = (
            self.entries.filter((pl.col("purpose") == purpose) & (pl.col("at") <= at))
            .sort("at", maintain_order=True)
            .group_by("shopper_id", maintain_order=True)
            .last()
            .filter(pl.col("allowed"))
        )
        return frame.filter(pl.col("shopper_id").cast(pl.Int64).is_in(agreed["shopper_id"].implode()))

    def _note(self, shopper_id: int, purpose: str, allowed: bool, at: datetime) -> None:
        row = pl.DataFrame([(shopper_id, purpose, allowed, at)], schema=SCHEMA, orient="row")
        self.entries = pl.concat([self.entries, row])


class NotForgotten(RuntimeError):
    """After erasure something of the person was still found."""


@dataclass(frozen=True)
class Forgotten:
    """What erasure did.

    Attributes:
        pseudonym: the name under which the deletion is on record, so that it can be proved later without
            keeping the person's number.
        tables: the tables as they are now.
        report: table, removed (rows), cleared (rows in which an identifier was blanked), left (always 0).
    """

    pseudonym: str
    tables: dict[str, pl.DataFrame]
    report: pl.DataFrame


def forget(
    shopper_id: int,
    tables: Mapping[str, pl.DataFrame],
    key: bytes,
    keep_anonymous: Sequence[str] = (),
    columns: Sequence[str] = ("shopper_id", "friend_id"),
    identifiers: Sequence[str] = ("name", "email", "phone"),
) -> Forgotten:
    """Remove a person from every table, and prove it by looking for what is left.

    Rows that name the shopper go. In the tables of ``keep_anonymous`` (sales that the books must keep) only
    the link to the person is cut: the id becomes null. The person's name, e-mail and phone number are also
    masked where other people's texts contain them.

    Args:
        shopper_id: whom to forget.
        tables: by name; any that has one of ``columns`` or a text column is searched.
        key: for the pseudonym in the record.
        keep_anonymous: names of tables whose rows stay without the link.
        columns: that name a shopper.
        identifiers: columns of the table ``shoppers`` whose values are looked for in all texts.

    Raises:
        KeyError: ``keep_anonymous`` names a table that is not there.
        NotForgotten: something was still found afterwards; the tables must not be used.

    Example:
        >>> people = pl.DataFrame({"shopper_id": [1, 2], "name": ["Ada Byron", "Alan Turing"]})
        >>> notes = pl.DataFrame({"shopper_id": [2], "text": ["Ada Byron told me to buy it"]})
        >>> done = forget(1, {"shoppers": people, "reviews": notes}, b"a key of 16 bytes")
        >>> done.tables["reviews"]["text"].item(), done.report["removed"].to_list()
        ('[removed] told me to buy it', [1, 0])
    """
    if unknown := [name for name in keep_anonymous if name not in tables]:
        raise KeyError(
            f"There is no table {', '.join(unknown)} to keep anonymously; there are {', '.join(tables)}."
        )
    search = Identifiers(_identity(shopper_id, tables, identifiers))
    after, lines = {}, []
    for name, table in tables.items():
        named = [column for column in columns if column in table.columns]
        mine = pl.any_horizontal(*[pl.col(column) == shopper_id for column in named], False).fill_null(False)
        touched = table.filter(mine).height
        if name in keep_anonymous:
            blank = [
                pl.when(pl.col(column) == shopper_id).then(None).otherwise(pl.col(column)).alias(column)
                for column in named
            ]
            rest, removed, cleared = table.with_columns(blank), 0, touched
        else:
            rest, removed, cleared = table.filter(~mine), touched, 0
        for column in _texts(rest):
            hits = [bool(text) and bool(search.spans(text)) for text in rest[column]]
            if any(hits):
                masked = [
                    _blank(search, text) if hit else text
                    for text, hit in zip(rest[column], hits, strict=True)
                ]
                rest = rest.with_columns(pl.Series(column, masked, dtype=pl.String))
                cleared += sum(hits)
        after[name] = rest
        lines.append((name, removed, cleared, _left(rest, named, shopper_id, search)))
    report = pl.DataFrame(
        lines,
        schema={"table": pl.String, "removed": pl.Int64, "cleared": pl.Int64, "left": pl.Int64},
        orient="row",
    )
    if remaining := report.filter(pl.col("left") > 0)["table"].to_list():
        raise NotForgotten(f"The shopper is still in {', '.join(remaining)}; do not use these tables.")
    return Forgotten(pseudonym(shopper_id, key), after, report)


def _identity(shopper_id: int, tables: Mapping[str, pl.DataFrame], identifiers: Sequence[str]) -> list[str]:
    people = tables.get("shoppers")
    if people is None:
        return []
    mine = people.filter(pl.col("shopper_id") == shopper_id)
    return [text for column in identifiers if column in people.columns for text in mine[column].drop_nulls()]


def _texts(table: pl.DataFrame) -> list[str]:
    return [column for column, dtype in table.schema.items() if dtype == pl.String]


def _blank(search: Identifiers, text: str, mask: str = "[removed]") -> str:
    """Only the person's own identifiers go: another person's phone number in the text is not theirs."""
    out, at = [], 0
    for start, end in sorted(search.spans(text), key=lambda span: (span[0], -span[1])):
        if start >= at:
            out += [text[at:start], mask]
        at = max(at, end)
    return "".join([*out, text[at:]])


def _left(table: pl.DataFrame, named: Sequence[str], shopper_id: int, search: Identifiers) -> int:
    ids = sum(table.filter(pl.col(column) == shopper_id).height for column in named)
    return ids + sum(any(search.spans(text) for text in table[column] if text) for column in _texts(table))
