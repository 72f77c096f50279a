"""The market as a learner holds it: its tables, its pictures, and what would have happened otherwise."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from labkit.home import home
from labkit.shop import making
from labkit.shop.fingerprint import fingerprint
from labkit.shop.making import GROUPS, SIZES
from labkit.shop.policies import Policy
from labkit.shop.replay import Outcome, Year, replay
from labkit.shop.sessions import PROPENSITIES

TABLES = {name.rstrip("/"): group for group, names in GROUPS.items() for name in names}


@dataclass(frozen=True)
class Market:
    """A shop whose truth is known. All tables are polars frames; ids are row numbers.

    The four tables of the catalogue and its judged queries are there at once. The others are made when they
    are first asked for, by :meth:`read` or :meth:`scan`, and kept:

    ========================  ===========================================================================
    shoppers, friends,        who the shoppers are (personal data that a shop should not hand round
    life_events               included), whom they know, what happened to them
    sellers, prices, stock,   who sells; every change of a price; when something was out of stock; sales
    campaigns
    typed_queries             every text that was typed, in two languages; the judged ones first
    events                    one row per product shown: session_id, shopper_id, time, surface, query_id,
                              device, product_id, position, price, clicked, carted, bought, returned
    reviews                   stars and texts in two languages, with their true sentiment
    passages, questions       what the shop's service may quote, and what it is asked
    mailing                   a randomised e-mail test with its true uplift
    books, reads, overlap     a bookshop some of whose readers are shoppers here
    companies, news,          a year of business news, the figures that follow it, and the shocks behind both
    indicators, shocks,
    states
    raw_products, ...         products, shoppers, reviews and events as the warehouse delivers them
    truth                     which raw rows are wrong: table, row, defect, was, of
    ========================  ===========================================================================

    Attributes:
        products: product_id i32, title, description, brand, category, department (str), price f64 (GBP),
            attributes (JSON object), title_zh, description_zh, seller_id i32, launched Date, weight_kg f64.
        queries: query_id i32, text, kind, split ("train" | "valid" | "test"), intent (JSON object: the
            structured truth), text_zh.
        qrels: query_id i32, product_id i32, grade i8 in 1..3; a pair that is not listed has grade 0, truly.
        sessions: searches for the judged queries alone, logged with known propensities: session_id i32,
            query_id i32, time, position i16 (from 1), product_id i32, clicked bool.
        size: as given to :func:`load`.
        seed: as given to :func:`load`.
        propensities: the true probability that a shopper of ``sessions`` examines position 1, 2, ... 10.
    """

    products: pl.DataFrame
    queries: pl.DataFrame
    qrels: pl.DataFrame
    sessions: pl.DataFrame
    size: str = "small"
    seed: int = 0
    propensities: list[float] = field(default_factory=lambda: list(PROPENSITIES))

    def titles(self) -> list[str]:
        """Titles in the order of product_id."""
        return self.products["title"].to_list()

    def documents(self) -> list[str]:
        """Title and description as one text per product, in the order of product_id."""
        return [f"{title} {text}" for title, text in self.products.select("title", "description").iter_rows()]

    def queries_of(self, split: str) -> pl.DataFrame:
        """The queries of one split, ordered by query_id.

        Raises:
            ValueError: There is no such split.
        """
        if split not in ("train", "valid", "test"):
            raise ValueError(f"There is no split {split!r}; choose 'train', 'valid' or 'test'.")
        return self.queries.filter(pl.col("split") == split)

    def judgements(self, split: str | None = None) -> dict[int, dict[int, int]]:
        """Grades as ``{query_id: {product_id: grade}}``, of one split or of all queries."""
        chosen = self.queries if split is None else self.queries_of(split)
        table: dict[int, dict[int, int]] = {query_id: {} for query_id in chosen["query_id"]}
        for query_id, product_id, grade in self.qrels.iter_rows():
            if query_id in table:
                table[query_id][product_id] = grade
        return table

    def scan(self, table: str) -> pl.LazyFrame:
        """A table as a lazy frame, for those that are larger than memory; made first if need be.

        Args:
            table: one of the names above.

        Raises:
            ValueError: There is no such table.

        Example:
            >>> log = load("tiny").scan("events")
            >>> log.filter("bought").select("price").collect().height > 0
            True
        """
        return pl.scan_parquet(self._where(table))

    def read(self, table: str) -> pl.DataFrame:
        """A table in memory; see :meth:`scan`.

        Example:
            >>> load("tiny").read("sellers").columns
            ['seller_id', 'name', 'department', 'country', 'rating', 'commission']
        """
        return self.scan(table).collect()

    def files(self, table: str) -> list[Path]:
        """The parquet files of a table, in order, for engines that read them in parallel."""
        place = self._where(table)
        return sorted(place.glob("*.parquet")) if place.is_dir() else [place]

    def run(self, policy: Policy, seed: int | None = None) -> Outcome:
        """What the year would have brought had the shop ranked with another policy.

        The same shoppers come at the same times with the same wishes, and every candidate product has its own
        random numbers (common random numbers), so that a difference between two policies is due to what they
        show. With ``Production()`` and no seed it is the year of the ``events`` table.

        Args:
            policy: ranks the candidates of each request; see :mod:`labkit.shop.policies`.
            seed: of the shoppers' choices; that of the log when left out. The market's own seed decides who
                comes and what is sold.

        Returns:
            Counts, expected revenue, satisfaction, seller exposure and serving cost.

        Raises:
            ValueError: the policy's scores have the wrong shape or are not numbers.

        Example:
            >>> from labkit.shop.policies import Production, Shuffled
            >>> market = load("tiny")
            >>> market.run(Production()).satisfaction > market.run(Shuffled()).satisfaction
            True
        """
        return replay(self.year, policy, self.seed if seed is None else seed)

    @property
    def year(self) -> Year:
        """The truth that no table shows: tastes, qualities, chances. A shop has no such thing."""
        return making.year(self.size, self.seed)

    def pictures(self, ids: Iterable[int] | None = None) -> np.ndarray:
        """The products' photographs, in the order of ids (of product_id when left out).

        Returns (N, 64, 64, 3) uint8.

        Example:
            >>> load("tiny").pictures([0, 1]).shape
            (2, 64, 64, 3)
        """
        from labkit.shop.pictures import draw_many

        return draw_many(self.products, self.seed, ids=None if ids is None else list(ids))

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of the content of every table, made first if need be: the same on every machine."""
        return {table: fingerprint(self._where(table)) for table in TABLES}

    def _where(self, table: str) -> Path:
        if table not in TABLES:
            raise ValueError(f"There is no table {table!r}; choose one of {', '.join(sorted(TABLES))}.")
        folder = _group(TABLES[table], self.size, self.seed)
        parts = folder / table
        return parts if parts.is_dir() else folder / f"{table}.parquet"


