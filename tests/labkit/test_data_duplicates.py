"""Duplicates: exact ones against brute force, near ones against definitions and real pairs."""

import itertools
import json
import os
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.data.duplicates import (
    candidate_pairs,
    clusters,
    drop_exact_duplicates,
    drop_near_duplicates,
    exact_duplicates,
    jaccard,
    near_duplicates,
    shingles,
    signatures,
)
from labkit.data.steps import Change, Pipeline

CELLS = st.tuples(
    st.sampled_from(["a", "b", None]), st.sampled_from([0.0, 1.5, None]), st.sampled_from([True, False])
)
WORDS = ["red", "blue", "navy", "shoe", "men", "women", "air", "zoom", "light", "new", "fit", "soft"]


def log(rows):
    return pl.DataFrame(
        {
            "row": range(len(rows)),
            "a": [r[0] for r in rows],
            "b": [r[1] for r in rows],
            "c": [r[2] for r in rows],
        },
        schema={"row": pl.Int64, "a": pl.String, "b": pl.Float64, "c": pl.Boolean},
    ).lazy()


@given(st.lists(CELLS, max_size=40))
def test_exact_duplicates_are_those_of_a_loop(rows):
    first, expected = {}, []
    for place, row in enumerate(rows):
        if row in first:
            expected.append((place, first[row]))
        first.setdefault(row, place)
    assert exact_duplicates(log(rows)).rows() == expected


@given(st.lists(CELLS, max_size=40))
def test_dropping_exact_duplicates_twice_changes_nothing_more(rows):
    once, change = drop_exact_duplicates(log(rows))
    again, nothing = drop_exact_duplicates(once)
    assert once.collect().equals(again.collect())
    assert nothing.changed == 0
    assert change.rows_in - change.changed == change.rows_out == once.collect().height


def test_exact_duplicates_survive_shuffled_and_split_files(tmp_path):
    """Copies that lie in different files and batches are still found, and the smallest row is kept."""
    rng = np.random.default_rng(0)
    value = rng.integers(0, 150_000, 200_000)
    frame = pl.DataFrame({"row": rng.permutation(200_000), "value": value, "text": (value % 7).astype(str)})
    for part in range(4):
        frame[part * 50_000 : (part + 1) * 50_000].write_parquet(tmp_path / f"{part}.parquet")
    found = exact_duplicates(pl.scan_parquet(tmp_path / "*.parquet"))
    expected = frame.with_columns(of=pl.col("row").min().over("value")).filter(pl.col("row") != pl.col("of"))
    assert found.equals(expected.select("row", "of").cast(pl.Int64).sort("row"))


def test_jaccard_is_that_of_sets():
    texts = ["red shoe", "Red  SHOE!", "blue shoe for men", "", None, "shoe red"]
    codes, offsets = shingles(pl.Series(texts))

    def sets(text):
        words = "".join(c if c.isalnum() else " " for c in (text or "").lower()).split()
        return {*words, *itertools.pairwise(words)}

    pairs = list(itertools.combinations(range(len(texts)), 2))
    left, right = np.array(pairs).T
    expected = [
        len(sets(texts[a]) & sets(texts[b])) / max(len(sets(texts[a]) | sets(texts[b])), 1) for a, b in pairs
    ]
    assert jaccard(codes, offsets, left, right) == pytest.approx(expected)


def test_minhash_agreement_estimates_jaccard():
    """Broder's theorem: the share of equal signature places has the Jaccard similarity as its mean."""
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2**63, 400, dtype=np.uint64)
    for shared in (100, 200, 300):
        one, other = base[:shared], base[shared:]
        half = len(other) // 2
        a = np.sort(np.concatenate([one, other[:half]]))
        b = np.sort(np.concatenate([one, other[half:]]))
        signature = signatures(np.concatenate([a, b]), np.array([0, len(a), len(a) + len(b)]), 1024)
        agreement = (signature[0] == signature[1]).mean()
        assert agreement == pytest.approx(shared / 400, abs=0.06)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30))
def test_candidates_of_equal_signatures_are_all_pairs_of_a_block(kinds):
    signature = np.array([[k, k, k] for k in kinds], dtype=np.uint32)
    blocks = np.array([i % 2 for i in range(len(kinds))], dtype=np.uint64)
    left, right = candidate_pairs(signature, blocks, bands=1)
    expected = {
        (a, b)
        for a, b in itertools.combinations(range(len(kinds)), 2)
        if kinds[a] == kinds[b] and a % 2 == b % 2
    }
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == expected


