"""The cleaning of the small shop, on seeds that nothing was tuned on: at least 95 % found, and 95 % right."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import labkit.shop
from labkit.data.clean_shop import clean_shop
from labkit.shop.scoring import score


@pytest.mark.parametrize("seed", [3, 11])
def test_the_cleaning_finds_what_was_planted(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    market = labkit.shop.load("small", seed)
    raw = {name: market.scan(f"raw_{name}") for name in ("products", "shoppers", "reviews", "events")}
    cleaned = clean_shop(raw, tmp_path / "clean", progress=False)
    told = score(cleaned.findings, market.read("truth"))
    gated = told.filter(pl.col("defect").is_in(["exact_duplicate", "near_duplicate", "bot", "unit"]))
    # Exact duplicates in three tables, near ones in one, bots and units in two each.
    assert gated.height == 8
    for line in gated.iter_rows(named=True):
        assert line["precision"] >= 0.95, line
        assert line["recall"] >= 0.95, line
