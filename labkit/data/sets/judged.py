"""What the judged search sets have in common: ids become row numbers, and the tables are checked."""

from __future__ import annotations

import polars as pl

from labkit.data.files import BadFile
from labkit.data.schemas import validate
from labkit.data.tables import JudgedSearch

TEXTS = ("title", "description", "brand", "category")


def judged_search(
    name: str,
    products: pl.DataFrame,
    judgements: pl.DataFrame,
    queries: pl.DataFrame | None = None,
    strict: bool = True,
) -> JudgedSearch:
    """Put a judged search set together.

    Args:
        name: of the set.
        products: key (str), and what there is of title, description, brand, category, price, and more.
        judgements: text (of the query), key (of the product), grade.
        queries: text and more columns, one row per text; None takes the texts of the judgements.
        strict: whether a judged product that is not among the products is an error; else it is left out.

    Raises:
        BadFile: a judged product is not in the catalogue.
        SchemaError: a table breaks its schema.
    """
    blanks = [pl.lit(None, pl.String).alias(text) for text in TEXTS if text not in products.columns]
    if "price" not in products.columns:
        blanks.append(pl.lit(None, pl.Float64).alias("price"))
    products = products.with_columns(*blanks, product_id=pl.int_range(pl.len(), dtype=pl.Int32))
    products = products.select(
        "product_id", "key", *TEXTS, "price", pl.all().exclude(*TEXTS, "price", "key", "product_id")
    )
    if queries is None:
        queries = judgements.select("text").unique()
    queries = queries.sort("text").with_columns(query_id=pl.int_range(pl.len(), dtype=pl.Int32))
    queries = queries.select("query_id", "text", pl.all().exclude("query_id", "text"))
    graded = (
        judgements.join(queries.select("query_id", "text"), on="text")
        .join(products.select("product_id", "key"), on="key")
        .select("query_id", "product_id", grade=pl.col("grade").cast(pl.Int8))
        .sort("query_id", "product_id")
    )
    if strict and graded.height != judgements.height:
        raise BadFile(
            f"{name}: {judgements.height - graded.height} judged products are not in the catalogue."
        )
    tables = {"products": products, "queries": queries}
    validate(products, "judged.products", table=f"{name} products")
    validate(queries, "judged.queries", table=f"{name} queries")
    validate(graded, "judged.judgements", table=f"{name} judgements", references=tables)
    return JudgedSearch(name, products, queries, graded)
