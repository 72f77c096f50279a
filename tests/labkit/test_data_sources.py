"""Finding and downloading data: whole and right, or not there at all; what was cut off goes on."""

import errno
import gzip
import hashlib
import http.server
import io
import re
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.data import (
    DATA_SETS,
    BadFile,
    DataMissing,
    DownloadError,
    checksums,
    describe_sets,
    download,
    fetch,
    sources,
)
from labkit.data.checksums import digest, mismatch
from labkit.data.download import download as download_file
from labkit.data.sources import DataSet, Remote, find, locate
from labkit.data.whole import miscounted

CONTENT = bytes(range(256)) * 4000  # about a megabyte


class Shelf(http.server.ThreadingHTTPServer):
    """Serves bytes by path; can cut connections, forbid ranges, and counts what it sent."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, Callable[[Handler], None]] = {}  # what to answer instead, by path
        self.cuts: list[int] = []  # after so many bytes the next connections are cut
        self.ranges = True
        self.tags = True
        self.sent: list[int] = []  # bytes of each answer
        self.asked: list[str | None] = []  # Range header of each request

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request, client_address):
        pass  # connections that the tests cut


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        shelf = self.server
        body = shelf.files.get(self.path[1:])
        wanted = self.headers.get("Range")
        shelf.asked.append(wanted)
        if self.path[1:] in shelf.answers:
            shelf.answers[self.path[1:]](self)
            return
        if body is None:
            self.send_error(404)
            return
        tag = '"' + hashlib.sha256(body).hexdigest()[:16] + '"'
        start = 0
        current = self.headers.get("If-Range") in (None, tag)
        if wanted and shelf.ranges and current:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        if shelf.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        rest = body[start:]
        cut = shelf.cuts.pop(0) if shelf.cuts else None
        shelf.sent.append(len(rest[:cut]))  # before the client can be done and the next test begin
        self.wfile.write(rest[:cut])
        if cut is not None:
            self.close_connection = True


@pytest.fixture(scope="module")
def server():
    shelf = Shelf()
    threading.Thread(target=shelf.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield shelf
    shelf.shutdown()
    shelf.server_close()


@pytest.fixture
def shelf(server):
    server.files = {"data.bin": CONTENT}
    server.cuts, server.sent, server.asked, server.answers = [], [], [], {}
    server.ranges = server.tags = True
    return server


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LABKIT_DATA", raising=False)
    monkeypatch.setattr(sources, "_stated", set())
    monkeypatch.setattr(checksums, "_verified", {})


def sha(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


def listing(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert text[0].isupper() or text.startswith(("http", "/", "data.bin"))
    return text


def test_a_file_arrives_whole_and_alone(shelf, tmp_path):
    target = download_file(shelf.url("data.bin"), tmp_path / "data.bin", sha(CONTENT))
    assert listing(tmp_path) == {Path("data.bin"): CONTENT}
    assert target == tmp_path / "data.bin"


@pytest.mark.parametrize("kind", ["sha256", "md5", "git", "none"])
def test_every_kind_of_checksum_is_checked(shelf, tmp_path, kind):
    by_hand = {
        "sha256": hashlib.sha256(CONTENT),
        "md5": hashlib.md5(CONTENT),
        "git": hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT),
    }
    checksum = "" if kind == "none" else f"{kind}:{by_hand[kind].hexdigest()}"
    download_file(shelf.url("data.bin"), tmp_path / "data.bin", checksum)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    if checksum:
        assert digest(tmp_path / "data.bin", kind) == by_hand[kind].hexdigest()
        (tmp_path / "data.bin").write_bytes(CONTENT[:-1])
        assert mismatch(tmp_path / "data.bin", checksum)


def test_a_cut_connection_is_taken_up_again_and_no_byte_is_sent_twice(shelf, tmp_path):
    shelf.cuts = [300_000, 200_000]
    download_file(shelf.url("data.bin"), tmp_path / "data.bin", sha(CONTENT), pause=0)
    assert listing(tmp_path) == {Path("data.bin"): CONTENT}
    assert shelf.asked == [None, "bytes=300000-", "bytes=500000-"]
    assert sum(shelf.sent) == len(CONTENT)


@pytest.mark.parametrize("known", [True, False])
def test_the_next_call_goes_on_where_the_last_one_gave_up(shelf, tmp_path, known):
    checksum = sha(CONTENT) if known else ""
    shelf.cuts = [400_000, 0]
    with pytest.raises(DownloadError, match=r"broke off at 400 kB .*goes on from there") as error:
        download_file(shelf.url("data.bin"), tmp_path / "data.bin", checksum, attempts=1, pause=0)
    one_sentence(error)
    assert set(listing(tmp_path)) == {Path("data.bin.part"), Path("data.bin.part.tag")}
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:400_000]
    download_file(shelf.url("data.bin"), tmp_path / "data.bin", checksum, attempts=1, pause=0)
    assert listing(tmp_path) == {Path("data.bin"): CONTENT}
    assert sum(shelf.sent) == len(CONTENT)


def test_two_versions_of_a_file_are_never_joined(shelf, tmp_path):
    """The file changes on the server between two attempts, and nobody states its checksum."""
    shelf.cuts = [400_000, 0]
    with pytest.raises(DownloadError):
        download_file(shelf.url("data.bin"), tmp_path / "data.bin", attempts=1, pause=0)
    shelf.files["data.bin"] = other = CONTENT[::-1]
    download_file(shelf.url("data.bin"), tmp_path / "data.bin", pause=0)
    assert listing(tmp_path) == {Path("data.bin"): other}


def test_without_a_tag_and_without_a_checksum_it_begins_again(shelf, tmp_path):
    shelf.tags = False
    (tmp_path / "data.bin.part").write_bytes(b"x" * 1000)
    download_file(shelf.url("data.bin"), tmp_path / "data.bin", pause=0)
    assert listing(tmp_path) == {Path("data.bin"): CONTENT}
    assert shelf.asked == [None]


def test_a_server_without_ranges_sends_all_of_it_again(shelf, tmp_path):
    shelf.ranges = False
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:1000])
    download_file(shelf.url("data.bin"), tmp_path / "data.bin", sha(CONTENT), pause=0)
    assert listing(tmp_path) == {Path("data.bin"): CONTENT}


def test_a_part_that_is_whole_is_only_renamed(shelf, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    download_file(shelf.url("data.bin"), tmp_path / "data.bin", sha(CONTENT), pause=0)
    assert listing(tmp_path) == {Path("data.bin"): CONTENT}
    assert sum(shelf.sent) == 0


def test_a_part_longer_than_the_file_is_thrown_away(shelf, tmp_path):
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    download_file(shelf.url("data.bin"), tmp_path / "data.bin", sha(CONTENT), pause=0)
    assert listing(tmp_path) == {Path("data.bin"): CONTENT}


def test_a_wrong_checksum_leaves_nothing_and_does_not_touch_what_is_there(shelf, tmp_path):
    (tmp_path / "data.bin").write_bytes(b"what was there")
    before = listing(tmp_path)
    with pytest.raises(DownloadError, match=r"data\.bin from http.* is not the expected file") as error:
        download_file(shelf.url("data.bin"), tmp_path / "data.bin", sha(b"another"))
    one_sentence(error)
    assert listing(tmp_path) == before


def test_what_is_not_there_leaves_nothing(shelf, tmp_path):
    with pytest.raises(DownloadError, match=r"answers 404: the file is no longer there") as error:
        download_file(shelf.url("gone.bin"), tmp_path / "gone.bin")
    one_sentence(error)
    assert listing(tmp_path) == {}


def test_no_network_leaves_nothing(tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_address[1]}/data.bin"
    with pytest.raises(DownloadError, match=r"could not be reached \(Connection refused\)") as error:
        download_file(url, tmp_path / "data.bin")
    one_sentence(error)
    assert listing(tmp_path) == {}


def test_no_room_is_noticed_before_anything_is_written(shelf, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match=r"There is no room for data\.bin in") as error:
        download_file(shelf.url("data.bin"), tmp_path / "data.bin")
    one_sentence(error)
    assert listing(tmp_path) == {}


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no room for data.bin"),
        (KeyboardInterrupt(), "was stopped; run the same command again"),
    ],
)
def test_a_full_disk_or_ctrl_c_halfway_keeps_the_part_that_came(shelf, tmp_path, monkeypatch, raised, says):
    progress = download._progress

    def break_off(name):
        class Bar:
            def __enter__(self):
                return self.show

            def __exit__(self, *args):
                return None

            def show(self, had, total):
                if had > 300_000:
                    raise raised

        return Bar()

    monkeypatch.setattr(download, "_progress", break_off)
    with pytest.raises(DownloadError, match=says) as error:
        download_file(shelf.url("data.bin"), tmp_path / "data.bin", sha(CONTENT))
    one_sentence(error)
    assert set(listing(tmp_path)) == {Path("data.bin.part"), Path("data.bin.part.tag")}
    come = (tmp_path / "data.bin.part").read_bytes()
    assert come == CONTENT[: len(come)]
    assert len(come) > 300_000
    monkeypatch.setattr(download, "_progress", progress)
    download_file(shelf.url("data.bin"), tmp_path / "data.bin", sha(CONTENT))
    assert shelf.asked[-1] == f"bytes={len(come)}-"
    assert listing(tmp_path) == {Path("data.bin"): CONTENT}


def test_two_downloads_of_one_file_do_not_mix(shelf, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "data.bin.part").open("ab") as other:
        other.write(b"x")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match=r"data\.bin is being downloaded by another process"):
            download_file(shelf.url("data.bin"), tmp_path / "data.bin")
    assert shelf.sent == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(0, 5000),
    cuts=st.lists(st.integers(0, 2000), max_size=6),
    ranges=st.booleans(),
    tags=st.booleans(),
    known=st.booleans(),
    left=st.integers(0, 3000),
    attempts=st.integers(1, 3),
)
def test_whatever_happens_the_name_means_the_whole_file(
    shelf, tmp_path_factory, size, cuts, ranges, tags, known, left, attempts
):
    folder = tmp_path_factory.mktemp("any")
    body = CONTENT[100 : 100 + size]
    shelf.files["any"], shelf.cuts, shelf.ranges, shelf.tags = body, list(cuts), ranges, tags
    if left:
        (folder / "any.part").write_bytes(body[:left])
    for _ in range(12):
        try:
            download_file(
                shelf.url("any"), folder / "any", sha(body) if known else "", attempts=attempts, pause=0
            )
            break
        except DownloadError:
            assert set(listing(folder)) <= {Path("any.part"), Path("any.part.tag")}
    assert listing(folder) == {Path("any"): body}


# Data sets


def a_set(shelf, **changes):
    shelf.files |= {"one.csv": b"a,b\n1,2\n", "two.csv": b"c\n3\n"}
    known = {
        "name": "a_set",
        "title": "A set",
        "source": "https://example.org/set",
        "licence": "CC0.",
        "published": {
            "one.csv": Remote(shelf.url("one.csv"), sha(shelf.files["one.csv"])),
            "two.csv": Remote(shelf.url("two.csv")),
        },
    }
    return DataSet(**{**known, **changes})


def test_a_set_is_fetched_once_and_what_has_no_checksum_is_remembered(shelf, tmp_path, capsys):
    data = a_set(shelf)
    with pytest.raises(DataMissing, match=r"not found: download it with `labkit data fetch a_set`"):
        locate(data)
    place = fetch(data)
    assert place == tmp_path / "home" / "data" / "a_set"
    told = capsys.readouterr().err
    assert "Using A set. Licence: CC0." in told
    assert "states no checksum for two.csv; what is there now was recorded" in told
    asked = len(shelf.asked)
    assert fetch(data) == place
    assert find(data) == (place, "published")
    assert len(shelf.asked) == asked
    assert capsys.readouterr().err == ""
    (place / "two.csv").write_bytes(b"c\n4\n")
    with pytest.raises(ValueError, match=r"two\.csv is not the expected version of a_set \(SHA-256") as error:
        locate(data)
    one_sentence(error)


def test_a_failed_fetch_keeps_what_is_whole_and_leaves_no_empty_folder(shelf, tmp_path):
    data = a_set(shelf)
    body = shelf.files.pop("two.csv")
    with pytest.raises(DownloadError, match=r"two\.csv answers 404"):
        fetch(data)
    place = tmp_path / "home" / "data" / "a_set"
    assert set(listing(place)) == {Path("one.csv")}
    with pytest.raises(DataMissing):
        locate(data)
    shelf.files["two.csv"] = body
    before = len(shelf.asked)
    fetch(data)
    assert len(shelf.asked) == before + 1  # one.csv was there
    nothing = a_set(shelf, name="other", published={"x": Remote(shelf.url("x"))})
    with pytest.raises(DownloadError):
        fetch(nothing)
    assert not (tmp_path / "home" / "data" / "other").exists()


def packed(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            archive.writestr(f"set/{name}", body)
    return buffer.getvalue()


def test_an_archive_is_checked_unpacked_and_dropped(shelf, tmp_path):
    whole = packed(a=b"first" * 5000, b=b"second", c=b"not wanted")
    shelf.files["set.zip"] = whole
    members = {"set/a": "a.csv", "set/b": "b.csv"}
    data = a_set(shelf, published={"set.zip": Remote(shelf.url("set.zip"), sha(whole), members)})
    place = fetch(data)
    assert set(listing(place)) == {Path("a.csv"), Path("b.csv"), Path("checksums.json")}
    assert (place / "a.csv").read_bytes() == b"first" * 5000
    (place / "b.csv").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"b\.csv is not the expected version"):
        locate(data)


@pytest.mark.parametrize("fault", ["truncated", "no zip", "another member", "damaged member"])
def test_a_bad_archive_leaves_nothing(shelf, tmp_path, fault):
    whole = packed(a=b"first" * 5000, b=bytes(range(256)) * 100)
    if fault == "damaged member":
        at = whole.index(b"set/b") + 60
        whole = whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
    shelf.files["set.zip"] = {"truncated": whole[:-100], "no zip": b"<html>"}.get(fault, whole)
    members = {"set/a": "a.csv", "set/other" if fault == "another member" else "set/b": "b.csv"}
    data = a_set(shelf, published={"set.zip": Remote(shelf.url("set.zip"), "", members)})
    with pytest.raises(DownloadError, match=r"set\.zip from http.*(not a whole zip|has changed)") as error:
        fetch(data)
    assert "\n" not in str(error.value)
    assert listing(tmp_path / "home" / "data") == {}


def test_a_set_that_must_be_asked_for_says_where_and_where_to_put_it(tmp_path):
    for name, words in (
        (
            "hm",
            r"accept the rules, so download it at https://www\.kaggle\.com/.*put articles\.csv.* into .*hm\.",
        ),
        (
            "retailrocket",
            r"takes a login, so download it at https://www\.kaggle.*events\.csv.* into .*retailrocket\.",
        ),
        (
            "sessions_diginetica_gcegnn",
            r"pickles, which may run any code.* into .*sessions_diginetica_gcegnn\.",
        ),
    ):
        with pytest.raises(DataMissing, match=words) as error:
            fetch(DATA_SETS[name])
        assert "\n" not in str(error.value)
    assert not (tmp_path / "home" / "data").exists()


def test_files_put_there_by_hand_are_remembered_where_that_can_be_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "mine"))
    data = DataSet(
        "by_hand", "By hand", "https://example.org", "none", published={"a.csv": Remote("")}, by_hand="ask."
    )
    place = tmp_path / "mine" / "by_hand"
    place.mkdir(parents=True)
    (place / "a.csv").write_bytes(b"1")
    assert locate(data) == place
    assert "states no checksum for a.csv" in capsys.readouterr().err
    (place / "a.csv").write_bytes(b"2")
    with pytest.raises(ValueError, match="not the expected version of by_hand"):
        locate(data)
    (place / "checksums.json").unlink()

    def refuse(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)  # a read-only folder
    assert locate(data) == place
    assert capsys.readouterr().err == ""


def test_folders_are_searched_in_order_and_measurement_only_too(tmp_path, monkeypatch):
    data = DataSet("s", "S", "https://example.org", "none", files={"a": hashlib.sha256(b"1").hexdigest()})
    monkeypatch.setenv("LABKIT_DATA", f"{tmp_path / 'x'}:{tmp_path / 'y'}")
    for folder in ("home/data/s", "y/measurement_only/s", "x/s"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a").write_bytes(b"1")
        assert locate(data) == tmp_path / folder


def test_the_registry_is_sound_and_listing_it_states_no_licence(capsys):
    entries = describe_sets()
    assert [entry["name"] for entry in entries] == list(DATA_SETS)
    assert not any(entry["found"] for entry in entries)
    hows = {entry["name"]: entry["how"] for entry in entries}
    assert hows["wands"] == "labkit data fetch wands"
    assert hows["hm"] == hows["chorus_electronics_search"] == "by hand"
    assert capsys.readouterr().err == ""
    for data in DATA_SETS.values():
        assert data.files or data.published
        assert all(re.fullmatch(r"[0-9a-f]{64}", checksum) for checksum in data.files.values())
        lengths = {"sha256": 64, "md5": 32, "git": 40}
        for remote in data.published.values():
            kind, _, value = remote.checksum.partition(":")
            assert not remote.checksum or re.fullmatch(f"[0-9a-f]{{{lengths[kind]}}}", value)
            assert remote.url.startswith("http") or data.by_hand
        assert data.licence.endswith(".")


def test_an_archive_that_found_no_room_is_unpacked_later_without_another_download(
    shelf, tmp_path, monkeypatch
):
    whole = packed(a=b"first" * 5000)
    shelf.files["set.zip"] = whole
    data = a_set(shelf, published={"set.zip": Remote(shelf.url("set.zip"), sha(whole), {"set/a": "a.csv"})})

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("labkit.data.fetching.shutil.copyfileobj", full)
        with pytest.raises(DownloadError, match=r"set\.zip could not be unpacked .*No space left") as error:
            fetch(data)
    assert "\n" not in str(error.value)
    place = tmp_path / "home" / "data" / "a_set"
    assert set(listing(place)) == {Path("set.zip")}
    fetch(data)
    assert set(listing(place)) == {Path("a.csv"), Path("checksums.json")}
    assert len(shelf.asked) == 1


# What is not the file


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
