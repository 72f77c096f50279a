"""Chorus Electronics: 19 406 products, 135 queries, 3 668 human grades."""

from __future__ import annotations

import polars as pl

from labkit.data.files import read_parquet
from labkit.data.schemas import Column, Schema
from labkit.data.sets.judged import judged_search
from labkit.data.sources import DataSet, locate
from labkit.data.tables import JudgedSearch

CHORUS = DataSet(
    name="chorus_electronics_search",
    title="Chorus Electronics, a judged product search set (19 406 products, 135 queries, 3 668 grades)",
    source="https://github.com/o19s/chorus (commit d2035d3bfa630b1fd48ded62835f5ded7b988e0c)",
    licence=(
        "Apache-2.0 (code and ratings, donated by Supahands); product data courtesy of Icecat under its "
        "Open Content License, https://iceclog.com/open-content-license-opl/."
    ),
    files={
        "products.parquet": "add6f1c34be75b62bd60c61d9e05ae9c12f24818675a71e7343e10ca245f4ddd",
        "judgments.parquet": "3ce5ac7d09b25c4d7c1c8a57dc217fda155c77cb70631063fbfb72cb2324b977",
        "individual_ratings.parquet": "3b781824066cd557902e2c6964d87ee2911622569e8693f158eff3fc38272052",
    },
)


def load_chorus() -> JudgedSearch:
    """Load Chorus Electronics from a folder that LABKIT_DATA names.

    Real product texts with human grades 0 to 3. It is judged shallowly (27 products a query): a quarter of
    what a system ranks in its first ten was never judged, so read condensed-list measures beside plain ones,
    and 22 queries have no product graded 2 or more.

    Returns:
        The tables; see :class:`JudgedSearch`.

    Raises:
        DataMissing: the files are in none of the searched folders.
        ValueError: a file has other content than expected.

    Example:
        >>> data = load_chorus()  # doctest: +SKIP
        >>> data.products.height, data.queries.height, data.judgements.height  # doctest: +SKIP
        (19406, 135, 3668)
    """
    folder = locate(CHORUS)
    source = read_parquet(folder / "products.parquet", _PRODUCTS)
    products = source.select(
        key="product_id",
        title=pl.col("title").fill_null(pl.col("name")).fill_null(""),
        description=pl.col("short_description"),
        brand=pl.col("supplier"),
        category=pl.col("product_type"),
        price=pl.col("price_cents") / 100,
    )
    rated = read_parquet(folder / "judgments.parquet", _RATED)
    return judged_search(CHORUS.name, products, rated.select(text="query", key="product_id", grade="rating"))


def load_chorus_raters() -> pl.DataFrame:
    """What each of the three raters of Chorus Electronics said, before they agreed.

    Returns:
        query, product_id (the source's id), agent_1_rating, agent_2_rating, agent_3_rating, final_rating
        (i64 in 0..3) for 3 188 pairs: for measures of agreement.

    Raises:
        DataMissing: the files are in none of the searched folders.
    """
    return read_parquet(locate(CHORUS) / "individual_ratings.parquet", _RATERS)


_TEXT, _MAYBE, _GRADE = Column(pl.String), Column(pl.String, null=True), Column(pl.Int64, 0, 3)
_PRODUCTS = Schema(
    "products",
    {
        "product_id": _TEXT,
        "name": _MAYBE,
        "title": _MAYBE,
        "short_description": _MAYBE,
        "supplier": _MAYBE,
        "price_cents": Column(pl.Int64, 0, null=True),
        "product_type": _MAYBE,
    },
    key=("product_id",),
)
_RATED = Schema(
    "judgments", {"query": _TEXT, "product_id": _TEXT, "rating": _GRADE}, key=("query", "product_id")
)
_RATERS = Schema(
    "individual_ratings",
    {
        "query": _TEXT,
        "product_id": _TEXT,
        **dict.fromkeys((*(f"agent_{i}_rating" for i in (1, 2, 3)), "final_rating"), _GRADE),
    },
)
