"""Who allowed what, and how a person is forgotten in every table."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import polars as pl

from labkit.data.identifiers import NATIONAL, Identifiers, national, replaced
from labkit.data.privacy import pseudonym

TEXT = (pl.String, pl.Categorical, pl.Enum)
HAN = "\u2e80"  # from here on characters stand without spaces between words
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "shopper_id": pl.Int64,
    "purpose": pl.String,
    "allowed": pl.Boolean,
    "at": pl.Datetime("ms"),
}


@dataclass
class ConsentRegister:
    """Grants and withdrawals in the order in which they came; nothing is overwritten.

    A moment with a time zone is converted to UTC; one without is taken as UTC.

    Attributes:
        entries: shopper_id i64, purpose str, allowed bool, at Datetime("ms") in UTC.

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
            (pl.col("shopper_id") == shopper_id) & (pl.col("purpose") == purpose) & (pl.col("at") <= _utc(at))
        )
        return bool(known.height and known.sort("at", maintain_order=True)["allowed"][-1])

    def allowed(self, frame: pl.LazyFrame, purpose: str, at: datetime) -> pl.LazyFrame:
        """The rows of those shoppers who allow the purpose at the moment."""
        agreed = (
            self.entries.filter((pl.col("purpose") == purpose) & (pl.col("at") <= _utc(at)))
            .sort("at", maintain_order=True)
            .group_by("shopper_id", maintain_order=True)
            .last()
            .filter(pl.col("allowed"))
        )
        return frame.filter(pl.col("shopper_id").cast(pl.Int64).is_in(agreed["shopper_id"].implode()))

    def _note(self, shopper_id: int, purpose: str, allowed: bool, at: datetime) -> None:
        row = pl.DataFrame([(shopper_id, purpose, allowed, _utc(at))], schema=SCHEMA, orient="row")
        self.entries = pl.concat([self.entries, row])


