"""Amazon reviews: the 2023 collection as published, and the Beauty sequences of S3-Rec."""

from __future__ import annotations

import polars as pl

from labkit.data.files import read_parquet
from labkit.data.jsonlines import line_errors, scan_lines
from labkit.data.numbered import number, numbered
from labkit.data.prepared import prepared
from labkit.data.schemas import Column, Schema
from labkit.data.sets.interactions import check_interactions, milliseconds
from labkit.data.sources import DataSet, Remote, locate
from labkit.data.tables import Interactions

_RAW = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"

# As the published files are called.
CATEGORIES = (
    "All_Beauty",
    "Amazon_Fashion",
    "Appliances",
    "Arts_Crafts_and_Sewing",
    "Automotive",
    "Baby_Products",
    "Beauty_and_Personal_Care",
    "Books",
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Digital_Music",
    "Electronics",
    "Gift_Cards",
    "Grocery_and_Gourmet_Food",
    "Handmade_Products",
    "Health_and_Household",
    "Health_and_Personal_Care",
    "Home_and_Kitchen",
    "Industrial_and_Scientific",
    "Kindle_Store",
    "Magazine_Subscriptions",
    "Movies_and_TV",
    "Musical_Instruments",
    "Office_Products",
    "Patio_Lawn_and_Garden",
    "Pet_Supplies",
    "Software",
    "Sports_and_Outdoors",
    "Subscription_Boxes",
    "Tools_and_Home_Improvement",
    "Toys_and_Games",
    "Video_Games",
    "Unknown",
)


def amazon_reviews(category: str = "All_Beauty") -> DataSet:
    """The declaration of one category of Amazon Reviews 2023.

    Raises:
        ValueError: there is no such category.

    Example:
        >>> list(amazon_reviews("Gift_Cards").published)
        ['Gift_Cards.jsonl.gz', 'meta_Gift_Cards.jsonl.gz']
    """
    if category not in CATEGORIES:
        raise ValueError(f"There is no category {category!r}; there are {', '.join(CATEGORIES)}.")
    return DataSet(
        name="amazon_reviews_2023",
        title=f"Amazon Reviews 2023, category {category}",
        source="https://amazon-reviews-2023.github.io",
        licence=(
            "no open licence stated; for research. Hou et al., Bridging Language and Items for Retrieval and "
            "Recommendation, arXiv 2403.03952."
        ),
        published={
            f"{category}.jsonl.gz": Remote(f"{_RAW}/review_categories/{category}.jsonl.gz"),
            f"meta_{category}.jsonl.gz": Remote(f"{_RAW}/meta_categories/meta_{category}.jsonl.gz"),
        },
    )


AMAZON_REVIEWS = amazon_reviews()


def load_amazon_reviews(category: str = "All_Beauty") -> Interactions:
    """Load one category of Amazon Reviews 2023 as published (two files of JSON lines, gzip).

    The first call converts it to parquet under LABKIT_HOME; the memory needed grows with the number of
    different users, hardly with that of the reviews.

    Args:
        category: one of the 34, such as "All_Beauty" (701 528 reviews) or "Electronics" (43.9 million).

    Returns:
        Events of kind "rating" in the order of time, with title, text, verified_purchase, helpful_vote, asin
        (the variant bought). Items are the parents (key: parent_asin), with title, category (main_category),
        brand (store), price (USD, null where none or none in numbers is stated), average_rating,
        rating_number, description, categories; an item that was reviewed but is not described has nulls.

    Raises:
        ValueError: no such category.
        DataMissing: it was not fetched.
        BadFile, SchemaError: a file is not what it should be.

    Example:
        >>> load_amazon_reviews("Gift_Cards").events.head(3).collect()  # doctest: +SKIP
    """
    data = amazon_reviews(category)
    folder = locate(data)
    reviews, meta = (folder / name for name in data.published)
    name = f"{data.name}/{category}"

    def build() -> dict[str, pl.LazyFrame]:
        scanned = scan_lines(reviews, _REVIEW, ("rating", "parent_asin", "user_id", "timestamp"))
        with line_errors(reviews, _REVIEW):
            users = number(
                scanned.select("user_id").unique().collect(engine="streaming")["user_id"], "user_id"
            )
            reviewed = scanned.select("parent_asin").unique().collect(engine="streaming")["parent_asin"]
        described = scan_lines(meta, _META, ("parent_asin", "title"))
        with line_errors(meta, _META):
            known = described.select(
                "title",
                "average_rating",
                "rating_number",
                "categories",
                key="parent_asin",
                category="main_category",
                brand="store",
                # "14.99", but also "from 14.99" and a dash; only plain numbers are prices.
                price=pl.col("price").cast(pl.Float64, strict=False),
                description=pl.col("description").list.join("\n"),
            ).collect(engine="streaming")
        items = number(pl.concat([reviewed, known["key"]]), "item_id")
        items = items.join(known.unique("key", keep="first", maintain_order=True), on="key", how="left")
        events = numbered(
            scanned.select(
                "title",
                "text",
                "verified_purchase",
                "helpful_vote",
                "asin",
                user_id="user_id",
                item_id="parent_asin",
                time=milliseconds(pl.col("timestamp")),
                rating=pl.col("rating").cast(pl.Float32),
                kind=pl.lit("rating"),
            ),
            {"user_id": users, "item_id": items.select("item_id", "key")},
        )
        return {"events": events, "users": users.lazy(), "items": items.lazy()}

    with line_errors(reviews, _REVIEW):
        tables = prepared(
            name.replace("/", "-"),
            [reviews, meta],
            build,
            lambda tables: check_interactions(name, tables),
            order={"events": "time"},
        )
    return Interactions(name, tables["events"], tables["users"].collect(), tables["items"].collect())


