"""The e-mail test: rates like the real one, effects that differ between people and are known."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from labkit.shop.mailings import ARMS, REAL, TAIL, TAIL_MEAN, make_mailing

DEPARTMENTS = ("furniture", "pets", "toys", "garden")


def draw(count: int, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    joined = [date(2026, 3, 1) - timedelta(days=int(d)) for d in rng.integers(0, 1500, count)]
    shoppers = pl.DataFrame(
        {
            "shopper_id": np.arange(count, dtype="i4"),
            "lang": np.where(rng.random(count) < 0.3, "zh", "en"),
            "device": np.where(rng.random(count) < 0.6, "phone", "desktop"),
            "joined": joined,
        }
    )
    return shoppers, rng.random(count), rng.gamma(1.0, 1.0, (count, len(DEPARTMENTS))).astype("f4")


@pytest.fixture(scope="module")
def people() -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    return draw(240_000)


@pytest.fixture(scope="module")
def test(people: tuple[pl.DataFrame, np.ndarray, np.ndarray]) -> pl.DataFrame:
    return make_mailing(*people, DEPARTMENTS, seed=0)


def test_the_same_every_time():
    first, again, other = (make_mailing(*draw(600), DEPARTMENTS, seed=seed) for seed in (3, 3, 4))
    assert first.equals(again)
    assert not first["arm"].equals(other["arm"])


def test_rates_are_those_of_the_real_test(test):
    """Within four standard errors of Hillstrom's rates."""
    for arm in ARMS:
        part = test.filter(pl.col("arm") == arm)
        for column, real in zip(("visit", "conversion", "spend"), REAL[arm], strict=True):
            values = part[column].cast(pl.Float64)
            assert abs(values.mean() - real) < 4 * values.std() / part.height**0.5, (arm, column)


def test_baskets_are_like_the_real_ones(test):
    """Real baskets: quartiles 32, 81 and 153, mean 116, from 29.99 to 499."""
    basket = test.filter(pl.col("conversion"))["spend"]
    assert basket.min() == 29.99
    assert basket.max() <= 499
    for share, real in ((0.25, 32.2), (0.5, 81.0), (0.75, 153.4)):
        assert 0.75 < basket.quantile(share) / real < 1.25
    grid = (np.arange(1_000_000) + 0.5) / 1_000_000
    assert abs((grid / (TAIL - grid)).mean() - TAIL_MEAN) < 1e-6


def test_arms_are_random(test):
    """Nothing known beforehand differs between the arms."""
    for column in ("recency", "history", "newcomer", "uplift", "uplift_story"):
        means = test.group_by("arm").agg(pl.col(column).cast(pl.Float64).mean())[column]
        error = test[column].cast(pl.Float64).std() / (test.height / 3) ** 0.5
        assert means.max() - means.min() < 6 * error, column


@pytest.mark.parametrize(("arm", "column"), [("voucher", "uplift"), ("story", "uplift_story")])
def test_difference_in_means_finds_the_true_uplift(test, arm, column):
    """Overall, and in each tenth of the true uplift: so the truth holds person by person."""
    ranked = test.with_columns(tenth=(pl.col(column).rank("ordinal") * 10 // (test.height + 1)))
    misses = 0
    for _, part in [*ranked.group_by("tenth"), ("all", ranked)]:
        on = part.filter(pl.col("arm") == arm)["visit"].cast(pl.Float64)
        off = part.filter(pl.col("arm") == "none")["visit"].cast(pl.Float64)
        error = (on.var() / len(on) + off.var() / len(off)) ** 0.5
        misses += abs(on.mean() - off.mean() - part[column].mean()) > 2.6 * error
    assert misses <= 1


@pytest.mark.parametrize(("arm", "column"), [("voucher", "spend_uplift"), ("story", "spend_uplift_story")])
def test_spend_uplift_is_the_difference_in_spend(test, arm, column):
    on = test.filter(pl.col("arm") == arm)["spend"]
    off = test.filter(pl.col("arm") == "none")["spend"]
    error = (on.var() / len(on) + off.var() / len(off)) ** 0.5
    assert abs(on.mean() - off.mean() - test[column].mean()) < 3 * error


def test_effects_differ_and_can_be_learnt(people, test):
    _, wealth, _ = people
    assert (test["uplift"] < 0).mean() > 0.02
    assert (test["uplift_story"] < 0).mean() > 0.02
    assert test["uplift"].std() > 0.02
    assert np.corrcoef(wealth, test["uplift"])[0, 1] < -0.5
    # What is known beforehand tells something about the effect, though not all.
    fans = (
        test.group_by(pl.col("favourite") == "furniture").agg(pl.col("uplift_story").mean()).sort("favourite")
    )
    assert fans["uplift_story"][1] > 1.5 * fans["uplift_story"][0]
    assert abs(np.corrcoef(test["recency"], test["uplift"])[0, 1]) > 0.2


def test_another_department_can_be_featured(people):
    shoppers, wealth, affinity = (part[:5000] for part in people)
    told = make_mailing(shoppers, wealth, affinity, DEPARTMENTS, seed=0, featured="toys")
    share = affinity[:, 2] / affinity.sum(1)
    assert np.corrcoef(share, told["uplift_story"])[0, 1] > 0.8
    with pytest.raises(ValueError, match="cannot feature 'cars'"):
        make_mailing(shoppers, wealth, affinity, DEPARTMENTS, seed=0, featured="cars")
    with pytest.raises(ValueError, match="4 departments"):
        make_mailing(shoppers, wealth, affinity[:, :2], DEPARTMENTS, seed=0)
