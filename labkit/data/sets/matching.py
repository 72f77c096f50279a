"""Product matching: do two offers of two shops mean the same product?"""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from labkit.data.files import BadFile, read_parquet, reading
from labkit.data.schemas import INTEGER, Column, Schema, validate
from labkit.data.sources import DataSet, Remote, find
from labkit.data.tables import MatchingPairs

_COMMIT = "52985564a93fb11308439516d3e17a033d43ec8f"
_RAW = f"https://raw.githubusercontent.com/megagonlabs/ditto/{_COMMIT}/data/er_magellan"
# Our name, the publisher's folder, and the git ids of train.txt, valid.txt and test.txt.
_SHOPS = {
    "abt_buy": (
        "Textual/Abt-Buy",
        (
            "8c5da952ddc8b7aa1d988fe17bb27b1d5bd55e5a",
            "96df372b49b6d8d09ee448e0bd4f3c5e0d245fb2",
            "4942c72151337ad94a80baab9e27bdb2683222ce",
        ),
    ),
    "amazon_google": (
        "Structured/Amazon-Google",
        (
            "ecacafc7ae62607b6b0b5f1cdf8f6f84cea508b6",
            "5d0159373becd50dfd4f897b5056e6e47300b954",
            "cb86e1bb5d4a068acfd65fa23feb1ccbad98731b",
        ),
    ),
    "walmart_amazon": (
        "Structured/Walmart-Amazon",
        (
            "c730a5b3ea707d0996244676b0c18ed1976af5ea",
            "fc65c592aa1c2ee0fd35be66e199fa128f770239",
            "24b76ef7b392c539e54778efe39a6008099d444e",
        ),
    ),
}
_SPLITS = ("train", "valid", "test")

PRODUCT_MATCHING = DataSet(
    name="product_matching_er_magellan",
    title="31 277 pairs of offers, same product or not (Abt-Buy, Amazon-Google, Walmart-Amazon)",
    source=f"https://github.com/megagonlabs/ditto (commit {_COMMIT}), folder data/er_magellan",
    licence="Apache-2.0 (the repository; the data come from the DeepMatcher collection).",
    files={
        "abt_buy.parquet": "b8dc3c915098661c510aa01042be2afeb5c428b5670ebb9baed6b0ab30af492b",
        "amazon_google.parquet": "8007796b2a64b966c1c33c1a06c3039c99db3b9f84e8a7513b3a385030f07fe2",
        "walmart_amazon.parquet": "216397035d2e463e69e74416cd71be3d2a39a6c6779369a734e75a48b7547b06",
    },
    published={
        f"{shops}_{split}.txt": Remote(f"{_RAW}/{folder}/{split}.txt", f"git:{blob}")
        for shops, (folder, blobs) in _SHOPS.items()
        for split, blob in zip(_SPLITS, blobs, strict=True)
    },
)


def load_product_matching(shops: str = "abt_buy") -> MatchingPairs:
    """Load labelled pairs of offers, their attributes in columns.

    Ditto (Li et al., arXiv 2004.00584) reaches F1 89.33 on Abt-Buy and 75.58 on Amazon-Google.

    Args:
        shops: "abt_buy" (name, description, price), "amazon_google" (title, manufacturer, price) or
            "walmart_amazon" (title, category, brand, modelno, price).

    Returns:
        The pairs; prices are numbers, null where the offer states none.

    Raises:
        ValueError: no such pair of shops.
        DataMissing: it was not found and not fetched.
        BadFile, SchemaError: a file is not what it should be.

    Example:
        >>> load_product_matching("abt_buy").pairs["matches"].sum()  # doctest: +SKIP
        1028
    """
    if shops not in _SHOPS:
        raise ValueError(f"There are no pairs {shops!r}; there are {', '.join(_SHOPS)}.")
    folder, edition = find(PRODUCT_MATCHING)
    if edition == "prepared":
        path = folder / f"{shops}.parquet"
        rows = read_parquet(path, _PAIRS)
    else:
        path = folder / f"{shops}_train.txt"
        rows = pl.concat(_read_pairs(folder / f"{shops}_{split}.txt", split) for split in _SPLITS)
        validate(rows, _PAIRS, table=f"{shops}_*.txt")
    names = attributes(rows["left"][0]) if rows.height else ()
    sides = []
    for side in ("left", "right"):
        parsed = parse_offers(rows[side], names, f"{path.name}, {side}")
        sides.append(parsed.rename({name: f"{side}_{name}" for name in names}))
    pairs = pl.concat(
        [rows.select("split"), *sides, rows.select(matches=pl.col("label").cast(pl.Boolean))],
        how="horizontal",
    )
    validate(pairs, "matching.pairs", table=path.name)
    return MatchingPairs(f"{PRODUCT_MATCHING.name}/{shops}", pairs, names)


