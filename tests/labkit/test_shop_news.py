"""News that leads the indicators by the stated days, among much that leads to nothing."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from labkit.shop.grammar import prose
from labkit.shop.news import LONGEST_LAG, PRICE_MOVE, SALES_FADE, SALES_MOVE, News, make_news

DAYS = 365


@pytest.fixture(scope="module")
def news() -> News:
    return make_news(seed=0)


def test_the_same_every_time(news):
    again, other = make_news(seed=0), make_news(seed=1)
    for table in ("companies", "articles", "shocks", "indicators", "states"):
        assert getattr(again, table).equals(getattr(news, table)), table
    assert not other.shocks.equals(news.shocks)


def test_the_same_in_another_process():
    """Python's hash seed, which orders sets, changes nothing."""
    script = (
        "import hashlib; from labkit.shop.news import make_news; tables = make_news(0, 4, 90).tables();"
        "print(hashlib.sha256(''.join(t.write_csv() for t in tables.values()).encode()).hexdigest())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2")
    }
    here = make_news(0, 4, 90).tables()
    assert said == {hashlib.sha256("".join(t.write_csv() for t in here.values()).encode()).hexdigest() + "\n"}


def test_tables_hold_together(news):
    articles, shocks = news.articles, news.shocks
    assert news.companies.height == 25
    assert articles["article_id"].to_list() == list(range(articles.height))
    assert articles["time"].is_sorted()
    assert articles["time"].dt.date().is_between(date(2025, 9, 1), date(2026, 8, 31)).all()
    assert articles["sentiment"].is_between(-1, 1).all()
    assert shocks["lag"].is_between(1, LONGEST_LAG).all()
    assert news.indicators.height == news.states.height == 25 * DAYS
    told = articles.filter(pl.col("shock_id").is_not_null()).join(shocks, on="shock_id", suffix="_of")
    assert set(told["shock_id"]) == set(shocks["shock_id"])
    assert (told["company"] == told["company_of"]).all()
    assert ((told["sentiment"] > 0) == (told["size"] > 0)).all()
    # Nothing is written of a shock before its date, and the first report comes on it.
    first = told.group_by("shock_id").agg(pl.col("time").min(), pl.col("date").first())
    assert (first["time"].dt.date() == first["date"]).all()


def test_copies_follow_their_originals(news):
    copies = news.articles.filter(pl.col("copy_of").is_not_null())
    both = copies.join(news.articles, left_on="copy_of", right_on="article_id", suffix="_first")
    assert both.height == copies.height > 100
    assert (both["kind"] == "copy").all()
    assert (both["kind_first"] != "copy").all()
    assert (both["time"] >= both["time_first"]).all()
    assert (both["company"].fill_null("") == both["company_first"].fill_null("")).all()
    assert all(first.startswith(body) for first, body in both.select("body_first", "body").iter_rows())


def test_rumours_come_to_nothing_and_are_denied(news):
    rumours = news.articles.filter(pl.col("kind") == "rumour")
    assert rumours["shock_id"].is_null().all()
    denials = news.articles.filter(pl.col("kind") == "denial")
    for row in rumours.filter(pl.col("time") < pl.datetime(2026, 8, 26)).iter_rows(named=True):
        after = denials.filter(
            (pl.col("company") == row["company"])
            & (pl.col("time").dt.date() - row["time"].date()).dt.total_days().is_between(1, 4)
        )
        assert after.height >= 1


def _moves(news: News) -> np.ndarray:
    """(companies, days) relative moves of the price; day 0 from 100."""
    price = news.indicators["price_index"].to_numpy().reshape(25, DAYS)
    return np.diff(np.hstack([np.full((25, 1), 100.0), price]), axis=1) / np.hstack(
        [np.full((25, 1), 100.0), price[:, :-1]]
    )


