"""Policies and replay: what would have happened otherwise, on the same dice, and adding up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import date

import numpy as np
import polars as pl
import pytest

import labkit.shop
from labkit.shop import Market
from labkit.shop.policies import POLICIES, BestSellers, Cheapest, Page, Production, Shuffled
from labkit.shop.replay import Outcome, replay


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_HOME", str(tmp_path_factory.mktemp("home")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def tiny(home: None) -> Market:
    return labkit.shop.load("tiny")


@pytest.fixture(scope="module")
def small(home: None) -> Market:
    return labkit.shop.load("small")


@pytest.fixture(scope="module")
def replays(small: Market) -> dict[str, tuple[Outcome, pl.DataFrame]]:
    """Each policy's year and its log."""
    made = {}
    for policy in POLICIES:
        days: list[pl.DataFrame] = []
        outcome = replay(small.year, policy, 0, sink=lambda day, events, days=days: days.append(events))
        made[policy.name] = outcome, pl.concat(days)
    return made


@pytest.fixture(scope="module")
def outcomes(replays: dict[str, tuple[Outcome, pl.DataFrame]]) -> dict[str, Outcome]:
    return {name: outcome for name, (outcome, _) in replays.items()}


@dataclasses.dataclass(frozen=True)
class Custom:
    """A policy from a function, as a learner writes one."""

    function: Callable[[Page], np.ndarray]
    name: str = "custom"
    cost_ms: float = 1.0

    def score(self, page: Page) -> np.ndarray:
        return self.function(page)


class Oracle:
    """Ranks by the true grade: knows what no shop knows."""

    name, cost_ms = "oracle", 1.0

    def __init__(self, market: Market) -> None:
        self.demand = market.year.demand

    def score(self, page: Page) -> np.ndarray:
        typed = page.query >= 0
        np.testing.assert_array_equal(page.product[typed], self.demand.pool[page.query[typed]])
        grade = np.where(typed[:, None], self.demand.grade[page.query], 0)
        return grade + 0.3 * Production().score(page)


def log_of(market: Market, policy: object, seed: int = 0) -> pl.DataFrame:
    days: list[pl.DataFrame] = []
    replay(market.year, policy, seed, sink=lambda day, events: days.append(events))
    return pl.concat(days)


def same(a: Outcome, b: Outcome) -> bool:
    numbers = [
        {k: v for k, v in vars(o).items() if isinstance(v, int | float) and k != "serving_cost"}
        for o in (a, b)
    ]
    return (
        numbers[0] == numbers[1]
        and a.sellers.equals(b.sellers)
        and a.months.equals(b.months)
        and np.array_equal(a.shoppers, b.shoppers)
    )


class TestCommonRandomNumbers:
    def test_the_same_policy_twice_is_the_same_year(self, tiny: Market) -> None:
        assert same(tiny.run(Production()), tiny.run(Production()))
        assert not same(tiny.run(Production()), tiny.run(Production(), seed=1))

    def test_production_is_the_year_of_the_log(self, tiny: Market) -> None:
        events, outcome = tiny.read("events"), tiny.run(Production())
        assert log_of(tiny, Production()).equals(events)
        kept = events.filter(pl.col("bought") & ~pl.col("returned"))
        assert outcome.requests == events.filter(pl.col("position") == 1).height
        assert (outcome.impressions, outcome.clicks, outcome.carts, outcome.purchases, outcome.returns) == (
            events.height, *(events[name].sum() for name in ("clicked", "carted", "bought", "returned"))
        )  # fmt: skip
        assert outcome.revenue == pytest.approx(kept["price"].sum(), abs=0.01)

    def test_policies_that_rank_alike_get_the_same_answers(self, tiny: Market) -> None:
        usual = Production()
        # Below a millionth scores count as equal, so the twin starts from what counts.
        twin = Custom(lambda page: 7 + 2 * np.round(usual.score(page), 6))
        assert log_of(tiny, twin).equals(log_of(tiny, usual))

    def test_a_change_on_one_day_changes_nothing_before(self, tiny: Market) -> None:
        usual = Production()
        later = Custom(lambda page: page.noise if page.day >= 200 else usual.score(page))
        day = (pl.col("time").dt.date() - date(2025, 9, 1)).dt.total_days()
        a, b = log_of(tiny, usual), log_of(tiny, later)
        assert a.filter(day < 200).equals(b.filter(day < 200))
        assert not a.filter(day == 200).equals(b.filter(day == 200))

    def test_the_same_product_in_the_same_place_gets_the_same_answer(
        self, small: Market, replays: dict[str, tuple[Outcome, pl.DataFrame]]
    ) -> None:
        """The dice belong to the candidate, not to the place; only fatigue differs, and slowly."""
        key = ["session_id", "time", "product_id", "position"]
        produced, best = replays["production"][1], replays["best sellers"][1]
        both = produced.join(best, on=key, suffix="_other")
        assert both.height > 30_000
        assert (both["clicked"] == both["clicked_other"]).mean() > 0.999
        chance = produced.join(log_of(small, BestSellers(), seed=1), on=key, suffix="_other")
        assert (chance["clicked"] == chance["clicked_other"]).mean() < 0.95

    def test_who_comes_for_what_does_not_depend_on_the_policy(self, tiny: Market) -> None:
        asked = ("session_id", "shopper_id", "time", "surface", "query_id", "device")
        logs = [log_of(tiny, policy).select(asked).unique(maintain_order=True) for policy in POLICIES]
        assert all(log.equals(logs[0]) for log in logs)

    def test_differences_are_told_more_exactly_on_common_dice(self, tiny: Market) -> None:
        a, b = Production(), Production(popularity=0.6)
        left = np.array([tiny.run(a, seed).clicks for seed in range(12)])
        right = np.array([tiny.run(b, seed).clicks for seed in range(12)])
        common = (left - right).var(ddof=1)
        apart = (left - np.roll(right, 1)).var(ddof=1)
        assert common < 0.5 * apart


