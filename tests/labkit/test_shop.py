"""The simulated shop: reproducible, graded by structure alone, with a click model that can be undone."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import labkit.shop
from labkit.shop import declarations, market, products, queries, relevance, sessions

FINGERPRINT = """
import hashlib, sys
import labkit.shop
market = labkit.shop.generate("tiny", int(sys.argv[1]))
digest = hashlib.sha256()
for table in (market.products, market.queries, market.qrels, market.sessions):
    digest.update(table.write_csv().encode())
print(digest.hexdigest())
"""


# The tiny market of seed 0, as every machine must make it. Whoever changes the declarations or the generator
# on purpose puts the value here that the failing test prints.
GOLDEN = "633be6ffd226dac6"


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A cache of our own. Not pytest's tmp_path, which other users of the machine can't enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        before = os.environ.get("LABKIT_HOME")
        os.environ["LABKIT_HOME"] = folder
        yield Path(folder)
        if before is None:
            del os.environ["LABKIT_HOME"]
        else:
            os.environ["LABKIT_HOME"] = before


@pytest.fixture(scope="module")
def tiny(home: Path) -> labkit.shop.Market:
    return labkit.shop.load("tiny")


@pytest.fixture(scope="module")
def small(home: Path) -> labkit.shop.Market:
    return labkit.shop.load("small")


@pytest.fixture(scope="module")
def world() -> tuple[list[declarations.Department], list[products.Product]]:
    """The declarations and products behind the tiny market."""
    chosen = list(declarations.departments().values())[: market.SIZES["tiny"].departments]
    return chosen, products.make_products(chosen, 600, seed=0)


@pytest.fixture(scope="module")
def log(world: tuple) -> pl.DataFrame:
    """A log of 30,000 searches with the true grade, attraction and propensity beside every click."""
    chosen, shelf = world
    asked = queries.make_queries(chosen, shelf, 80, seed=0)
    table = sessions.make_sessions(shelf, asked, 30_000, seed=0)
    grades = np.stack([relevance.Facts(shelf).grades(q.intent) for q in asked])
    grade = grades[table["query_id"].to_numpy(), table["product_id"].to_numpy()]
    attraction = sessions.attraction(grade, sessions.price_ranks(shelf)[table["product_id"].to_numpy()])
    propensity = np.array(sessions.PROPENSITIES)[table["position"].to_numpy() - 1]
    return table.with_columns(grade=grade, attraction=attraction, propensity=propensity)


@pytest.fixture(scope="module")
def grades(small: labkit.shop.Market) -> np.ndarray:
    table = np.zeros((small.queries.height, small.products.height))
    query, product, grade = small.qrels.to_numpy().T
    table[query, product] = grade
    return table


@pytest.fixture(scope="module")
def keyword(small: labkit.shop.Market) -> np.ndarray:
    """BM25 scores. (Q, N)"""
    import bm25s

    def words(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    index = bm25s.BM25(method="lucene")
    index.index([words(text) for text in small.documents()], show_progress=False)
    return np.stack([index.get_scores(words(text)) for text in small.queries["text"]])


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


class TestReproducible:
    def test_two_processes_make_the_same_market_whatever_their_hash_seed(self) -> None:
        runs = [run_python(FINGERPRINT, "0", PYTHONHASHSEED=seed) for seed in ("1", "2")]
        first, second = map(output, runs)
        assert first == second
        assert first[:16] == GOLDEN

    def test_another_seed_is_another_market(self, tiny: labkit.shop.Market) -> None:
        other = labkit.shop.generate("tiny", seed=1)
        assert other.products["title"].to_list() != tiny.products["title"].to_list()
        assert other.queries["text"].to_list() != tiny.queries["text"].to_list()

    def test_loading_gives_what_was_generated(self, tiny: labkit.shop.Market) -> None:
        again, fresh = labkit.shop.load("tiny"), labkit.shop.generate("tiny")
        for name in ("products", "queries", "qrels", "sessions"):
            assert getattr(again, name).equals(getattr(fresh, name)), name

    def test_more_products_leave_the_first_ones_of_a_category_alone(self) -> None:
        """Each category has its own streams, so growing the shop does not reshuffle it."""
        chosen = list(declarations.departments().values())[:2]
        few, many = (products.make_products(chosen, n, seed=0) for n in (200, 600))
        sofas = [[p for p in shop if p.category == "sofas"] for shop in (few, many)]
        assert sofas[1][: len(sofas[0]) - 3] == sofas[0][:-3]


class TestTables:
    def test_schema(self, tiny: labkit.shop.Market) -> None:
        assert dict(tiny.products.schema) == {
            "product_id": pl.Int32,
            "title": pl.String,
            "description": pl.String,
            "brand": pl.String,
            "category": pl.String,
            "department": pl.String,
            "price": pl.Float64,
            "attributes": pl.String,
            "title_zh": pl.String,
            "description_zh": pl.String,
            "seller_id": pl.Int32,
            "launched": pl.Date,
            "weight_kg": pl.Float64,
        }
        assert dict(tiny.queries.schema) == {
            "query_id": pl.Int32,
            "text": pl.String,
            "kind": pl.String,
            "split": pl.String,
            "intent": pl.String,
            "text_zh": pl.String,
        }
        assert dict(tiny.qrels.schema) == {"query_id": pl.Int32, "product_id": pl.Int32, "grade": pl.Int8}
        assert dict(tiny.sessions.schema) == {
            "session_id": pl.Int32,
            "query_id": pl.Int32,
            "time": pl.Datetime("us"),
            "position": pl.Int16,
            "product_id": pl.Int32,
            "clicked": pl.Boolean,
        }

    def test_ids_are_row_numbers(self, small: labkit.shop.Market) -> None:
        assert small.products["product_id"].to_list() == list(range(small.products.height))
        assert small.queries["query_id"].to_list() == list(range(small.queries.height))

    def test_the_small_market_is_a_whole_shop(self, small: labkit.shop.Market) -> None:
        assert small.products.height >= 6_000
        assert small.products["department"].n_unique() >= 12
        assert small.products["category"].n_unique() >= 60
        assert small.products["title"].n_unique() > 0.97 * small.products.height
        assert small.products.select(pl.col("title").str.len_chars().min()).item() >= 8

    def test_queries_split_evenly_within_every_kind(self, small: labkit.shop.Market) -> None:
        counts = small.queries["split"].value_counts()
        assert dict(counts.iter_rows()) == {"train": 240, "valid": 60, "test": 100}
        assert small.queries.group_by("kind", "split").len().height == 7 * 3
        assert small.queries["text"].n_unique() == 400

    def test_nearly_every_query_can_be_answered_and_none_by_the_whole_shop(
        self, small: labkit.shop.Market
    ) -> None:
        useful = small.qrels.filter(pl.col("grade") >= 2).group_by("query_id").len()["len"].to_numpy()
        assert len(useful) == 400
        assert np.mean(useful >= 3) > 0.98
        best = small.qrels.filter(pl.col("grade") == 3).group_by("query_id").len()["len"].to_numpy()
        assert best.max() < 250
        assert np.median(best) < 60

    def test_nothing_unfilled_is_left_in_the_prose(self, small: labkit.shop.Market) -> None:
        for text in small.documents():
            assert not re.search(r"[{}]|\s,|\.\.|  |: \.", text), text

    def test_judgements_follow_the_split(self, tiny: labkit.shop.Market) -> None:
        test = tiny.judgements("test")
        assert set(test) == set(tiny.queries_of("test")["query_id"].to_list())
        assert sum(map(len, tiny.judgements().values())) == tiny.qrels.height

    def test_wrong_names_are_answered_in_one_sentence(self, tiny: labkit.shop.Market) -> None:
        with pytest.raises(ValueError, match="no market of size 'huge'; choose one of 'tiny', 'small'"):
            labkit.shop.load("huge")
        with pytest.raises(ValueError, match="no split 'dev'"):
            tiny.queries_of("dev")
        with pytest.raises(ValueError, match="must be 0 or more"):
            labkit.shop.load("tiny", seed=-1)


def grade_by_hand(intent: dict, product: dict) -> int:
    """The rule of labkit.shop.relevance once more, one pair at a time and from the published tables only."""
    ceiling = intent["categories"].get(product["category"], 0)
    facts = json.loads(product["attributes"])
    cost = 0
    for name, constraint in intent["must"].items():
        if name not in facts:
            cost += 1
        elif facts[name] in constraint["accept"]:
            cost += constraint["accept"][facts[name]]
        else:
            cost += constraint["otherwise"]
    if intent["brand"]:
        same_brand = product["brand"] == intent["brand"]
        same_line = same_brand and facts["line"] == intent["line"]
        cost += 0 if same_brand else 2
        cost += 1 if intent["line"] and not same_line else 0
        cost += 1 if intent["model"] and not (same_line and facts.get("model") == intent["model"]) else 0
    if intent["price_max"] and product["price"] > intent["price_max"]:
        cost += 2 if product["price"] > 1.15 * intent["price_max"] else 1
    return max(0, ceiling - cost)


class TestRelevance:
    def test_grades_follow_from_intent_and_attributes(self, small: labkit.shop.Market) -> None:
        rng = np.random.default_rng(0)
        truth = small.judgements()
        rows = small.products.to_dicts()
        for query_id in rng.choice(small.queries.height, 120, replace=False).tolist():
            intent = json.loads(small.queries["intent"][query_id])
            judged = list(truth[query_id])
            others = rng.choice(len(rows), 150, replace=False).tolist()
            for product_id in {*judged, *others}:
                expected = truth[query_id].get(product_id, 0)
                assert grade_by_hand(intent, rows[product_id]) == expected, (
                    small.queries["text"][query_id],
                    rows[product_id],
                )

    def test_no_word_of_a_listing_changes_a_grade(self, world: tuple) -> None:
        chosen, shelf = world
        asked = queries.make_queries(chosen, shelf, 80, seed=0)
        relabelled = [dataclasses.replace(p, title=f"item {i}", description="") for i, p in enumerate(shelf)]
        facts, blind = relevance.Facts(shelf), relevance.Facts(relabelled)
        for query in asked:
            np.testing.assert_array_equal(facts.grades(query.intent), blind.grades(query.intent))
        assert queries.make_queries(chosen, relabelled, 80, seed=0) == asked

    @pytest.mark.parametrize(
        ("attributes", "brand", "price", "grade"),
        [
            ({"colour": "navy", "size": "M"}, "Norrvik", 40.0, 3),
            ({"colour": "blue", "size": "M"}, "Norrvik", 40.0, 2),  # a near colour
            ({"colour": "red", "size": "M"}, "Norrvik", 40.0, 1),  # a hard constraint broken
            ({"colour": "red", "size": "M"}, "Modulo", 40.0, 0),  # two of them
            ({"size": "M"}, "Norrvik", 40.0, 2),  # cannot tell
            ({"colour": "navy", "size": "M"}, "Norrvik", 55.0, 2),  # a little over the cap
            ({"colour": "navy", "size": "M"}, "Norrvik", 90.0, 1),  # far over it
        ],
    )
    def test_what_a_broken_constraint_costs(
        self, attributes: dict, brand: str, price: float, grade: int
    ) -> None:
        product = products.Product("throws", "textiles", brand, "Lund", "", attributes, price, "", "")
        intent = relevance.Intent(
            {"throws": 3},
            {"colour": relevance.Constraint({"navy": 0, "blue": 1})},
            brand="Norrvik",
            price_max=50.0,
        )
        assert relevance.Facts([product]).grades(intent).tolist() == [grade]

    def test_substitutes_and_complements_stay_below_the_thing_itself(self, small: labkit.shop.Market) -> None:
        text = small.queries.filter(pl.col("kind").is_in(["plain", "synonym"]))
        for query_id, intent in text.select("query_id", "intent").iter_rows():
            ceiling = json.loads(intent)["categories"]
            asked = [name for name, grade in ceiling.items() if grade == 3]
            assert len(asked) == 1, query_id
            assert all(1 <= grade <= 2 for name, grade in ceiling.items() if name not in asked)


class TestSessions:
    def test_ten_different_products_a_session_within_sixty_days_in_order(
        self, tiny: labkit.shop.Market
    ) -> None:
        log = tiny.sessions
        assert log["time"].is_sorted()
        assert log["time"].min() >= datetime(2026, 3, 1)
        assert log["time"].max() < datetime(2026, 3, 1) + timedelta(days=60)
        assert (log["time"].max() - log["time"].min()) > timedelta(days=55)
        shapes = log.group_by("session_id").agg(
            pl.col("position").sort().alias("positions"),
            pl.col("product_id").n_unique().alias("products"),
            pl.col("query_id").n_unique().alias("queries"),
            pl.col("time").n_unique().alias("times"),
        )
        assert shapes["positions"].to_list() == [list(range(1, 11))] * shapes.height
        assert set(shapes.select("products", "queries", "times").unique().row(0)) == {10, 1}
        assert shapes.height == market.SIZES["tiny"].sessions

    def test_clicks_by_position_are_propensity_times_attraction(self, log: pl.DataFrame) -> None:
        log = log.with_columns(expected=pl.col("propensity") * pl.col("attraction"))
        curve = log.group_by("position").agg(
            pl.col("clicked").mean(),
            pl.col("expected").mean(),
            ((pl.col("expected") * (1 - pl.col("expected"))).sum().sqrt() / pl.len()).alias("error"),
        )
        z = ((curve["clicked"] - curve["expected"]) / curve["error"]).to_numpy()
        assert np.abs(z).max() < 4

    def test_inverse_propensities_recover_what_raw_clicks_hide(self, log: pl.DataFrame) -> None:
        by_grade = log.group_by("grade").agg(
            pl.col("attraction").mean(),
            pl.col("clicked").mean().alias("naive"),
            (pl.col("clicked") / pl.col("propensity")).mean().alias("ips"),
        )
        assert by_grade.height == 4
        for _, attraction, naive, ips in by_grade.sort("grade").iter_rows():
            assert ips == pytest.approx(attraction, rel=0.08)
            assert naive < 0.75 * attraction

    def test_better_and_cheaper_products_attract_more(self) -> None:
        assert np.all(np.diff(sessions.attraction(np.arange(4), np.full(4, 0.5))) > 0)
        assert np.all(np.diff(sessions.attraction(np.full(3, 2), np.array([0.0, 0.5, 1.0]))) < 0)
        assert sessions.attraction(np.array([3]), np.array([0.0])).item() < 1

    def test_the_production_ranker_is_useful_and_far_from_perfect(self, small: labkit.shop.Market) -> None:
        graded = small.sessions.join(small.qrels, on=["query_id", "product_id"], how="left")
        assert 0.25 < (graded["grade"].fill_null(0) >= 2).mean() < 0.75
        clicked = graded.filter(pl.col("clicked") & (pl.col("grade") >= 2))["query_id"].n_unique()
        assert clicked > 0.75 * small.queries.height  # a log to learn from


class TestCache:
    def test_two_processes_may_start_at_once(self) -> None:
        code = "import labkit.shop; print(labkit.shop.load('tiny').qrels.height)"
        with tempfile.TemporaryDirectory() as folder:
            runs = [run_python(code, LABKIT_HOME=folder) for _ in range(3)]
            heights = [output(run) for run in runs]
            kept = os.listdir(Path(folder) / "shop")
        assert len(set(heights)) == 1
        assert kept == [f"{labkit.shop.version()}-tiny-0"]  # and no draft is left behind

    def test_an_unfinished_draft_is_never_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LABKIT_HOME", str(tmp_path))

        def fails(*_: object, **__: object) -> None:
            raise OSError("disk full")

        with monkeypatch.context() as broken:
            broken.setattr(pl.DataFrame, "write_parquet", fails)
            with pytest.raises(OSError, match="disk full"):
                labkit.shop.load("tiny")
        assert not [
            path for path in (tmp_path / "shop").rglob("*") if not path.is_dir() or path.name.startswith(".")
        ]
        assert labkit.shop.load("tiny").products.height == 600
        assert len(os.listdir(tmp_path / "shop")) == 1

    @pytest.mark.parametrize("cached", [True, False])
    def test_a_read_only_home_is_enough(self, home: Path, tiny: labkit.shop.Market, cached: bool) -> None:
        """Root may write anywhere, so as root the child first becomes nobody."""
        code = "\n".join(
            [
                "import os, labkit.shop",
                "from rich.console import Console",
                "Console(stderr=True).status('imports what it needs').__enter__().stop()",
                "labkit.shop.version(), labkit.shop.generate('tiny')",
                "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)",
                "writable = os.access(os.environ['LABKIT_HOME'], os.W_OK)",
                "print(writable, labkit.shop.load('tiny').products.height)",
            ]
        )
        with tempfile.TemporaryDirectory() as empty:
            folder = home if cached else Path(empty)
            folder.chmod(0o555)
            try:
                assert output(run_python(code, LABKIT_HOME=str(folder))) == "False 600"
                assert cached or os.listdir(folder) == []
            finally:
                folder.chmod(0o755)


class TestDeclarations:
    def test_a_contradiction_names_the_file_and_the_entry(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for file in ("shared", "pets"):
            text = (declarations.FOLDER / f"{file}.yaml").read_text(encoding="utf-8")
            (tmp_path / f"{file}.yaml").write_text(
                text.replace("vary: dog_size", "vary: dog_sise"), encoding="utf-8"
            )
        monkeypatch.setattr(declarations, "FOLDER", tmp_path)
        with pytest.raises(ValueError, match=r"pets\.yaml: dog beds varies in 'dog_sise'"):
            declarations.departments.__wrapped__()

    def test_every_category_has_three_brands_and_two_vocabularies(self) -> None:
        for department in declarations.departments().values():
            for name, category in department.categories.items():
                assert sum(name in brand.makes for brand in department.brands.values()) >= 3, name
                assert category.nouns.usual, name
                own = set(category.nouns.asked) - set(category.nouns.usual)
                private = [
                    w for a in category.attributes.values() for v in a.values.values() for w in v.private
                ]
                assert own or private, name

    @pytest.mark.parametrize(
        "module",
        [
            "labkit.shop",
            "labkit.shop.market",
            "labkit.shop.chance",
            "labkit.shop.sessions",
            "labkit.shop.declarations",
        ],
    )
    def test_the_examples_in_the_docstrings_run(self, home: Path, module: str) -> None:
        result = doctest.testmod(importlib.import_module(module))
        assert result.attempted > 0
        assert result.failed == 0


def ndcg10(ranking: np.ndarray, grades: np.ndarray) -> np.ndarray:
    """Linear gain. ranking: (Q, 10) ids; grades: (Q, N). Returns (Q,)."""
    discount = 1 / np.log2(np.arange(10) + 2)
    gained = np.take_along_axis(grades, ranking, axis=1) @ discount
    return gained / (-np.sort(-grades, axis=1)[:, :10] @ discount)


class TestThePointOfIt:
    """Keyword search is a fair baseline that leaves room where shoppers use words of their own."""

    def test_keyword_search_leaves_room(
        self, small: labkit.shop.Market, grades: np.ndarray, keyword: np.ndarray
    ) -> None:
        values = ndcg10(np.argsort(-keyword, axis=1, kind="stable")[:, :10], grades)
        by_kind = {kind: values[(small.queries["kind"] == kind).to_numpy()].mean() for kind in queries.KINDS}
        assert 0.35 < values.mean() < 0.62
        assert by_kind["vague"] < by_kind["typo"] < by_kind["attribute"] < by_kind["plain"]
        assert by_kind["synonym"] < by_kind["brand"]

    @pytest.mark.slow
    @pytest.mark.timeout(1200)
    def test_meaning_and_words_are_each_better_somewhere_and_best_together(
        self, small: labkit.shop.Market, grades: np.ndarray, keyword: np.ndarray
    ) -> None:
        from labkit.models import BiEncoder

        encoder = BiEncoder.from_pretrained("minilm")
        documents, asked = encoder.encode(small.documents()), encoder.encode(small.queries["text"].to_list())
        similarity = asked @ documents.T  # (Q, N)
        rankings = [np.argsort(-scores, axis=1, kind="stable")[:, :100] for scores in (keyword, similarity)]
        fused = np.zeros_like(grades)
        for ranking, scores in zip(rankings, (keyword, similarity + 2), strict=True):
            found = np.take_along_axis(scores, ranking, axis=1) > 0  # words that match nothing find nothing
            gain = found / (61 + np.arange(100))
            np.put_along_axis(fused, ranking, np.take_along_axis(fused, ranking, axis=1) + gain, axis=1)
        words, meaning = (ndcg10(ranking[:, :10], grades) for ranking in rankings)
        both = ndcg10(np.argsort(-fused, axis=1, kind="stable")[:, :10], grades)
        kinds = small.queries["kind"].to_numpy()
        lead = {kind: (meaning - words)[kinds == kind].mean() for kind in queries.KINDS}
        assert lead["synonym"] > 0.05
        assert lead["vague"] > 0.05
        assert lead["attribute"] < 0
        assert lead["brand"] < 0
        assert lead["long_tail"] < 0
        assert both.mean() > max(words.mean(), meaning.mean()) + 0.01