def test_the_price_moves_on_the_stated_day_only(news):
    """An event study (MacKinlay 1997): mean signed move by days since the news, aligned at the lag."""
    moves = _moves(news)
    moves = moves - moves.mean(0)  # the market's part
    names = news.companies["company"].to_list()
    aligned: dict[int, list[float]] = {offset: [] for offset in range(-6, 5)}
    for row in news.shocks.iter_rows(named=True):
        hit = (row["date"] - date(2025, 9, 1)).days + row["lag"]
        for offset, found in aligned.items():
            if 0 <= hit + offset < DAYS:
                found.append(np.sign(row["size"]) * moves[names.index(row["company"]), hit + offset])
    means = {offset: float(np.mean(found)) for offset, found in aligned.items()}
    size = news.shocks["size"].abs().mean()
    assert means[0] == pytest.approx(PRICE_MOVE * size, abs=0.01)
    assert all(abs(mean) < 0.006 for offset, mean in means.items() if offset != 0), means


@pytest.mark.parametrize("lag", range(1, LONGEST_LAG + 1))
def test_the_news_leads_by_its_lag(news, lag):
    """Correlate the sizes of the shocks that have this lag with later moves: it peaks at the lag."""
    moves = _moves(news) - _moves(news).mean(0)
    names = news.companies["company"].to_list()
    signal = np.zeros((25, DAYS))
    for row in news.shocks.filter(pl.col("lag") == lag).iter_rows(named=True):
        signal[names.index(row["company"]), (row["date"] - date(2025, 9, 1)).days] = row["size"]
    strength = [float((signal[:, : DAYS - k] * moves[:, k:]).sum()) for k in range(9)]
    assert int(np.argmax(strength)) == lag
    assert strength[lag] > 3 * sorted(strength)[-2]


def test_sales_follow_the_state(news):
    """The state is an impulse response: recomputed here by convolution."""
    names = news.companies["company"].to_list()
    impulse = np.zeros((25, DAYS))
    for row in news.shocks.iter_rows(named=True):
        hit = (row["date"] - date(2025, 9, 1)).days + row["lag"]
        if hit < DAYS:
            impulse[names.index(row["company"]), hit] += row["size"]
    kernel = SALES_MOVE * SALES_FADE ** np.arange(DAYS)
    expected = np.stack([np.convolve(line, kernel)[:DAYS] for line in impulse])
    state = news.states["state"].to_numpy().reshape(25, DAYS)
    np.testing.assert_allclose(state, expected, atol=2e-5)
    sales = news.indicators["sales_index"].to_numpy() / 100 - 1
    assert np.corrcoef(sales, state.ravel())[0, 1] > 0.6


def test_a_monitor_can_be_scored(news):
    """Counting articles finds shocks better than chance, and far from perfectly."""
    daily = (
        news.articles.filter(pl.col("company").is_not_null())
        .group_by("company", pl.col("time").dt.date().alias("date"))
        .agg(pl.len(), pl.col("sentiment").sum())
    )
    grid = (
        news.indicators.select("company", "date").join(daily, on=["company", "date"], how="left").fill_null(0)
    )
    truth = grid.join(
        news.shocks.select("company", "date", hit=pl.lit(True)), on=["company", "date"], how="left"
    )
    truth = truth.with_columns(pl.col("hit").fill_null(False), strength=pl.col("sentiment").abs())
    alarms = truth.filter(pl.col("strength") > 0.9)
    precision, recall = alarms["hit"].mean(), alarms["hit"].sum() / truth["hit"].sum()
    assert 0.25 < precision < 0.95
    assert 0.25 < recall < 0.95
    assert precision > 10 * truth["hit"].mean()


def test_texts_are_clean_and_in_their_language(news):
    articles = news.articles
    for column in ("headline", "body"):
        texts = articles[column]
        assert not texts.str.contains(r"[\[\]{}|]|  | [.,](\s|$)|\b[Tt]he the\b|\b[Aa] [aeio]").any(), column
        assert not articles.filter(pl.col("lang") == "en")[column].str.contains(r"\p{Han}").any()
    chinese = articles.filter(pl.col("lang") == "zh")
    assert chinese["headline"].str.contains(r"\p{Han}").all()
    assert articles.filter(pl.col("source") != "social")["body"].str.len_chars().min() > 6
    reports = articles.filter(~pl.col("kind").is_in(["copy", "post"]))
    assert reports["body"].n_unique() / reports.height > 0.85
    told = articles.filter(
        (pl.col("lang") == "en") & pl.col("company").is_not_null() & (pl.col("kind") != "copy")
    )
    named = [
        row["company"] in row["headline"] or "$" in row["headline"] for row in told.iter_rows(named=True)
    ]
    assert all(named)