def listing(title, **more):
    product = {"title": title, "description": "", "brand": "Aero", "category": "shoes", "attributes": "{}"}
    return {**product, "price": 50.0, **more}


def catalogue(*listings):
    return pl.DataFrame([{"row": row, **one} for row, one in enumerate(listings)])


TITLE = "Aero Zoom running shoe for men light and breathable with soft sole"


def found(*listings, **how):
    return near_duplicates(catalogue(*listings), within={"price": 0.1}, **how).select("row", "of").rows()


def test_a_relisting_is_found_and_a_variant_is_not():
    navy, black = '{"colour": "navy", "fit": "slim"}', '{"fit": "slim", "colour": "black"}'
    original = listing(TITLE, attributes=navy)
    assert found(original, listing(f"{TITLE} - new", attributes='{"fit": "slim", "colour": "navy"}')) == [
        (1, 0)
    ]
    assert found(original, listing(f"{TITLE} new", attributes='{"colour": "navy"}', price=54.0)) == [(1, 0)]
    assert found(original, listing(TITLE, attributes=black)) == []
    assert found(original, listing(TITLE, attributes=navy, brand="Volta")) == []
    assert found(original, listing(TITLE, attributes=navy, price=80.0)) == []
    assert found(original, listing("A quite different text about socks", attributes=navy)) == []
    assert found(listing(TITLE, brand=None), listing(TITLE, brand=None)) == []


def test_a_single_product_and_an_empty_catalogue_have_no_duplicates():
    assert near_duplicates(catalogue(listing(TITLE))).height == 0
    assert near_duplicates(catalogue(listing(TITLE)).clear()).height == 0
    assert clusters(near_duplicates(catalogue(listing(TITLE)))).height == 0


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=15))
def test_clusters_are_connected_components(edges):
    pairs = [(max(a, b), min(a, b)) for a, b in edges if a != b]
    group = {n: n for edge in pairs for n in edge}
    for _ in group:
        for a, b in pairs:
            group[a] = group[b] = min(group[a], group[b])
    table = pl.DataFrame(pairs, schema={"row": pl.Int64, "of": pl.Int64}, orient="row")
    assert dict(clusters(table).rows()) == {n: root for n, root in group.items() if n != root}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=3, max_size=6), min_size=1, max_size=12))
def test_dropping_near_duplicates_twice_changes_nothing_more(titles):
    frame = catalogue(*(listing(" ".join(words)) for words in titles)).lazy()
    once, change, _ = drop_near_duplicates(frame)
    again, nothing, _ = drop_near_duplicates(once)
    assert once.collect().equals(again.collect())
    assert (change.rows_out, nothing.changed) == (once.collect().height, 0)


def partition(products):
    """Which listings are one, by what they say and not by their row numbers."""
    key = {
        row["row"]: (row["title"], row["attributes"], row["price"]) for row in products.iter_rows(named=True)
    }
    joined = clusters(near_duplicates(products, within={"price": 0.01}))
    groups = {row: {row} for row in key}
    for row, of in joined.rows():
        groups[of] |= groups.pop(row)
    return sorted(sorted(map(key.get, group)) for group in groups.values())


def crowd(count, seed, wordings):
    """Many listings in the same words, close in price, some with attributes that conflict."""
    rng = np.random.default_rng(seed)
    return catalogue(
        *(
            listing(
                f"{TITLE} no {rng.integers(wordings)}",
                price=round(50 * 1.01 ** float(rng.uniform(0, 40)), 2),
                attributes=["{}", '{"size": "1"}', '{"size": "2"}'][rng.integers(3)]
                if wordings > 1
                else "{}",
            )
            for _ in range(count)
        )
    )


@pytest.mark.parametrize(("count", "wordings"), [(1000, 1), (600, 8)])
def test_a_crowd_is_joined_whatever_its_row_numbers_and_once_is_enough(count, wordings):
    products = crowd(count, 0, wordings)
    renumbered = products.with_columns(row=pl.Series(np.random.default_rng(1).permutation(count)))
    assert partition(products) == partition(renumbered)
    once, change, _ = drop_near_duplicates(products.lazy(), within={"price": 0.01})
    _, nothing, _ = drop_near_duplicates(once, within={"price": 0.01})
    assert change.changed > count / 2
    assert nothing.changed == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 40))
