"""Makes the market's tables, group by group; a group is made when something in it is first asked for.

The groups depend on each other in this order: ``core`` (the catalogue and the judged queries), ``year`` (who
came, what they were shown and did), ``voices`` (what people write), ``beyond`` (the second domain and the
news), ``raw`` (all of it as the warehouse delivers it, and the truth about that).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from labkit.shop.behaviour import Behaviour
from labkit.shop.calendar import DAYS, MIDNIGHT, MONTHS, START
from labkit.shop.crowd import make_crowd
from labkit.shop.declarations import Department, departments
from labkit.shop.defects import Truth, raw_events, raw_products, raw_reviews, raw_shoppers
from labkit.shop.demand import make_demand
from labkit.shop.intruders import make_intruders
from labkit.shop.policies import Production
from labkit.shop.prices import campaign_table, make_prices, price_table, stock_table
from labkit.shop.products import Product, make_products
from labkit.shop.queries import Query, make_queries
from labkit.shop.queries_zh import chinese_query
from labkit.shop.relevance import Facts
from labkit.shop.replay import Year, replay
from labkit.shop.sessions import make_sessions
from labkit.shop.shelf import Shelf, make_shelf
from labkit.shop.visits import make_visits


@dataclass(frozen=True)
class Size:
    products: int
    queries: int  # judged ones
    sessions: int  # searches for the judged queries, the log of module 05
    departments: int | None  # the first so many; None for all
    shoppers: int
    requests: int  # of the year's log: searches and home pages, up to ten products each
    typed: int  # different queries in that log besides the judged ones
    questions: int  # to customer service
    books: int  # of the second domain


SIZES = {
    "tiny": Size(600, 80, 2_000, 2, 200, 2_000, 200, 100, 200),
    "small": Size(6_600, 400, 20_000, None, 3_000, 40_000, 4_000, 1_500, 2_000),
    "medium": Size(20_000, 400, 40_000, None, 12_000, 200_000, 8_000, 4_000, 5_000),
    "full": Size(200_000, 400, 100_000, None, 120_000, 2_200_000, 20_000, 20_000, 20_000),
}
# Tables by group; those with a trailing slash are folders of parts, one a month.
GROUPS = {
    "core": ("products", "queries", "qrels", "sessions"),
    "year": ("shoppers", "friends", "life_events", "sellers", "prices", "stock", "campaigns", "typed_queries",
             "events/"),
    "voices": ("reviews", "passages", "questions", "mailing"),
    "beyond": ("books", "reads", "overlap", "companies", "news", "indicators", "shocks", "states"),
    "raw": ("raw_products", "raw_shoppers", "raw_reviews", "raw_events/", "truth"),
}  # fmt: skip


@dataclass(frozen=True)
class Catalogue:
    """The shelves in the makers' own terms, from which every group starts."""

    departments: list[Department]
    products: list[Product]
    queries: list[Query]
    queries_zh: list[str]


@lru_cache(maxsize=1)
def catalogue(size: str, seed: int) -> Catalogue:
    plan = SIZES[size]
    chosen = list(departments().values())[: plan.departments]
    products = make_products(chosen, plan.products, seed)
    queries = make_queries(chosen, products, plan.queries, seed)
    return Catalogue(chosen, products, queries, [chinese_query(q, seed, i) for i, q in enumerate(queries)])


@lru_cache(maxsize=2)
def year(size: str, seed: int) -> Year:
    """Everything about the year that no ranking policy changes."""
    plan, shop = SIZES[size], catalogue(size, seed)
    shelf = make_shelf(shop.products, seed)
    crowd = make_crowd(plan.shoppers, shelf, seed)
    demand = make_demand(
        shop.departments,
        shop.products,
        shop.queries,
        shop.queries_zh,
        [p.title_zh for p in shop.products],
        shelf,
        plan.typed,
        seed,
    )
    visits = make_visits(plan.requests, crowd, demand, shelf, seed)
    return Year(shelf, crowd, make_prices(shelf, seed), demand, visits, Behaviour(crowd, shelf, seed))


