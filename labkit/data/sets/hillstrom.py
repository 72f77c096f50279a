"""Hillstrom's e-mail experiment: 64 000 customers, two mailings and none."""

from __future__ import annotations

from typing import Any

import polars as pl

from labkit.data.files import read_parquet, read_table
from labkit.data.schemas import INTEGER, NUMBER, Column, Schema, validate
from labkit.data.sources import DataSet, Remote, find
from labkit.data.tables import Trial

_CSV = "Kevin_Hillstrom_MineThatData_E-MailAnalytics_DataMiningChallenge_2008.03.20.csv"

HILLSTROM = DataSet(
    name="hillstrom_email_ab_test",
    title="Hillstrom's e-mail experiment, 64 000 customers of a shop in three arms",
    source=f"http://www.minethatdata.com/{_CSV}",
    licence="none stated; a public challenge of 2008 by Kevin Hillstrom.",
    files={"customers.parquet": "4c98e885af5ed2b79692bf69cb6fe3cd0c36f22bbbc4a40dee2c6dc2633a504b"},
    published={"customers.csv": Remote(f"http://www.minethatdata.com/{_CSV}")},
    rows={"customers.csv": 64_000},
)
_KNOWN = ("recency", "history_segment", "history", "mens", "womens", "zip_code", "newbie", "channel")
_OUTCOMES = ("visit", "conversion", "spend")


def load_hillstrom() -> Trial:
    """Load the experiment: who got which e-mail, and whether they came, bought and for how much (USD).

    Arms: "No E-Mail" (the control), "Mens E-Mail", "Womens E-Mail", a third each, drawn at random.

    Raises:
        DataMissing: it was not found and not fetched.
        BadFile, SchemaError: the file is not what it should be.

    Example:
        >>> load_hillstrom().means()  # doctest: +SKIP
    """
    folder, edition = find(HILLSTROM)
    if edition == "prepared":
        path = folder / "customers.parquet"
        rows = read_parquet(path, _CUSTOMERS)
    else:
        path = folder / "customers.csv"
        rows = validate(read_table(path, _COLUMNS), _CUSTOMERS, table=path.name)
    rows = rows.select(*_KNOWN, *_OUTCOMES, arm="segment")
    validate(rows, "trial.hillstrom", table=path.name)
    return Trial(HILLSTROM.name, rows, control="No E-Mail", outcomes=_OUTCOMES, known=_KNOWN)


_COLUMNS: dict[str, Any] = {
    "recency": pl.Int64,
    "history_segment": pl.String,
    "history": pl.Float64,
    "mens": pl.Int64,
    "womens": pl.Int64,
    "zip_code": pl.String,
    "newbie": pl.Int64,
    "channel": pl.String,
    "segment": pl.String,
    "visit": pl.Int64,
    "conversion": pl.Int64,
    "spend": pl.Float64,
}
_GROUPS = {pl.String: pl.String, pl.Int64: INTEGER, pl.Float64: NUMBER}
_CUSTOMERS = Schema(
    "customers",
    {name: Column(_GROUPS[dtype]) for name, dtype in _COLUMNS.items()},
)
