"""The raw tables: the truth table tells everything that is wrong with them, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import precision_score, recall_score, roc_auc_score

import labkit.shop
from labkit.shop import Market
from labkit.shop.intruders import make_intruders
from labkit.shop.scoring import score

RAW = ("products", "shoppers", "reviews", "events")
PLANTED = {
    "events": {"exact_duplicate", "bot", "clock_skew", "unit", "leaked_label", "test_shopper"},
    "products": {"exact_duplicate", "near_duplicate", "unit", "encoding"},
    "reviews": {"exact_duplicate", "review_spam", "encoding"},
    "shoppers": {"bot", "missing", "test_shopper"},
}
GONE = ("exact_duplicate", "near_duplicate", "bot", "test_shopper", "review_spam")
SEED = 3


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_HOME", str(tmp_path_factory.mktemp("home")))
    yield labkit.shop.load("small", SEED)
    patch.undo()


@pytest.fixture(scope="module")
def truth(market: Market) -> pl.DataFrame:
    return market.read("truth")


@pytest.fixture(scope="module")
def raw(market: Market) -> dict[str, pl.DataFrame]:
    return {name: market.read(f"raw_{name}") for name in RAW}


def of(truth: pl.DataFrame, table: str, *defects: str) -> pl.DataFrame:
    chosen = truth.filter(pl.col("table") == table)
    return chosen.filter(pl.col("defect").is_in(defects)) if defects else chosen


def kept(raw: dict[str, pl.DataFrame], truth: pl.DataFrame, table: str) -> pl.DataFrame:
    """The rows that should exist, in their order."""
    return raw[table].join(of(truth, table, *GONE), on="row", how="anti", maintain_order="left")


def restored(frame: pl.DataFrame, was: pl.DataFrame, column: str) -> pl.DataFrame:
    """The column with what the truth says stood there; ``was`` has row and was (text)."""
    kind = frame.schema[column]
    value = pl.col("was").str.to_datetime(time_unit="ms") if kind.is_temporal() else pl.col("was").cast(kind)
    joined = frame.join(was.select("row", value), on="row", how="left", maintain_order="left")
    return joined.with_columns(pl.coalesce("was", column).alias(column)).drop("was")


def named(was: pl.DataFrame) -> pl.DataFrame:
    """What ``was`` says as "column value", one a line: row, column, was."""
    lines = was.with_columns(pl.col("was").str.split("\n")).explode("was")
    parts = pl.col("was").str.splitn(" ", 2)
    return lines.select(
        "row", parts.struct.field("field_0").alias("column"), parts.struct.field("field_1").alias("was")
    )


class TestTruthIsTrue:
    def test_every_defect_is_there(self, truth: pl.DataFrame) -> None:
        for table, defects in PLANTED.items():
            assert set(of(truth, table)["defect"]) == defects
        assert set(truth["table"]) == set(PLANTED)

    @pytest.mark.parametrize("table", RAW)
    def test_rows_are_counted_from_nought(self, raw: dict, truth: pl.DataFrame, table: str) -> None:
        assert raw[table]["row"].to_list() == list(range(raw[table].height))
        named_rows = of(truth, table)["row"]
        assert named_rows.max() < raw[table].height
        assert (named_rows >= 0).all() or table == "events"  # -1: a whole column

    def test_undoing_everything_gives_the_clean_log(
        self, market: Market, raw: dict, truth: pl.DataFrame
    ) -> None:
        clean = market.read("events")
        log = kept(raw, truth, "events")
        for defect, column in (("clock_skew", "time"), ("unit", "price")):
            log = restored(log, of(truth, "events", defect), column)
        assert log.select(clean.columns).equals(clean)

    def test_undoing_everything_gives_the_clean_catalogue(
        self, market: Market, raw: dict, truth: pl.DataFrame
    ) -> None:
        goods = kept(raw, truth, "products")
        was = named(of(truth, "products", "unit", "encoding"))
        assert set(was["column"]) == {
            "weight_kg", "price", "title", "description", "title_zh", "description_zh",
        }  # fmt: skip
        for column in was["column"].unique():
            goods = restored(goods, was.filter(pl.col("column") == column), column)
        assert goods.select(market.products.columns).equals(market.products)

    def test_undoing_everything_gives_the_clean_shoppers(
        self, market: Market, raw: dict, truth: pl.DataFrame
    ) -> None:
        people, clean = kept(raw, truth, "shoppers"), market.read("shoppers")
        people = restored(people, named(of(truth, "shoppers", "missing")), "income_band").sort("shopper_id")
        assert people.select(clean.columns).equals(clean)

    def test_undoing_everything_gives_the_clean_reviews(
        self, market: Market, raw: dict, truth: pl.DataFrame
    ) -> None:
        clean = market.read("reviews").drop("sentiment", "aspects", "review_id")
        texts = of(truth, "reviews", "encoding").with_columns(pl.col("was").str.strip_prefix("text "))
        reviews = restored(kept(raw, truth, "reviews"), texts, "text")
        assert reviews.drop("row").equals(clean)

    def test_the_truth_names_nothing_that_is_right(
        self, market: Market, raw: dict, truth: pl.DataFrame
    ) -> None:
        """What it says stood there never stands there now."""
        for defect, column in (("clock_skew", "time"), ("unit", "price")):
            told = of(truth, "events", defect).join(raw["events"].select("row", column), on="row")
            value = (
                pl.col("was").str.to_datetime(time_unit="ms")
                if column == "time"
                else pl.col("was").cast(float)
            )
            assert told.filter(value == pl.col(column)).is_empty()
        goods = named(of(truth, "products", "unit", "encoding"))
        for column in goods["column"].unique():
            told = goods.filter(pl.col("column") == column).join(
                raw["products"].select("row", pl.col(column).cast(pl.String).alias("now")), on="row"
            )
            assert (told["was"] != told["now"]).all(), column


class TestEachDefect:
    @pytest.mark.parametrize("table", ["events", "products", "reviews"])
    def test_exact_duplicates_repeat_an_earlier_row(self, raw: dict, truth: pl.DataFrame, table: str) -> None:
        copies = of(truth, table, "exact_duplicate")
        assert 0.002 < copies.height / raw[table].height < 0.02
        frame = raw[table].drop("row")
        assert (copies["of"] < copies["row"]).all()
        assert frame[copies["row"]].equals(frame[copies["of"]])

    def test_near_duplicates_are_another_sellers_listing_of_the_same(
        self, raw: dict, truth: pl.DataFrame, market: Market
    ) -> None:
        pairs = of(truth, "products", "near_duplicate")
        assert pairs.height > 80
        assert (pairs["of"] < pairs["row"]).all()
        goods = raw["products"]
        units = of(truth, "products", "unit")["row"].implode()
        new_ids = set()
        for row, source in pairs.select("row", "of").iter_rows():
            copy, first = goods.row(row, named=True), goods.row(source, named=True)
            assert copy["product_id"] >= market.products.height
            assert copy["seller_id"] != first["seller_id"]
            assert copy["launched"] > first["launched"]
            for same in ("brand", "category", "department"):
                assert copy[same] == first[same]
            mine, theirs = json.loads(copy["attributes"]), json.loads(first["attributes"])
            assert mine.items() <= theirs.items()
            assert len(theirs) - len(mine) <= 1
            assert mine.get("model") == theirs.get("model")
            new_ids.add(copy["product_id"])
        assert len(new_ids) == pairs.height
        fair = pairs.filter(~pl.col("row").is_in(units) & ~pl.col("of").is_in(units))
        prices = goods["price"]
        apart = (prices[fair["row"]] - prices[fair["of"]]).abs()
        assert (apart <= 0.08 * prices[fair["of"]] + 0.51).all()  # 8 %, then rounded as shops do
        assert (goods["title"][pairs["row"]] != goods["title"][pairs["of"]]).mean() > 0.7

    def test_every_row_of_an_intruder_is_named(self, market: Market, raw: dict, truth: pl.DataFrame) -> None:
        made = make_intruders(market.year, market.read("shoppers"), market.seed)
        people = raw["shoppers"]
        for defect, kind in (("bot", made.BOT), ("test_shopper", made.TEST)):
            accounts = people["shopper_id"][of(truth, "shoppers", defect)["row"]]
            assert set(accounts) == set(made.shoppers.filter(pl.col("kind") == kind)["shopper_id"])
            theirs = raw["events"].filter(pl.col("shopper_id").is_in(accounts.implode()))
            assert set(theirs["row"]) == set(of(truth, "events", defect)["row"])
            copies = of(truth, "events", "exact_duplicate").join(theirs.select("row"), on="row").height
            assert theirs.height - copies == made.events.filter(pl.col("kind") == kind).height
        assert 0.005 < of(truth, "shoppers", "bot").height / people.height < 0.02

    @pytest.mark.parametrize("seed", [2, 5])
    def test_none_is_lost_on_days_without_shoppers(self, market: Market, seed: int) -> None:
        """A tiny shop has such days, at the ends of months too."""
        tiny = labkit.shop.load("tiny", seed)
        people = tiny.read("shoppers")
        made = make_intruders(tiny.year, people, seed).events
        raw = tiny.read("raw_events")
        copies = of(tiny.read("truth"), "events", "exact_duplicate").select("row")
        theirs = raw.filter(pl.col("shopper_id") >= people.height).join(copies, on="row", how="anti")
        assert theirs.height == made.height

    def test_intruders_do_not_see_what_is_not_there_either(self, market: Market, raw: dict) -> None:
        log = raw["events"].filter(pl.col("shopper_id") >= market.read("shoppers").height)
        log = log.filter(pl.col("time").dt.year() > 2000).join(
            market.products.select("product_id", "launched"), on="product_id"
        )
        early = (pl.col("launched") - pl.col("time").dt.date()).dt.total_days()
        assert log.filter(early > 1).is_empty()  # a skewed clock may be a day behind

    def test_a_clock_is_wrong_for_a_whole_session(self, raw: dict, truth: pl.DataFrame) -> None:
        wrong = of(truth, "events", "clock_skew")
        log = raw["events"].join(wrong.select("row", "was"), on="row")
        right = pl.col("was").str.to_datetime(time_unit="ms")
        hours = log.select(((pl.col("time") - right).dt.total_seconds() / 3600).alias("hours"))["hours"]
        unset = log["time"].dt.year() == 1970
        assert set(hours.filter(~unset)) == {8.0, -5.0}
        assert unset.sum() > 50
        whole = raw["events"].filter(pl.col("session_id").is_in(log["session_id"].unique().implode()))
        assert whole.height == log.height
        old = raw["events"].group_by("app").agg(pl.col("row").is_in(wrong["row"].implode()).mean())
        share = dict(old.rows())
        assert share["ios 7.1"] > 2.5 * max(v for app, v in share.items() if app != "ios 7.1")

    def test_one_app_writes_pence_for_four_weeks(self, raw: dict, truth: pl.DataFrame) -> None:
        wrong = of(truth, "events", "unit")
        log = raw["events"].join(wrong.select("row", "was"), on="row")
        assert log["app"].unique().to_list() == ["android 5.1"]
        assert (log["price"] / 100 - log["was"].cast(pl.Float64)).abs().max() < 1e-9
        # Nobody else on that app in those weeks writes pounds, but the testers who pay a penny.
        skewed = of(truth, "events", "clock_skew").select("row")
        days = log.join(skewed, on="row", how="anti")["time"].dt.date()
        assert (days.max() - days.min()).days == 27
        others = (
            raw["events"]
            .filter(
                (pl.col("app") == "android 5.1") & pl.col("time").dt.date().is_between(days.min(), days.max())
            )
            .join(wrong, on="row", how="anti")
            .join(skewed, on="row", how="anti")
        )
        assert set(others["row"]) <= set(of(truth, "events", "test_shopper")["row"])

    def test_grams_and_yuan(self, market: Market, raw: dict, truth: pl.DataFrame) -> None:
        was = named(of(truth, "products", "unit"))
        assert (raw["products"]["currency"] == "GBP").all()  # even where it isn't
        for column, factor in (("weight_kg", 1000), ("price", 9.1)):
            told = was.filter(pl.col("column") == column).join(
                raw["products"].select("row", "seller_id", now=column), on="row"
            )
            assert told.height > 30
            assert (told["now"] / told["was"].cast(pl.Float64) / factor - 1).abs().max() < 0.01
        careless = told["seller_id"].unique()
        sellers = market.read("sellers").filter(pl.col("seller_id").is_in(careless.implode()))
        assert (sellers["country"] == "CN").all()
        theirs = raw["products"].filter(pl.col("seller_id").is_in(careless.implode()))
        assert set(theirs["row"]) == set(told["row"])

    @pytest.mark.parametrize("table", ["products", "reviews"])
    def test_encoding_is_utf8_read_as_another(self, raw: dict, truth: pl.DataFrame, table: str) -> None:
        was = of(truth, table, "encoding")
        assert was.height > 0
        told = named(was) if table == "products" else was.select(
            "row", pl.lit("text").alias("column"), pl.col("was").str.strip_prefix("text ")
        )  # fmt: skip
        for row, column, text in told.iter_rows():
            damaged = raw[table][column][row]
            back = {
                damaged.encode(code, errors="replace").decode(errors="replace")
                for code in ("cp1252", "latin-1")
            }
            assert text in back

    def test_income_is_missing_because_of_the_income(self, market: Market, truth: pl.DataFrame) -> None:
        gone = market.read("raw_shoppers").filter(pl.col("income_band").is_null())["shopper_id"]
        people = market.read("shoppers").with_columns(gone=pl.col("shopper_id").is_in(gone.implode()))

        def p_value(frame: pl.DataFrame, column: str) -> float:
            counts = frame.group_by(column).agg(pl.col("gone").sum(), here=(~pl.col("gone")).sum())
            return float(stats.chi2_contingency(counts.select("gone", "here").to_numpy()).pvalue)

        share = dict(people.group_by("income_band").agg(pl.col("gone").mean()).rows())
        assert share["high"] > 3 * share["middle"] > 3 * share["low"] > 0
        assert p_value(people, "income_band") < 1e-30
        for device in ("phone", "desktop", "tablet"):  # whatever else is known of them
            assert p_value(people.filter(pl.col("device") == device), "income_band") < 1e-4
        # Given the income, nothing else tells: so no observed column repairs it.
        for band in ("low", "middle", "high"):
            for column in ("device", "lang"):
                assert p_value(people.filter(pl.col("income_band") == band), column) > 1e-3

    def test_the_leaked_label_knows_the_answer(self, market: Market, raw: dict, truth: pl.DataFrame) -> None:
        (told,) = of(truth, "events", "leaked_label").iter_rows(named=True)
        assert (told["row"], told["was"]) == (-1, "delivery_days")
        log = raw["events"]
        assert roc_auc_score(log["bought"], log["delivery_days"].is_not_null()) == 1
        assert (log["delivery_days"].is_not_null() == log["bought"]).all()
        honest = roc_auc_score(log["bought"], -log["position"].cast(pl.Int32).to_numpy())
        assert 0.55 < honest < 0.9
        assert "delivery_days" not in market.read("events").columns


class TestScore:
    def test_against_scikit_learn(self, raw: dict, truth: pl.DataFrame) -> None:
        """Half of what was planted and some that was not, row by row."""
        rng = np.random.default_rng(0)
        claims = [truth.filter(pl.Series(rng.random(truth.height) < 0.5)).select("table", "row", "defect")]
        for table, defects in PLANTED.items():
            for defect in defects:
                wrong = rng.choice(raw[table].height, 40, replace=False)
                claims.append(
                    pl.DataFrame({"table": [table] * 40, "row": wrong, "defect": [defect] * 40}).cast(
                        {"row": pl.Int64}
                    )
                )
        findings = pl.concat(claims)
        findings = pl.concat([findings, findings[:500]])  # said twice counts once
        told = score(findings, truth)
        assert told.height == sum(map(len, PLANTED.values()))
        for line in told.iter_rows(named=True):
            pair = (pl.col("table") == line["table"]) & (pl.col("defect") == line["defect"])
            y, guess = (
                np.isin(np.arange(-1, raw[line["table"]].height), frame.filter(pair)["row"])
                for frame in (truth, findings)
            )
            assert line["precision"] == pytest.approx(precision_score(y, guess))
            assert line["recall"] == pytest.approx(recall_score(y, guess))
            assert (line["planted"], line["found"], line["right"]) == (
                y.sum(),
                guess.sum(),
                (y & guess).sum(),
            )

    def test_nothing_found_or_nothing_planted_is_no_number(self) -> None:
        schema = {"table": pl.String, "row": pl.Int64, "defect": pl.String}
        some = pl.DataFrame({"table": ["events"], "row": [1], "defect": ["bot"]}, schema=schema)
        none = pl.DataFrame(schema=schema)
        missed, invented = score(none, some), score(some, none)
        assert missed.select("planted", "found", "precision", "recall").row(0) == (1, 0, None, 0.0)
        assert invented.select("planted", "found", "precision", "recall").row(0) == (0, 1, 0.0, None)
        assert score(none, none).is_empty()