AMAZON_BEAUTY = DataSet(
    name="amazon_beauty_5core",
    title="Amazon Beauty, 5-core, as S3-Rec prepared it (22 363 users, 12 101 items, 198 502 actions)",
    source="https://github.com/RUCAIBox/CIKM2020-S3Rec (commit 2a81540ae18615d88ef88227b0c066e5b74781e5)",
    licence="none stated; upstream are the Amazon reviews of McAuley, UCSD, for research: use it to measure.",
    files={
        "beauty_sequences.parquet": "64bb800960d2f6507f5d82587620c823573115f9e82bb578ca3016a861e0d217",
        "beauty_items.parquet": "f13e8bc861212d4b77d335ed16c38ce43065f325b4a9c68fa385a25e91d2ff40",
        "beauty_attribute_names_by_count.parquet": (
            "243a096d5d29303c080f94e6625ec8f766dd825cd4b4eef77b3e8be2189a7ec9"
        ),
    },
)


def load_amazon_beauty() -> Interactions:
    """Load the Beauty sequences that SASRec, S3-Rec and TIGER are compared on.

    Published, ranking all items, HR@10 / nDCG@10: SASRec .0605/.0318, S3-Rec .0647/.0327, TIGER .0648/.0384.
    The last item of each user is the test, the one before it the validation.

    Returns:
        Events of kind "rating" without time and rating; seconds (i64) counts from the user's first event.
        Keys of items are ASINs; attributes (list of str) are names such as "Skin Care", inferred from counts
        and known for the frequent ones.

    Raises:
        DataMissing: the files are in none of the searched folders.
        BadFile, SchemaError: a file is not what it should be.
    """
    folder = locate(AMAZON_BEAUTY)
    sequences = read_parquet(folder / "beauty_sequences.parquet", _SEQUENCES)
    goods = read_parquet(folder / "beauty_items.parquet", _GOODS).sort("item_id")
    names = read_parquet(folder / "beauty_attribute_names_by_count.parquet", _NAMES)
    attributes = (
        goods.select("item_id", "attribute_ids")
        .explode("attribute_ids")
        .join(
            names.select(attribute_ids=pl.col("attribute_id").cast(pl.Int32), name="name"), on="attribute_ids"
        )
        .group_by("item_id", maintain_order=True)
        .agg(attributes="name")
    )
    # The source counts from 1.
    items = goods.join(attributes, on="item_id", how="left").select(
        pl.col("item_id") - 1, "attributes", key="asin"
    )
    users = sequences.select(
        user_id=pl.int_range(pl.len(), dtype=pl.Int32), key=pl.col("user_id").cast(pl.String)
    )
    events = sequences.select(
        user_id=pl.int_range(pl.len(), dtype=pl.Int32),
        item_id=pl.col("item_ids").list.eval(pl.element() - 1),
        seconds=pl.col("gap_seconds").list.eval(pl.element().cum_sum()),
    ).explode("item_id", "seconds")
    events = events.select(
        "user_id",
        "item_id",
        "seconds",
        time=pl.lit(None, pl.Datetime("ms")),
        rating=pl.lit(None, pl.Float32),
        kind=pl.lit("rating"),
    )
    tables = {"events": events.lazy(), "users": users.lazy(), "items": items.lazy()}
    check_interactions(AMAZON_BEAUTY.name, tables)
    return Interactions(AMAZON_BEAUTY.name, events.lazy(), users, items)


_REVIEW = {
    "rating": pl.Float64,
    "title": pl.String,
    "text": pl.String,
    "asin": pl.String,
    "parent_asin": pl.String,
    "user_id": pl.String,
    "timestamp": pl.Int64,
    "verified_purchase": pl.Boolean,
    "helpful_vote": pl.Int64,
}
_META = {
    "main_category": pl.String,
    "title": pl.String,
    "average_rating": pl.Float64,
    "rating_number": pl.Int64,
    "description": pl.List(pl.String),
    "price": pl.String,
    "store": pl.String,
    "categories": pl.List(pl.String),
    "parent_asin": pl.String,
}
_SEQUENCES = Schema(
    "sequences",
    {
        "user_id": Column(pl.Int32, 1),
        "item_ids": Column(pl.List(pl.Int32)),
        "gap_seconds": Column(pl.List(pl.Int64)),
    },
    key=("user_id",),
)
_GOODS = Schema(
    "items",
    {
        "item_id": Column(pl.Int32, 1),
        "asin": Column(pl.String),
        "attribute_ids": Column(pl.List(pl.Int32), null=True),
    },
    key=("item_id",),
)
_NAMES = Schema("names", {"attribute_id": Column(pl.Int64, 0), "name": Column(pl.String)})
