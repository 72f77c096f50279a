"""Ciao: ratings of products by people who say whom they trust."""

from __future__ import annotations

import polars as pl

from labkit.data.files import read_parquet
from labkit.data.numbered import number, numbered
from labkit.data.schemas import Column, Schema
from labkit.data.sets.interactions import check_interactions, milliseconds
from labkit.data.sources import DataSet, locate
from labkit.data.tables import Interactions

CIAO = DataSet(
    name="ciao_social",
    title="Ciao, 284 086 ratings of 105 114 products by 7 375 people, and 57 544 declarations of trust",
    source="https://www.cse.msu.edu/~tangjili/trust.html",
    licence="none stated; for research (Tang et al., mTrust, WSDM 2012): use it to measure.",
    files={
        "ratings.parquet": "7330840c7a8d2a3dba68df394810c12d36e377563889528002d13645545bea7d",
        "trust.parquet": "a5f6a19383472c918f211107327356e4639128ecb9471dbb2f7c1baa88d4d236",
    },
)


def load_ciao() -> Interactions:
    """Load Ciao: ratings from 2000 to 2011 and who trusts whom.

    Some people rated a product more than once; all their ratings are kept.

    Returns:
        Events of kind "rating" in the order of time, rating 0 to 5, with helpfulness (i64, as the readers
        judged the review). Items have category (the source's number, the one named most often). ``links``:
        user_id trusts other_id.

    Raises:
        DataMissing: the files are in none of the searched folders.
        BadFile, SchemaError: a file is not what it should be.
    """
    folder = locate(CIAO)
    ratings = read_parquet(folder / "ratings.parquet", _RATINGS)
    trust = read_parquet(folder / "trust.parquet", _TRUST)
    people = pl.concat([ratings["user_id"], trust["truster"], trust["trustee"]])
    users = number(people, "user_id")
    category = ratings.group_by("product_id").agg(category=pl.col("category_id").mode().min())
    items = number(ratings["product_id"], "item_id").join(
        category.select("category", key=pl.col("product_id").cast(pl.String)),
        on="key",
        how="left",
        maintain_order="left",
    )
    events = ratings.lazy().select(
        "helpfulness",
        user_id=pl.col("user_id").cast(pl.String),
        item_id=pl.col("product_id").cast(pl.String),
        time=milliseconds(pl.col("timestamp"), "s"),
        rating=pl.col("rating").cast(pl.Float32),
        kind=pl.lit("rating"),
    )
    events = numbered(events, {"user_id": users, "item_id": items}).sort("time", maintain_order=True)
    pairs = trust.lazy().select(pl.all().cast(pl.String))
    links = pairs
    for theirs, ours in (("truster", "user_id"), ("trustee", "other_id")):
        known = users.lazy().select(pl.col("key").alias(theirs), pl.col("user_id").alias(f"_{ours}"))
        links = links.join(known, on=theirs, how="left", maintain_order="left")
    social = links.select(user_id="_user_id", other_id="_other_id").collect()
    tables = {
        "events": events.collect().lazy(),
        "users": users.lazy(),
        "items": items.lazy(),
        "links": social.lazy(),
    }
    check_interactions(CIAO.name, tables)
    return Interactions(CIAO.name, tables["events"], users, items, social)


_RATINGS = Schema(
    "ratings",
    {
        "user_id": Column(pl.Int64, 0),
        "product_id": Column(pl.Int64, 0),
        "category_id": Column(pl.Int64, 0),
        "rating": Column(pl.Int64, 0, 5),
        "helpfulness": Column(pl.Int64, 0),
        "timestamp": Column(pl.Int64, 0),
    },
)
_TRUST = Schema(
    "trust", {"truster": Column(pl.Int64, 0), "trustee": Column(pl.Int64, 0)}, key=("truster", "trustee")
)