def attributes(text: str) -> tuple[str, ...]:
    """The attributes' names in a text of the form "COL title VAL … COL price VAL …".

    Example:
        >>> attributes("COL title VAL a phone COL price VAL 9.5")
        ('title', 'price')
    """
    return tuple(re.findall(r"(?:^| )COL (\S+) VAL(?= |$)", text))


def parse_offers(texts: pl.Series, names: tuple[str, ...], table: str) -> pl.DataFrame:
    """Split "COL name VAL value COL name VAL value" into columns.

    Args:
        texts: serialised offers, as Ditto writes them.
        names: the attributes, in the order in which they stand there.
        table: what messages call the table.

    Returns:
        A column of str for each attribute (f64 for "price"), null where the value is empty.

    Raises:
        BadFile: a text is not of this form, or a price is not a number.

    Example:
        >>> parse_offers(pl.Series(["COL title VAL a phone COL price VAL"]), ("title", "price"), "x").rows()
        [('a phone', None)]
    """
    pattern = "^" + " ?".join(rf"COL {re.escape(name)} VAL(?P<{name}>.*?)" for name in names) + "$"
    frame = texts.to_frame("text").select(parts=pl.col("text").str.extract_groups(pattern))
    columns = frame.unnest("parts").select(pl.all().str.strip_chars())
    wrong = columns[names[0]].is_null().arg_true()
    if len(wrong):
        raise BadFile(
            f"{table}: row {wrong[0]} is not of the form COL {names[0]} VAL …: {texts[wrong[0]]!r:.60}."
        )
    columns = columns.select(pl.when(pl.all().str.len_chars() > 0).then(pl.all()))
    if "price" in names:
        price = columns["price"].cast(pl.Float64, strict=False)
        wrong = (price.is_null() & columns["price"].is_not_null()).arg_true()
        if len(wrong):
            raise BadFile(
                f"{table}: column price, row {wrong[0]}: {columns['price'][wrong[0]]!r} is not a number."
            )
        columns = columns.with_columns(price)
    return columns


def _read_pairs(path: Path, split: str) -> pl.DataFrame:
    """One published file: left, right and label, separated by tabs, without a header."""
    with reading(path, "pairs separated by tabs"):
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        rows = []
        for number, line in enumerate(lines):
            parts = line.split("\t")
            if len(parts) != 3 or parts[2].strip() not in ("0", "1"):
                raise BadFile(
                    f"{path.name}: line {number + 1} is not two offers and 0 or 1, separated by tabs."
                )
            rows.append((split, parts[0], parts[1], int(parts[2])))
    kinds = {"split": pl.String, "left": pl.String, "right": pl.String, "label": pl.Int64}
    return pl.DataFrame(rows, schema=kinds, orient="row")


_PAIRS = Schema(
    "pairs",
    {
        "split": Column(pl.String, among=_SPLITS),
        "left": Column(pl.String, pattern=r"COL \S+ VAL"),
        "right": Column(pl.String, pattern=r"COL \S+ VAL"),
        "label": Column(INTEGER, 0, 1),
    },
)
