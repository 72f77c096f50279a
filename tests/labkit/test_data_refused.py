"""What comes instead of a data set's file, or only in part: refused, not remembered, and fetched again."""

import gzip
import io
import re
import threading
from pathlib import Path

import polars as pl
import pytest
from file_server import CONTENT, Shelf, a_set, listing, one_sentence, packed, sha

from labkit.data import (
    DATA_SETS,
    BadFile,
    DataMissing,
    DownloadError,
    checksums,
    fetch,
    sources,
)
from labkit.data.download import download as download_file
from labkit.data.sources import DataSet, Remote, locate
from labkit.data.whole import miscounted


@pytest.fixture(scope="module")
def server():
    shelf = Shelf()
    threading.Thread(target=shelf.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield shelf
    shelf.shutdown()
    shelf.server_close()


@pytest.fixture
def shelf(server):
    return server.cleared()


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LABKIT_DATA", raising=False)
    monkeypatch.setattr(sources, "_stated", set())
    monkeypatch.setattr(checksums, "_verified", {})


def answering(shelf, name, status=200, body=b"", **headers):
    """What to answer for a name; without a Content-Length the end of the connection ends the file."""

    def answer(handler):
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    shelf.answers[name] = answer


def ranged(shelf, name, body, tags, most=10**9, cut=None):
    """Answers of a server that pays no heed to If-Range and sends at most so many bytes of a range."""
    count = iter(range(100))

    def answer(handler):
        tag = tags[min(next(count), len(tags) - 1)]
        wanted = handler.headers.get("Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        piece = body[start:][:most] if wanted else body
        handler.send_response(206 if wanted else 200)
        if wanted:
            handler.send_header("Content-Range", f"bytes {start}-{start + len(piece) - 1}/{len(body)}")
        handler.send_header(*tag)
        handler.send_header("Content-Length", str(len(piece)))
        handler.end_headers()
        handler.wfile.write(piece if wanted else piece[:cut])
        handler.close_connection = True

    shelf.answers[name] = answer


def test_a_server_that_sends_less_than_was_asked_for_is_asked_again(shelf, tmp_path):
    ranged(shelf, "data.bin", CONTENT, [("ETag", '"a"')], most=400_000, cut=1000)
    download_file(shelf.url("data.bin"), tmp_path / "data.bin", pause=0)
    assert listing(tmp_path) == {Path("data.bin"): CONTENT}
    assert shelf.asked == [None, "bytes=1000-", "bytes=401000-", "bytes=801000-"]


@pytest.mark.parametrize(
    "tags",
    [
        [("ETag", '"a"'), ("ETag", '"b"')],
        [
            ("Last-Modified", "Mon, 01 Sep 2025 00:00:00 GMT"),
            ("Last-Modified", "Tue, 02 Sep 2025 00:00:00 GMT"),
        ],
    ],
)
def test_a_part_of_another_version_is_not_appended(shelf, tmp_path, tags):
    ranged(shelf, "data.bin", CONTENT, tags[:1], cut=1000)
    with pytest.raises(DownloadError):
        download_file(shelf.url("data.bin"), tmp_path / "data.bin", attempts=0, pause=0)
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:1000]
    other = CONTENT[::-1]
    ranged(shelf, "data.bin", other, tags[1:])
    download_file(shelf.url("data.bin"), tmp_path / "data.bin", pause=0)
    assert listing(tmp_path) == {Path("data.bin"): other}


PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>\n"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"status": 204}, "answers 204, which does not bring the file"),
        ({"status": 206, "body": b"a,b\n1,2\n"}, "answers 206, which does not bring the file"),
        (
            {"body": PAGE, "Content_Type": "text/html; charset=utf-8"},
            "answers with a web page instead of a.csv",
        ),
        ({"body": PAGE, "Content_Type": "text/csv"}, "is not the expected file .it is a web page"),
        ({"body": gzip.compress(b"a,b\n1,2\n"), "Content_Encoding": "gzip"}, "sends a.csv packed as gzip"),
        ({}, "is not the expected file .it is empty"),
        ({"body": b"a,b\n1,2\n3"}, "is not the expected file .its last row is cut off"),
        ({"body": b"a,b\n1,2\n"}, "is not the expected file .it has 1 rows, its publisher says 2"),
    ],
)
def test_what_is_not_the_file_is_refused_and_not_remembered(shelf, tmp_path, answer, says):
    data = a_set(shelf, published={"a.csv": Remote(shelf.url("a.csv"))}, rows={"a.csv": 2})
    answering(shelf, "a.csv", **answer)
    with pytest.raises(DownloadError, match=says) as error:
        fetch(data)
    assert "\n" not in str(error.value)
    assert listing(tmp_path / "home" / "data") == {}
    answering(shelf, "a.csv", body=b"a,b\n1,2\n3,4\n")
    assert (fetch(data) / "a.csv").read_bytes() == b"a,b\n1,2\n3,4\n"


def packed_files():
    frame = io.BytesIO()
    pl.DataFrame({"a": range(1000)}).write_parquet(frame)
    return {"a.gz": gzip.compress(CONTENT), "a.parquet": frame.getvalue(), "a.zip": packed(a=CONTENT)}


