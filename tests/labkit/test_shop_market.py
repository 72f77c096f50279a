"""How a market is kept: made when asked for, whole or not at all, the same everywhere, told by its hash."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

import labkit.shop
from labkit.shop import making, market
from labkit.shop.fingerprint import fingerprint
from labkit.shop.making import GROUPS

# All tables of the tiny market of seed 0, as every machine must make them. Whoever changes the generator on
# purpose takes the new value from `labkit data make --size tiny` (its last line).
GOLDEN = "40e7161459e6b8e7"

ALL = """
import labkit.shop
from labkit.shop.market import combined
hashes = labkit.shop.load("tiny").fingerprints()
print(*hashes.values(), combined(hashes))
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        patch = pytest.MonkeyPatch()
        patch.setenv("LABKIT_HOME", folder)
        yield Path(folder)
        patch.undo()


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path))
    return tmp_path


def groups(folder: Path) -> set[str]:
    """The groups that are there; drafts would show too."""
    return {path.name for path in folder.glob("shop/*/*")}


class TestSameEverywhere:
    def test_hash_seeds_and_time_zones_make_the_golden_market(self) -> None:
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
            runs = [
                subprocess.Popen(
                    [sys.executable, "-c", ALL],
                    env={**os.environ, "LABKIT_HOME": folder, "PYTHONHASHSEED": seed, "TZ": zone},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
                for folder, seed, zone in ((one, "1", "Asia/Shanghai"), (two, "2", "America/New_York"))
            ]
            first, second = (run.communicate(timeout=120)[0].split() for run in runs)
        assert len(first) == len(market.TABLES) + 1
        assert first == second
        assert first[-1][:16] == GOLDEN, (
            "The tiny market has changed. If that is meant, put the value of the last line of "
            "`labkit data make --size tiny --again` into GOLDEN."
        )

    def test_the_tables_do_not_depend_on_which_is_asked_for_first(self, empty: Path, home: Path) -> None:
        shop = labkit.shop.load("tiny")
        shop.read("truth")
        backwards = {name: fingerprint(shop._where(name)) for name in reversed(market.TABLES)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LABKIT_HOME", str(home))
            assert labkit.shop.load("tiny").fingerprints() == backwards


class TestGroups:
    def test_a_group_is_made_when_it_is_asked_for(self, empty: Path) -> None:
        shop = labkit.shop.load("tiny")
        assert groups(empty) == {"core"}
        shop.scan("sellers")
        assert groups(empty) == {"core", "year"}
        shop.scan("companies")
        assert groups(empty) == {"core", "year", "beyond"}
        shop.scan("truth")  # of reviews too, so the voices come first
        assert groups(empty) == set(GROUPS)

    def test_what_is_there_is_not_made_again(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = labkit.shop.load("tiny").read("truth")
        monkeypatch.setattr(making, "make", lambda *_: pytest.fail("made again"))
        assert labkit.shop.load("tiny").read("truth").equals(before)

    @pytest.mark.parametrize(
        ("maker", "table", "left", "failure"),
        [
            ("price_table", "events", {"core"}, RuntimeError("a bug")),
            ("raw_reviews", "raw_events", {"core", "year", "voices"}, MemoryError()),
            ("raw_events", "truth", {"core", "year", "voices"}, KeyboardInterrupt()),
        ],
    )
    def test_an_interruption_leaves_nothing_half_made(
        self, empty: Path, maker: str, table: str, left: set[str], failure: BaseException
    ) -> None:
        shop = labkit.shop.load("tiny")

        def fails(*_: object, **__: object) -> None:
            raise failure

        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(making, maker, fails)
            with pytest.raises(type(failure)):
                shop.read(table)
        assert groups(empty) == left
        assert shop.read(table).height > 0

    def test_a_killed_process_leaves_a_draft_that_nobody_reads(self, empty: Path) -> None:
        code = (
            "import os, labkit.shop\n"
            "from labkit.shop import making\n"
            "making.stock_table = lambda *given: os._exit(9)\n"
            "labkit.shop.load('tiny').read('events')\n"
        )
        killed = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
        assert killed.returncode == 9
        assert "year" not in groups(empty)
        assert labkit.shop.load("tiny").read("events").height == 20_000

    def test_two_processes_may_make_a_group_at_once(self) -> None:
        code = "import labkit.shop; print(labkit.shop.load('tiny').read('truth').height)"
        with tempfile.TemporaryDirectory() as folder:
            environment = {**os.environ, "LABKIT_HOME": folder}
            runs = [
                subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=-1, stderr=-1)
                for _ in range(2)
            ]
            outputs = [run.communicate(timeout=120) for run in runs]
            assert [run.returncode for run in runs] == [0, 0], outputs
            assert len({out for out, _ in outputs}) == 1
            assert groups(Path(folder)) == set(GROUPS) - {"beyond"}

    def test_names_that_do_not_exist(self, home: Path) -> None:
        with pytest.raises(ValueError, match="There is no table 'orders'; choose one of books, campaigns, "):
            labkit.shop.load("tiny").read("orders")

    def test_forgetting_a_market_leaves_the_others(self, empty: Path) -> None:
        labkit.shop.load("tiny", 0), labkit.shop.load("tiny", 1)
        market.forget("tiny", 0)
        assert [path.name for path in empty.glob("shop/*")] == [f"{labkit.shop.version()}-tiny-1"]


class TestNoPlaceToWrite:
    @pytest.fixture(autouse=True)
    def no_shelter(self) -> Iterator[None]:
        """A process has one temporary folder for all markets; each test wants its own, and none after."""

        def leave() -> None:
            while market._kept:
                market._kept.pop().cleanup()
            market._shelter.cache_clear()

        leave()
        yield
        leave()

    @pytest.mark.parametrize(
        "refusal",
        [
            PermissionError(errno.EACCES, "Permission denied"),
            OSError(errno.EROFS, "Read-only file system"),
            OSError(errno.ENOSPC, "No space left on device"),
        ],
    )
    @pytest.mark.parametrize("cached", [True, False])
    def test_a_market_lives_elsewhere_then(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError, cached: bool
    ) -> None:
        folder = home if cached else tmp_path / "nothing"
        labkit.shop.load("tiny").read("events")
        real = tempfile.mkdtemp

        def refuses(suffix: str | None = None, prefix: str | None = None, dir: str | None = None) -> str:
            if dir is not None and Path(dir).is_relative_to(folder):
                raise refusal
            return real(suffix, prefix, dir)

        monkeypatch.setenv("LABKIT_HOME", str(folder))
        monkeypatch.setattr(tempfile, "mkdtemp", refuses)
        before = groups(folder)
        shop = labkit.shop.load("tiny")
        assert shop.read("events").height == 20_000
        assert shop.read("books").height == 200
        assert groups(folder) == before
        assert labkit.shop.load("tiny").read("books").equals(shop.read("books"))

    def test_a_home_that_is_a_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "file"))
        assert labkit.shop.load("tiny").products.height == 600