def test_groups_in_a_crowd_are_those_of_all_pairs(seed, wordings, count):
    products = crowd(count, seed, wordings)
    codes, offsets = shingles(products["title"] + " ")
    pairs = np.array(list(itertools.combinations(range(count), 2)))
    alike = jaccard(codes, offsets, pairs[:, 0], pairs[:, 1]) >= 0.5
    price, facts = products["price"].to_numpy(), [json.loads(text) for text in products["attributes"]]
    true = [
        (int(b), int(a))
        for (a, b), close in zip(pairs, alike, strict=True)
        if close
        and abs(price[a] - price[b]) <= 0.01 * max(price[a], price[b])
        and all(facts[a][key] == facts[b][key] for key in facts[a].keys() & facts[b].keys())
    ]
    expected = clusters(pl.DataFrame(true, schema={"row": pl.Int64, "of": pl.Int64}, orient="row"))
    assert clusters(near_duplicates(products, within={"price": 0.01})).rows() == expected.rows()


def test_many_copies_of_one_listing_cost_no_more_than_their_number():
    products = crowd(50_000, 0, 1)
    begun = time.perf_counter()
    found = near_duplicates(products, within={"price": 0.1})
    assert time.perf_counter() - begun < 30
    assert clusters(found).height == 49_999


def test_a_pipeline_gives_the_same_in_memory_and_on_disk(tmp_path):
    frame = log([("a", 1.5, True), ("a", 1.5, True), (None, None, False), ("a", 1.5, True)])
    steps = [drop_exact_duplicates, drop_exact_duplicates]
    in_memory, changes = Pipeline(steps).run(frame)
    on_disk = Pipeline(steps, tmp_path / "work")
    written, same = on_disk.run(frame)
    assert in_memory.collect().equals(written.collect())
    assert changes == same
    assert on_disk.report()["changed"].to_list() == [2, 0]
    assert len(list((tmp_path / "work").iterdir())) == 1


@pytest.mark.parametrize("folder", [None, "work"])
def test_a_step_that_loses_rows_silently_is_stopped(tmp_path, folder):
    frame = pl.LazyFrame({"row": [0, 1, 2]})
    careless = Pipeline(
        [lambda table: (table.head(1), Change("careless", 3, 2, 1))], tmp_path / folder if folder else None
    )
    with pytest.raises(RuntimeError, match="careless has 1 rows, though its steps report 2"):
        careless.run(frame)


def folder_of(name):
    for folder in os.environ.get("LABKIT_DATA", "").split(os.pathsep):
        if folder and (Path(folder) / name).is_dir():
            return Path(folder) / name
    return None


@pytest.mark.skipif(
    folder_of("product_matching_er_magellan") is None, reason="LABKIT_DATA has no product pairs"
)
@pytest.mark.parametrize("name", ["abt_buy", "amazon_google", "walmart_amazon"])
def test_similarity_of_real_pairs_tells_matches_from_others(name, record_property):
    """A reported number, not a gate: these are offers of different shops, matched by models of language."""
    pairs = pl.read_parquet(folder_of("product_matching_er_magellan") / f"{name}.parquet")
    texts = pl.concat([pairs["left"], pairs["right"]]).str.replace_all(r"COL \w+ VAL", " ")
    codes, offsets = shingles(texts)
    places = np.arange(pairs.height)
    alike = jaccard(codes, offsets, places, places + pairs.height)
    label = pairs["label"].to_numpy() == 1
    learn, judge = (pairs["split"] != "test").to_numpy(), (pairs["split"] == "test").to_numpy()

    def f1(part, least):
        hits = (alike[part] >= least) & label[part]
        return 2 * hits.sum() / ((alike[part] >= least).sum() + label[part].sum())

    least = max(np.linspace(0.02, 0.9, 89), key=lambda cut: f1(learn, cut))
    record_property("f1", f1(judge, least))
    print(f"{name}: F1 {f1(judge, least):.3f} at Jaccard {least:.2f}")
    guess = 2 * label[judge].mean() / (1 + label[judge].mean())  # F1 of calling everything a match
    assert f1(judge, least) > 1.3 * guess
