"""Loaders and broken files: one clear sentence that names the file, and nothing half-made."""

import csv
import gzip
import io
import json
import shutil

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_files import (
    AMAZON,
    BANDIT,
    BANKING,
    ESCI,
    ESCI_EXAMPLES,
    HILLSTROM,
    HM,
    MATCHING,
    ML_1M,
    ML_CSV,
    RETAILROCKET,
    WANDS,
    lines,
    parquet,
    place,
    review,
)

from labkit import data as labdata
from labkit.data import BadFile, DataMissing, SchemaError, checksums, sources
from labkit.data.files import read_table
from labkit.data.jsonlines import line_errors, scan_lines

FORMATS = {
    "esci": (ESCI, lambda: labdata.load_esci()),
    "wands": (WANDS, lambda: labdata.load_wands()),
    "retailrocket": (RETAILROCKET, lambda: labdata.load_retailrocket()),
    "movielens_1m": (ML_1M, lambda: labdata.load_movielens("1m")),
    "movielens_25m": (ML_CSV, lambda: labdata.load_movielens("25m")),
    "movielens_32m": (ML_CSV, lambda: labdata.load_movielens("32m")),
    "hm": (HM, lambda: labdata.load_hm()),
    "amazon_reviews_2023": (AMAZON, lambda: labdata.load_amazon_reviews()),
    "open_bandit_small": (BANDIT, lambda: labdata.load_open_bandit()),
    "banking77": (BANKING, lambda: labdata.load_banking77()),
    "hillstrom_email_ab_test": (HILLSTROM, lambda: labdata.load_hillstrom()),
    "product_matching_er_magellan": (MATCHING, lambda: labdata.load_product_matching()),
}


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sources, "_stated", set())
    monkeypatch.setattr(checksums, "_verified", {})


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder that LABKIT_DATA names; checksums and row counts of the published files are not asked for."""
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sources, "mismatch", lambda path, checksum: None)
    monkeypatch.setattr(sources, "miscounted", lambda path, rows: None)
    return tmp_path / "data"


def table(rows, separator):
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def fails(load, home, *names):
    """The loader raises one sentence that names the file, and leaves nothing half-made."""
    with pytest.raises((BadFile, SchemaError)) as error:
        load()
    text = str(error.value)
    assert "\n" not in text, text
    assert text.endswith("."), text
    assert len(text) < 400, text
    assert any(name in text for name in names), (text, names)
    prepared = home / "prepared"
    assert not prepared.exists() or list(prepared.iterdir()) == []
    return text


def files_of():
    return [
        (name, file)
        for name, (files, _) in FORMATS.items()
        for file in files
        if not any(word in file for word in ("google", "walmart", "women", "bts"))  # others of their kind
    ]


@pytest.mark.parametrize("fault", ["empty", "binary", "html"])
@pytest.mark.parametrize(("name", "file"), files_of())
def test_another_file_under_the_name(shelf, tmp_path, name, file, fault):
    files, load = FORMATS[name]
    body = {
        "empty": b"",
        "binary": b"\x00\xff\xfe\x80" * 50,
        "html": b"<!DOCTYPE html>\n<html><body>Please log in</body></html>\n",
    }[fault]
    place(shelf, name, {**files, file: body})
    fails(load, tmp_path / "home", file)


@pytest.mark.parametrize(
    ("name", "file"), [pair for pair in files_of() if pair[1].endswith((".gz", ".parquet"))]
)
def test_a_truncated_file(shelf, tmp_path, name, file):
    files, load = FORMATS[name]
    for cut in (1, 10, len(files[file]) // 2):
        place(shelf, name, {**files, file: files[file][:-cut]})
        fails(load, tmp_path / "home", file)


TABLES = [pair for pair in files_of() if pair[1].endswith(".csv")]


def header(body, separator):
    first, rest = body.split(b"\n", 1)
    return first.split(separator), rest


@pytest.mark.parametrize(("name", "file"), TABLES)
def test_a_wrong_separator_is_recognised(shelf, tmp_path, name, file):
    files, load = FORMATS[name]
    right = b"\t" if name == "wands" else b","
    wrong = b"," if name == "wands" else b";"
    place(shelf, name, {**files, file: files[file].replace(right, wrong)})
    text = fails(load, tmp_path / "home", file)
    words = {b",": "commas", b";": "semicolons", b"\t": "tabs"}
    assert f"when split at {words[right]}; it seems to be separated by {words[wrong]}" in text


@pytest.mark.parametrize(("name", "file"), TABLES)
def test_each_missing_column_is_named(shelf, tmp_path, name, file):
    files, load = FORMATS[name]
    separator = b"\t" if name == "wands" else b","
    names, rest = header(files[file], separator)
    refused = []
    for column in names:
        other = separator.join(b"other" if each == column else each for each in names)
        place(shelf, name, {**files, file: other + b"\n" + rest})
        try:
            load()
        except SchemaError:
            expected = {b"category": b"intent", b"category hierarchy": b"category_hierarchy"}.get(
                column, column
            )
            text = fails(load, tmp_path / "home", file)
            assert f"{file}: column {expected.decode()} is missing (there are " in text
            refused.append(column)
        shutil.rmtree(tmp_path / "home" / "prepared", ignore_errors=True)
    # The row numbers of Open Bandit have no name; H&M has columns that nobody reads.
    assert len(refused) == len([each for each in names if each]) or (name == "hm" and len(refused) >= 5)


@pytest.mark.parametrize(("name", "file"), TABLES)
def test_bad_encoding(shelf, tmp_path, name, file):
    files, load = FORMATS[name]
    separator = b"\t" if name == "wands" else b","
    names, rest = header(files[file], separator)
    text_column = {
        "product.csv": "product_name",
        "query.csv": "query",
        "label.csv": "label",
        "events.csv": "event",
        "movies.csv": "title",
        "articles.csv": "prod_name",
        "customers.csv": "customer_id" if name == "hm" else "history_segment",
        "transactions_train.csv": "customer_id",
        "train.csv": "text",
        "test.csv": "text",
    }.get(file, names[0].decode())
    at = names.index(text_column.encode())
    cells = list(csv.reader(io.StringIO(rest.decode()), delimiter=separator.decode()))
    cells[0][at] = "caf@@"
    body = separator.join(names) + b"\n" + table(cells, separator.decode()).replace(b"@@", b"\xe9")
    place(shelf, name, {**files, file: body})
    fails(load, tmp_path / "home", file)


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "says"),
    [
        (
            "wands",
            "label.csv",
            b"3\t5\t",
            b"3\tfive\t",
            "label.csv: column product_id, row 1: 'five' is not a number",
        ),
        (
            "wands",
            "label.csv",
            b"Exact",
            b"exact",
            "label.csv: column label, row 0: 'exact' is not one of 'Exact', ",
        ),
        (
            "wands",
            "label.csv",
            b"1\t0\tPar",
            b"1\t77\tPar",
            "label.csv: column product_id, row 2: 77 is not in products.product_id",
        ),
        (
            "wands",
            "label.csv",
            b"3\t5\t",
            b"3\t1\t",
            "label.csv: columns query_id, product_id, row 1: (3, 1) stands already in row 0",
        ),
        (
            "movielens_25m",
            "ratings.csv",
            b",0.5,",
            b",half,",
            "ratings.csv: column rating, row 1: 'half' is not a number",
        ),
        (
            "movielens_25m",
            "ratings.csv",
            b",0.5,",
            b",55,",
            "movielens_25m events: column rating, row 1: 55.0 is not in 0..5",
        ),
        (
            "movielens_25m",
            "ratings.csv",
            b"10,7,",
            b"10,8,",
            "movielens_25m events: column item_id, row 1: the value is missing",
        ),
        (
            "movielens_1m",
            "ratings.dat",
            b"::661::",
            b":661:",
            "ratings.dat: line 2 is not UserID, MovieID, Rating, Timestamp separated by ::",
        ),
        (
            "hm",
            "transactions_train.csv",
            b"2018-09-21",
            b"21.9.2018",
            "transactions_train.csv: column t_dat, row 1: '21.9.2018' is not a Date",
        ),
        (
            "retailrocket",
            "events.csv",
            b"addtocart",
            b"add",
            "events.csv: column event, row 2: 'add' is not one of 'view', ",
        ),
        (
            "hillstrom_email_ab_test",
            "customers.csv",
            b"Phone",
            b"Fax",
            "column channel, row 0: 'Fax' is not one of ",
        ),
        (
            "product_matching_er_magellan",
            "abt_buy_valid.txt",
            b"\t1\n",
            b"\n",
            "abt_buy_valid.txt: line 1 is not two offers and 0 or 1",
        ),
        (
            "product_matching_er_magellan",
            "abt_buy_train.txt",
            b"399.0",
            b"cheap",
            "right: column price, row 0: 'cheap' is not a number",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_row(shelf, tmp_path, name, file, old, new, says):
    files, load = FORMATS[name]
    assert old in files[file]
    place(shelf, name, {**files, file: files[file].replace(old, new)})
    assert says in fails(load, tmp_path / "home", file, name, file.split("_")[0])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (lines(review(), review(timestamp="May")), "column timestamp, row 1: 'May' is not a number"),
        (lines(review(rating=9.0)), "column rating, row 0: 9.0 is not in 0..5"),
        (
            gzip.compress(b'{"rating": 1}\n', mtime=0),
            "column parent_asin is missing (its first line has rating)",
        ),
        (gzip.compress(json.dumps(review()).encode() + b"\n{\n"), "line 2 is not JSON"),
        (gzip.compress(json.dumps(review()).encode() + b'\n{"text": "\xff"}\n'), "line 2 is not UTF-8"),
        (gzip.compress(b"[1]\n", mtime=0), "line 1 is another kind of JSON"),
        (b"plain text", "Not a gzipped file"),
    ],
)
def test_a_wrong_line_of_json_is_named(shelf, tmp_path, body, says):
    place(shelf, "amazon_reviews_2023", {**AMAZON, "All_Beauty.jsonl.gz": body})
    text = fails(labdata.load_amazon_reviews, tmp_path / "home", "All_Beauty.jsonl.gz", "amazon_reviews_2023")
    assert says in text


@pytest.mark.parametrize("column", ESCI_EXAMPLES.columns)
def test_esci_without_a_column_or_with_another_dtype(shelf, tmp_path, column):
    for frame, says in (
        (ESCI_EXAMPLES.drop(column), f"column {column} is missing"),
        (ESCI_EXAMPLES.with_columns(pl.lit(True).alias(column)), f"column {column} is Boolean, not "),
    ):
        file = "shopping_queries_dataset_examples.parquet"
        place(shelf, "esci", {**ESCI, file: parquet(frame)})
        assert f"{file}: {says}" in fails(labdata.load_esci, tmp_path / "home", file)


def test_a_set_that_is_not_there(shelf):
    for name, (_, load) in FORMATS.items():
        with pytest.raises(DataMissing, match=f"The data set {name} was not found: ") as error:
            load()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "file"), [("retailrocket", "events.csv"), ("hm", "customers.csv")])
def test_a_table_cut_within_a_row_is_not_loaded_and_not_remembered(shelf, tmp_path, name, file):
    files, load = FORMATS[name]
    body = files[file]
    last = body.rstrip(b"\n").rsplit(b"\n", 1)[1]
    within_the_last_field = len(last) - len(last.rsplit(b",", 1)[1])
    for size in range(1, within_the_last_field):
        place(shelf, name, {**files, file: body.removesuffix(last + b"\n") + last[:size]})
        fails(load, tmp_path / "home", file)
        known = shelf / name / "checksums.json"
        assert not known.exists() or file not in json.loads(known.read_text())


def test_a_file_that_can_be_fetched_names_the_command(shelf, tmp_path):
    junk = b"\x00\xff" * 99 + b"\n"
    for name, file in (("hillstrom_email_ab_test", "customers.csv"), ("movielens_25m", "movies.csv")):
        files, load = FORMATS[name]
        place(shelf, name, {**files, file: junk})
        assert fails(load, tmp_path / "home", file).endswith(
            f"; fetch it again with `labkit data fetch {name} --again`."
        )
    place(shelf, "hm", {**HM, "articles.csv": junk})
    assert fails(labdata.load_hm, tmp_path / "home", "articles.csv").endswith("; fetch it again.")


TEXT = {"a": pl.String, "b": pl.String, "c": pl.String}


def one_table(folder, body, name="x.csv"):
    (folder / name).write_bytes(body)
    return read_table(folder / name, TEXT)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"a,b,c\n1,2,3\n2,b", "line 3 has 2 of 3 fields"),
        (b"a,b,c\n1,2\n4,5,6\n", "line 2 has 2 of 3 fields"),
        (b"a,b,c\n\n1,2,3,4\n4,5,6\n", "line 3 has 4 of 3 fields"),
        (b'a,b,c\n1,"2\n,",3\n4,"5,6"\n', "line 4 has 2 of 3 fields"),
    ],
)
def test_a_row_with_other_fields_is_named(tmp_path, body, says):
    for name, written in (("x.csv", body), ("x.csv.gz", gzip.compress(body, mtime=0))):
        with pytest.raises(BadFile) as error:
            one_table(tmp_path, written, name)
        assert (
            str(error.value)
            == f"{name} can't be read as a table separated by commas: {says}; fetch it again."
        )


CELL = st.text(st.sampled_from('xé" ,\n;'), max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=6),
    at=st.integers(0, 5),
    width=st.sampled_from([1, 2, 4]),
)
def test_only_rows_with_other_fields_are_refused(tmp_path, rows, at, width):
    rows = [("k" + a, b, c) for a, b, c in rows]  # no row without any value
    whole = one_table(tmp_path, table([TEXT, *rows], ","))
    assert [tuple(cell or "" for cell in row) for row in whole.rows()] == rows
    at %= len(rows)
    rows[at] = (*rows[at], "more")[:width]
    with pytest.raises(BadFile, match=rf" has {width} of 3 fields; fetch it again"):
        one_table(tmp_path, table([TEXT, *rows], ","))


def test_blank_lines_are_no_rows(tmp_path):
    for end in (b"\n", b"\r\n"):
        for mark in (b"", b"\xef\xbb\xbf"):
            body = mark + end * 2 + end.join([b"a,b,c", b"1,2,3", b"", b"4,,6", b"", b""])
            assert one_table(tmp_path, body).rows() == [("1", "2", "3"), ("4", None, "6")]
    with pytest.raises(BadFile, match=r"^x\.csv is empty; fetch it again\.$"):
        one_table(tmp_path, b"\n\n")


def test_json_lines_after_a_byte_order_mark_and_blank_lines(tmp_path):
    columns = {"a": pl.Int64}
    body = b'\xef\xbb\xbf\n{"a": 1}\n\n{"a": 2}\n'
    for name, written in (("x.jsonl", body), ("x.jsonl.gz", gzip.compress(body, mtime=0))):
        (tmp_path / name).write_bytes(written)
        with line_errors(tmp_path / name, columns):
            assert scan_lines(tmp_path / name, columns, ("a",)).collect().rows() == [(1,), (2,)]
        (tmp_path / name).write_bytes(
            gzip.compress(body + b"{", mtime=0) if name.endswith("gz") else body + b"{"
        )
        with pytest.raises(BadFile, match="line 5 is not JSON"), line_errors(tmp_path / name, columns):
            scan_lines(tmp_path / name, columns, ("a",)).collect()