def test_figures_agree_with_the_tone(news):
    """Where an English report says "rose to X from Y", X is more than Y, and less where it fell."""
    up = "rose|grew|increased|climbed|went up|jumped|improved|advanced|surged"
    down = "fell|dropped|decreased|declined|slid|shrank|went down|slipped|tumbled|plunged|contracted"
    link = "compared with|from|up from|down from|against|versus"
    pattern = re.compile(rf"\b({up}|{down}) to ([\d.]+) .*?(?:{link}) ([\d.]+)")
    seen = 0
    for body in news.articles.filter(pl.col("topic") == "earnings")["body"]:
        if found := pattern.search(body.split(". ")[0]):
            seen += 1
            higher = float(found[2].rstrip(".")) > float(found[3].rstrip("."))
            assert higher == (found[1] in up.split("|")), body
    assert seen > 10


def test_labels_are_shared_out_as_in_the_phrasebank(news):
    """Financial PhraseBank (Malo et al. 2014): 59 % neutral, 28 % positive, 13 % negative of 4,846."""
    mood = news.articles["sentiment"]
    assert (mood.abs() <= 0.15).mean() == pytest.approx(0.594, abs=0.05)
    assert (mood > 0.15).mean() == pytest.approx(0.281, abs=0.05)
    assert (mood < -0.15).mean() == pytest.approx(0.125, abs=0.05)


def test_a_model_of_simulated_news_reads_real_news(news):
    """Realism check on the real PhraseBank, where LABKIT_DATA holds it."""
    places = [Path(folder) for folder in os.environ.get("LABKIT_DATA", "").split(os.pathsep) if folder]
    found = [file for place in places for file in place.rglob("financial_phrasebank_50agree.parquet")]
    if not found:
        pytest.skip("LABKIT_DATA holds no Financial PhraseBank")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.pipeline import make_pipeline

    names = [company[0] for company in prose("news")["companies"]]

    def plain(text: str) -> str:
        for name in names:
            text = text.replace(name, "company")
        return re.sub(r"\d[\d.,]*", "0", text)

    texts, labels = [], []
    for seed in range(4):
        for row in make_news(seed).articles.iter_rows(named=True):
            if row["lang"] == "en" and row["kind"] not in ("copy", "post"):
                mood = row["sentiment"]
                label = "positive" if mood > 0.15 else "negative" if mood < -0.15 else "neutral"
                first = re.split(r"(?<=[.]) (?=[A-Z\"])", row["body"])[0]
                texts += [plain(first), plain(row["headline"])]
                labels += [label, label]
    real = pl.read_parquet(found[0])
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        LogisticRegression(C=3, max_iter=1000),
    )
    guess = model.fit(texts, labels).predict([plain(text) for text in real["sentence"]])
    truth = real["label"].to_numpy()
    majority = (truth == "neutral").mean()
    shared = f1_score(truth, guess, average="macro")
    print(f"accuracy {(guess == truth).mean():.3f}, majority {majority:.3f}, macro F1 {shared:.3f}")
    assert (guess == truth).mean() > majority + 0.04
    assert shared > 0.45  # the majority class reaches 0.25


def test_short_worlds_and_wrong_sizes():
    short = make_news(seed=0, companies=2, days=20)
    assert short.indicators.height == 40
    last = date(2025, 9, 1) + timedelta(days=19)
    assert short.articles["time"].dt.date().max() <= last
    with pytest.raises(ValueError, match="knows 25 companies"):
        make_news(seed=0, companies=26)
