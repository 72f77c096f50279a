"""The real sets' tables, declared: one shape for each kind of data, whatever it was stored as."""

from __future__ import annotations

import polars as pl

from labkit.data.schemas import FLOAT, INTEGER, NUMBER, Column, Schema

NUMBERED = Column(pl.Int32, 0)
KEY = Column(pl.String, pattern=r"\S")
MAYBE = Column(pl.String, null=True)
SPLIT = Column(pl.String, among=("train", "valid", "test"), null=True)

SET_SCHEMAS = {
    schema.name: schema
    for schema in (
        Schema(
            "judged.products",
            {
                "product_id": NUMBERED,
                "key": KEY,
                "title": MAYBE,  # null where a set has ids alone
                "description": MAYBE,
                "brand": MAYBE,
                "category": MAYBE,
                "price": Column(FLOAT, 0, null=True),
            },
            key=("key",),
        ),
        Schema(
            "judged.queries",
            {"query_id": NUMBERED, "text": Column(pl.String, pattern=r"\s*\S")},
            key=("query_id",),
        ),
        Schema(
            "judged.judgements",
            {
                "query_id": Column(pl.Int32, 0, to="queries.query_id"),
                "product_id": Column(pl.Int32, 0, to="products.product_id"),
                "grade": Column(pl.Int8, 0, 3),
            },
            key=("query_id", "product_id"),
        ),
        Schema(
            "interactions",
            {
                "user_id": Column(pl.Int32, 0, to="users.user_id"),
                "item_id": Column(pl.Int32, 0, to="items.item_id"),
                "time": Column(pl.Datetime("ms"), null=True),
                "rating": Column(pl.Float32, 0, 5, null=True),
                "kind": Column(pl.String),
            },
        ),
        Schema("interactions.users", {"user_id": NUMBERED, "key": KEY}, key=("key",)),
        Schema("interactions.items", {"item_id": NUMBERED, "key": KEY}, key=("key",)),
        Schema(
            "interactions.links",
            {
                "user_id": Column(pl.Int32, 0, to="users.user_id"),
                "other_id": Column(pl.Int32, 0, to="users.user_id"),
            },
            key=("user_id", "other_id"),
        ),
        Schema(
            "labelled.text", {"text": Column(pl.String, pattern=r"\s*\S"), "label": MAYBE, "split": SPLIT}
        ),
        Schema(
            "labelled.images",
            {"key": KEY, "label": Column(pl.String), "split": SPLIT},
            key=("key",),
        ),
        Schema("sessions.train", {"session_id": NUMBERED, "item_ids": Column(pl.List(pl.Int32))}),
        Schema("sessions.test", {"item_ids": Column(pl.List(pl.Int32)), "target": Column(pl.Int32, 0)}),
        Schema(
            "bandit.log",
            {
                "time": Column(pl.Datetime("us", "UTC")),
                "item_id": Column(pl.Int32, 0, to="items.item_id"),
                "position": Column(pl.Int8, 1, 3),
                "clicked": Column(pl.Boolean),
                "propensity": Column(pl.Float64, 1e-9, 1),
            },
        ),
        Schema("bandit.items", {"item_id": NUMBERED}, key=("item_id",)),
        Schema("matching.pairs", {"split": SPLIT, "matches": Column(pl.Boolean)}),
        Schema(
            "trial.hillstrom",
            {
                "arm": Column(pl.String, among=("No E-Mail", "Mens E-Mail", "Womens E-Mail")),
                "recency": Column(INTEGER, 1, 12),
                "history": Column(NUMBER, 0),
                "mens": Column(INTEGER, 0, 1),
                "womens": Column(INTEGER, 0, 1),
                "newbie": Column(INTEGER, 0, 1),
                "channel": Column(pl.String, among=("Phone", "Web", "Multichannel")),
                "visit": Column(INTEGER, 0, 1),
                "conversion": Column(INTEGER, 0, 1),
                "spend": Column(NUMBER, 0),
            },
        ),
    )
}