class TestExpectations:
    def test_expected_revenue_is_the_mean_of_drawn_revenue(self, tiny: Market) -> None:
        runs = [tiny.run(Production(), seed) for seed in range(24)]
        gap = np.array([run.revenue - run.expected_revenue for run in runs])
        assert abs(gap.mean()) < 3 * gap.std(ddof=1) / np.sqrt(len(gap))
        # Worth having: it varies far less than what is drawn.
        assert np.std([run.expected_revenue for run in runs]) < 0.3 * np.std([run.revenue for run in runs])

    def test_and_is_as_near_to_it_on_a_large_year(self, outcomes: dict[str, Outcome]) -> None:
        for outcome in outcomes.values():
            # About 4,000 purchases of very different prices.
            assert outcome.revenue == pytest.approx(outcome.expected_revenue, rel=0.1)


class TestAccounts:
    def test_months_shoppers_and_sellers_add_up(self, small: Market, outcomes: dict[str, Outcome]) -> None:
        for outcome in outcomes.values():
            whole = outcome.expected_revenue
            assert outcome.months["expected_revenue"].sum() == pytest.approx(whole, abs=0.1)
            assert outcome.sellers["expected_revenue"].sum() == pytest.approx(whole, abs=1)
            assert outcome.shoppers.sum() == pytest.approx(whole, abs=1)
            assert outcome.shoppers.shape == (3_000,)
            assert outcome.months["requests"].sum() == outcome.requests == 40_000
            weighted = (outcome.months["satisfaction"] * outcome.months["requests"]).sum() / 40_000
            assert outcome.satisfaction == pytest.approx(weighted, abs=1e-5)
            assert 0 < outcome.satisfaction < 1
            assert outcome.impressions == 400_000
            assert outcome.sellers["share"].sum() == pytest.approx(1, abs=1e-4)
            share = outcome.sellers["exposure"] / outcome.sellers["exposure"].sum()
            assert (share - outcome.sellers["share"]).abs().max() < 1e-5

    def test_exposure_is_the_looks_at_each_sellers_products(self, small: Market) -> None:
        looks = {
            "phone": (1.0, 0.68, 0.5, 0.38, 0.3, 0.24, 0.2, 0.17, 0.15, 0.13),
            "desktop": tuple(small.propensities),
            "tablet": (1.0, 0.74, 0.57, 0.45, 0.37, 0.3, 0.25, 0.22, 0.19, 0.17),
        }
        table = pl.DataFrame(
            [(name, k + 1, p) for name, curve in looks.items() for k, p in enumerate(curve)],
            schema=["device", "position", "look"],
            orient="row",
        ).cast({"position": pl.Int8})
        events = small.read("events").with_columns(pl.col("device").cast(pl.String))
        seen = events.join(table, on=["device", "position"]).join(
            small.products.select("product_id", "seller_id"), on="product_id"
        )
        expected = seen.group_by("seller_id").agg(pl.col("look").sum())
        told = small.run(Production()).sellers.join(expected, on="seller_id", how="full")
        assert told.null_count().sum_horizontal().item() == 0
        assert (told["exposure"] - told["look"]).abs().max() < 0.01

    def test_gini_by_brute_force(self, outcomes: dict[str, Outcome]) -> None:
        """Half the mean absolute difference of all pairs over the mean (Gini 1912)."""
        for outcome in outcomes.values():
            x = outcome.sellers["exposure"].to_numpy()
            brute = np.abs(x[:, None] - x[None, :]).mean() / (2 * x.mean())
            assert outcome.gini == pytest.approx(brute, abs=1e-5)

    def test_serving_costs_core_hours(self, outcomes: dict[str, Outcome]) -> None:
        hours = 40_000 * Production().cost_ms / 1000 / 3600
        assert outcomes["production"].serving_cost == pytest.approx(0.04 * hours, abs=1e-4)