@pytest.mark.parametrize("name", ["a.gz", "a.parquet", "a.zip"])
def test_a_packed_file_cut_without_a_word_is_refused(shelf, tmp_path, name):
    """The connection ends the file, and its end came too early."""
    whole = packed_files()[name]
    data = a_set(shelf, published={name: Remote(shelf.url(name))})
    for size in (1, len(whole) // 2, len(whole) - 1):
        answering(shelf, name, body=whole[:size])
        with pytest.raises(DownloadError, match=rf"{name} from http.*not a whole {name[2:]} file: "):
            fetch(data)
        assert listing(tmp_path / "home" / "data") == {}
    answering(shelf, name, body=whole, **({"Content_Encoding": "x-gzip"} if name == "a.gz" else {}))
    assert (fetch(data) / name).read_bytes() == whole


def test_a_redirection_to_itself_is_told_in_one_sentence(shelf, tmp_path):
    answering(shelf, "data.bin", 302, Location="/data.bin", Content_Length="0")
    with pytest.raises(
        DownloadError, match=r"answers 302 \(The HTTP server .* infinite loop\); run"
    ) as error:
        download_file(shelf.url("data.bin"), tmp_path / "data.bin")
    one_sentence(error)


# Once more


def test_a_set_is_fetched_again_when_asked_and_kept_until_it_has_come(shelf, tmp_path):
    whole = packed(a=b"first")
    shelf.files["set.zip"] = whole
    published = {
        "one.csv": Remote(shelf.url("one.csv"), sha(b"a,b\n1,2\n")),
        "two.csv": Remote(shelf.url("two.csv")),
        "set.zip": Remote(shelf.url("set.zip"), sha(whole), {"set/a": "a.csv"}),
    }
    data = a_set(shelf, published=published)
    place = fetch(data)
    right = listing(place)
    for name in ("two.csv", "a.csv"):
        (place / name).write_bytes(b"cut")
    with pytest.raises(ValueError, match="`labkit data fetch a_set --again`") as error:
        fetch(data)
    one_sentence(error)
    checksums.remember(place, ["two.csv", "a.csv"])  # as if they had come so
    asked = len(shelf.asked)
    assert fetch(data) == place
    assert len(shelf.asked) == asked
    body = shelf.files.pop("two.csv")
    before = listing(place)
    with pytest.raises(DownloadError):
        fetch(data, again=True)
    assert listing(place) == before
    shelf.files["two.csv"] = body
    assert fetch(data, again=True) == place
    now = listing(place)
    assert set(now) == set(right)
    assert {name: now[name] for name in now if name.suffix == ".csv"} == {
        name: right[name] for name in right if name.suffix == ".csv"
    }
    assert locate(data) == place


def test_again_replaces_the_files_that_are_used(shelf, tmp_path, monkeypatch):
    """They lie in a folder that LABKIT_DATA names, which is searched first."""
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "mine"))
    data = a_set(shelf, published={"two.csv": Remote(shelf.url("two.csv"))})
    (tmp_path / "mine" / "a_set").mkdir(parents=True)
    (tmp_path / "mine" / "a_set" / "two.csv").write_bytes(b"c\n4\n")
    assert fetch(data, again=True) == tmp_path / "mine" / "a_set" == locate(data)
    assert (tmp_path / "mine" / "a_set" / "two.csv").read_bytes() == b"c\n3\n"
    assert fetch(data, tmp_path / "other", again=True) == tmp_path / "other" / "a_set"
    with pytest.raises(DataMissing, match=r"hm can't be downloaded anew: its owners want") as error:
        fetch(DATA_SETS["hm"], again=True)
    one_sentence(error)


@pytest.mark.parametrize("body", [b"", b"a,b\n1,2\n3", b"a,b\n1,2\n3,4\n5,6\n", PAGE])
def test_a_broken_file_put_there_by_hand_is_not_remembered(tmp_path, monkeypatch, body):
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    data = DataSet(
        "by_hand",
        "By hand",
        "https://example.org",
        "none",
        published={"a.csv": Remote("")},
        by_hand="ask.",
        rows={"a.csv": 2},
    )
    (tmp_path / "by_hand").mkdir()
    (tmp_path / "by_hand" / "a.csv").write_bytes(body)
    with pytest.raises(BadFile, match=r"a\.csv is not a whole file \(it.*\); fetch it again\.$"):
        locate(data)
    assert not (tmp_path / "by_hand" / "checksums.json").exists()
    (tmp_path / "by_hand" / "a.csv").write_bytes(b"a,b\n1,2\n\n3,4")
    assert locate(data) == tmp_path / "by_hand"


def test_rows_are_counted_by_the_file_s_kind(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'a,b\n1,"x\ny"\n\n2,\n')
    (tmp_path / "a.dat").write_bytes(b"1::2\n3::4\n")
    assert miscounted(tmp_path / "a.csv", 2) is miscounted(tmp_path / "a.dat", 2) is None
    assert miscounted(tmp_path / "a.csv", 3) == "it has 2 rows, its publisher says 3"
    assert miscounted(tmp_path / "a.dat", 1_000) == "it has 2 rows, its publisher says 1,000"
