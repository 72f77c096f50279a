"""Repairs: encodings, clocks, outliers, missing values, leaks and spam."""

import itertools
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.data.clocks import find_skew, longest_rising, repair_clocks
from labkit.data.encoding import repair_encoding, repaired
from labkit.data.leaks import auc, leaking_columns
from labkit.data.missing import Imputation, fit_imputation, missing_shares
from labkit.data.outliers import fences, robust_z, winsorise
from labkit.data.spam import SpamRules, drop_spam, find_spam

START = datetime(2026, 1, 1)

TEXTS = [
    "Café crème mug", "27″ monitor – “quiet”", "✔ 350 ml ✔ Navy", "沙发 三人座 深灰色", "naïve façade, 5 €",
    "L’Oréal £9",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("alphabet", ["latin-1", "cp1252"])
def test_wrong_decoding_is_undone_exactly(text, alphabet):
    try:
        damaged = text.encode().decode(alphabet)
    except UnicodeDecodeError:
        pytest.skip("these bytes have no meaning in that alphabet")
    frame, change = repair_encoding(pl.LazyFrame({"row": [0], "title": [damaged]}), ["title"])
    assert frame.collect()["title"].item() == text
    assert change.changed == 1


@given(st.lists(st.sampled_from([*TEXTS, "plain", "ÀÉÎ & co", "Ã", "5 Â°", None]), max_size=10))
def test_sound_texts_are_not_touched(texts):
    sound = [text for text in texts if text is None or repaired(text) == text]
    frame = pl.LazyFrame({"row": range(len(sound)), "title": sound}, {"row": pl.Int64, "title": pl.String})
    same, change = repair_encoding(frame, ["title"])
    assert same.collect().equals(frame.collect())
    assert change.changed == 0
    assert all(repaired(text) == text for text in TEXTS)


@given(st.lists(st.integers(0, 9), max_size=9))
def test_longest_rising_is_the_longest(values):
    run = longest_rising(np.array(values, dtype=np.int64)).tolist()
    chosen = [values[place] for place in run]
    assert run == sorted(set(run))
    assert chosen == sorted(chosen)
    longest = max(
        (
            len(c)
            for n in range(len(values) + 1)
            for c in itertools.combinations(values, n)
            if list(c) == sorted(c)
        ),
        default=0,
    )
    assert len(run) == longest


def clocks(seed, sessions=2000, per_day=40):
    """Sessions in order of arrival, ten minutes late at most; one app is 5 hours ahead, some say 1970."""
    rng = np.random.default_rng(seed)
    true = np.sort(rng.integers(0, sessions // per_day * 86_400, sessions))
    arrival = np.argsort(true + rng.integers(0, 600, sessions), kind="stable")
    true = true[arrival]
    app = np.where(rng.random(sessions) < 0.04, "ios 7.2", "web")
    skewed, epoch = app == "ios 7.2", rng.random(sessions) < 0.01
    says = true + np.where(skewed, 5 * 3600, 0)
    times = [
        datetime(1970, 1, 1) if e else START + timedelta(seconds=int(s))
        for s, e in zip(says, epoch, strict=True)
    ]
    log = pl.DataFrame({"session_id": range(sessions), "time": times, "app": app}).cast(
        {"time": pl.Datetime("ms")}
    )
    log = pl.concat([log, log]).sort("session_id").with_row_index("row")  # two products shown each
    return log, true, skewed | epoch, epoch


@pytest.mark.parametrize("seed", [0, 1])
def test_skewed_clocks_are_found_and_put_right(seed):
    log, true, wrong, epoch = clocks(seed)
    found = set(find_skew(log.lazy())["session_id"].to_list())
    planted = set(np.flatnonzero(wrong).tolist())
    assert len(found & planted) / len(found) >= 0.97
    assert len(found & planted) / len(planted) >= 0.97
    fixed, change = repair_clocks(log.lazy())
    times = fixed.collect().group_by("session_id", maintain_order=True).first()["time"]
    error = np.array([(at - START).total_seconds() for at in times]) - true
    assert np.abs(error[list(found & planted - set(np.flatnonzero(epoch).tolist()))]).max() < 900
    assert np.quantile(np.abs(error), 0.99) < 3600
    assert change.rows_in == change.rows_out == 4000
    assert change.changed == 2 * len(found)


def test_a_sound_log_keeps_its_times():
    log, *_ = clocks(0)
    sound = log.with_columns(time=pl.col("time").sort())
    sound = sound.filter(pl.col("time").dt.year() > 2000)
    fixed, change = repair_clocks(sound.lazy())
    assert fixed.collect().equals(sound)
    assert change.changed == 0


def test_a_log_without_any_sound_clock_is_left_alone():
    log = pl.LazyFrame({"row": [0], "session_id": [0], "time": [datetime(1970, 1, 1)], "app": ["web"]})
    assert find_skew(log).height == 0


def test_outliers_are_pulled_to_fences_fitted_elsewhere():
    train = pl.LazyFrame({"price": [float(n) for n in range(101)]})
    limits = fences(train, ["price"], reach=1.5)
    assert limits == {"price": (25 - 75, 75 + 75)}
    frame, change = winsorise(pl.LazyFrame({"price": [-500.0, 10.0, 1e9, None]}), limits)
    assert frame.collect()["price"].to_list() == [-50.0, 10.0, 150.0, None]
    assert change.changed == 2


@given(st.lists(st.integers(-1000, 1000).map(lambda n: n / 8), min_size=3, max_size=50))
def test_robust_z_by_definition(values):
    result = pl.DataFrame({"x": values}).select(robust_z("x"))["x"].to_numpy()
    spread = np.median(np.abs(np.array(values) - np.median(values))) * 1.4826
    expected = (np.array(values) - np.median(values)) / spread if spread > 0 else np.zeros(len(values))
    assert result == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_missing_not_at_random_is_told_from_chance():
    rng = np.random.default_rng(0)
    device = rng.choice(["phone", "desktop"], 4000)
    year = rng.integers(1940, 2005, 4000)
    gone = rng.random(4000) < np.where(year < 1960, 0.6, 0.1)
    frame = pl.DataFrame({"device": device, "birth_year": year, "income": np.ones(4000)})
    frame = frame.with_columns(income=pl.when(pl.Series(~gone)).then("income"))
    shares = missing_shares(frame, "income", ["device", "birth_year"])
    assert shares.filter(pl.col("by") == "birth_year")["chance"].max() < 1e-9
    assert shares.filter(pl.col("by") == "device")["chance"].min() > 0.01
    oldest = shares.filter(pl.col("by") == "birth_year").sort("group")["missing"]
    assert oldest[0] > 0.5 > 0.2 > oldest[4]
    from scipy.stats import chi2_contingency

    table = np.array([[gone[device == d].sum(), (~gone)[device == d].sum()] for d in ("desktop", "phone")])
    expected = chi2_contingency(table, correction=False).pvalue
    assert shares.filter(pl.col("by") == "device")["chance"][0] == pytest.approx(expected)


def test_imputation_is_fitted_on_train_only_and_says_where_it_guessed():
    train = pl.DataFrame(
        {"kind": ["a", "a", "a", "b"], "weight": [1.0, 2.0, 9.0, None], "band": ["low", "low", "high", None]}
    )
    fitted = fit_imputation(train, ["weight", "band"], "kind")
    test = pl.LazyFrame({"kind": ["a", "b", None], "weight": [None, 7.0, None], "band": [None, None, "top"]})
    filled, change = fitted.apply(test)
    assert filled.collect().rows() == [
        ("a", 2.0, "low", True, True), ("b", 7.0, "low", False, True), (None, 2.0, "top", True, False)
    ]  # fmt: skip
    assert change.changed == 3
    assert Imputation.from_json(fitted.as_json()) == fitted
    with pytest.raises(ValueError, match="is empty in the training part"):
        fit_imputation(train[3:], ["weight"])


def test_imputation_by_truth_values_and_by_an_empty_name():
    train = pl.DataFrame({"new": [True, True, False, False], "weight": [1.0, 1.0, 9.0, 9.0]})
    test = pl.LazyFrame({"new": [True, False, None], "weight": pl.Series([None] * 3, dtype=pl.Float64)})
    fitted = Imputation.from_json(fit_imputation(train, ["weight"], "new").as_json())
    assert fitted.apply(test)[0].collect()["weight"].to_list() == [1.0, 9.0, 5.0]
    named = pl.DataFrame({"kind": ["", "", "b", "b", "b"], "weight": [1.0, 1.0, 9.0, 9.0, 9.0]})
    fitted = fit_imputation(named, ["weight"], "kind")
    test = pl.LazyFrame({"kind": ["", "new", None], "weight": pl.Series([None] * 3, dtype=pl.Float64)})
    assert fitted.apply(test)[0].collect()["weight"].to_list() == [1.0, 9.0, 9.0]


def test_codes_and_nan_that_know_the_answer_are_found():
    rng = np.random.default_rng(0)
    bought = rng.random(2000) < 0.3
    log = pl.DataFrame(
        {
            "bought": bought,
            "code": np.where(bought, rng.choice([1, 3], 2000), 2),
            "delivered": np.where(bought, rng.random(2000), np.nan),
            "noise": rng.integers(0, 50, 2000),
            "sometimes": np.where(rng.random(2000) < 0.5, rng.random(2000), np.nan),
        }
    )
    found = leaking_columns(log, "bought")
    assert set(found.select("column", "how").rows()) == {("code", "category"), ("delivered", "filled")}


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_ordered_pairs(rows):
    wins = [(a > b) + 0.5 * (a == b) for a, good in rows for b, bad in rows if good and not bad]
    value = auc(np.array([r[0] for r in rows]), np.array([r[1] for r in rows]))
    assert value == pytest.approx(np.mean(wins)) if wins else np.isnan(value)


def test_leaking_columns_are_found_and_honest_ones_are_not():
    rng = np.random.default_rng(0)
    bought = rng.random(5000) < 0.1
    log = pl.DataFrame(
        {
            "row": range(5000),  # unique: no leak
            "bought": bought,
            "delivery_days": np.where(bought, rng.integers(1, 5, 5000), 0),
            "price": rng.lognormal(3, 1, 5000) * np.where(bought, 0.6, 1.0),  # predicts, honestly
            "state": np.where(bought, "paid", "open"),
            "paid": bought,
            "session": [f"s{n}" for n in range(5000)],
        }
    ).with_columns(pl.when(pl.col("delivery_days") > 0).then("delivery_days").alias("delivery_days"))
    found = leaking_columns(log, "bought", allowed=["paid"])
    assert dict(found.select("column", "how").rows()) == {"delivery_days": "filled", "state": "category"}
    with pytest.raises(ValueError, match="only one value"):
        leaking_columns(log.filter("bought"), "bought")


WORDS = [f"word{n}" for n in range(400)]


def reviews(seed):
    """Honest reviews over a year and two campaigns of near-identical praise within a day."""
    rng = np.random.default_rng(seed)
    rows = [
        (int(rng.integers(200)), START + timedelta(seconds=int(rng.integers(0, 365 * 86_400))),
         int(rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.1, 0.1, 0.2, 0.5])), bool(rng.random() < 0.8),
         " ".join(rng.choice(WORDS, 15)), False)
        for _ in range(1500)
    ]  # fmt: skip
    for seller in (3, 11):
        wording = rng.choice(WORDS, 14).tolist()
        for _ in range(12):
            text = " ".join([*wording, str(rng.choice(WORDS))])
            at = START + timedelta(days=100 + seller, seconds=int(rng.integers(0, 86_400)))
            rows.append((int(rng.integers(10)) * 20 + seller, at, 5, False, text, True))
    rng.shuffle(rows := [list(row) for row in rows])
    names = ["product_id", "time", "rating", "verified", "text", "spam"]
    return pl.DataFrame([tuple(row) for row in rows], schema=names, orient="row").with_row_index("row")


PRODUCTS = pl.DataFrame({"product_id": range(200), "seller_id": [n % 20 for n in range(200)]})


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_campaigns_are_found_and_honest_praise_is_left_alone(seed):
    table = reviews(seed)
    found = find_spam(table.drop("spam"), PRODUCTS)
    caught, planted = set(found["row"]), set(table.filter("spam")["row"])
    assert caught >= planted
    assert len(caught) <= 25  # an honest five stars, not verified, in the week of a campaign looks the same
    assert set(found["seller_id"]) == {3, 11}
    kept, change = drop_spam(table.lazy(), PRODUCTS)
    assert not kept.collect()["spam"].any()
    assert change.changed == len(caught)


def test_whoever_was_caught_elsewhere_needs_fewer_signs():
    table = reviews(0).with_columns(shopper_id=pl.int_range(pl.len()) + 100)
    campaign = table.filter("spam").head(2)
    lone = table.filter(~pl.col("spam") & ~pl.col("verified") & (pl.col("rating") == 5)).head(2)
    who = [*campaign["row"], *lone["row"][:1]]  # one of two lone reviews is by one who was caught twice
    table = table.with_columns(shopper_id=pl.when(pl.col("row").is_in(who)).then(1).otherwise("shopper_id"))
    found = find_spam(table, PRODUCTS)
    assert lone["row"][0] in found["row"]
    assert lone["row"][1] not in found["row"]
    assert "by a known spammer" in found.filter(pl.col("row") == lone["row"][0])["reason"].item()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=1, max_size=25))
