"""Finding and downloading data: whole and right, or not there at all; what was cut off goes on."""

import errno
import hashlib
import http.server
import re
import threading
from pathlib import Path

import pytest
from file_server import CONTENT, Handler, Shelf, a_set, listing, one_sentence, packed, sha
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.data import (
    DATA_SETS,
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
