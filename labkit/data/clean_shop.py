"""The whole cleaning of the shop's raw tables, in an order in which no step spoils the next.

1. Copies go first: they would count twice in every later median.
2. Clocks, because behaviour is told by time.
3. Prices in the log, because they are what catalogue prices are compared with.
4. The catalogue: encoding (or the same text looks different), units, copies, near copies.
5. People who are none: testers, programs. Last in the log, when everything they are told by is right.
6. Reviews, once it is known which products belong to which seller.
7. Columns that know the answer.

Nothing here knows which rows are wrong: the truth table is for scoring alone.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from labkit.data.bots import behaviour, find_bots
from labkit.data.clocks import correct_skew, find_skew
from labkit.data.duplicates import clusters, exact_duplicates, near_duplicates
from labkit.data.encoding import find_damage
from labkit.data.leaks import leaking_columns
from labkit.data.missing import missing_shares
from labkit.data.spam import find_spam
from labkit.data.steps import Change, as_reported, corrected, report, rows, without
from labkit.data.testers import find_testers
from labkit.data.units import grams_in_products, pence_in_events, shown_prices, yuan_in_products

TEXTS = ("title", "description", "title_zh", "description_zh")
# Between the two humps of similarity: below, other products of a line; above, relistings. Texts in both
# languages tell them apart better than those in one.
ALIKE = 0.67
FUNNEL = ("clicked", "carted", "returned")  # known to belong to buying; not used to predict it
FINDING: dict[str, pl.DataType | type[pl.DataType]] = {
    "table": pl.String, "row": pl.Int64, "defect": pl.String, "value": pl.String, "of": pl.Int64
}  # fmt: skip
STEPS = 12
Say = Callable[[str], None]


@dataclass
class Cleaned:
    """The clean tables, and what was wrong.

    Attributes:
        tables: products, shoppers, reviews, events (lazy frames over parquet files in the folder).
        changes: one `Change` per step; ``step`` begins with the table's name.
        findings: table, row, defect, value (the right value as text; "column value" in products and
            shoppers, null where the row goes or nothing can be known), of (the row that a copy repeats).
        bots: shopper_id, score, kind, reason.
        leaks: column, how, auc.
        missing: how the share of missing income bands differs between groups (see `missing_shares`).
    """

    tables: dict[str, pl.LazyFrame] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    findings: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=FINDING))
    bots: pl.DataFrame = field(default_factory=pl.DataFrame)
    leaks: pl.DataFrame = field(default_factory=pl.DataFrame)
    missing: pl.DataFrame = field(default_factory=pl.DataFrame)

    def report(self) -> pl.DataFrame:
        """The changes as a table: step, rows_in, rows_out, changed, note."""
        return report(self.changes)

    def note(
        self, table: str, defect: str, found: pl.DataFrame, note: str = "", counted: int = 0, before: int = 0
    ) -> None:
        """Add findings (row and, if there are, value and of) and the change that they amount to.

        ``counted`` rows were there before the step; ``before`` of those found were gone by then.
        """
        given = [name for name in ("value", "of") if name in found.columns]
        lines = found.select("row", *given).with_columns(table=pl.lit(table), defect=pl.lit(defect))
        lines = lines.with_columns(
            pl.lit(None, FINDING[name]).alias(name) for name in ("value", "of") if name not in given
        )
        self.findings = pl.concat([self.findings, lines.select(list(FINDING)).cast(FINDING)])  # type: ignore[arg-type]
        gone = 0 if "value" in given or defect == "missing" else found.height - before
        name = f"{table}: {defect.replace('_', ' ')}"
        self.changes.append(Change(name, counted, counted - gone, found["row"].n_unique(), note))

    def left(self, table: str, count: int) -> int:
        """How many of a table's rows are left, by its changes."""
        mine = [change for change in self.changes if change.step.startswith(f"{table}: ")]
        return count - sum(change.rows_in - change.rows_out for change in mine)