def core_tables(size: str, seed: int) -> dict[str, pl.DataFrame]:
    """products, queries, qrels and sessions."""
    shop = catalogue(size, seed)
    shelf = make_shelf(shop.products, seed)
    return {
        "products": _products_table(shop.products, shelf),
        "queries": _queries_table(shop),
        "qrels": _qrels_table(shelf.facts, shop.queries),
        "sessions": make_sessions(shop.products, shop.queries, SIZES[size].sessions, seed),
    }


def make(group: str, size: str, seed: int, folder: Path, where: Where) -> None:
    """Make the tables of a group as parquet files in a folder.

    Args:
        group: one of GROUPS.
        size, seed: of the market.
        folder: an existing, empty one.
        where: gives the file of a table of an earlier group, or the folder of its parts.
    """
    with _announced(f"Making the {size} market (seed {seed}), {group}; this is done once") as progress:
        {"core": _core, "year": _year, "voices": _voices, "beyond": _beyond, "raw": _raw}[group](
            size, seed, folder, where, progress
        )


Where = Callable[[str], Path]
Progress = Callable[[float], None]  # the share that is done


def _core(size: str, seed: int, folder: Path, where: Where, progress: Progress) -> None:
    _write(folder, core_tables(size, seed))


def _year(size: str, seed: int, folder: Path, where: Where, progress: Progress) -> None:
    world = year(size, seed)
    progress(0.3)
    _write(
        folder,
        {
            "shoppers": world.crowd.shoppers,
            "friends": world.crowd.friends,
            "life_events": world.crowd.life_events,
            "sellers": world.shelf.sellers,
            "prices": price_table(world.prices, world.shelf.launched),
            "stock": stock_table(world.prices, world.shelf.launched),
            "campaigns": campaign_table(),
            "typed_queries": world.demand.table,
        },
    )
    parts = _Parts(folder / "events")
    outcome = replay(
        world, Production(), seed, sink=parts.add, progress=lambda d: progress(0.3 + 0.7 * d / DAYS)
    )
    parts.close()
    about = {k: v for k, v in vars(outcome).items() if isinstance(v, str | int | float)}
    (folder / "outcome.json").write_text(json.dumps(about, indent=2))


def _voices(size: str, seed: int, folder: Path, where: Where, progress: Progress) -> None:
    from labkit.shop.reviews import make_reviews
    from labkit.shop.service import make_passages, make_questions

    world, plan = year(size, seed), SIZES[size]
    products = pl.read_parquet(where("products"))
    shoppers = world.crowd.shoppers
    wanted = ("session_id", "shopper_id", "time", "product_id", "price", "returned")
    purchases = pl.scan_parquet(where("events")).filter("bought").select(wanted).collect()
    reviews = make_reviews(purchases, products, world.shelf.quality, shoppers, seed)
    # The tables are those of the year's last night: what is written later isn't there yet.
    reviews = reviews.filter(pl.col("time") < MIDNIGHT + timedelta(days=DAYS)).with_columns(
        review_id=pl.int_range(pl.len(), dtype=pl.Int32)
    )
    progress(0.5)
    passages = make_passages(products, seed)
    questions = make_questions(passages, products, purchases, shoppers, plan.questions, seed)
    progress(0.9)
    _write(
        folder,
        {
            "reviews": reviews,
            "passages": passages,
            "questions": questions,
            "mailing": _mailing(world, seed),
        },
    )


def _beyond(size: str, seed: int, folder: Path, where: Where, progress: Progress) -> None:
    from labkit.shop.bookshop import make_bookshop
    from labkit.shop.news import make_news

    world, crowd = year(size, seed), year(size, seed).crowd
    names = world.shelf.departments
    books = make_bookshop(
        crowd.shoppers,
        crowd.taste,
        department_affinity(world),
        names,
        crowd.life_events,
        SIZES[size].books,
        seed,
    )
    _write(folder, books.tables())
    progress(0.7)
    _write(folder, make_news(seed).tables())