class TestWhatPoliciesDo:
    def test_the_oracle_beats_production_which_beats_chance(
        self, small: Market, outcomes: dict[str, Outcome]
    ) -> None:
        best = small.run(Oracle(small))
        produced, random = outcomes["production"], outcomes["shuffled"]
        assert best.satisfaction > produced.satisfaction + 0.02
        assert produced.satisfaction > random.satisfaction + 0.05
        assert best.clicks > produced.clicks > random.clicks
        assert best.expected_revenue > produced.expected_revenue > random.expected_revenue

    def test_satisfaction_agrees_with_grades_seen(self, small: Market, outcomes: dict[str, Outcome]) -> None:
        """Monthly satisfaction of one policy varies less than between policies: it is about ranking."""
        means = [outcome.satisfaction for outcome in outcomes.values()]
        inner = outcomes["production"].months["satisfaction"].std()
        assert np.std(means) > inner

    def test_each_policy_does_what_it_is_named_after(
        self, small: Market, replays: dict[str, tuple[Outcome, pl.DataFrame]]
    ) -> None:
        ranks = small.year.shelf.price_rank
        launched = small.products["launched"]
        seen: dict[str, dict[str, float]] = {}
        for name, (_, whole) in replays.items():
            log = whole.filter(pl.col("position") <= 3)
            age = (log["time"].dt.date() - launched[log["product_id"]]).dt.total_days()
            counts = np.bincount(log["product_id"].to_numpy(), minlength=small.products.height)
            seen[name] = {
                "dear": float(ranks[log["product_id"].to_numpy()].mean()),
                "new": float((age < 45).mean()),
                "different": float((counts > 0).sum()),
            }
        assert min(seen, key=lambda name: seen[name]["dear"]) == Cheapest().name
        assert max(seen, key=lambda name: seen[name]["new"]) == "fresh first"
        assert seen["fresh first"]["new"] > 1.5 * seen["production"]["new"]
        assert max(seen, key=lambda name: seen[name]["different"]) == Shuffled().name
        assert seen["best sellers"]["different"] < seen["production"]["different"]


class TestThePage:
    def test_a_policy_sees_what_the_tables_say(self, small: Market) -> None:
        pages: list[Page] = []

        def watch(page: Page) -> np.ndarray:
            pages.append(page)
            return page.noise

        small.run(Custom(watch))
        assert [page.day for page in pages] == list(range(365))
        prices = small.read("prices").select("product_id", "since", "price")
        sellers = small.products["seller_id"].to_numpy()
        for page in (pages[0], pages[88], pages[364]):
            requests, candidates = page.product.shape
            assert candidates == 60
            for name in ("match", "guess", "popularity", "price", "discount", "age", "seller", "noise"):
                assert getattr(page, name).shape == (requests, 60), name
            np.testing.assert_array_equal(page.seller, sellers[page.product])
            assert 0 <= page.noise.min() <= page.noise.max() < 1
            assert 0 <= page.match.min() <= page.match.max() <= 1
            assert set(np.unique(page.popularity > 1)) == {False}
            today = prices.filter(
                (pl.col("since") - pl.lit("2025-09-01").str.to_date()).dt.total_days() <= page.day
            )
            known = today.group_by("product_id", maintain_order=True).agg(pl.col("price").last())
            price = np.full(small.products.height, np.nan)
            price[known["product_id"].to_numpy()] = known["price"].to_numpy()
            told, right = page.price.ravel(), price[page.product].ravel()
            on_sale = ~np.isnan(right)  # what comes later has no price yet
            assert np.array_equal(told[on_sale], right[on_sale])
            assert np.all(page.age.ravel()[~on_sale] < 0)

    def test_no_policy_can_show_what_is_not_there(self, small: Market) -> None:
        """Not even one that loves what is yet to come."""
        log = log_of(small, Custom(lambda page: -page.age.astype(float)))
        launched = small.products.select("product_id", "launched")
        assert log.join(launched, on="product_id").filter(
            pl.col("time").dt.date() < pl.col("launched")
        ).is_empty()  # fmt: skip
        gaps = log.join(small.read("stock"), on="product_id")
        day = pl.col("time").dt.date()
        assert gaps.filter((day >= pl.col("gone")) & (day < pl.col("back"))).is_empty()

    def test_infinities_are_an_order_too(self, tiny: Market) -> None:
        usual = Production()
        cut = Custom(lambda page: np.where(page.match > 0.9, usual.score(page), -np.inf))
        log = log_of(tiny, cut)
        pages = log.group_by("session_id", "time", maintain_order=True).agg("position")
        assert pages["position"].to_list() == [list(range(1, 11))] * 2_000

    @pytest.mark.parametrize(
        ("wrong", "says"),
        [
            (
                lambda page: page.noise[:, :10],
                r"^The policy 'custom' returned scores of shape \(\d+, 10\) for",
            ),
            (lambda page: page.noise[:, 0], r"60 candidates each; return one score per candidate\.$"),
            (lambda page: page.noise * np.nan, "^The policy 'custom' returned NaN on day 0;"),
        ],
    )
    def test_a_wrong_answer_is_one_clear_sentence(
        self, tiny: Market, wrong: Callable[[Page], np.ndarray], says: str
    ) -> None:
        with pytest.raises(ValueError, match=says) as raised:
            tiny.run(Custom(wrong))
        assert "\n" not in str(raised.value)