def _utc(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at


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
    shopper_id: int | str,
    tables: Mapping[str, pl.DataFrame],
    key: bytes,
    keep_anonymous: Sequence[str] = (),
    columns: Sequence[str] = ("shopper_id", "friend_id", "user_id", "customer_id"),
    identifiers: Sequence[str] = ("name", "email", "phone"),
) -> Forgotten:
    """Remove a person from every table, and prove it by looking for what is left.

    Rows that name the shopper go. In the tables of ``keep_anonymous`` (sales that the books must keep) only
    the link to the person is cut: the id becomes null. The person's name, e-mail and phone number are also
    masked where other people's texts contain them, and in the categories of Enum columns.

    The proof does not trust the search that did the masking: it looks for the identifiers again, with
    regular expressions over all texts and by the digits of all texts and whole numbers.

    Args:
        shopper_id: whom to forget; compared as text, so tables may hold it as number or text.
        tables: by name; "shoppers" must be among them, for it knows the person's name. Columns are numbers,
            text, categories, truth values and times; the insides of lists and structs are not searched.
        key: for the pseudonym in the record.
        keep_anonymous: names of tables whose rows stay without the link.
        columns: that name a shopper.
        identifiers: columns of the table ``shoppers`` whose values are looked for in all texts.

    Raises:
        KeyError: there is no table ``shoppers``, or ``keep_anonymous`` names one that is not there.
        ValueError: a column is of a type that cannot be searched.
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
    if "shoppers" not in tables:
        raise KeyError(
            f"There is no table shoppers to learn the person's name from; there are {', '.join(tables)}."
        )
    for name, table in tables.items():
        _refuse_unsearchable(name, table, columns)
    known = _identity(shopper_id, tables["shoppers"], identifiers)
    search = Identifiers(known)
    after, lines, remaining = {}, [], []
    for name, table in tables.items():
        named = [column for column in columns if column in table.columns]
        mine = pl.any_horizontal(*[_is(column, shopper_id) for column in named], False)
        touched = table.filter(mine).height
        if name in keep_anonymous:
            blank = [
                pl.when(_is(column, shopper_id)).then(None).otherwise(pl.col(column)).alias(column)
                for column in named
            ]
            rest, removed, cleared = table.with_columns(blank), 0, touched
        else:
            rest, removed, cleared = table.filter(~mine), touched, 0
        for column in _texts(rest):
            masked, hits = _masked(rest[column], search)
            rest = rest.with_columns(masked)
            cleared += hits
        after[name] = rest
        found = _left(rest, named, shopper_id, known)
        remaining += [f"{name}.{column}" for column in found]
        lines.append((name, removed, cleared, len(found)))
    report = pl.DataFrame(
        lines,
        schema={"table": pl.String, "removed": pl.Int64, "cleared": pl.Int64, "left": pl.Int64},
        orient="row",
    )
    if remaining:
        raise NotForgotten(f"The shopper is still in {', '.join(remaining)}; do not use these tables.")
    return Forgotten(pseudonym(shopper_id, key), after, report)


def _refuse_unsearchable(name: str, table: pl.DataFrame, columns: Sequence[str]) -> None:
    for column, dtype in table.schema.items():
        plain = dtype.is_numeric() or dtype.is_temporal() or dtype in (*TEXT, pl.Boolean, pl.Null)
        if not plain or (column in columns and not (dtype.is_integer() or dtype in (*TEXT, pl.Null))):
            raise ValueError(
                f"The column {column} of {name} is {dtype}, which cannot be searched for a person: turn it "
                "into plain columns or rows first."
            )


def _is(column: str, shopper_id: int | str) -> pl.Expr:
    return (pl.col(column).cast(pl.String) == str(shopper_id)).fill_null(False)


def _identity(shopper_id: int | str, people: pl.DataFrame, identifiers: Sequence[str]) -> list[str]:
    mine = people.filter(_is("shopper_id", shopper_id))
    values = [mine[column].cast(pl.String).drop_nulls() for column in identifiers if column in people.columns]
    return [text for column in values for text in column if text.strip()]


def _texts(table: pl.DataFrame) -> list[str]:
    return [column for column, dtype in table.schema.items() if dtype in TEXT]


def _masked(column: pl.Series, search: Identifiers) -> tuple[pl.Series, int]:
    """The column without the person's identifiers, and in how many rows they were.

    Only the person's own go: another person's phone number in the text is not theirs.
    """
    different = column.unique().cast(pl.String).drop_nulls()
    spans = {text: found for text in different if (found := search.spans(text))}
    clean = {text: replaced(text, found) for text, found in spans.items()}
    texts = column.cast(pl.String)
    hits = int(texts.is_in(list(clean)).sum()) if clean else 0
    dtype = column.dtype
    if isinstance(dtype, pl.Enum):  # its categories are stored with the table, used or not
        categories = [replaced(text, search.spans(text)) for text in dtype.categories]
        dtype = pl.Enum(pl.Series(categories, dtype=pl.String).unique(maintain_order=True))
    if not hits and dtype == column.dtype:
        return column, 0
    return texts.replace(clean).cast(dtype).alias(column.name), hits


def _left(
    table: pl.DataFrame, named: Sequence[str], shopper_id: int | str, known: Sequence[str]
) -> list[str]:
    """The columns in which the person is still found."""
    ids = [column for column in named if table.filter(_is(column, shopper_id)).height]
    numbers = [number for text in known if not re.search(r"[^\W\d]|@", text) and (number := national(text))]
    pattern = "|".join(filter(None, map(_pattern, known)))
    found = []
    for column in _texts(table):
        texts = table[column].cast(pl.String)
        if isinstance(dtype := table[column].dtype, pl.Enum):
            texts = pl.concat([texts, dtype.categories.alias(column)])
        texts = texts.str.normalize("NFKC").str.to_lowercase()
        digits = texts.str.replace_all(r"\D", "")
        told = bool(pattern) and texts.str.contains(pattern).any()
        if told or any(digits.str.contains(number, literal=True).any() for number in numbers):
            found.append(column)
    for column, dtype in table.schema.items():
        # Shorter numbers end as many an unrelated one does.
        ends = [number for number in numbers if len(number) == NATIONAL] if dtype.is_integer() else []
        if any(table[column].cast(pl.String).str.ends_with(number).any() for number in ends):
            found.append(column)
    return ids + found


def _pattern(identifier: str) -> str:
    """An identifier as a regular expression of polars: its words, whatever stands between them."""
    words = re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", identifier).lower())
    if not words:
        return re.escape(identifier)
    chinese = any(character >= HAN for character in identifier)
    start = "" if words[0][0] >= HAN else r"(?:^|[^\p{L}\p{N}]|\p{Han})"
    end = "" if words[-1][-1] >= HAN else r"(?:$|[^\p{L}\p{N}]|\p{Han})"
    return start + (r"[^\p{L}\p{N}]" + "+*"[chinese]).join(map(re.escape, words)) + end