def _raw(size: str, seed: int, folder: Path, where: Where, progress: Progress) -> None:
    from labkit.shop.reviews import make_spam

    world, truth = year(size, seed), Truth()
    intruders = make_intruders(world, world.crowd.shoppers, seed)
    clean, reviews = pl.read_parquet(where("products")), pl.read_parquet(where("reviews"))
    of_seller = np.argsort(world.shelf.seller, kind="stable")
    limits = np.searchsorted(world.shelf.seller[of_seller], np.arange(len(world.shelf.sellers) + 1))
    sold = [of_seller[a:b].tolist() for a, b in pairwise(limits)]
    spam = make_spam(
        clean,
        [ids for ids in sold if ids],
        intruders.shoppers.filter(pl.col("kind") == intruders.BOT)["shopper_id"].to_list(),
        max(20, reviews.height // 15),
        seed,
        first_id=reviews.height,
    )
    _write(
        folder,
        {
            "raw_products": raw_products(clean, world, truth, seed),
            "raw_shoppers": raw_shoppers(world.crowd.shoppers, intruders, truth, seed),
            "raw_reviews": raw_reviews(reviews, spam, truth, seed),
        },
    )
    target = folder / "raw_events"
    target.mkdir()
    files = sorted(where("events").glob("*.parquet"))
    for number, part in enumerate(raw_events(map(pl.read_parquet, files), world, intruders, truth, seed)):
        part.write_parquet(target / f"part-{number:02d}.parquet")
        progress((number + 1) / len(files))
    _write(folder, {"truth": truth.table()})


def _mailing(world: Year, seed: int) -> pl.DataFrame:
    from labkit.shop.mailings import make_mailing

    rows = np.flatnonzero(world.crowd.joined < 0)
    wealth, likes = world.crowd.wealth[rows], department_affinity(world)[rows]
    return make_mailing(world.crowd.shoppers[rows], wealth, likes, world.shelf.departments, seed)


def department_affinity(world: Year) -> np.ndarray:
    """How much each shopper wants of each department. Returns (S, D) float64."""
    home = world.shelf.department_of()
    total = np.zeros((len(world.crowd.taste), len(world.shelf.departments)))
    for category, department in enumerate(home):
        total[:, department] += world.crowd.affinity[:, category]
    return total


class _Parts:
    """Gathers days of events and writes one file a month."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.month = 0
        self.days: list[pl.DataFrame] = []

    def add(self, day: int, events: pl.DataFrame) -> None:
        if day * MONTHS // DAYS != self.month:
            self.close()
            self.month = day * MONTHS // DAYS
        self.days.append(events)

    def close(self) -> None:
        if self.days:
            pl.concat(self.days).write_parquet(self.folder / f"part-{self.month:02d}.parquet")
        self.days = []


def _write(folder: Path, tables: dict[str, pl.DataFrame]) -> None:
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")


@contextmanager
def _announced(text: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        print(f"{text} ...", file=sys.stderr)
        yield lambda share: None
        return
    percent = TextColumn("{task.percentage:.0f} %")
    columns = (TextColumn("{task.description}"), BarColumn(), percent, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def _products_table(products: list[Product], shelf: Shelf) -> pl.DataFrame:
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
            "price": shelf.price,
            "attributes": [facts(p) for p in products],
            "title_zh": [p.title_zh for p in products],
            "description_zh": [p.description_zh for p in products],
            "seller_id": shelf.seller.astype(np.int32),
            "launched": np.datetime64(START) + shelf.launched.astype("timedelta64[D]"),
            "weight_kg": shelf.weight,
        }
    )


def _queries_table(shop: Catalogue) -> pl.DataFrame:
    queries = shop.queries
    return pl.DataFrame(
        {
            "query_id": np.arange(len(queries), dtype=np.int32),
            "text": [q.text for q in queries],
            "kind": [q.kind for q in queries],
            "split": [q.split for q in queries],
            "intent": [json.dumps(q.intent.as_json(), ensure_ascii=False) for q in queries],
            "text_zh": shop.queries_zh,
        }
    )


def _qrels_table(facts: Facts, queries: list[Query]) -> pl.DataFrame:
    parts = []
    for number, query in enumerate(queries):
        grades = facts.grades(query.intent)
        rows = np.flatnonzero(grades)
        parts.append((np.full(len(rows), number, dtype=np.int32), rows.astype(np.int32), grades[rows]))
    query_ids, product_ids, grade = (np.concatenate(column) for column in zip(*parts, strict=True))
    return pl.DataFrame({"query_id": query_ids, "product_id": product_ids, "grade": grade})
