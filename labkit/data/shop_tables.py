"""The simulated shop's tables, declared: what :mod:`labkit.shop` delivers once it is clean."""

from __future__ import annotations

from datetime import date, datetime

import polars as pl

from labkit.data.schemas import FLOAT, INTEGER, NUMBER, TEXT, Column, Schema

LANGUAGES = ("en", "zh")
DEVICES = ("phone", "desktop", "tablet")
DATE = Column(pl.Date)
WORDS = Column(pl.String)
# A clock that says 1970 is a defect, not a time.
CLOCK = Column(
    (pl.Datetime("ms"), pl.Datetime("us"), pl.Datetime("ns")), datetime(2000, 1, 1), datetime(2099, 12, 31)
)


def number(table: str) -> Column:
    """A row number of another table."""
    return Column(pl.Int32, 0, to=table)


SHOP_SCHEMAS = {
    schema.name: schema
    for schema in (
        Schema(
            "products",
            {
                "product_id": Column(pl.Int32, 0),
                "title": Column(pl.String, pattern=r"\s*\S"),
                "description": WORDS,
                "brand": WORDS,
                "category": WORDS,
                "department": WORDS,
                "price": Column(pl.Float64, 0.01, 100_000),
                "attributes": Column(pl.String, pattern=r"\{"),
                "title_zh": Column(pl.String, optional=True),
                "description_zh": Column(pl.String, optional=True),
                "seller_id": Column(pl.Int32, 0, to="sellers.seller_id", optional=True),
                "launched": Column(pl.Date, optional=True),
                "weight_kg": Column(pl.Float64, 0.001, 1_000, optional=True),
            },
            key=("product_id",),
        ),
        Schema(
            "queries",
            {
                "query_id": Column(pl.Int32, 0),
                "text": Column(pl.String, pattern=r"\s*\S"),
                "kind": WORDS,
                "split": Column(TEXT, among=("train", "valid", "test")),
                "intent": Column(pl.String, pattern=r"\{"),
                "text_zh": Column(pl.String, optional=True),
            },
            key=("query_id",),
        ),
        Schema(
            "qrels",
            {
                "query_id": number("queries.query_id"),
                "product_id": number("products.product_id"),
                "grade": Column(INTEGER, 1, 3),
            },
            key=("query_id", "product_id"),
        ),
        Schema(
            "sessions",
            {
                "session_id": Column(pl.Int32, 0),
                "query_id": number("queries.query_id"),
                "position": Column(INTEGER, 1, 100),
                "product_id": number("products.product_id"),
                "clicked": Column(pl.Boolean),
            },
            key=("session_id", "position"),
        ),
        Schema(
            "sellers",
            {
                "seller_id": Column(pl.Int32, 0),
                "name": WORDS,
                "country": WORDS,
                "rating": Column(FLOAT, 0, 5),
            },
            key=("seller_id",),
        ),
        Schema(
            "shoppers",
            {
                "shopper_id": Column(pl.Int32, 0),
                "name": WORDS,
                "email": Column(pl.String, pattern=r"[^@\s]+@[^@\s]+$"),
                "phone": WORDS,
                "postcode": WORDS,
                "city": WORDS,
                "birth_year": Column(pl.Int16, 1900, 2020),
                "lang": Column(TEXT, among=LANGUAGES),
                "device": Column(TEXT, among=DEVICES),
                # Missing where the shopper did not say: not at random.
                "income_band": Column(TEXT, among=("low", "middle", "high"), null=True),
                "joined": Column(pl.Date, date(2000, 1, 1), date(2099, 12, 31)),
            },
            key=("shopper_id",),
        ),
        Schema(
            "friends",
            {
                "shopper_id": number("shoppers.shopper_id"),
                "friend_id": number("shoppers.shopper_id"),
                "since": DATE,
            },
            key=("shopper_id", "friend_id"),
        ),
        Schema(
            "life_events", {"shopper_id": number("shoppers.shopper_id"), "event": Column(TEXT), "date": DATE}
        ),
        Schema(
            "prices",
            {
                "product_id": number("products.product_id"),
                "since": DATE,
                "price": Column(pl.Float64, 0.01, 100_000),
                "reason": Column(TEXT),
            },
            key=("product_id", "since"),
        ),
        Schema(
            "stock",
            {
                "product_id": number("products.product_id"),
                "gone": DATE,
                "back": Column(pl.Date, null=True),
            },
        ),
        Schema(
            "campaigns",
            {
                "campaign_id": Column(INTEGER, 0),
                "name": WORDS,
                "name_zh": WORDS,
                "departments": Column(pl.List(pl.String)),  # empty for all
                "discount": Column(FLOAT, 0, 1),
                "start": DATE,
                "end": DATE,
            },
            key=("campaign_id",),
        ),
        Schema(
            "typed_queries",
            {
                "query_id": Column(pl.Int32, 0),
                "text": Column(pl.String, pattern=r"\s*\S"),
                "lang": Column(TEXT, among=LANGUAGES),
                "kind": Column(TEXT),
                "category": Column(TEXT, null=True),
            },
            key=("query_id",),
        ),
        Schema(
            "events",
            {
                "session_id": Column(pl.Int32, 0),
                "shopper_id": number("shoppers.shopper_id"),
                "time": CLOCK,
                "surface": Column(TEXT, among=("search", "home")),
                "query_id": Column(pl.Int32, 0, to="typed_queries.query_id", null=True),
                "device": Column(TEXT, among=DEVICES),
                "product_id": number("products.product_id"),
                "position": Column(INTEGER, 1, 100),
                "price": Column(pl.Float64, 0.01, 100_000),
                "clicked": Column(pl.Boolean),
                "carted": Column(pl.Boolean),
                "bought": Column(pl.Boolean),
                "returned": Column(pl.Boolean),
            },
            # A session has several pages, each with positions of its own.
            key=("session_id", "time", "position"),
        ),
        Schema(
            "reviews",
            {
                "product_id": number("products.product_id"),
                "shopper_id": number("shoppers.shopper_id"),
                "time": CLOCK,
                "rating": Column(NUMBER, 1, 5),
                "text": Column(pl.String, pattern=r"\s*\S"),
                "lang": Column(TEXT, among=LANGUAGES),
                "verified": Column(pl.Boolean, optional=True),
                "helpful": Column(INTEGER, 0, optional=True),
                "sentiment": Column(FLOAT, -1, 1, optional=True),
                "aspects": Column(pl.String, pattern=r"\{", optional=True),
            },
        ),
        Schema(
            "truth",
            {
                "table": Column(TEXT),
                "row": Column(pl.Int64, -1),
                "defect": Column(TEXT),
                "was": Column(pl.String, null=True),
                "of": Column(pl.Int64, 0, null=True),
            },
        ),
    )
}