@pytest.fixture(scope="module")
def table(home: Path) -> pl.DataFrame:
    """Every type that the market uses, with missing values, lists and characters of all lengths."""
    events = labkit.shop.load("tiny").read("raw_events").head(5_000)
    lists = pl.Series("lists", [[], ["a", "b"], None, ["市场", ""], [None]] * 1_000)
    texts = pl.Series("texts", ["", "é", None, "沙发", "x" * 300] * 1_000)
    return events.with_columns(lists, texts, day=pl.col("time").dt.date())


class TestFingerprint:
    def written(self, table: pl.DataFrame, folder: Path, **options: object) -> str:
        path = folder / "table.parquet"
        table.write_parquet(path, **options)
        return fingerprint(path)

    def test_the_file_layout_does_not_matter(self, table: pl.DataFrame, tmp_path: Path) -> None:
        usual = self.written(table, tmp_path)
        assert usual == self.written(table, tmp_path, compression="uncompressed")
        assert usual == self.written(table, tmp_path, row_group_size=64, statistics=False)
        assert usual == self.written(table, tmp_path, compression="gzip", data_page_size=512)
        cut = pl.concat([table[:1], table[1:77], table[77:]], rechunk=False)
        assert usual == self.written(cut, tmp_path)
        import pyarrow.parquet as pq

        pq.write_table(table.to_arrow(), tmp_path / "arrow.parquet", use_dictionary=False)
        again = pl.read_parquet(tmp_path / "arrow.parquet").cast(dict(table.schema))
        assert usual == self.written(again, tmp_path)

    def test_any_change_does(self, table: pl.DataFrame, tmp_path: Path) -> None:
        """One value of each column; a null for an empty value; rows, columns, names and types."""
        prints = [self.written(table, tmp_path)]
        for name, kind in table.schema.items():
            if isinstance(kind, pl.Enum):
                values = kind.categories
                other = values[1] if table[name][7] == values[0] else values[0]
            elif kind == pl.Boolean:
                other = not table[name][7]
            elif kind == pl.String:
                other = "other"
            elif kind == pl.List(pl.String):
                other = ["o", "ther"]
            elif kind.is_temporal():
                other = table[name].drop_nulls().max()
            else:
                other = (table[name][7] or 0) + 1
            changed = pl.Series(name, [other], dtype=kind)
            column = pl.concat([table[name][:7], changed, table[name][8:]])
            prints.append(self.written(table.with_columns(column), tmp_path))
        prints.append(self.written(table.with_columns(pl.col("texts").fill_null("")), tmp_path))
        prints.append(self.written(table.with_columns(pl.col("lists").fill_null([])), tmp_path))
        prints.append(self.written(table.with_columns(pl.col("delivery_days").fill_null(0)), tmp_path))
        prints.append(self.written(table.with_columns(lists=pl.col("lists").list.reverse()), tmp_path))
        moved = table.with_columns(texts=pl.Series(["é", "", None, "沙发", "x" * 300] * 1_000))
        prints.append(self.written(moved, tmp_path))
        prints.append(self.written(table.reverse(), tmp_path))
        prints.append(self.written(table.rename({"price": "prize"}), tmp_path))
        prints.append(self.written(table.cast({"position": pl.Int16}), tmp_path))
        prints.append(self.written(table.select(table.columns[::-1]), tmp_path))
        prints.append(self.written(table.head(4_999), tmp_path))
        assert len(set(prints)) == len(prints)

    def test_a_folder_is_its_parts_in_order(self, table: pl.DataFrame, tmp_path: Path) -> None:
        folders = [tmp_path / name for name in ("one", "two", "swapped")]
        for folder, parts in zip(folders, ((0, 1), (0, 1), (1, 0)), strict=True):
            folder.mkdir()
            for number, part in enumerate(parts):
                table[2_500 * part : 2_500 * (part + 1)].write_parquet(folder / f"part-{number:02d}.parquet")
        first, second, swapped = map(fingerprint, folders)
        assert first == second != swapped

    def test_one_hash_for_all(self) -> None:
        hashes = {"a": "1" * 64, "b": "2" * 64}
        assert market.combined(hashes) == market.combined(dict(reversed(hashes.items())))
        assert market.combined(hashes) != market.combined({"a": "2" * 64, "b": "1" * 64})
