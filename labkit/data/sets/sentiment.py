"""Sentiment: Chinese reviews of shops, deliveries and hotels, and English financial news."""

from __future__ import annotations

import polars as pl

from labkit.data.files import read_parquet, read_table
from labkit.data.schemas import INTEGER, Column, Schema, validate
from labkit.data.sources import DataSet, Remote, find, locate
from labkit.data.tables import LabelledText

_COMMIT = "a0b781d72158bde242c0626c9e354d2b328865ff"
_RAW = f"https://raw.githubusercontent.com/SophonPlus/ChineseNlpCorpus/{_COMMIT}/datasets"

ZH_REVIEWS = DataSet(
    name="zh_reviews_chinesenlpcorpus",
    title="82 527 Chinese reviews with their sentiment: ten kinds of goods, deliveries, hotels",
    source=f"https://github.com/SophonPlus/ChineseNlpCorpus (commit {_COMMIT}), folder datasets",
    licence="none stated; use it to measure, and do not pass it on.",
    files={
        "online_shopping_10_cats.parquet": "9caf82a2a38de28f5e489f126c1dc37459d9f8002f9ded1b363a3ddc8555c0e9",
        "waimai_10k.parquet": "9581def8e07acb60b39486ec6aec1514f624d357dcef895aa0316953600578d9",
        "hotel_7766.parquet": "42c38c5e8dc031100e89aad06913d0325b2040b03963a432295d79e1527cd469",
    },
    published={
        "online_shopping_10_cats.zip": Remote(
            f"{_RAW}/online_shopping_10_cats/online_shopping_10_cats.zip",
            "git:6681e628059044a9d79f07697b5a3989191ad1af",
            {"online_shopping_10_cats.csv": "online_shopping_10_cats.csv"},
        ),
        "waimai_10k.csv": Remote(
            f"{_RAW}/waimai_10k/waimai_10k.csv", "git:58f24cc0b5f44f461bad18515217bbb17820970a"
        ),
        "hotel_7766.csv": Remote(
            f"{_RAW}/ChnSentiCorp_htl_all/ChnSentiCorp_htl_all.csv",
            "git:1ed104f343849291067acc1d4a1bb0a54698db9d",
        ),
    },
)

FINANCE = DataSet(
    name="finance_sentiment",
    title="financial news and posts with their sentiment (PhraseBank, FiQA, SemEval-2017 headlines)",
    source="https://huggingface.co/datasets/takala/financial_phrasebank and the FiQA 2018 challenge",
    licence="Financial PhraseBank: CC BY-NC-SA 3.0, not for commerce; FiQA and SemEval: none stated.",
    files={
        "financial_phrasebank_50agree.parquet": (
            "a662421db46a3c99f30f97f621d3a35c72d752900682b4a568b1a04c68532289"
        ),
        "fiqa_posts.parquet": "4cb9aedc4466ea02d263363ec2b6a7ee50d143a2e27681a9447eb63c13771f49",
        "semeval2017_task5_headlines.parquet": (
            "98ccd1598e2c137b2c9882786c58a821b55c847dd3165475a47eaaf6cbdf1954"
        ),
    },
)

_ZH_FILES = {"shopping": "online_shopping_10_cats", "delivery": "waimai_10k", "hotel": "hotel_7766"}


def load_zh_reviews(part: str = "shopping") -> LabelledText:
    """Load Chinese reviews labelled "positive" or "negative".

    Args:
        part: "shopping" (62 773 reviews in ten categories; column category), "delivery" (11 987 of meals) or
            "hotel" (7 765).

    Returns:
        The reviews; there is no split. One review of "shopping" and one of "hotel" have no text and are left
        out.

    Raises:
        ValueError: no such part.
        DataMissing: the files are in none of the searched folders.
        BadFile, SchemaError: a file is not what it should be.
    """
    if part not in _ZH_FILES:
        raise ValueError(f"There is no part {part!r}; there are {', '.join(_ZH_FILES)}.")
    folder, edition = find(ZH_REVIEWS)
    path = folder / f"{_ZH_FILES[part]}.{'parquet' if edition == 'prepared' else 'csv'}"
    schema = _REVIEWS.but("reviews", cat=Column(pl.String)) if part == "shopping" else _REVIEWS
    if edition == "prepared":
        rows = read_parquet(path, schema)
    else:
        columns = {name: pl.Int64 if name == "label" else pl.String for name in schema.columns}
        rows = validate(read_table(path, columns), schema, table=path.name)
    rows = rows.filter(pl.col("review").str.contains(r"\S")).select(
        text=pl.col("review").str.strip_chars_start("\ufeff"),  # the first still carries the file's mark
        label=pl.when(pl.col("label") == 1).then(pl.lit("positive")).otherwise(pl.lit("negative")),
        split=pl.lit(None, pl.String),
        **({"category": pl.col("cat")} if part == "shopping" else {}),
    )
    validate(rows, "labelled.text", table=path.name)
    return LabelledText(f"{ZH_REVIEWS.name}/{part}", rows)


def load_phrasebank() -> LabelledText:
    """Load Financial PhraseBank, at least half of the annotators agreeing: 4 846 sentences, three labels.

    There is no official split. FinBERT is right in 86 % (Araci 2019, arXiv 1908.10063).

    Raises:
        DataMissing: the files are in none of the searched folders.
        BadFile, SchemaError: the file is not what it should be.
    """
    path = locate(FINANCE) / "financial_phrasebank_50agree.parquet"
    rows = read_parquet(path, _PHRASES).select("label", text="sentence", split=pl.lit(None, pl.String))
    return LabelledText(f"{FINANCE.name}/phrasebank", validate(rows, "labelled.text", table=path.name))


def load_finance_scores(part: str = "headlines") -> LabelledText:
    """Load financial texts scored from -1 (bad for the company) to 1 (good).

    Args:
        part: "headlines" (1 142 of SemEval-2017 task 5) or "posts" (675 of FiQA 2018).

    Returns:
        text, label (the score's sign: "negative", "neutral", "positive"), target (the company), score f64.

    Raises:
        ValueError: no such part.
        DataMissing: the files are in none of the searched folders.
        BadFile, SchemaError: a file is not what it should be.
    """
    choices = {
        "headlines": ("semeval2017_task5_headlines.parquet", "title", "company"),
        "posts": ("fiqa_posts.parquet", "sentence", "target"),
    }
    if part not in choices:
        raise ValueError(f"There is no part {part!r}; there are {', '.join(choices)}.")
    file, text, target = choices[part]
    path = locate(FINANCE) / file
    schema = Schema(
        part,
        {
            text: Column(pl.String),
            target: Column(pl.String, null=True),
            "sentiment": Column(pl.Float64, -1, 1),
        },
    )
    sign = pl.col("sentiment").sign().cast(pl.Int8)
    label = sign.replace_strict({-1: "negative", 0: "neutral", 1: "positive"}, return_dtype=pl.String)
    rows = read_parquet(path, schema).select(
        text=text, label=label, split=pl.lit(None, pl.String), target=target, score="sentiment"
    )
    return LabelledText(f"{FINANCE.name}/{part}", validate(rows, "labelled.text", table=path.name))


_REVIEWS = Schema("reviews", {"label": Column(INTEGER, 0, 1), "review": Column(pl.String, null=True)})
_PHRASES = Schema(
    "phrases",
    {
        "label": Column(pl.String, among=("negative", "neutral", "positive")),
        "sentence": Column(pl.String),
    },
)
