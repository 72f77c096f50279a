"""The loader of real data: found, checked, and clear when it is not there."""

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from labkit.data import CHORUS, DataMissing, click_rates, load_chorus, sources

FOLDER = next(
    (
        Path(folder) / CHORUS.name
        for folder in os.environ.get("LABKIT_DATA", "").split(os.pathsep)
        if folder and (Path(folder) / CHORUS.name).is_dir()
    ),
    None,
)
needs_chorus = pytest.mark.skipif(
    FOLDER is None, reason="LABKIT_DATA names no folder with chorus_electronics_search"
)


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sources, "_stated", set())


def test_missing_data_says_where_it_comes_from_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    with pytest.raises(
        DataMissing, match=r"not found: put products\.parquet.*github\.com/o19s/chorus.*LABKIT_DATA"
    ):
        load_chorus()


def test_other_content_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    (tmp_path / CHORUS.name).mkdir()
    for name in CHORUS.files:
        (tmp_path / CHORUS.name / name).write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"products\.parquet is not the expected version"):
        load_chorus()


@needs_chorus
def test_chorus_has_the_published_counts_and_states_its_licence_once(capsys):
    data = load_chorus()
    assert (data.products.height, data.queries.height, data.judgements.height) == (19_406, 135, 3_668)
    assert data.judgements["grade"].value_counts().sort("grade").rows() == [
        (0, 1853),
        (1, 238),
        (2, 105),
        (3, 1472),
    ]
    assert data.products["product_id"].to_list() == list(range(19_406))
    assert all(data.titles())
    assert len(data.documents()) == 19_406
    qrels = data.qrels()
    assert sum(len(judged) for judged in qrels.values()) == 3_668
    assert sum(max(judged.values()) < 2 for judged in qrels.values()) == 22
    laptop = dict(data.queries.select("text", "query_id").iter_rows())["laptop"]
    assert qrels[laptop]
    assert "Icecat" in capsys.readouterr().err
    load_chorus()
    sources._stated.clear()  # another process
    load_chorus()
    assert capsys.readouterr().err == ""


@needs_chorus
def test_chorus_is_found_in_the_home_folder_and_a_read_only_home_is_fine(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("LABKIT_DATA")
    shutil.copytree(FOLDER, tmp_path / "home" / "data" / CHORUS.name)
    assert load_chorus().queries.height == 135

    def refuse(*args, **kwargs):
        raise PermissionError

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    sources._stated.clear()
    assert load_chorus().queries.height == 135


def test_click_rates_recover_the_attraction_behind_the_positions():
    generator = np.random.default_rng(0)
    propensities = [1.0, 0.5, 0.25]
    attraction = np.array([0.2, 0.8, 0.5])
    # Product 0 is always shown first and product 1 mostly last: raw click rates put them in the wrong order.
    position = np.concatenate(
        [np.ones(40_000), generator.choice([2, 3], 40_000, p=[0.1, 0.9]), np.full(40_000, 2)]
    )
    product = np.repeat([0, 1, 2], 40_000)
    seen = generator.random(120_000) < np.array(propensities)[position.astype(int) - 1]
    clicked = seen & (generator.random(120_000) < attraction[product])
    log = pl.DataFrame(
        {"query_id": 3, "product_id": product, "position": position.astype(np.int16), "clicked": clicked}
    )
    table = click_rates(log, propensities)
    np.testing.assert_allclose(table["rate"], attraction, atol=0.02)
    assert table["shown"].to_list() == [40_000] * 3
    with pytest.raises(ValueError, match="positions 1 to 3"):
        click_rates(log, propensities[:2])
    with pytest.raises(ValueError, match="at most 1"):
        click_rates(log, [1.0, 0.5, 0.0])
