"""Shopping Queries (ESCI): Amazon's judged product search, and a sample of it with ids alone."""

from __future__ import annotations

import polars as pl

from labkit.data.files import read_parquet, reading
from labkit.data.schemas import Column, Schema, validate
from labkit.data.sets.judged import judged_search
from labkit.data.sources import DataSet, Remote, locate
from labkit.data.tables import JudgedSearch

_HOME = "https://github.com/amazon-science/esci-data"
_RAW = f"{_HOME}/raw/main/shopping_queries_dataset"
_CITE = "Reddy et al., Shopping Queries Dataset, arXiv 2206.06588."

ESCI = DataSet(
    name="esci",
    title="Shopping Queries (ESCI), 130 652 judged queries of Amazon in English, Spanish and Japanese",
    source=_HOME,
    licence=f"Apache-2.0. {_CITE}",
    published={
        # The checksums stand in the repository's Git LFS pointers.
        "shopping_queries_dataset_examples.parquet": Remote(
            f"{_RAW}/shopping_queries_dataset_examples.parquet",
            "sha256:4a735b693b4a424a6fc67f5be6e4c811495c488bbf66d02a602d308b2744263a",
        ),
        "shopping_queries_dataset_products.parquet": Remote(
            f"{_RAW}/shopping_queries_dataset_products.parquet",
            "sha256:25124442d064d64b26f74082d6fa09438d679efc0c183cf28d19064a2b65a265",
        ),
    },
)

ESCI_SAMPLE = DataSet(
    name="esci_us_150q_judgments_ids_only",
    title="150 US queries of Shopping Queries (ESCI), 6 678 judgements, products by id alone",
    source=(
        "https://github.com/o19s/chorus-opensearch-edition (commit c44e637a70bc350a3d2f73736528ecfdebbcb2f0)"
    ),
    licence=f"Apache-2.0. {_CITE}",
    files={"judgments.parquet": "13fade4882572b329c3877f920cfdc01578bf1da24469273fff76031e2abb38f"},
)

# Exact, substitute, complement, irrelevant.
GRADES = {"E": 3, "S": 2, "C": 1, "I": 0}
LOCALES = ("us", "es", "jp")


def load_esci(locale: str = "us", version: str = "small") -> JudgedSearch:
    """Load Shopping Queries as published (two parquet files, 1.2 GB).

    Grades: exact 3, substitute 2, complement 1, irrelevant 0. The queries have a split (train | test), as in
    the KDD Cup 2022.

    Args:
        locale: "us", "es" or "jp".
        version: "small" (task 1: queries that are hard) or "large" (tasks 2 and 3).

    Returns:
        The judged queries, and the products judged for them. Products also have bullets and colour.

    Raises:
        ValueError: no such locale or version.
        DataMissing: it was not fetched.
        BadFile, SchemaError: a file is not what it should be.

    Example:
        >>> load_esci("us", "small").queries.height  # doctest: +SKIP
    """
    if locale not in LOCALES or version not in ("small", "large"):
        raise ValueError(
            f"There is no part {locale!r}, {version!r} of ESCI; locales are us, es, jp, versions are "
            "small, large."
        )
    folder = locate(ESCI)
    examples, products = (folder / name for name in ESCI.published)
    with reading(examples, "parquet"):
        lazy = pl.scan_parquet(examples)
        validate(lazy, _EXAMPLES, table=examples.name)
        rows = lazy.filter((pl.col("product_locale") == locale) & (pl.col(f"{version}_version") == 1))
        rated = rows.select(
            "split", text="query", query="query_id", key="product_id", label="esci_label"
        ).collect()
    with reading(products, "parquet"):
        # Of 1.8 million products in three languages, those judged here.
        shelf = pl.scan_parquet(products)
        _columns(shelf, products.name)
        wanted = rated.lazy().select(product_id="key").unique()
        items = (
            shelf.filter(pl.col("product_locale") == locale)
            .join(wanted, on="product_id", how="semi")
            .select(
                key="product_id",
                title="product_title",
                description="product_description",
                brand="product_brand",
                bullets="product_bullet_point",
                colour="product_color",
            )
            .sort("key")
            .collect(engine="streaming")
        )
    queries = rated.group_by("text").agg(
        pl.col("query").min().cast(pl.String).alias("key"), pl.col("split").first()
    )
    graded = rated.with_columns(grade=pl.col("label").replace_strict(GRADES, return_dtype=pl.Int8))
    # Should a text stand under two query ids, a product keeps the better of its grades.
    graded = graded.group_by("text", "key").agg(pl.col("grade").max())
    return judged_search(ESCI.name, items, graded, queries)


def load_esci_sample() -> JudgedSearch:
    """Load 150 US queries with 6 678 judgements; products have their ASIN as key and no text.

    The file has gains 100, 10, 1, 0, which presumably stand for exact, substitute, complement, irrelevant;
    they become grades 3, 2, 1, 0.

    Raises:
        DataMissing: the file is in none of the searched folders.
        BadFile, SchemaError: it is not what it should be.
    """
    rated = read_parquet(locate(ESCI_SAMPLE) / "judgments.parquet", _SAMPLE)
    grade = pl.col("gain").replace_strict({100.0: 3, 10.0: 2, 1.0: 1, 0.0: 0}, return_dtype=pl.Int8)
    products = rated.select(key="asin").unique().sort("key")
    return judged_search(ESCI_SAMPLE.name, products, rated.select(text="query", key="asin", grade=grade))


def _columns(shelf: pl.LazyFrame, table: str) -> None:
    """Check the products' columns and dtypes without reading their gigabyte of text."""
    validate(shelf.head(0), _PRODUCTS, table=table)


_FLAG = Column((pl.Int64, pl.Int32, pl.Int8), 0, 1)
_EXAMPLES = Schema(
    "examples",
    {
        "example_id": Column((pl.Int64, pl.Int32), 0),
        "query": Column(pl.String),
        "query_id": Column((pl.Int64, pl.Int32), 0),
        "product_id": Column(pl.String),
        "product_locale": Column(pl.String, among=LOCALES),
        "esci_label": Column(pl.String, among=tuple(GRADES)),
        "small_version": _FLAG,
        "large_version": _FLAG,
        "split": Column(pl.String, among=("train", "test")),
    },
    key=("example_id",),
)
_TEXT = Column(pl.String, null=True)
_PRODUCTS = Schema(
    "products",
    {
        "product_id": Column(pl.String),
        "product_title": _TEXT,
        "product_description": _TEXT,
        "product_bullet_point": _TEXT,
        "product_brand": _TEXT,
        "product_color": _TEXT,
        "product_locale": Column(pl.String, among=LOCALES),
    },
)
_SAMPLE = Schema(
    "judgments",
    {
        "query": Column(pl.String),
        "asin": Column(pl.String),
        "gain": Column(pl.Float64, among=(100.0, 10.0, 1.0, 0.0)),
    },
)
