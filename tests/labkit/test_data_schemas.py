"""Schemas: every kind of fault is found, named in one sentence, and found again by brute force."""

import subprocess
import sys
from datetime import datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.data import schemas
from labkit.data.schemas import TEXT, Column, Schema, SchemaError, validate
from labkit.data.set_tables import SET_SCHEMAS
from labkit.data.shop_tables import SHOP_SCHEMAS
from labkit.shop import load

ORDERS = Schema(
    "orders",
    {
        "order_id": Column(pl.Int64),
        "rating": Column(pl.Int64, 1, 5),
        "kind": Column(TEXT, among=("web", "phone"), null=True),
        "price": Column(pl.Float64, 0),
        "email": Column(pl.String, pattern=r"[^@]+@[^@]+$", optional=True),
        "shopper": Column(pl.Int32, to="shoppers.id", optional=True),
    },
    key=("order_id",),
)


def orders(**changes):
    good = {
        "order_id": [10, 11, 12],
        "rating": [1, 5, 3],
        "kind": ["web", None, "phone"],
        "price": [0.0, 1, 2],
    }
    return pl.DataFrame({**good, **changes}, strict=False)


def fault(frame, schema=ORDERS, **options):
    """The error, the same for the eager and the lazy frame."""
    with pytest.raises(SchemaError) as eager:
        validate(frame, schema, **options)
    with pytest.raises(SchemaError) as lazy:
        validate(frame.lazy(), schema, **options)
    assert str(eager.value) == str(lazy.value)
    assert eager.value.failures.equals(lazy.value.failures)
    return eager.value


def test_a_good_table_is_given_back_as_it_is():
    frame = orders()
    assert validate(frame, ORDERS) is frame
    lazy = frame.lazy()
    assert validate(lazy, ORDERS) is lazy
    assert validate(orders(more=[1, 2, 3]), ORDERS).width == 5  # other columns are nobody's business
    empty = frame.clear()
    assert validate(empty, ORDERS) is empty


@pytest.mark.parametrize(
    ("changes", "sentence", "failures"),
    [
        (
            {"rating": [7, 5, 0]},
            "orders.csv: column rating, row 0: 7 is not in 1..5 (and 1 more row).",
            [("rating", 0, "range", "7"), ("rating", 2, "range", "0")],
        ),
        (
            {"price": [1.0, -0.5, 2]},
            "orders.csv: column price, row 1: -0.5 is below 0.",
            [("price", 1, "range", "-0.5")],
        ),
        (
            {"price": [1.0, float("nan"), 2]},
            "orders.csv: column price, row 1: nan is not a number.",
            [("price", 1, "number", "nan")],
        ),
        (
            {"kind": ["web", "fax", None]},
            "orders.csv: column kind, row 1: 'fax' is not one of 'web', 'phone'.",
            [("kind", 1, "set", "'fax'")],
        ),
        (
            {"rating": [1, None, 2]},
            "orders.csv: column rating, row 1: the value is missing.",
            [("rating", 1, "null", None)],
        ),
        (
            {"order_id": [10, 11, 10]},
            "orders.csv: column order_id, row 2: 10 stands already in row 0.",
            [("order_id", 2, "unique", "10")],
        ),
        (
            {"rating": ["1", "2", "3"]},
            "orders.csv: column rating is String, not Int64.",
            [("rating", None, "dtype", None)],
        ),
        (
            {"email": ["a@b", "nobody", "c@d"]},
            "orders.csv: column email, row 1: 'nobody' does not match the pattern [^@]+@[^@]+$.",
            [("email", 1, "pattern", "'nobody'")],
        ),
        (
            {"shopper": pl.Series([1, 2, 9], dtype=pl.Int32)},
            "orders.csv: column shopper, row 2: 9 is not in shoppers.id.",
            [("shopper", 2, "foreign key", "9")],
        ),
    ],
)
def test_each_fault_is_one_sentence_with_table_column_row_and_rule(changes, sentence, failures):
    error = fault(
        orders(**changes), table="orders.csv", references={"shoppers": pl.DataFrame({"id": [1, 2]})}
    )
    assert str(error) == sentence
    assert error.failures.rows() == failures


def test_a_missing_column_and_several_faults_at_once():
    error = fault(orders().drop("rating"), table="orders.csv")
    assert str(error) == "orders.csv: column rating is missing (there are order_id, kind, price)."
    error = fault(orders(rating=[9, 1, 1], price=[-1.0, -1, 0]).drop("kind"))
    assert str(error).startswith("orders: column kind is missing")
    assert "and also column rating (range), column price (range)" in str(error)
    assert str(error).count("\n") == 0
    assert error.counts == {("kind", "missing column"): 0, ("rating", "range"): 1, ("price", "range"): 2}


def test_a_foreign_key_is_checked_only_where_its_table_is_given_and_across_integer_types():
    frame = orders(shopper=pl.Series([1, 2, 3], dtype=pl.Int32))
    validate(frame, ORDERS)
    validate(frame, ORDERS, references={"shoppers": pl.LazyFrame({"id": [1, 2, 3]}, schema={"id": pl.Int64})})


def test_enums_compare_as_text():
    kinds = pl.Enum(["web", "phone", "fax"])
    frame = orders().with_columns(kind=pl.Series(["web", "fax", None], dtype=kinds))
    assert fault(frame).failures.rows() == [("kind", 1, "set", "'fax'")]


def test_an_unknown_schema_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"No schema is called 'ordrs'; declared are products, queries"):
        validate(orders(), "ordrs")


