"""``labkit data``: the market made, described and cleaned from the command line; the real sets listed."""

from __future__ import annotations

import functools
import http.server
import json
import re
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import labkit.shop
from labkit import cli
from labkit.data import DATA_SETS
from labkit.data.sources import DataSet, Remote
from labkit.shop.market import TABLES


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory):
    """One cache for the whole file, and no real data."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("home")
    patch.setenv("LABKIT_HOME", str(folder))
    patch.delenv("LABKIT_DATA", raising=False)
    yield folder
    patch.undo()


def data(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["data", *arguments])


def answer(*arguments: str) -> dict:
    result = data(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


class TestMake:
    def test_the_same_hash_twice_and_made_anew(self, home: Path) -> None:
        first = answer("make", "--size", "tiny")
        made = next((home / "shop").glob("*-tiny-0/raw/market.json"))
        before = made.stat().st_mtime_ns
        assert answer("make", "--size", "tiny") == first
        assert made.stat().st_mtime_ns == before  # kept, not made again
        assert answer("make", "--size", "tiny", "--again") == first
        assert made.stat().st_mtime_ns > before
        assert list(first["tables"]) == list(TABLES)
        assert re.fullmatch("[0-9a-f]{64}", first["hash"])

    def test_another_seed_is_another_hash(self) -> None:
        zero, one = (answer("make", "--size", "tiny", "--seed", seed) for seed in ("0", "1"))
        assert zero["hash"] != one["hash"]
        # What does not depend on the seed: the calendar of sales and who is on the stock exchange.
        same = [name for name in TABLES if zero["tables"][name] == one["tables"][name]]
        assert same == ["campaigns", "companies"]

    def test_the_text_names_every_table(self) -> None:
        result = data("make", "--size", "tiny")
        digests = dict(line.split("  ")[::-1] for line in result.stdout.splitlines())
        assert set(digests) == {*TABLES, "the tiny market, seed 0"}


class TestDescribe:
    def test_prints_a_profile_and_draws_four_figures(self, tmp_path: Path) -> None:
        result = data("describe", "--size", "tiny", "--figures", str(tmp_path / "deep" / "figures"))
        assert result.exit_code == 0, result.output
        drawn = sorted((tmp_path / "deep" / "figures").iterdir())
        assert [path.name for path in drawn] == ["catalogue.png", "clicks.png", "defects.png", "seasons.png"]
        for path in drawn:
            assert path.read_bytes().startswith(b"\x89PNG")
            assert path.stat().st_size > 20_000
        assert "The tiny market, seed 0: 600 products." in result.stdout
        assert "20,000 impressions" in result.stdout
        for title in ("Tables", "Click rate by position", "Discounts", "Defects of the raw tables"):
            assert title in result.stdout

    def test_the_profile_counts_what_the_tables_hold(self, tmp_path: Path) -> None:
        told = answer("describe", "--size", "tiny", "--figures", str(tmp_path))
        market = labkit.shop.load("tiny")
        events, truth = market.read("events"), market.read("truth")
        assert told["funnel"] == {
            "impressions": events.height,
            "clicks": events["clicked"].sum(),
            "carts": events["carted"].sum(),
            "purchases": events["bought"].sum(),
            "returns": events["returned"].sum(),
        }
        assert {row["table"]: row["rows"] for row in told["tables"]}["raw_events"] == (
            market.read("raw_events").height
        )
        counts = {(row["table"], row["defect"]): row["rows"] for row in told["defects"]}
        for table, defect in (("events", "bot"), ("products", "near_duplicate"), ("shoppers", "missing")):
            planted = truth.filter((truth["table"] == table) & (truth["defect"] == defect))
            assert counts[table, defect] == planted["row"].n_unique()
        assert len(told["figures"]) == 4


class TestClean:
    def test_scores_itself_and_keeps_the_tables(self, tmp_path: Path) -> None:
        told = answer("clean", "--size", "tiny", "--into", str(tmp_path))
        scores = {(row["table"], row["defect"]): row for row in told["scores"]}
        for pair in (("events", "exact_duplicate"), ("events", "bot"), ("products", "near_duplicate")):
            assert scores[pair]["precision"] >= 0.95
            assert scores[pair]["recall"] >= 0.95
        planted = labkit.shop.load("tiny").read("truth").unique(["table", "defect", "row"])
        assert sum(row["planted"] for row in told["scores"]) == planted.height
        assert told["steps"][0]["rows_in"] == labkit.shop.load("tiny").read("raw_events").height
        assert list(tmp_path.rglob("*.parquet"))

    def test_the_text_is_two_tables(self) -> None:
        result = data("clean", "--size", "tiny")
        assert result.exit_code == 0
        assert "What each step did" in result.stdout
        assert "Against the planted truth" in result.stdout


class TestRealSets:
    def test_all_are_listed_and_none_is_here(self) -> None:
        listed = answer("list")
        assert [entry["name"] for entry in listed] == list(DATA_SETS)
        assert len(listed) == 22
        assert not any(entry["found"] for entry in listed)
        for entry in listed:
            assert entry["licence"]
            assert entry["what"]
        shown = data("list").stdout
        assert shown.count("    not here; ") == shown.count("    licence: ") == 22

    def test_a_set_that_labkit_does_not_know(self) -> None:
        result = data("fetch", "nothing")
        assert result.exit_code == 2
        assert "there is no data set 'nothing'" in result.output

    def test_fetched_again_only_when_asked(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.csv").write_text("a\n1\n")
        serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            remote = Remote(f"http://127.0.0.1:{server.server_address[1]}/a.csv")
            one = DataSet("one_set", "One", "https://example.org", "CC0.", published={"a.csv": remote})
            monkeypatch.setitem(DATA_SETS, "one_set", one)
            there = home / "data" / "one_set" / "a.csv"
            for options, text in (([], "a\n1\n"), ([], "a\n1\n"), (["--again"], "a\n2\n")):
                result = data("fetch", "one_set", *options)
                assert result.exit_code == 0, result.output
                assert there.read_text() == text
                (tmp_path / "a.csv").write_text("a\n2\n")
            server.shutdown()


@pytest.mark.parametrize("command", [["make"], ["make", "--again"], ["describe"], ["clean"]])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--size", "huge"], "There is no market of size 'huge'; choose one of 'tiny', 'small', "),
        (["--size", "tiny", "--seed", "-1"], "The seed is -1, but it must be 0 or more."),
    ],
)
def test_a_market_that_cannot_be_is_one_sentence(
    command: list[str],
    options: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["labkit", "data", *command, *options])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith(f"labkit: {says}")
    assert error.count("\n") == 1
