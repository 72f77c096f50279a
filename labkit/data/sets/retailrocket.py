"""RetailRocket: 4.5 months of views, carts and purchases in a shop."""

from __future__ import annotations

import polars as pl

from labkit.data.files import read_table, scan_table, table_errors
from labkit.data.numbered import number, numbered
from labkit.data.prepared import prepared
from labkit.data.schemas import INTEGER, Column, Schema, validate
from labkit.data.sets.interactions import check_interactions, milliseconds
from labkit.data.sources import DataSet, Remote, locate
from labkit.data.tables import Interactions

_HOME = "https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset"

RETAILROCKET = DataSet(
    name="retailrocket",
    title="RetailRocket, 2 756 101 views, carts and purchases of 1 407 580 visitors",
    source=_HOME,
    licence="CC BY-NC-SA 4.0.",
    published={
        name: Remote("")
        for name in (
            "events.csv",
            "item_properties_part1.csv",
            "item_properties_part2.csv",
            "category_tree.csv",
        )
    },
    by_hand=(
        f"it takes a login, so download it at {_HOME} and put events.csv, item_properties_part1.csv, "
        "item_properties_part2.csv and category_tree.csv into {place}."
    ),
    rows={
        "events.csv": 2_756_101,
        # The publisher states their sum, 20 275 902.
        "item_properties_part1.csv": 10_999_999,
        "item_properties_part2.csv": 9_275_903,
        "category_tree.csv": 1_669,
    },
)

KINDS = {"view": "view", "addtocart": "cart", "transaction": "purchase"}


def load_retailrocket() -> Interactions:
    """Load RetailRocket as published; the first call converts it to parquet under LABKIT_HOME.

    Returns:
        Events of kind "view", "cart" or "purchase" in the order of time, with order (the transaction's
        number, null unless bought). Items have category and parent (the source's numbers; the latest that was
        recorded, null where none was). Everything else about the items is hashed at the source.

    Raises:
        DataMissing: the files are in none of the searched folders.
        BadFile, SchemaError: a file is not what it should be.
    """
    folder = locate(RETAILROCKET)
    paths = [folder / name for name in RETAILROCKET.published]
    log, *properties, tree = paths

    def build() -> dict[str, pl.LazyFrame]:
        scanned = scan_table(log, _EVENTS)
        validate(scanned, _LOG, table=log.name)
        users = number(
            scanned.select("visitorid").unique().collect(engine="streaming")["visitorid"], "user_id"
        )
        seen = scanned.select("itemid").unique().collect(engine="streaming")["itemid"]
        latest = []
        for path in properties:
            with table_errors(path, _PROPERTIES):
                said = scan_table(path, _PROPERTIES).filter(pl.col("property") == "categoryid")
                latest.append(said.collect(engine="streaming"))
        categories = (
            pl.concat(latest)
            .sort("timestamp", maintain_order=True)
            .group_by("itemid")
            .agg(category=pl.col("value").last())
            .with_columns(pl.col("category").cast(pl.Int64, strict=False))
        )
        parents = read_table(tree, _TREE).select(category="categoryid", parent="parentid")
        items = (
            number(pl.concat([seen, categories["itemid"]]), "item_id")
            .join(categories.with_columns(key=pl.col("itemid").cast(pl.String)), on="key", how="left")
            .join(parents.unique("category"), on="category", how="left")
            .select("item_id", "key", "category", "parent")
            .sort("item_id")
        )
        events = numbered(
            scanned.select(
                user_id=pl.col("visitorid").cast(pl.String),
                item_id=pl.col("itemid").cast(pl.String),
                time=milliseconds(pl.col("timestamp")),
                rating=pl.lit(None, pl.Float32),
                kind=pl.col("event").replace_strict(KINDS, return_dtype=pl.String),
                order="transactionid",
            ),
            {"user_id": users, "item_id": items.select("item_id", "key")},
        )
        return {"events": events, "users": users.lazy(), "items": items.lazy()}

    with table_errors(log, _EVENTS):
        tables = prepared(
            RETAILROCKET.name,
            paths,
            build,
            lambda tables: check_interactions(RETAILROCKET.name, tables),
            order={"events": "time"},
        )
    users, items = tables["users"].collect(), tables["items"].collect()
    return Interactions(RETAILROCKET.name, tables["events"], users, items)


_EVENTS = {
    "timestamp": pl.Int64,
    "visitorid": pl.Int64,
    "event": pl.String,
    "itemid": pl.Int64,
    "transactionid": pl.Int64,
}
_PROPERTIES = {"timestamp": pl.Int64, "itemid": pl.Int64, "property": pl.String, "value": pl.String}
_TREE = {"categoryid": pl.Int64, "parentid": pl.Int64}
_LOG = Schema(
    "events.csv",
    {
        "timestamp": Column(INTEGER, 0),
        "visitorid": Column(INTEGER, 0),
        "event": Column(pl.String, among=tuple(KINDS)),
        "itemid": Column(INTEGER, 0),
    },
)
