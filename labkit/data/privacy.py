"""Keeps people out of tables: pseudonyms, coarser values, a check that nobody stands alone, and erasure.

What is "anonymous" here follows the usual order: direct identifiers (name, e-mail, phone) are replaced or
dropped, quasi-identifiers (birth year, postcode) are made coarser until at least k people share each
combination, and free text is searched for the identifiers that people write into it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import polars as pl

from labkit.data.identifiers import LEAST_DIGITS, Identifiers

PSEUDONYM_LENGTH = 16  # hexadecimal digits, 64 bits: two of a million people collide with chance 3e-8
SHORT_KEY = 16


def pseudonym(value: str | int | date, key: bytes) -> str:
    """Another name for one value: HMAC-SHA256 under the key, cut to 16 hexadecimal digits.

    A plain hash would not do: there are few phone numbers, so all can be hashed and looked up. Without the
    key nobody can. Source: RFC 2104; ENISA, "Pseudonymisation techniques and best practices", 2019.

    Args:
        value: its text counts, to the letter: 7 and "7" are one, "Ada" and "ada" are two.
        key: secret, at least 16 bytes. The same key gives the same pseudonym, so tables can still be joined.

    Raises:
        ValueError: the key is too short, or the value is of another type: 7.0 is not the text that 7 is.

    Example:
        >>> pseudonym("ada@example.org", b"a key of 16 bytes")
        'd59ecc4049666f1b'
        >>> pseudonym("ada@example.org", b"another long enough key") == _
        False
    """
    if len(key) < SHORT_KEY:
        raise ValueError(f"A pseudonym's key needs at least {SHORT_KEY} bytes; this one has {len(key)}.")
    if not isinstance(value, str | int | date):
        raise ValueError(f"Only text, whole numbers and dates have pseudonyms, not a {type(value).__name__}.")
    return hmac.new(key, str(value).encode(), hashlib.sha256).hexdigest()[:PSEUDONYM_LENGTH]


def pseudonyms(column: pl.Series, key: bytes) -> pl.Series:
    """`pseudonym` of every value; null stays null.

    Raises:
        ValueError: the key is too short, or the column holds fractions, lists or structs.

    Example:
        >>> pseudonyms(pl.Series("name", ["Ada", None, "Ada"]), b"a key of 16 bytes").n_unique()
        2
    """
    if column.dtype.is_float() or column.dtype.is_decimal() or column.dtype.is_nested():
        raise ValueError(
            f"The column {column.name} is {column.dtype}: only single values of text, whole "
            "numbers and dates have pseudonyms."
        )
    distinct = column.drop_nulls().unique()
    named = [pseudonym(value, key) for value in distinct]
    if not named:
        return pl.Series(column.name, [None] * len(column), dtype=pl.String)
    table = pl.DataFrame({"value": distinct, "name": named})
    placed = column.rename("value").to_frame().join(table, on="value", how="left", maintain_order="left")
    return placed["name"].rename(column.name)


def band(column: str, width: int = 10) -> pl.Expr:
    """Whole numbers as bands such as "1980-1989".

    Example:
        >>> pl.DataFrame({"birth_year": [1984]}).select(band("birth_year")).item()
        '1980-1989'
    """
    start = pl.col(column).cast(pl.Int64) // width * width
    return pl.format("{}-{}", start, start + width - 1).alias(column)


def postcode_area(column: str) -> pl.Expr:
    """The letters that a British postcode begins with: "SW1A 1AA" becomes "SW".

    Example:
        >>> pl.DataFrame({"postcode": ["SW1A 1AA"]}).select(postcode_area("postcode")).item()
        'SW'
    """
    return pl.col(column).str.to_uppercase().str.extract(r"^\s*([A-Z]{1,2})", 1).alias(column)


@dataclass(frozen=True)
class Anonymity:
    """How well the rows of a table hide among each other.

    Attributes:
        k: size of the smallest group of rows that share all quasi-identifiers (0 for an empty table).
        groups: the groups smaller than what was asked for: the quasi-identifiers and ``size``.
    """

    k: int
    groups: pl.DataFrame


def k_anonymity(frame: pl.DataFrame, quasi: Sequence[str], least: int = 5) -> Anonymity:
    """Find the people who stand out by a combination of harmless columns.

    Source: Sweeney, "k-anonymity: a model for protecting privacy", 2002.

    Args:
        frame: one row per person.
        quasi: columns that somebody else may know of a person.
        least: groups smaller than this are returned.

    Example:
        >>> people = pl.DataFrame({"area": ["SW", "SW", "NE"], "born": ["1980-1989"] * 3})
        >>> found = k_anonymity(people, ["area", "born"], least=2)
        >>> found.k, found.groups["area"].to_list()
        (1, ['NE'])
    """
    sizes = frame.group_by(quasi).agg(size=pl.len()).sort("size", *quasi)
    return Anonymity(int(sizes["size"].min() or 0), sizes.filter(pl.col("size") < least))  # type: ignore[arg-type]


def l_diversity(frame: pl.DataFrame, quasi: Sequence[str], sensitive: str) -> int:
    """The fewest different values of a sensitive column in any group of a k-anonymous table.

    A group of ten that all share one income hides nobody's income. Source: Machanavajjhala et al.,
    "l-diversity: privacy beyond k-anonymity", 2007.

    Example:
        >>> people = pl.DataFrame({"area": ["SW", "SW"], "income_band": ["low", "low"]})
        >>> l_diversity(people, ["area"], "income_band")
        1
    """
    return int(frame.group_by(quasi).agg(kinds=pl.col(sensitive).n_unique())["kinds"].min() or 0)  # type: ignore[arg-type]


def suppress_small(frame: pl.DataFrame, quasi: Sequence[str], least: int = 5) -> pl.DataFrame:
    """The rows whose group has at least ``least`` members; the others cannot be published.

    Example:
        >>> suppress_small(pl.DataFrame({"area": ["SW", "SW", "NE"]}), ["area"], least=2).height
        2
    """
    return frame.filter(pl.len().over(quasi) >= least)


@dataclass(frozen=True)
class Plan:
    """What happens to each column of one table when it is anonymised. Every column must be named.

    Attributes:
        keep: columns that stay as they are.
        drop: columns that go.
        pseudonymise: columns that become pseudonyms.
        bands: whole-number columns that become bands, with their width.
        areas: postcodes that become areas.
        texts: free text in which identifiers are masked.
    """

    keep: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    pseudonymise: tuple[str, ...] = ()
    bands: Mapping[str, int] = field(default_factory=dict)
    areas: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()


def anonymise(
    tables: Mapping[str, pl.DataFrame],
    plans: Mapping[str, Plan],
    key: bytes,
    known: Sequence[pl.Series] = (),
) -> dict[str, pl.DataFrame]:
    """Copies of tables without any raw identifier.

    Free text loses what looks like an e-mail address or phone number, and every known identifier wherever it
    is written, in whatever spelling (see `Identifiers`).

    Args:
        tables: by name.
        plans: by table; a table without a plan may not pass.
        key: for pseudonyms, see `pseudonym`.
        known: columns of identifiers (names, addresses) to look for in free text. Values of the dropped and
            pseudonymised columns of all tables, and whole postcodes, are always looked for; of whole numbers
            those with seven digits and more.

    Returns:
        the tables, rows in their order.

    Raises:
        ValueError: a table has no plan, or its plan does not name each of its columns once, or a column is
            not of a type for what is planned.

    Example:
        >>> people = pl.DataFrame({"name": ["Ada Byron"], "says": ["Ada Byron here, call 020 7946 0018"]})
        >>> plans = {"people": Plan(drop=("name",), texts=("says",))}
        >>> anonymise({"people": people}, plans, b"a key of 16 bytes")["people"]["says"].item()
        '[removed] here, call [removed]'
    """
    named = {text for column in known for text in _values(column)}
    for name, table in tables.items():
        if name not in plans:
            raise ValueError(
                f"The table {name} has no plan: say what happens to its columns, or leave it out."
            )
        plan = plans[name]
        _whole(name, plan, table.columns)
        for column in (*plan.drop, *plan.pseudonymise):
            named.update(_values(table[column]))
        for column in plan.areas:
            named.update(_postcodes(table[column]))
    search = Identifiers(named)
    return {name: _anonymised(table, plans[name], key, search) for name, table in tables.items()}


def _whole(name: str, plan: Plan, columns: Sequence[str]) -> None:
    """Each column of a table stands in its plan once."""
    named = Counter([*plan.keep, *plan.drop, *plan.pseudonymise, *plan.bands, *plan.areas, *plan.texts])
    if lacking := [column for column in named if column not in columns]:
        raise ValueError(
            f"The plan of {name} names {', '.join(lacking)}, which it lacks; it has {', '.join(columns)}."
        )
    if twice := [column for column, count in named.items() if count > 1]:
        raise ValueError(f"The plan of {name} names {', '.join(twice)} twice: choose what happens to it.")
    if silent := [column for column in columns if column not in named]:
        raise ValueError(
            f"The plan of {name} does not say what happens to {', '.join(silent)}: add it to keep or to drop."
        )


def _values(column: pl.Series) -> Iterator[str]:
    """The identifiers in a column, however deep in lists and structs, as text.

    Numbers count from seven digits on, which a phone number has: a 7 in a text is not shopper 7.
    """
    if isinstance(column.dtype, pl.List | pl.Array):
        yield from _values(column.explode())
    elif isinstance(column.dtype, pl.Struct):
        for part in column.struct.unnest().get_columns():
            yield from _values(part)
    elif column.dtype.is_integer():
        texts = column.drop_nulls().unique().cast(pl.String)
        yield from texts.filter(texts.str.len_chars() >= LEAST_DIGITS)
    elif column.dtype in (pl.String, pl.Categorical, pl.Enum):
        yield from column.drop_nulls().unique().cast(pl.String)


def _postcodes(column: pl.Series) -> Iterator[str]:
    """British postcodes with and without the space before their last three characters."""
    for postcode in _values(column):
        whole = "".join(postcode.split())
        yield from (whole, f"{whole[:-3]} {whole[-3:]}")


def _anonymised(table: pl.DataFrame, plan: Plan, key: bytes, search: Identifiers) -> pl.DataFrame:
    columns: list[pl.Expr | pl.Series] = [pseudonyms(table[column], key) for column in plan.pseudonymise]
    columns += [band(column, width) for column, width in plan.bands.items()]
    columns += [postcode_area(column) for column in plan.areas]
    for column in plan.texts:
        if table[column].dtype not in (pl.String, pl.Categorical, pl.Enum):
            raise ValueError(f"The column {column} is {table[column].dtype}, not text: it cannot be masked.")
        masked = [search.masked(text) for text in table[column]]
        columns.append(pl.Series(column, masked, dtype=pl.String))
    return table.with_columns(columns).drop(plan.drop)
