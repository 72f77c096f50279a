"""The shapes in which data comes, whatever it was stored as: one small class for each kind of data."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl


@dataclass(frozen=True)
class JudgedSearch:
    """Products, queries and human judgements.

    Attributes:
        name: the data set's name.
        products: product_id i32 (0..n-1, the row number), key str (the source's id), title, description,
            brand, category (str, may be null), price f64 (may be null). A set of ids alone has no titles.
        queries: query_id i32 (0..n-1, in alphabetical order), text str; where the source has them, key str
            (the source's id) and split.
        judgements: query_id i32, product_id i32, grade i8 in 0..3. A pair that is not listed was *not
            judged*.
    """

    name: str
    products: pl.DataFrame
    queries: pl.DataFrame
    judgements: pl.DataFrame

    def titles(self) -> list[str]:
        """Titles in the order of product_id; "" where there is none."""
        return self.products["title"].fill_null("").to_list()

    def documents(self) -> list[str]:
        """Title and description as one text per product, in the order of product_id."""
        return [
            f"{title or ''} {text or ''}".strip()
            for title, text in self.products.select("title", "description").iter_rows()
        ]

    def qrels(self) -> dict[int, dict[int, int]]:
        """Grades as ``{query_id: {product_id: grade}}``, zeros included."""
        table: dict[int, dict[int, int]] = {query: {} for query in self.queries["query_id"]}
        for query, product, grade in self.judgements.iter_rows():
            table[query][product] = grade
        return table


@dataclass(frozen=True)
class Interactions:
    """Who did what with which item, when.

    Attributes:
        name: the data set's name.
        events: lazy: user_id i32, item_id i32 (row numbers of the tables below), time Datetime("ms") in UTC
            (null where the source has none), rating f32 (null where nobody rated), kind str ("rating",
            "view", "cart", "purchase", …); further columns as the source has them. Rows of one user are in
            the order in which they happened.
        users: user_id i32 (0..n-1), key str (the source's id), and what is known of them.
        items: item_id i32 (0..n-1), key str (the source's id), and what is known of them.
        links: who trusts or follows whom: user_id, other_id (i32); None where the source does not say.
    """

    name: str
    events: pl.LazyFrame
    users: pl.DataFrame
    items: pl.DataFrame
    links: pl.DataFrame | None = None

    def sequences(self) -> pl.DataFrame:
        """Each user's items in order: user_id, item_ids list[i32]; users with no event are left out."""
        return self.events.group_by("user_id", maintain_order=True).agg(item_ids="item_id").collect()


@dataclass(frozen=True)
class LabelledText:
    """Texts with the label that a person gave them.

    Attributes:
        name: the data set's name.
        rows: text str, label str (null where nobody gave one), split ("train" | "valid" | "test", null where
            the source has no split); further columns as the source has them.
    """

    name: str
    rows: pl.DataFrame

    @property
    def labels(self) -> list[str]:
        """The different labels, sorted."""
        return self.rows["label"].drop_nulls().unique().sort().to_list()

    def split(self, name: str) -> tuple[list[str], list[str | None]]:
        """Texts and labels of one split.

        Raises:
            ValueError: there is no such split.
        """
        return _split(self.rows, name, "text")


@dataclass(frozen=True)
class LabelledImages:
    """Pictures with the label that a person gave them.

    Attributes:
        name: the data set's name.
        images: (height, width, 3) uint8 arrays, RGB, in the order of ``rows``; sizes differ.
        rows: key str (the source's id), label str, split ("train" | "valid" | "test").
    """

    name: str
    images: list[np.ndarray]
    rows: pl.DataFrame

    def array(self, size: int) -> np.ndarray:
        """All pictures as one array of (n, size, size, 3) uint8.

        Each is made to fit with its proportions kept, and put in the middle of a white square.

        Args:
            size: height and width in pixels.
        """
        from PIL import Image

        out = np.full((len(self.images), size, size, 3), 255, dtype=np.uint8)  # (N, S, S, 3)
        for i, image in enumerate(self.images):
            height, width = image.shape[:2]
            scale = size / max(height, width)
            rows, columns = max(1, round(height * scale)), max(1, round(width * scale))
            small = np.asarray(Image.fromarray(image).resize((columns, rows), Image.Resampling.LANCZOS))
            top, left = (size - rows) // 2, (size - columns) // 2
            out[i, top : top + rows, left : left + columns] = small
        return out


@dataclass(frozen=True)
class Sessions:
    """What visitors looked at, one list of items per visit.

    Attributes:
        name: the data set's name.
        train: session_id i32, item_ids list[i32] in the order of the visit.
        test: item_ids list[i32] (the beginning of a visit), target i32 (what came next).
    """

    name: str
    train: pl.DataFrame
    test: pl.DataFrame


@dataclass(frozen=True)
class LoggedBandit:
    """What a known policy showed, with which probability, and whether it was clicked.

    Attributes:
        name: the data set's name.
        log: time Datetime in UTC, item_id i32, position i8 (from 1), clicked bool, propensity f64 in (0, 1]
            (the probability that the policy shows this item in this place to this user), then the user's
            features and the affinities between the user and each item.
        items: item_id i32 and its features.
        policy: what chose the items: "random" or "bts" (Bernoulli Thompson sampling).
        campaign: "men" or "women".
    """

    name: str
    log: pl.DataFrame
    items: pl.DataFrame
    policy: str
    campaign: str


@dataclass(frozen=True)
class MatchingPairs:
    """Pairs of offers, and whether both are the same product.

    Attributes:
        name: the data set's name, with that of the pair of shops.
        pairs: split, left_… and right_… (one column for each attribute of an offer, null where the offer does
            not say), matches bool.
        attributes: the attributes' names, in the source's order.
    """

    name: str
    pairs: pl.DataFrame
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class Trial:
    """A randomised experiment.

    Attributes:
        name: the data set's name.
        rows: one per person: arm str, what was known before, and the outcomes.
        control: the arm that got nothing.
        outcomes: the columns that were measured afterwards.
        known: the columns that were known before.
    """

    name: str
    rows: pl.DataFrame
    control: str
    outcomes: tuple[str, ...] = ()
    known: tuple[str, ...] = field(default=())

    def means(self) -> pl.DataFrame:
        """The mean of each outcome and the number of people, by arm."""
        return (
            self.rows.group_by("arm").agg(pl.len().alias("people"), pl.col(self.outcomes).mean()).sort("arm")
        )


def _split(rows: pl.DataFrame, name: str, column: str) -> tuple[list, list]:
    known = rows["split"].drop_nulls().unique().sort().to_list()
    if name not in known:
        raise ValueError(f"There is no split {name!r}; there are {', '.join(known) or 'none'}.")
    chosen = rows.filter(pl.col("split") == name)
    return chosen[column].to_list(), chosen["label"].to_list()