def test_bursts_are_counted_as_a_loop_would(rows):
    """Rows of all sellers in any order: the count beside a review is that of its own seller's neighbours."""
    table = pl.DataFrame(
        {
            "row": range(len(rows)),
            "product_id": [r[0] for r in rows],
            "time": [START + timedelta(days=r[1]) for r in rows],
            "rating": [5] * len(rows),
            "verified": [False] * len(rows),
            "text": [f"t{n}" for n in range(len(rows))],
        }
    )
    rules = SpamRules(window=timedelta(days=2), burst=3, times_usual=0.0)
    found = find_spam(table, PRODUCTS, rules)["row"].to_list()
    expected = [
        place
        for place, (product, day) in enumerate(rows)
        if sum(other == product and abs(at - day) <= 2 for other, at in rows) >= 3
    ]
    assert found == expected


def test_one_wording_within_a_window_is_found_whatever_the_order_of_the_rows():
    """The same words a hundred days later, on the row between, hide nothing."""
    words = "the very best mug that I have ever had in my life"
    after = [timedelta(0), timedelta(days=100), timedelta(hours=1)]
    praise = pl.DataFrame(
        {
            "row": [0, 1, 2],
            "review_id": [0, 1, 2],
            "shopper_id": [1, 2, 3],
            "product_id": 0,
            "time": [START + one for one in after],
            "rating": 5,
            "verified": False,
            "text": words,
        }
    )
    others = praise[:1].with_columns(row=pl.lit(3, pl.Int64), rating=pl.lit(1, pl.Int32), text=pl.lit("no"))
    table = pl.concat([praise, others.cast(praise.schema)])
    products = pl.DataFrame({"product_id": [0], "seller_id": [0]})
    found = find_spam(table, products)
    assert found.filter(pl.col("reason").str.contains("same wording"))["row"].to_list() == [0, 2]
