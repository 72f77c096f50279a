"""The handbook's programs do what one machine does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

HANDBOOK = Path(__file__).resolve().parents[2] / "docs" / "handbook"


@pytest.mark.slow
def test_dask_cleans_the_log_as_one_machine_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dask.dataframe", reason='no Dask here: pip install "dask[dataframe,distributed]"')
    from labkit.shop import load

    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    truth = load("tiny").read("truth").filter(pl.col("table") == "events")
    rows = {name: set(truth.filter(pl.col("defect") == name)["row"]) for name in truth["defect"].unique()}
    program = [sys.executable, HANDBOOK / "clean_on_dask.py", "--size", "tiny", "--into", tmp_path / "clean"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.rpartition(": ") for line in done.stdout.splitlines() if ": " in line]
    counts = {what: int(number.replace(",", "")) for what, _, number in lines}
    copies, testers = rows["exact_duplicate"], rows["test_shopper"]
    assert counts["copies"] == len(copies)
    assert counts["tester rows"] == len(testers - copies)
    assert counts["prices corrected"] == len(rows["unit"] - copies - testers)
    clean = pl.read_parquet(tmp_path / "clean" / "*.parquet")
    assert clean.height == counts["rows written"] == clean["row"].n_unique()
    assert not set(clean["row"]) & (copies | testers)
