"""The shape in which judged search data comes, whatever it was stored as."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class JudgedSearch:
    """Products, queries and human judgements.

    Attributes:
        name: the data set's name.
        products: product_id i32 (0..n-1, the row number), key str (the source's id), title, description,
            brand, category (str, may be null), price f64 (may be null).
        queries: query_id i32 (0..n-1, in alphabetical order), text str.
        judgements: query_id i32, product_id i32, grade i8 in 0..3. A pair that is not listed was *not
            judged*.
    """

    name: str
    products: pl.DataFrame
    queries: pl.DataFrame
    judgements: pl.DataFrame

    def titles(self) -> list[str]:
        """Titles in the order of product_id."""
        return self.products["title"].to_list()

    def documents(self) -> list[str]:
        """Title and description as one text per product, in the order of product_id."""
        return [
            f"{title} {text or ''}".strip()
            for title, text in self.products.select("title", "description").iter_rows()
        ]

    def qrels(self) -> dict[int, dict[int, int]]:
        """Grades as ``{query_id: {product_id: grade}}``, zeros included."""
        table: dict[int, dict[int, int]] = {query: {} for query in self.queries["query_id"]}
        for query, product, grade in self.judgements.iter_rows():
            table[query][product] = grade
        return table