def load(size: str = "small", seed: int = 0) -> Market:
    """Load a market, generating it the first time.

    Args:
        size: "tiny" (600 products, for tests), "small" (6,600 products, 3,000 shoppers, 0.4 million events,
            for lessons), "medium" (20,000 products, 2 million events, for comparisons with real sets) or
            "full" (200,000 products, 120,000 shoppers, over 20 million events).
        seed: Another seed is another shop; the same seed is the same shop on every machine.

    Returns:
        The market, kept as parquet under ``LABKIT_HOME`` (default: the platform's cache folder) and read from
        there the next time. Where that folder can't be written it lives in a temporary one.

    Raises:
        ValueError: Unknown size, or a negative seed.

    Example:
        >>> market = load("tiny")
        >>> market.products.height, market.queries.height
        (600, 80)
    """
    _check(size, seed)
    folder = _group("core", size, seed)
    products, queries, qrels, sessions = (
        pl.read_parquet(folder / f"{name}.parquet") for name in GROUPS["core"]
    )
    return Market(products, queries, qrels, sessions, size=size, seed=seed)


def generate(size: str = "small", seed: int = 0) -> Market:
    """Make a market's catalogue in memory, without reading or writing any file outside the package."""
    _check(size, seed)
    tables = making.core_tables(size, seed)
    return Market(
        tables["products"], tables["queries"], tables["qrels"], tables["sessions"], size=size, seed=seed
    )


def forget(size: str, seed: int) -> None:
    """Delete a market from the cache, and from this process."""
    shutil.rmtree(_place(home(), size, seed), ignore_errors=True)
    making.catalogue.cache_clear()
    making.year.cache_clear()


def combined(fingerprints: dict[str, str]) -> str:
    """One hash for a whole market, of the hashes of its tables."""
    lines = [f"{table} {digest}" for table, digest in sorted(fingerprints.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@cache
def version() -> str:
    """Names the world that this code makes: any change to declarations or generator is another version."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *here.glob("**/*.yaml")]):
        name = path.relative_to(here).as_posix()
        digest.update(name.encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:10]


def _check(size: str, seed: int) -> None:
    if size not in SIZES:
        raise ValueError(f"There is no market of size {size!r}; choose one of {', '.join(map(repr, SIZES))}.")
    if seed < 0:
        raise ValueError(f"The seed is {seed}, but it must be 0 or more.")


def _place(root: Path, size: str, seed: int) -> Path:
    return root / "shop" / f"{version()}-{size}-{seed}"


@cache
def _shelter() -> Path:
    """Where groups go when the cache can't be written: away with the process."""
    folder = tempfile.TemporaryDirectory(prefix="labkit-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory] = []


def _group(group: str, size: str, seed: int) -> Path:
    """The folder of a group's tables, made first if it is not there."""
    for root in (home(), _shelter()) if _kept else (home(),):
        folder = _place(root, size, seed) / group
        if (folder / "market.json").exists():
            return folder
    try:
        return _made(group, size, seed, _place(home(), size, seed) / group)
    except OSError:  # no permission, a read-only or full disk, a file where the folder should be
        return _made(group, size, seed, _place(_shelter(), size, seed) / group)


def _made(group: str, size: str, seed: int, folder: Path) -> Path:
    """Write to a folder beside the final one and rename it: readers see all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:

        def where(table: str) -> Path:
            other = _group(TABLES[table], size, seed)
            return other / table if (other / table).is_dir() else other / f"{table}.parquet"

        making.make(group, size, seed, draft, where)
        about = {"size": size, "seed": seed, "version": version(), "plan": asdict(SIZES[size])}
        (draft / "market.json").write_text(json.dumps(about, indent=2))
        draft.chmod(0o755)  # mkdtemp makes private folders; a class shares its cache
        draft.rename(folder)
    except OSError:
        if not (folder / "market.json").exists():  # else another process was first
            raise
    finally:
        # Interrupted or overtaken: nothing half-written stays.
        shutil.rmtree(draft, ignore_errors=True)
    return folder