def clean_shop(raw: Mapping[str, pl.LazyFrame], folder: Path | str, progress: bool = True) -> Cleaned:
    """Clean products, shoppers, reviews and events as a warehouse delivers them.

    The log is never in memory: every step reads it as a stream and keeps only what it found. Cost is linear
    in its rows.

    Args:
        raw: "products", "shoppers", "reviews" and "events", each with a ``row`` column.
        folder: where the clean tables are written (created if need be, files in it replaced, all of them
            or none).
        progress: show a bar on stderr.

    Returns:
        the clean tables, and what was wrong in the raw ones.

    Raises:
        ValueError: a table is missing, or one is read from ``folder``.
        RuntimeError: a table does not have as many rows as its changes say.

    Example:
        >>> import tempfile, labkit.shop
        >>> market = labkit.shop.load("tiny")
        >>> raw = {name: market.scan(f"raw_{name}") for name in ("products", "shoppers", "reviews", "events")}
        >>> cleaned = clean_shop(raw, tempfile.mkdtemp(), progress=False)
        >>> cleaned.report()["step"][0], cleaned.tables["events"].collect_schema().names()[:2]
        ('events: exact duplicate', ['session_id', 'shopper_id'])
    """
    if lacking := [name for name in ("products", "shoppers", "reviews", "events") if name not in raw]:
        raise ValueError(f"Cleaning needs the raw tables {', '.join(lacking)} as well.")
    folder = Path(folder)
    _refuse_source(raw, folder)
    folder.mkdir(parents=True, exist_ok=True)
    done = Cleaned()
    with _bar(progress) as step:
        events, copies = _log(raw["events"], done, step)
        products, moved = _catalogue(raw["products"], events, done, step)
        testers, shoppers = _people(raw["shoppers"], events, products, done, step)
        reviews = _reviews(raw["reviews"], products, done, step)
        step("leaks")
        done.leaks = leaking_columns(events.drop("row"), "bought", allowed=FUNNEL)
        for name in done.leaks["column"]:
            line = pl.DataFrame({"row": [-1], "value": [name]})
            done.note("events", "leaked_label", line, f"{name} tells who bought", rows(raw["events"]))
        step("writing")
        nobody = pl.concat([testers["shopper_id"], done.bots["shopper_id"]]).unique()
        _inherit(done, raw["events"], nobody, copies)
        people = without(events, nobody, "shopper_id").drop("row", "app", strict=False)
        tables = {
            "products": products.drop("row", "currency", strict=False).lazy(),
            "shoppers": without(shoppers.lazy(), nobody, "shopper_id").drop("row"),
            "reviews": _pointed(reviews.drop("row").lazy(), moved),
            "events": _pointed(people.drop(done.leaks["column"].to_list()), moved),
        }
        done.tables = _written(tables, folder, {name: done.left(name, rows(raw[name])) for name in tables})
    return done


def _refuse_source(raw: Mapping[str, pl.LazyFrame], folder: Path) -> None:
    """Raise if a raw table is read from the folder that the clean ones are written to."""
    for name, frame in raw.items():
        for source in re.findall(r"SCAN \[([^\],]+)", frame.explain(optimized=False)):
            if Path(source).resolve().parent == folder.resolve():
                raise ValueError(
                    f"The raw {name} are read from {folder.name}, where the clean tables would replace them: "
                    "choose another folder."
                )