def test_switching_pandera_off_does_not_switch_this_off(monkeypatch):
    from pandera.config import config_context

    with config_context(validation_enabled=False), pytest.raises(SchemaError):
        validate(orders(rating=[9, 9, 9]), ORDERS)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 12),
            st.one_of(st.none(), st.integers(-2, 8)),
            st.one_of(st.none(), st.sampled_from(["web", "phone", "fax", ""])),
            st.one_of(st.none(), st.floats(-3, 3, width=32), st.just(float("nan"))),
        ),
        max_size=40,
    ),
    batch=st.integers(1, 9),
)
def test_what_is_found_is_what_brute_force_finds_whatever_the_batches(rows, batch):
    names = ["order_id", "rating", "kind", "price"]
    kinds = [pl.Int64, pl.Int64, pl.String, pl.Float64]
    frame = pl.DataFrame(rows, schema=dict(zip(names, kinds, strict=True)), orient="row")
    expected, seen = set(), set()
    for i, (order, rating, kind, price) in enumerate(rows):
        if order in seen:
            expected.add(("order_id", i, "unique"))
        seen.add(order)
        if rating is None:
            expected.add(("rating", i, "null"))
        elif not 1 <= rating <= 5:
            expected.add(("rating", i, "range"))
        if kind is not None and kind not in ("web", "phone"):
            expected.add(("kind", i, "set"))
        if price is None:
            expected.add(("price", i, "null"))
        elif price != price:
            expected.add(("price", i, "number"))
        elif price < 0:
            expected.add(("price", i, "range"))
    kept = schemas.BATCH
    schemas.BATCH = batch
    try:
        for given_ in (frame, frame.lazy()):
            try:
                validate(given_, ORDERS)
                found = set()
            except SchemaError as error:
                found = {row[:3] for row in error.failures.rows()}
            assert found == expected
    finally:
        schemas.BATCH = kept


def test_many_failing_rows_are_counted_and_a_hundred_kept():
    frame = pl.DataFrame(
        {"order_id": pl.int_range(1000, eager=True) // 2, "rating": 9, "kind": "web", "price": 1.0}
    )
    frame = frame.with_columns(pl.col("rating").cast(pl.Int64))
    error = fault(frame)
    assert "(and 999 more rows; and also column order_id (unique))" in str(error)
    assert error.counts == {("rating", "range"): 1000, ("order_id", "unique"): 500}
    assert error.failures.height == 200


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_five_million_rows_are_checked_in_little_memory(tmp_path):
    path = tmp_path / "events.parquet"
    i = pl.col("i")
    pl.LazyFrame({"i": pl.int_range(5_000_000, dtype=pl.Int32, eager=True)}).select(
        session_id=i // 10,
        position=(i % 10 + 1).cast(pl.Int8),
        price=pl.when(i == 4_000_001).then(-1.0).otherwise(9.99),
        clicked=i % 30 == 0,
    ).sink_parquet(path)
    # In a process of its own: peak memory is that of this check and of importing polars and pandera.
    code = f"""
import re, polars as pl
from labkit.data.schemas import Column, Schema, SchemaError, validate
schema = Schema("events", {{"session_id": Column(pl.Int32, 0), "position": Column(pl.Int8, 1),
    "price": Column(pl.Float64, 0), "clicked": Column(pl.Boolean)}}, key=("session_id", "position"))
try: validate(pl.scan_parquet({str(path)!r}), schema)
except SchemaError as error: print(error)
# Not getrusage: its peak counts the process that started this one.
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    sentence, peak = out.strip().split("\n")
    assert sentence == "events: column price, row 4000001: -1.0 is below 0."
    assert int(peak) * 1024 < 600e6


def test_the_simulated_shop_keeps_its_own_schemas():
    market = load("tiny")
    tables = {"products": market.products, "queries": market.queries}
    for name in ("products", "queries", "qrels", "sessions"):
        validate(getattr(market, name), name, references=tables)
    made = {name: market.scan(name) for name in SHOP_SCHEMAS if name not in ("qrels", "sessions")}
    for name, frame in made.items():
        validate(frame, name, references=made)
    broken = market.qrels.with_columns(product_id=pl.col("product_id") + 1_000)
    with pytest.raises(
        SchemaError, match=r"qrels: column product_id, row 0: \d+ is not in products.product_id"
    ):
        validate(broken, "qrels", references=tables)


def test_a_clock_that_says_1970_is_refused():
    column = {"time": SHOP_SCHEMAS["events"].columns["time"]}
    frame = pl.DataFrame({"time": [datetime(2025, 9, 1), datetime(1970, 1, 1)]}).cast(pl.Datetime("ms"))
    with pytest.raises(SchemaError, match="column time, row 1: 1970-01-01 00:00:00 is not in 2000"):
        validate(frame, Schema("events", column))


@pytest.mark.parametrize("schema", [*SHOP_SCHEMAS.values(), *SET_SCHEMAS.values()], ids=lambda s: s.name)
def test_declarations_are_sound(schema):
    """Keys are declared columns, foreign keys name a table and a column, an empty table passes."""
    assert set(schema.key) <= set(schema.columns)
    for column in schema.columns.values():
        assert column.to is None or len(column.to.split(".")) == 2
        if column.to and schema.name in SHOP_SCHEMAS:
            table, name = column.to.split(".")
            assert name in SHOP_SCHEMAS[table].columns
    kinds = {
        name: column.dtype[0] if isinstance(column.dtype, tuple) else column.dtype
        for name, column in schema.columns.items()
    }
    validate(pl.DataFrame(schema=kinds), schema)
