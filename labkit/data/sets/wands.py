"""WANDS: Wayfair's judged product search (42 994 products, 480 queries, 233 448 judgements)."""

from __future__ import annotations

import polars as pl

from labkit.data.files import read_parquet, read_table
from labkit.data.schemas import Column, Schema, validate
from labkit.data.sets.judged import judged_search
from labkit.data.sources import DataSet, Remote, locate
from labkit.data.tables import JudgedSearch, LabelledText

_HOME = "https://github.com/wayfair/WANDS"
_COMMIT = "3b74dcf4ba29ab8ff3e6a50b5b09fc627cb882b5"
_RAW = f"https://raw.githubusercontent.com/wayfair/WANDS/{_COMMIT}/dataset"
_LICENCE = "MIT. Chen et al., WANDS: Dataset for Product Search Relevance Assessment, ECIR 2022."

WANDS = DataSet(
    name="wands",
    title="WANDS, Wayfair's judged product search (42 994 products, 480 queries, 233 448 judgements)",
    source=f"{_HOME} (commit {_COMMIT})",
    licence=_LICENCE,
    published={
        "product.csv": Remote(f"{_RAW}/product.csv", "git:a415f7295dc0d90b3163ef606da611a4e9ddeca8"),
        "query.csv": Remote(f"{_RAW}/query.csv", "git:acb3c1f4cf1b775f494225afec79ec2163fc3e03"),
        "label.csv": Remote(f"{_RAW}/label.csv", "git:2c09a0d7b1f77f6040deb5873b5a90b8ef1e3ae9"),
    },
)

WANDS_QUERIES = DataSet(
    name="wands_queries_only",
    title="the 480 queries of WANDS with their class",
    source=f"{_HOME} (commit {_COMMIT})",
    licence=_LICENCE,
    files={"queries.parquet": "da49becbe4b400f9fc1798dd55378b58b1bc51999df168e131805d4ecfbb7f22"},
)

GRADES = {"Exact": 2, "Partial": 1, "Irrelevant": 0}


def load_wands() -> JudgedSearch:
    """Load WANDS as published: three tables separated by tabs.

    Grades: exact 2, partial 1, irrelevant 0. Products also have features, hierarchy, rating_count,
    average_rating, review_count; queries have the class that most of their products are of.

    Raises:
        DataMissing: it was not fetched.
        BadFile, SchemaError: a file is not what it should be.

    Example:
        >>> load_wands().judgements.height  # doctest: +SKIP
        233448
    """
    folder = locate(WANDS)
    # The README says category_hierarchy, the file says "category hierarchy".
    products = read_table(
        folder / "product.csv", _PRODUCT, separator="\t", also={"category hierarchy": "category_hierarchy"}
    )
    queries = read_table(folder / "query.csv", _QUERY, separator="\t")
    labels = read_table(folder / "label.csv", _LABEL, separator="\t")
    validate(labels, _LABELS, table="label.csv", references={"products": products, "queries": queries})
    rated = labels.join(queries, on="query_id").select(
        text="query",
        key=pl.col("product_id").cast(pl.String),
        grade=pl.col("label").replace_strict(GRADES, return_dtype=pl.Int8),
    )
    items = products.select(
        "rating_count",
        "average_rating",
        "review_count",
        key=pl.col("product_id").cast(pl.String),
        title="product_name",
        description="product_description",
        category="product_class",
        hierarchy="category_hierarchy",
        features="product_features",
    )
    named = queries.select(text="query", key=pl.col("query_id").cast(pl.String), category="query_class")
    return judged_search(WANDS.name, items, rated, named)


def load_wands_queries() -> LabelledText:
    """Load the 480 queries of WANDS, labelled with the product class that most of their products are of.

    Six have no class. There is no split.

    Raises:
        DataMissing: the file is in none of the searched folders.
    """
    queries = read_parquet(
        locate(WANDS_QUERIES) / "queries.parquet",
        Schema(
            "queries",
            {
                "query_id": Column(pl.Int64, 0),
                "query": Column(pl.String),
                "query_class": Column(pl.String, null=True),
            },
            key=("query_id",),
        ),
    )
    rows = queries.select(
        text="query",
        label="query_class",
        split=pl.lit(None, pl.String),
        key=pl.col("query_id").cast(pl.String),
    )
    return LabelledText(WANDS_QUERIES.name, validate(rows, "labelled.text", table=WANDS_QUERIES.name))


_PRODUCT = {
    "product_id": pl.Int64,
    "product_name": pl.String,
    "product_class": pl.String,
    "category_hierarchy": pl.String,
    "product_description": pl.String,
    "product_features": pl.String,
    "rating_count": pl.Float64,
    "average_rating": pl.Float64,
    "review_count": pl.Float64,
}
_QUERY = {"query_id": pl.Int64, "query": pl.String, "query_class": pl.String}
_LABEL = {"id": pl.Int64, "query_id": pl.Int64, "product_id": pl.Int64, "label": pl.String}
_LABELS = Schema(
    "label.csv",
    {
        "query_id": Column(pl.Int64, 0, to="queries.query_id"),
        "product_id": Column(pl.Int64, 0, to="products.product_id"),
        "label": Column(pl.String, among=tuple(GRADES)),
    },
    key=("query_id", "product_id"),
)
