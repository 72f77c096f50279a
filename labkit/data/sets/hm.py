"""H&M: two years of purchases in a fashion shop, with articles and customers."""

from __future__ import annotations

import polars as pl

from labkit.data.files import read_table, scan_table, table_errors
from labkit.data.numbered import number, numbered
from labkit.data.prepared import prepared
from labkit.data.sets.interactions import check_interactions
from labkit.data.sources import DataSet, Remote, locate
from labkit.data.tables import Interactions

_HOME = "https://www.kaggle.com/competitions/h-and-m-personalized-fashion-recommendations/data"

HM = DataSet(
    name="hm",
    title="H&M, 31 788 324 purchases of 105 542 articles by 1 371 980 customers",
    source=_HOME,
    licence="the rules of the Kaggle competition: not for commerce, not to be passed on.",
    published={name: Remote("") for name in ("articles.csv", "customers.csv", "transactions_train.csv")},
    by_hand=(
        f"its owners want you to log in and accept the rules, so download it at {_HOME} and put "
        "articles.csv, customers.csv and transactions_train.csv into {place}."
    ),
    rows={"articles.csv": 105_542, "customers.csv": 1_371_980, "transactions_train.csv": 31_788_324},
)


def load_hm() -> Interactions:
    """Load H&M as published; the first call converts it to parquet under LABKIT_HOME.

    Returns:
        Events of kind "purchase" in the order of the file, that is of days (time is the day's midnight), with
        price (f64, scaled by the source: no currency) and channel (1 shop, 2 online). Items: key is the
        article_id with its leading zero, with title, category, colour, department, description and the
        product_code that variants share. Users: age, club, news, postal_code; all may be null.

    Raises:
        DataMissing: the files are in none of the searched folders.
        BadFile, SchemaError: a file is not what it should be.
    """
    folder = locate(HM)
    paths = [folder / name for name in HM.published]
    articles, customers, bought = paths

    def build() -> dict[str, pl.LazyFrame]:
        goods = read_table(articles, _ARTICLES)
        people = read_table(customers, _CUSTOMERS)
        items = number(goods["article_id"], "item_id").join(
            goods.select(
                "product_code",
                key="article_id",
                title="prod_name",
                category="product_type_name",
                colour="colour_group_name",
                department="department_name",
                description="detail_desc",
            ),
            on="key",
            how="left",
            maintain_order="left",
        )
        users = number(people["customer_id"], "user_id").join(
            people.select(
                "age",
                "postal_code",
                key="customer_id",
                club="club_member_status",
                # Some say NONE and some None.
                news=pl.col("fashion_news_frequency").str.to_lowercase(),
            ),
            on="key",
            how="left",
            maintain_order="left",
        )
        events = numbered(
            scan_table(bought, _TRANSACTIONS).select(
                user_id="customer_id",
                item_id="article_id",
                time=pl.col("t_dat").cast(pl.Datetime("ms")),
                rating=pl.lit(None, pl.Float32),
                kind=pl.lit("purchase"),
                price="price",
                channel=pl.col("sales_channel_id").cast(pl.Int8),
            ),
            {"user_id": users, "item_id": items},
        )
        return {"events": events, "users": users.lazy(), "items": items.lazy()}

    with table_errors(bought, _TRANSACTIONS):
        tables = prepared(HM.name, paths, build, lambda tables: check_interactions(HM.name, tables))
    return Interactions(HM.name, tables["events"], tables["users"].collect(), tables["items"].collect())


# article_id begins with a zero, so it is text.
_ARTICLES = {
    "article_id": pl.String,
    "product_code": pl.String,
    "prod_name": pl.String,
    "product_type_name": pl.String,
    "product_group_name": pl.String,
    "colour_group_name": pl.String,
    "department_name": pl.String,
    "index_group_name": pl.String,
    "section_name": pl.String,
    "garment_group_name": pl.String,
    "detail_desc": pl.String,
}
_CUSTOMERS = {
    "customer_id": pl.String,
    "FN": pl.Float64,
    "Active": pl.Float64,
    "club_member_status": pl.String,
    "fashion_news_frequency": pl.String,
    "age": pl.Int64,
    "postal_code": pl.String,
}
_TRANSACTIONS = {
    "t_dat": pl.Date,
    "customer_id": pl.String,
    "article_id": pl.String,
    "price": pl.Float64,
    "sales_channel_id": pl.Int64,
}
