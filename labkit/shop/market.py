"""The market as tables, generated once and kept under LABKIT_HOME."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from labkit.home import home
from labkit.shop.declarations import departments
from labkit.shop.products import Product, make_products
from labkit.shop.queries import Query, make_queries
from labkit.shop.relevance import Facts
from labkit.shop.sessions import PROPENSITIES, make_sessions

_TABLES = ("products", "queries", "qrels", "sessions")


@dataclass(frozen=True)
class Size:
    products: int
    queries: int
    sessions: int
    departments: int | None  # the first so many; None for all


SIZES = {
    "tiny": Size(products=600, queries=80, sessions=2_000, departments=2),
    "small": Size(products=6_600, queries=400, sessions=20_000, departments=None),
}


@dataclass(frozen=True)
class Market:
    """A shop whose truth is known. All tables are polars frames; ids are row numbers.

    Attributes:
        products: product_id i32, title, description, brand, category, department (str), price f64, attributes
            (JSON object).
        queries: query_id i32, text, kind, split ("train" | "valid" | "test"), intent (JSON object: the
            structured truth).
        qrels: query_id i32, product_id i32, grade i8 in 1..3; a pair that is not listed has grade 0, truly.
        sessions: session_id i32, query_id i32, time, position i16 (from 1), product_id i32, clicked bool.
        size: as given to :func:`load`.
        seed: as given to :func:`load`.
        propensities: the true probability that a shopper examines position 1, 2, ... 10.
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


def load(size: str = "small", seed: int = 0) -> Market:
    """Load a market, generating it the first time (about a second for "tiny", several for "small").

    Args:
        size: "tiny" (600 products, 80 queries) or "small" (6,600 products, 400 queries).
        seed: Another seed is another shop; the same seed is the same shop on every machine.

    Returns:
        The market, kept as parquet under ``LABKIT_HOME`` (default: the platform's cache folder) and read from
        there the next time. Where that folder can't be written the market is generated anew each time.

    Raises:
        ValueError: Unknown size, or a negative seed.

    Example:
        >>> market = load("tiny")
        >>> market.products.height, market.queries.height
        (600, 80)
    """
    if size not in SIZES:
        raise ValueError(f"There is no market of size {size!r}; choose one of {', '.join(map(repr, SIZES))}.")
    if seed < 0:
        raise ValueError(f"The seed is {seed}, but it must be 0 or more.")
    folder = home() / "shop" / f"{version()}-{size}-{seed}"
    if not (folder / "market.json").exists():
        market = _generate_with_progress(size, seed)
        _store(market, folder)
        return market
    products, queries, qrels, sessions = (pl.read_parquet(folder / f"{name}.parquet") for name in _TABLES)
    return Market(products, queries, qrels, sessions, size=size, seed=seed)


def generate(size: str = "small", seed: int = 0) -> Market:
    """Make a market in memory, without reading or writing any file outside the package."""
    plan = SIZES[size]
    chosen = list(departments().values())[: plan.departments]
    products = make_products(chosen, plan.products, seed)
    queries = make_queries(chosen, products, plan.queries, seed)
    return Market(
        products=_products_table(products),
        queries=_queries_table(queries),
        qrels=_qrels_table(products, queries),
        sessions=make_sessions(products, queries, plan.sessions, seed),
        size=size,
        seed=seed,
    )


@cache
def version() -> str:
    """Names the world that this code makes: any change to declarations or generator is another version."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for path in sorted([*here.glob("*.py"), *here.glob("catalogue/*.yaml")], key=lambda path: path.name):
        digest.update(path.name.encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()[:10]


def _generate_with_progress(size: str, seed: int) -> Market:
    from rich.console import Console

    with Console(stderr=True).status(f"Making the {size} market (seed {seed}); this is done once..."):
        return generate(size, seed)


def _store(market: Market, folder: Path) -> None:
    """Write to a folder beside the final one and rename it: readers see all of it or nothing."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    except OSError:
        return  # A read-only home: the market stays in memory.
    try:
        for name in _TABLES:
            getattr(market, name).write_parquet(draft / f"{name}.parquet")
        about = {
            "size": market.size,
            "seed": market.seed,
            "version": version(),
            "plan": asdict(SIZES[market.size]),
        }
        (draft / "market.json").write_text(json.dumps(about, indent=2))
        draft.chmod(0o755)  # mkdtemp makes private folders; a class shares its cache
        draft.rename(folder)
    except OSError:
        # Another process was first, or the disk is full. Either way nothing half-written may stay.
        shutil.rmtree(draft, ignore_errors=True)


def _products_table(products: list[Product]) -> pl.DataFrame:
    def facts(product: Product) -> str:
        extra = {"line": product.line, **({"model": product.model} if product.model else {})}
        return json.dumps({**extra, **product.attributes}, ensure_ascii=False)

    return pl.DataFrame(
        {
            "product_id": np.arange(len(products), dtype=np.int32),
            "title": [p.title for p in products],
            "description": [p.description for p in products],
            "brand": [p.brand for p in products],
            "category": [p.category for p in products],
            "department": [p.department for p in products],
            "price": np.array([p.price for p in products]),
            "attributes": [facts(p) for p in products],
        }
    )


def _queries_table(queries: list[Query]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "query_id": np.arange(len(queries), dtype=np.int32),
            "text": [q.text for q in queries],
            "kind": [q.kind for q in queries],
            "split": [q.split for q in queries],
            "intent": [json.dumps(q.intent.as_json(), ensure_ascii=False) for q in queries],
        }
    )


def _qrels_table(products: list[Product], queries: list[Query]) -> pl.DataFrame:
    facts = Facts(products)
    grades = np.stack([facts.grades(q.intent) for q in queries])  # (Q, N)
    query_ids, product_ids = np.nonzero(grades)
    return pl.DataFrame(
        {
            "query_id": query_ids.astype(np.int32),
            "product_id": product_ids.astype(np.int32),
            "grade": grades[query_ids, product_ids],
        }
    )
