"""The whole cleaning against the truth it has not read."""

import polars as pl
import pytest

import labkit.shop
from labkit.data.clean_shop import clean_shop

RAW = ("products", "shoppers", "reviews", "events")
GATED = {
    ("events", "exact_duplicate"), ("products", "exact_duplicate"), ("products", "near_duplicate"),
    ("events", "bot"), ("shoppers", "bot"), ("events", "unit"), ("products", "unit"),
    ("events", "test_shopper"), ("products", "encoding"), ("events", "leaked_label"), ("shoppers", "missing"),
}  # fmt: skip


@pytest.fixture(scope="module", params=[0, 7])
def cleaned(request, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_HOME", str(tmp_path_factory.mktemp("home")))
    market = labkit.shop.load("tiny", request.param)
    raw = {name: market.scan(f"raw_{name}") for name in RAW}
    yield market, clean_shop(raw, tmp_path_factory.mktemp("clean"), progress=False)
    patch.undo()


def test_planted_defects_are_recovered(cleaned):
    market, done = cleaned
    planted = market.read("truth").select("table", "row", "defect").cast(pl.String).unique()
    found = done.findings.select("table", "row", "defect").cast(pl.String).unique()
    both = planted.join(found, on=planted.columns).group_by("table", "defect").len("both")
    pair = ["table", "defect"]
    counts = (
        planted.group_by(pair)
        .len("planted")
        .join(found.group_by(pair).len("found"), on=pair, how="full", coalesce=True)
    )
    counts = counts.join(both, on=pair, how="left").fill_null(0)
    seen = set()
    for table, defect, planted_n, found_n, both_n in counts.rows():
        if (table, defect) in GATED:
            seen.add((table, defect))
            assert both_n >= 0.95 * planted_n, (table, defect)
            assert both_n >= 0.95 * found_n, (table, defect)
    assert seen >= {pair for pair in GATED if pair[1] not in ("encoding", "test_shopper")}


def test_the_clean_log_is_the_true_log(cleaned):
    """Rows, prices and times are those of the market that the raw tables were made from."""
    market, done = cleaned
    true, clean = market.read("events"), done.tables["events"].collect()
    assert clean.columns == true.columns
    assert clean.height == pytest.approx(true.height, rel=0.001)
    key = ["session_id", "product_id", "position"]
    both = true.unique(key, keep="none").join(clean.unique(key, keep="none"), on=key, suffix="_clean")
    assert both.height > 0.98 * true.unique(key, keep="none").height
    assert ((both["price"] - both["price_clean"]).abs() <= 0.01).mean() > 0.999
    assert (both["time"] == both["time_clean"]).mean() > 0.98
    assert (both["clicked"] == both["clicked_clean"]).all()


def test_the_clean_catalogue_is_the_true_catalogue(cleaned):
    market, done = cleaned
    clean = done.tables["products"].collect()
    both = market.products.join(clean, on="product_id", suffix="_clean")
    assert both.height >= 0.99 * market.products.height
    assert clean.height <= 1.01 * market.products.height
    assert (both["title"] == both["title_clean"]).all()
    assert (both["title_zh"] == both["title_zh_clean"]).all()
    assert ((both["price"] / both["price_clean"] - 1).abs() < 0.01).all()
    assert ((both["weight_kg"] / both["weight_kg_clean"] - 1).abs() < 0.01).all()


def test_changes_add_up(cleaned):
    market, done = cleaned
    report = done.report()
    for table in ("products", "reviews", "events"):
        first = report.filter(pl.col("step").str.starts_with(table))["rows_in"][0]
        gone = report.filter(pl.col("step").str.starts_with(table))
        dropped = (gone["rows_in"] - gone["rows_out"]).sum()
        assert first == market.scan(f"raw_{table}").select(pl.len()).collect().item()
        assert first - dropped == done.tables[table].select(pl.len()).collect().item()


def test_a_missing_table_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="raw tables reviews, events as well"):
        clean_shop({"products": pl.LazyFrame(), "shoppers": pl.LazyFrame()}, tmp_path)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_HOME", str(tmp_path_factory.mktemp("home")))
    market = labkit.shop.load("tiny", 3)
    yield {name: market.scan(f"raw_{name}") for name in RAW}
    patch.undo()


def test_purchases_kept_without_their_shopper_stay(raw, tmp_path):
    """What `forget` leaves in the books has no shopper; that makes it neither a program's nor a tester's."""
    nobody = pl.col("shopper_id").is_in([5, 6, 7])
    cut = raw["events"].with_columns(shopper_id=pl.when(~nobody).then("shopper_id"))
    done = clean_shop({**raw, "events": cut}, tmp_path / "clean", progress=False)
    copies = done.findings.filter(pl.col("table") == "events", pl.col("defect") == "exact_duplicate")["row"]
    kept = (
        cut.filter(pl.col("shopper_id").is_null() & ~pl.col("row").is_in(copies.implode())).collect().height
    )
    assert kept > 100
    assert done.tables["events"].collect()["shopper_id"].null_count() == kept
    assert done.bots["shopper_id"].null_count() == 0


def test_raw_tables_are_not_written_over(raw, tmp_path):
    for name, frame in raw.items():
        frame.sink_parquet(tmp_path / f"{name}.parquet")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    here = {name: pl.scan_parquet(tmp_path / f"{name}.parquet") for name in RAW}
    with pytest.raises(ValueError, match=r"raw products are read from .* choose another folder"):
        clean_shop(here, tmp_path, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_the_older_tables_whole(raw, tmp_path, monkeypatch):
    folder = tmp_path / "clean"
    clean_shop(raw, folder, progress=False)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    sink = pl.LazyFrame.sink_parquet

    def full(frame, path, **how):
        if "events" in str(path):
            raise OSError(28, "No space left on device")
        return sink(frame, path, **how)

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    with pytest.raises(OSError, match="No space left"):
        clean_shop(raw, folder, progress=False)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]