def _written(
    tables: Mapping[str, pl.LazyFrame], folder: Path, counts: Mapping[str, int]
) -> dict[str, pl.LazyFrame]:
    """Write all tables beside the folder, and move them into it when all are there and complete."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", suffix=".part", dir=folder.parent) as part:
        for name, table in tables.items():
            table.sink_parquet(Path(part) / f"{name}.parquet", engine="streaming")
            as_reported(name, pl.scan_parquet(Path(part) / f"{name}.parquet"), counts[name])
        for name in tables:
            (Path(part) / f"{name}.parquet").replace(folder / f"{name}.parquet")
    return {name: pl.scan_parquet(folder / f"{name}.parquet") for name in tables}


def _log(raw: pl.LazyFrame, done: Cleaned, step: Say) -> tuple[pl.LazyFrame, pl.DataFrame]:
    """The log without copies, its clocks and prices set right."""
    step("copies in the log")
    count = rows(raw)
    copies = exact_duplicates(raw)
    done.note("events", "exact_duplicate", copies, counted=count)
    events = _without(raw, copies)
    step("clocks")
    skew = find_skew(events)
    events = correct_skew(events, skew)
    moved = events.join(skew.lazy(), on="session_id").select("row", "time").collect(engine="streaming")
    moved = _with_copies(moved.select("row", value=pl.col("time").cast(pl.String)), copies)
    note = f"{skew.height} sessions, {skew['unset'].sum()} of them said 1970"
    done.note("events", "clock_skew", moved, note, counted=count - copies.height)
    step("prices in the log")
    pence = pence_in_events(events)
    events = corrected(events, "price", pence.select("row", "value"))
    wrong = _with_copies(pence.select("row", value=pl.col("value").cast(pl.String)), copies)
    done.note("events", "unit", wrong, "pence for pounds", counted=count - copies.height)
    return events, copies


def _catalogue(
    raw: pl.LazyFrame, events: pl.LazyFrame, done: Cleaned, step: Say
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Clean products, and product_id, kept: which id stands for a dropped one."""
    step("texts of the catalogue")
    texts = [name for name in TEXTS if name in raw.collect_schema().names()]
    products, damaged = _decoded(raw, texts)
    done.note("products", "encoding", damaged, f"in {', '.join(texts)}", counted=products.height)
    step("units of the catalogue")
    found = pl.concat([grams_in_products(products), yuan_in_products(products, shown_prices(events))])
    for column in found["column"].unique().sort():
        values = found.filter(pl.col("column") == column).select("row", "value")
        products = corrected(products.lazy(), column, values).collect()
    value = pl.format("{} {}", "column", "value")
    grams = found.filter(pl.col("column") == "weight_kg").height
    note = f"{grams} weights in grams, {found.height - grams} prices in yuan"
    done.note("products", "unit", found.select("row", value=value), note, counted=products.height)
    step("copies in the catalogue")
    copies = exact_duplicates(products.lazy())
    done.note("products", "exact_duplicate", copies, counted=products.height)
    products = products.join(copies, on="row", how="anti", maintain_order="left")
    step("near copies in the catalogue")
    texts = [name for name in TEXTS if name in products.columns]
    pairs = near_duplicates(products, texts, within={"price": 0.1}, least=ALIKE)
    near = clusters(pairs)
    note = f"similarity {pairs['similarity'].to_numpy().min():.2f} and more" if pairs.height else ""
    done.note("products", "near_duplicate", near, note, counted=products.height)
    ids = products.select("row", "product_id")
    moved = (near.join(ids, on="row").join(ids.rename({"row": "of", "product_id": "kept"}), on="of")).select(
        "product_id", "kept"
    )
    return products.join(near, on="row", how="anti", maintain_order="left"), moved


