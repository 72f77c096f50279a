"""Questions to customer service with their intent: Banking77 and Bitext."""

from __future__ import annotations

import polars as pl

from labkit.data.files import read_parquet, read_table
from labkit.data.schemas import Column, Schema, validate
from labkit.data.sources import DataSet, Remote, find, locate
from labkit.data.tables import LabelledText

_BANKING = "PolyAI-LDN/task-specific-datasets"
_COMMIT = "57ec275d8078af65b7731c2a98be812d844a6d6b"
_RAW = f"https://raw.githubusercontent.com/{_BANKING}/{_COMMIT}/banking_data"

BANKING77 = DataSet(
    name="banking77",
    title="Banking77, 13 083 questions to a bank with 77 intents",
    source=f"https://github.com/{_BANKING} (commit {_COMMIT})",
    licence="CC BY 4.0. Casanueva et al., arXiv 2003.04807.",
    files={
        "train.parquet": "805bc395cd457f0c9b162e70cd6fbbe68c0b1c24e56cdefcdbe1670ae8182ada",
        "test.parquet": "27b1cc4c3a39670289582737dd9f0384e3cf9506801ddbe6fe7262a4be286bb9",
    },
    published={
        "train.csv": Remote(f"{_RAW}/train.csv", "git:98e2543cf482d0dca7bfb175ebe35d98efad95be"),
        "test.csv": Remote(f"{_RAW}/test.csv", "git:799687a8367359432985b8b13d85a2baf73f92dd"),
    },
)

BITEXT = DataSet(
    name="bitext_customer_service",
    title="Bitext, 8 100 generated requests to a shop's customer service with 27 intents",
    source=(
        "https://github.com/bitext/customer-support-intent-detection-training-dataset "
        "(commit e970229e6473109417301b5edddb283917a10aac)"
    ),
    licence="CDLA-Sharing-1.0.",
    files={
        "train.parquet": "5b6e64738242a997d55943c6760f897693268ed4b40f479bbdd5a5c27c4b9fef",
        "dev.parquet": "a2c6f03d58a08bb2e07045c1af0dd39429d3cdaf6f9544ffe0fc31ccb9713662",
        "test.parquet": "1faebd9f60c443738385cf3f163e04c665453f247514f868a6d2222074f6be85",
    },
)


def load_banking77() -> LabelledText:
    """Load Banking77: real questions, 10 003 to train on and 3 080 to test.

    BERT fine-tuned on all of it is right in 93.66 % (Casanueva et al. 2020).

    Raises:
        DataMissing: it was not found and not fetched.
        BadFile, SchemaError: a file is not what it should be.
    """
    folder, edition = find(BANKING77)
    parts = []
    for split in ("train", "test"):
        if edition == "prepared":
            part = read_parquet(folder / f"{split}.parquet", _QUESTIONS)
        else:
            columns = {"text": pl.String, "intent": pl.String}
            part = read_table(folder / f"{split}.csv", columns, also={"category": "intent"})
        parts.append(part.select("text", label="intent", split=pl.lit(split)))
    rows = validate(pl.concat(parts), "labelled.text", table=BANKING77.name)
    return LabelledText(BANKING77.name, rows)


def load_bitext() -> LabelledText:
    """Load Bitext: generated requests, 6 480 to train on, 810 to validate and 810 to test.

    They are made from templates, so that simple methods come close to the ceiling. Further columns: category
    (of the intent), entity_type, entity_value, start_offset, end_offset (null where there is no entity), tags
    (of the language used).

    Raises:
        DataMissing: the files are in none of the searched folders.
        BadFile, SchemaError: a file is not what it should be.
    """
    folder = locate(BITEXT)
    parts = [
        read_parquet(folder / f"{file}.parquet", _UTTERANCES).select(
            text="utterance",
            label="intent",
            split=pl.lit(split),
            category="category",
            entity_type="entity_type",
            entity_value="entity_value",
            start_offset="start_offset",
            end_offset="end_offset",
            tags="tags",
        )
        for file, split in (("train", "train"), ("dev", "valid"), ("test", "test"))
    ]
    return LabelledText(BITEXT.name, validate(pl.concat(parts), "labelled.text", table=BITEXT.name))


_TEXT, _MAYBE = Column(pl.String), Column(pl.String, null=True)
_QUESTIONS = Schema("questions", {"text": _TEXT, "intent": _TEXT})
_UTTERANCES = Schema(
    "utterances",
    {
        "utterance": _TEXT,
        "intent": _TEXT,
        "entity_type": _MAYBE,
        "entity_value": _MAYBE,
        "start_offset": Column(pl.Int64, 0, null=True),
        "end_offset": Column(pl.Int64, 0, null=True),
        "category": _TEXT,
        "tags": _MAYBE,
    },
)
