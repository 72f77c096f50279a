"""Keeps people out of tables: pseudonyms, coarser values, a check that nobody stands alone, and erasure.

What is "anonymous" here follows the usual order: direct identifiers (name, e-mail, phone) are replaced or
dropped, quasi-identifiers (birth year, postcode) are made coarser until at least k people share each
combination, and free text is searched for the identifiers that people write into it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

PSEUDONYM_LENGTH = 16  # hexadecimal digits, 64 bits: two of a million people collide with chance 3e-8
SHORT_KEY = 16

# An address or number written by a person: generous, because a leak is worse than a lost word.
EMAIL = r"[\w.+'-]+@[\w-]+(?:\.[\w-]+)+"
PHONE = r"(?:\+|\b00|\(?\b0)[\d()](?:[\s().-]?[\d()]){7,14}\b|\b\d{3}[\s.-]\d{3,4}[\s.-]\d{4}\b"


def pseudonym(value: object, key: bytes) -> str:
    """Another name for one value: HMAC-SHA256 under the key, cut to 16 hexadecimal digits.

    A plain hash would not do: there are few phone numbers, so all can be hashed and looked up. Without the
    key nobody can. Source: RFC 2104; ENISA, "Pseudonymisation techniques and best practices", 2019.

    Args:
        value: anything; its text counts, so 7 and "7" are one.
        key: secret, at least 16 bytes. The same key gives the same pseudonym, so tables can still be joined.

    Raises:
        ValueError: the key is too short.

    Example:
        >>> pseudonym("ada@example.org", b"a key of 16 bytes")
        'd59ecc4049666f1b'
        >>> pseudonym("ada@example.org", b"another long enough key") == _
        False
    """
    if len(key) < SHORT_KEY:
        raise ValueError(f"A pseudonym's key needs at least {SHORT_KEY} bytes; this one has {len(key)}.")
    return hmac.new(key, str(value).encode(), hashlib.sha256).hexdigest()[:PSEUDONYM_LENGTH]


def pseudonyms(column: pl.Series, key: bytes) -> pl.Series:
    """`pseudonym` of every value; null stays null.

    Example:
        >>> pseudonyms(pl.Series("name", ["Ada", None, "Ada"]), b"a key of 16 bytes").n_unique()
        2
    """
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
    """What happens to each column of one table when it is anonymised. Columns not named stay.

    Attributes:
        drop: columns that go.
        pseudonymise: columns that become pseudonyms.
        bands: whole-number columns that become bands, with their width.
        areas: postcodes that become areas.
        texts: free text in which identifiers are masked.
    """

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
    is written, whole and in any case.

    Args:
        tables: by name.
        plans: by table; a table without a plan may not pass.
        key: for pseudonyms, see `pseudonym`.
        known: columns of identifiers (names, addresses) to look for in free text. Values of the dropped and
            pseudonymised text columns of all tables are always looked for.

    Returns:
        the tables, rows in their order.

    Raises:
        ValueError: a table has no plan, or a plan names a column that the table does not have.

    Example:
        >>> people = pl.DataFrame({"name": ["Ada Byron"], "says": ["Ada Byron here, call 020 7946 0018"]})
        >>> plans = {"people": Plan(drop=("name",), texts=("says",))}
        >>> anonymise({"people": people}, plans, b"a key of 16 bytes")["people"]["says"].item()
        '[removed] here, call [removed]'
    """
    named: list[str] = [text for column in known for text in column.drop_nulls().cast(pl.String)]
    for name, table in tables.items():
        if name not in plans:
            raise ValueError(
                f"The table {name} has no plan: say what happens to its columns, or leave it out."
            )
        plan = plans[name]
        used = [*plan.drop, *plan.pseudonymise, *plan.bands, *plan.areas, *plan.texts]
        if lacking := [column for column in used if column not in table.columns]:
            raise ValueError(
                f"The plan of {name} names {', '.join(lacking)}, which it lacks; "
                f"it has {', '.join(table.columns)}."
            )
        for column in (*plan.drop, *plan.pseudonymise):
            if table[column].dtype == pl.String:
                named += table[column].drop_nulls().to_list()
    search = Identifiers(named)
    return {name: _anonymised(table, plans[name], key, search) for name, table in tables.items()}


class Identifiers:
    """Finds known identifiers in text, many at once.

    One regular expression over 100 000 names would take hours. Instead each text's words are looked up:
    an identifier begins with a word, so only those that begin with a word of the text are compared.
    """

    def __init__(self, known: Sequence[str]) -> None:
        self.by_first: dict[str, list[str]] = {}
        self.symbols: list[str] = []  # identifiers without any word, looked for everywhere
        for text in sorted(
            {_plain(value) for value in known if value.strip()}, key=lambda value: (-len(value), value)
        ):
            first = _WORD.search(text)
            if first:
                self.by_first.setdefault(first.group(), []).append(text)
            else:
                self.symbols.append(text)

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where identifiers stand in a text, as (start, end), widest first at each place."""
        plain = _plain(text)
        found = []
        for word in _WORD.finditer(plain):
            for known in self.by_first.get(word.group(), ()):
                lead = _WORD.search(known)
                assert lead is not None
                start = word.start() - lead.start()
                if (
                    start >= 0
                    and plain.startswith(known, start)
                    and _whole(plain, start, start + len(known), known)
                ):
                    found.append((start, start + len(known)))
                    break
        for known in self.symbols:
            start = plain.find(known)
            while start >= 0:
                found.append((start, start + len(known)))
                start = plain.find(known, start + len(known))
        return found

    def masked(self, text: str | None, mask: str = "[removed]") -> str | None:
        """The text with addresses, phone numbers and known identifiers replaced."""
        if text is None:
            return None
        spans = self.spans(text)
        spans += [match.span() for pattern in _WRITTEN for match in pattern.finditer(text)]
        out, at = [], 0
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            if start >= at:
                out += [text[at:start], mask]
            at = max(at, end)
        return "".join([*out, text[at:]])


_WORD = re.compile(r"\w+")
_WRITTEN = (re.compile(EMAIL), re.compile(PHONE))


def _plain(text: str) -> str:
    """Lower case with every character in its place: casefold() would change lengths and shift positions."""
    return "".join(low if len(low := character.lower()) == 1 else character for character in text)


def _whole(text: str, start: int, end: int, known: str) -> bool:
    """Whether a match ends at a word's end: "Ann" is not in "Annual". Chinese has no spaces between words."""
    if not known[-1].isascii():
        return True
    return end == len(text) or not (known[-1].isalnum() and text[end].isalnum() and text[end].isascii())


def _anonymised(table: pl.DataFrame, plan: Plan, key: bytes, search: Identifiers) -> pl.DataFrame:
    columns: list[pl.Expr | pl.Series] = [pseudonyms(table[column], key) for column in plan.pseudonymise]
    columns += [band(column, width) for column, width in plan.bands.items()]
    columns += [postcode_area(column) for column in plan.areas]
    for column in plan.texts:
        masked = [search.masked(text) for text in table[column]]
        columns.append(pl.Series(column, masked, dtype=pl.String))
    return table.with_columns(columns).drop(plan.drop)
