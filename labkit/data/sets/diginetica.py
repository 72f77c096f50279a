"""Diginetica: visits to a shop, as SR-GNN and GCE-GNN prepared them."""

from __future__ import annotations

import polars as pl

from labkit.data.files import read_parquet
from labkit.data.schemas import Column, Schema, validate
from labkit.data.sources import DataSet, locate
from labkit.data.tables import Sessions

DIGINETICA = DataSet(
    name="sessions_diginetica_gcegnn",
    title="Diginetica, 186 670 visits to train on and 60 858 beginnings of visits to test",
    source=(
        "https://github.com/CCIIPLab/GCE-GNN (commit 212575302e42d64b8cf0b9ffe1b71b0db398d5be), "
        "folder datasets/diginetica"
    ),
    licence="none stated; data of the CIKM Cup 2016: use it to measure.",
    files={
        "train_sessions.parquet": "6069685feaa93b087b8466f127082e2f86862ca93a603b42152534f3dd72cb8c",
        "test_prefixes.parquet": "99b4cde0b31cb14c157a806c38c2eefab3dfe0028b9c42097c50da6f63b33bb7",
    },
    by_hand=(
        "it is published as Python pickles, which may run any code when they are opened, and the original "
        "takes a login (CIKM Cup 2016); put train_sessions.parquet and test_prefixes.parquet, made from "
        "https://github.com/CCIIPLab/GCE-GNN, into {place}."
    ),
)


def load_diginetica() -> Sessions:
    """Load visits: items in the order in which they were clicked, numbered from 1 to 43 097.

    Raises:
        DataMissing: the files are in none of the searched folders.
        BadFile, SchemaError: a file is not what it should be.

    Example:
        >>> load_diginetica().train["item_ids"].list.len().sum()  # doctest: +SKIP
        906140
    """
    folder = locate(DIGINETICA)
    train = read_parquet(folder / "train_sessions.parquet", _TRAIN)
    test = read_parquet(folder / "test_prefixes.parquet", _TEST)
    train = train.select(session_id=pl.int_range(pl.len(), dtype=pl.Int32), item_ids="item_ids")
    test = test.select(item_ids="prefix_item_ids", target="target_item_id")
    validate(train, "sessions.train", table="train_sessions.parquet")
    validate(test, "sessions.test", table="test_prefixes.parquet")
    return Sessions(DIGINETICA.name, train, test)


_TRAIN = Schema("train", {"item_ids": Column(pl.List(pl.Int32))})
_TEST = Schema("test", {"prefix_item_ids": Column(pl.List(pl.Int32)), "target_item_id": Column(pl.Int32, 1)})