def _people(
    raw: pl.LazyFrame, events: pl.LazyFrame, products: pl.DataFrame, done: Cleaned, step: Say
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Test accounts, and all accounts; programs are noted in ``done.bots``."""
    step("test accounts")
    shoppers = raw.collect()
    testers = find_testers(shoppers, events)
    mine = shoppers.filter(pl.col("shopper_id").is_in(testers["shopper_id"].implode()))
    done.note("shoppers", "test_shopper", mine.select("row"), counted=shoppers.height)
    step("programs")
    people = without(events, testers["shopper_id"], "shopper_id")
    done.bots = find_bots(behaviour(people, products))
    mine = shoppers.filter(pl.col("shopper_id").is_in(done.bots["shopper_id"].implode()))
    kinds = done.bots.group_by("kind").len().sort("kind").iter_rows()
    note = ", ".join(f"{count} {kind}" for kind, count in kinds)
    done.note("shoppers", "bot", mine.select("row"), note, counted=shoppers.height - testers.height)
    if "income_band" in shoppers.columns:
        spent = events.filter("bought").group_by("shopper_id").agg(spent=pl.col("price").mean())
        known = shoppers.join(spent.collect(engine="streaming"), on="shopper_id", how="left")
        others = [
            name for name in ("birth_year", "device", "lang", "joined", "spent") if name in known.columns
        ]
        done.missing = missing_shares(known, "income_band", others)
        absent = shoppers.filter(pl.col("income_band").is_null()).select("row")
        by, chance = done.missing.select("by", "chance").row(0)
        note = f"income_band, most unevenly by {by} (p = {chance:.1g}); left empty"
        done.note("shoppers", "missing", absent, note, counted=shoppers.height)
    return testers, shoppers


def _reviews(raw: pl.LazyFrame, products: pl.DataFrame, done: Cleaned, step: Say) -> pl.DataFrame:
    step("reviews")
    reviews, damaged = _decoded(raw, ["text"])
    done.note("reviews", "encoding", damaged, counted=reviews.height)
    copies = exact_duplicates(reviews.lazy())
    done.note("reviews", "exact_duplicate", copies, counted=reviews.height)
    reviews = reviews.join(copies, on="row", how="anti", maintain_order="left")
    spam = find_spam(reviews, products)
    note = f"for or against {spam['seller_id'].n_unique()} sellers" if spam.height else ""
    found = _with_copies(spam.select("row"), copies)
    gone = found.height - spam.height  # copies, which are out already
    done.note("reviews", "review_spam", found, note, counted=reviews.height, before=gone)
    return reviews.join(spam.select("row"), on="row", how="anti", maintain_order="left")


def _decoded(raw: pl.LazyFrame, texts: Sequence[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The table with its texts repaired, and row and value ("column text", by line) of damage."""
    damage = find_damage(raw, list(texts))
    for column in damage["column"].unique().sort():
        raw = corrected(raw, column, damage.filter(pl.col("column") == column).select("row", "value"))
    value = pl.format("{} {}", "column", "value").str.join("\n")
    return raw.collect(), damage.group_by("row", maintain_order=True).agg(value=value).sort("row")


def _inherit(done: Cleaned, raw: pl.LazyFrame, nobody: pl.Series, copies: pl.DataFrame) -> None:
    """Note every log line of testers and programs, copies included."""
    bots = done.bots["shopper_id"]
    lines = (
        raw.filter(pl.col("shopper_id").is_in(nobody.implode()))
        .select("row", program=pl.col("shopper_id").is_in(bots.implode()))
        .collect(engine="streaming")
        .sort("row")
    )
    count = rows(raw) - copies.height
    for defect, mine in (("test_shopper", ~pl.col("program")), ("bot", pl.col("program"))):
        found = lines.filter(mine).select("row")
        again = found.join(copies, on="row").height
        done.note("events", defect, found, f"{again} of them are copies, gone already", count, again)
        count -= found.height - again


def _without(frame: pl.LazyFrame, copies: pl.DataFrame) -> pl.LazyFrame:
    return frame.join(copies.lazy().select("row"), on="row", how="anti", maintain_order="left")


def _with_copies(found: pl.DataFrame, copies: pl.DataFrame) -> pl.DataFrame:
    """What is wrong with a row is wrong with its copies."""
    again = copies.join(found.rename({"row": "of"}), on="of").drop("of")
    return pl.concat([found.cast({"row": pl.Int64}), again.select(found.columns)]).sort("row")


def _pointed(frame: pl.LazyFrame, moved: pl.DataFrame) -> pl.LazyFrame:
    """Rows about a dropped near copy speak of the product that was kept."""
    if not moved.height:
        return frame
    kept = pl.col("product_id").replace(moved["product_id"], moved["kept"])
    return frame.with_columns(kept)


@contextmanager
def _bar(shown: bool) -> Iterator[Say]:
    """A function that is told which step begins."""
    if not shown:
        yield lambda what: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("cleaning", total=STEPS, completed=-1)

        def begin(what: str) -> None:
            bar.update(task, advance=1, description=what)

        yield begin
