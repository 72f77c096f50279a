"""The simulated year, measured on its log as on a real shop's: planted effects are found, with their size."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from scipy import stats

import labkit.shop
from labkit.data import validate
from labkit.shop import Market
from labkit.shop.policies import Production, Shuffled
from labkit.shop.replay import replay
from labkit.shop.visits import make_visits

START, END = date(2025, 9, 1), date(2026, 8, 31)
# What the course tells learners: P(look) at places 1 to 10.
LOOKS = {
    "phone": (1.0, 0.68, 0.5, 0.38, 0.3, 0.24, 0.2, 0.17, 0.15, 0.13),
    "desktop": labkit.shop.Market.__dataclass_fields__["propensities"].default_factory(),
    "tablet": (1.0, 0.74, 0.57, 0.45, 0.37, 0.3, 0.25, 0.22, 0.19, 0.17),
}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_HOME", str(tmp_path_factory.mktemp("home")))
    yield labkit.shop.load("small")
    patch.undo()


@pytest.fixture(scope="module")
def events(market: Market) -> pl.DataFrame:
    return market.read("events")


@pytest.fixture(scope="module")
def shuffled(market: Market) -> pl.DataFrame:
    """Four years in which candidates came in random order: nothing about a product depends on its place."""
    days: list[pl.DataFrame] = []
    for seed in range(4):
        replay(
            market.year,
            Shuffled(),
            seed,
            sink=lambda day, log, seed=seed: days.append(log.with_columns(seed=pl.lit(seed))),
        )
    log = pl.concat(days)
    product = market.products.select("product_id", "department", listed="price", launched="launched")
    return log.join(product, on="product_id", how="left", maintain_order="left").with_columns(
        day=(pl.col("time").dt.date() - START).dt.total_days(),
        off=1 - pl.col("price") / pl.col("listed"),
    )


def rate(frame: pl.DataFrame, *by: str) -> pl.DataFrame:
    return frame.group_by(by).agg(rate=pl.col("clicked").mean(), n=pl.len()).sort(by)


def ratio_within(
    frame: pl.DataFrame, group: str | list[str], exposed: pl.Expr, flag: str
) -> tuple[float, float]:
    """Mantel and Haenszel's (1959) rate ratio over groups, and the standard error of its logarithm."""
    table = (
        frame.group_by(group)
        .agg(
            a=(exposed & pl.col(flag)).sum().cast(pl.Float64),
            n1=exposed.sum().cast(pl.Float64),
            b=(~exposed & pl.col(flag)).sum().cast(pl.Float64),
            n0=(~exposed).sum().cast(pl.Float64),
        )
        .filter((pl.col("n1") > 0) & (pl.col("n0") > 0))
    )
    a, n1, b, n0 = (table[name].to_numpy() for name in ("a", "n1", "b", "n0"))
    n = n1 + n0
    r, s = (a * n0 / n).sum(), (b * n1 / n).sum()
    variance = ((a + b) * n1 * n0 / n**2 - a * b / n).sum() / (r * s)  # Greenland and Robins 1985
    return r / s, float(np.sqrt(variance))


class TestTables:
    def test_every_table_is_what_its_schema_says(self, market: Market) -> None:
        names = ("products", "queries", "qrels", "sessions", "shoppers", "friends", "life_events", "sellers",
                 "prices", "stock", "campaigns", "typed_queries", "events", "reviews", "truth")  # fmt: skip
        tables = {name: market.read(name) for name in names}
        for name, table in tables.items():
            validate(table, name, references=tables)

    def test_the_year_and_its_order(self, events: pl.DataFrame) -> None:
        assert events["time"].is_sorted()
        assert events["time"].dt.date().min() == START
        assert events["time"].dt.date().max() == END
        assert events["time"].dt.date().n_unique() == 365

    def test_ten_places_without_gaps_and_no_product_twice(self, events: pl.DataFrame) -> None:
        # Two requests of one session never fall into the same second.
        pages = events.group_by("session_id", "time", maintain_order=True).agg(
            "position", pl.col("product_id").n_unique().alias("different"), pl.col("query_id").n_unique()
        )
        assert pages.height == 40_000
        assert pages["position"].to_list() == [list(range(1, 11))] * pages.height
        assert (pages["different"] == 10).all()
        assert (pages["query_id"] == 1).all()

    def test_no_two_requests_of_a_session_fall_into_one_second(self, market: Market) -> None:
        """Not even in the last minutes of a busy year."""
        year = labkit.shop.load("tiny").year
        visits = make_visits(1_000_000, year.crowd, year.demand, year.shelf, seed=1)
        assert np.all(np.diff(visits.second) >= 0)
        assert visits.second.max() == 365 * 86_400 - 1
        order = np.lexsort((visits.second, visits.session))
        same = np.diff(visits.session[order]) == 0
        assert np.diff(visits.second[order])[same].min() >= 15

    def test_a_session_is_one_shopper_on_one_device(self, market: Market, events: pl.DataFrame) -> None:
        who = events.group_by("session_id").agg(pl.col("shopper_id", "device").n_unique())
        assert who.select("shopper_id", "device").unique().rows() == [(1, 1)]
        told = events.select("shopper_id", "device").unique()
        known = market.read("shoppers").select("shopper_id", known="device")
        both = told.join(known, on="shopper_id")
        assert both.height == told.height
        assert (both["device"].cast(pl.String) == both["known"]).all()

    def test_the_funnel_has_no_leaks(self, events: pl.DataFrame) -> None:
        for later, before in (("carted", "clicked"), ("bought", "carted"), ("returned", "bought")):
            assert events.filter(pl.col(later) & ~pl.col(before)).is_empty()
            assert 0 < events[later].sum() < events[before].sum()

    def test_every_query_exists_and_home_pages_have_none(self, market: Market, events: pl.DataFrame) -> None:
        assert (events["query_id"].is_null() == (events["surface"] == "home")).all()
        typed = market.read("typed_queries")
        assert typed["query_id"].to_list() == list(range(typed.height))
        assert events["query_id"].drop_nulls().is_in(typed["query_id"].implode()).all()
        assert typed["text"][: market.queries.height].to_list() == market.queries["text"].to_list()
        chinese = typed["text"][market.queries.height : 2 * market.queries.height]
        assert chinese.to_list() == market.queries["text_zh"].to_list()

    def test_nobody_shops_before_joining(self, market: Market, events: pl.DataFrame) -> None:
        joined = market.read("shoppers").select("shopper_id", "joined")
        late = events.join(joined, on="shopper_id").filter(pl.col("time").dt.date() < pl.col("joined"))
        assert late.is_empty()
        assert (joined["joined"] > START).any()

    def test_nothing_is_shown_before_its_launch_or_out_of_stock(
        self, market: Market, events: pl.DataFrame
    ) -> None:
        shown = events.select("product_id", day=pl.col("time").dt.date())
        launched = market.products.select("product_id", "launched")
        assert (launched["launched"] > START).sum() > 1000
        early = shown.join(launched, on="product_id").filter(pl.col("day") < pl.col("launched"))
        assert early.is_empty()
        gaps = market.read("stock")
        assert gaps.height > 1000
        empty = shown.join(gaps, on="product_id").filter(
            (pl.col("day") >= pl.col("gone")) & (pl.col("day") < pl.col("back"))
        )
        assert empty.is_empty()

    def test_the_price_shown_is_that_of_the_price_table(self, market: Market, events: pl.DataFrame) -> None:
        table = market.read("prices").sort("since").select("product_id", "since", listed="price")
        shown = events.select("product_id", "price", since=pl.col("time").dt.date())
        both = shown.join_asof(table, on="since", by="product_id", check_sortedness=False)
        assert both["listed"].null_count() == 0
        assert (both["price"] == both["listed"]).all()

    def test_the_price_table_tells_changes_and_their_reasons(self, market: Market) -> None:
        table = market.read("prices")
        assert table.equals(table.sort("product_id", "since"))
        steps = table.with_columns(before=pl.col("price").shift().over("product_id"))
        first = steps.filter(pl.col("before").is_null())
        assert first.height == market.products.height
        assert (first["reason"] == "listed").all()
        later = steps.filter(pl.col("before").is_not_null())
        assert (later["price"] != later["before"]).all()
        change = (later["price"] / later["before"]).to_numpy()
        reason = later["reason"].cast(pl.String).to_numpy()
        assert np.all(change[reason == "promotion"] < 0.99)
        assert np.all(change[reason == "promotion over"] > 1)
        moved = change[reason == "list price changed"]
        # Between -4 and +6 % each time; two changes may fall on one day.
        assert np.quantile(moved, 0.02) > 0.94
        assert np.quantile(moved, 0.98) < 1.08
        assert moved.mean() == pytest.approx(1.01, abs=0.005)


class TestLooksAndClicks:
    def test_each_device_has_its_examination_curve(self, shuffled: pl.DataFrame) -> None:
        """In random order the click rate of a place over that of place 1 is P(look) (Craswell 2008)."""
        table = rate(shuffled, "device", "position")
        for device, looks in LOOKS.items():
            mine = table.filter(pl.col("device") == device)
            p, n = mine["rate"].to_numpy(), mine["n"].to_numpy()
            expected = p[0] * np.array(looks)
            error = np.sqrt(expected * (1 - expected) / n)
            error = np.hypot(error, np.array(looks) * error[0])  # place 1 is measured too
            assert np.abs((p - expected) / error)[1:].max() < 4, device
            # Precise enough to tell the devices apart.
            assert (error / expected).max() < 0.06
        phone, tablet = (table.filter(pl.col("device") == d)["rate"].to_numpy() for d in ("phone", "tablet"))
        assert np.all((phone / phone[0])[1:] < (tablet / tablet[0])[1:])

    def test_better_products_are_clicked_and_bought_more(
        self, market: Market, shuffled: pl.DataFrame
    ) -> None:
        """Grades from qrels: the judged queries are in the log, in English and then, in order, in Chinese."""
        count = market.queries.height
        judged = shuffled.filter(pl.col("query_id") < 2 * count).with_columns(pl.col("query_id") % count)
        graded = judged.join(market.qrels, on=["query_id", "product_id"], how="left").with_columns(
            pl.col("grade").fill_null(0)
        )
        table = (
            graded.group_by("grade").agg(pl.len(), pl.col("clicked", "carted", "bought").sum()).sort("grade")
        )
        assert table["grade"].to_list() == [0, 1, 2, 3]
        clicks = table["clicked"].to_numpy()
        shares = clicks / table["len"].to_numpy()
        for low, high in pairwise(shares):
            assert high > 1.4 * low
        assert shares[3] > 10 * shares[0]
        carts = table["carted"].to_numpy() / clicks
        assert np.all(np.diff(carts) > 0)

    def test_a_discount_draws_clicks(self, shuffled: pl.DataFrame) -> None:
        """The same product with 10 to 30 % off and without; list prices alone move by a few per cent."""
        log = shuffled.filter((pl.col("off") < 0.0) | pl.col("off").is_between(0.1, 0.35))
        ratio, error = ratio_within(log, "product_id", pl.col("off") > 0, "clicked")
        mean_off = log.filter(pl.col("off") > 0)["off"].mean()
        assert error < 0.02
        # A click is worth 0.8 more per unit of discount; list prices went up a little meanwhile.
        assert ratio == pytest.approx(1 + 0.8 * mean_off, abs=0.04 + 3 * error)
        assert ratio > 1 + 4 * error

    def test_the_elasticity_of_purchases_is_found_by_regression(
        self, market: Market, shuffled: pl.DataFrame
    ) -> None:
        """Poisson regression of bought on log price, among what lies in a basket: about -1.5."""
        carts = shuffled.filter("carted")
        x = np.log((carts["price"] / carts["listed"]).to_numpy())
        y = carts["bought"].to_numpy().astype(float)
        design = np.stack([np.ones_like(x), x], axis=1)
        beta = np.array([np.log(y.mean()), 0.0])
        for _ in range(20):
            fitted = np.exp(design @ beta)
            beta += np.linalg.solve(design.T @ (design * fitted[:, None]), design.T @ (y - fitted))
        residual = design * (y - fitted)[:, None]
        bread = np.linalg.inv(design.T @ (design * fitted[:, None]))
        error = np.sqrt(np.diag(bread @ residual.T @ residual @ bread))[1]
        assert error < 0.2
        sensitivity = market.year.crowd.sensitivity[carts["shopper_id"].to_numpy()].mean()
        assert beta[1] == pytest.approx(-1.5 * sensitivity, abs=0.25 + 2 * error)
        assert beta[1] < -0.7

    def test_a_tenth_more_on_all_prices_sells_less(self, market: Market) -> None:
        """The experiment that no shop can do: the same year at other prices."""
        year = market.year
        dear = dataclasses.replace(year.prices, listed=1.1 * year.prices.listed)
        before = replay(year, Production(), 0)
        after = replay(dataclasses.replace(year, prices=dear), Production(), 0)
        assert after.clicks == pytest.approx(before.clicks, rel=0.01)  # what is cheap stays the cheapest
        elasticity = (after.expected_revenue / before.expected_revenue / 1.1 - 1) / 0.1
        assert -2.0 < elasticity < -0.8

    def test_the_sensitive_react_more(self, market: Market, shuffled: pl.DataFrame) -> None:
        sensitivity = market.year.crowd.sensitivity
        carts = shuffled.filter("carted").with_columns(
            sensitive=pl.Series(sensitivity)[shuffled.filter("carted")["shopper_id"]],
            cheap=pl.col("off") > 0.1,
        )
        third = np.quantile(carts["sensitive"], [1 / 3, 2 / 3])
        gain = []
        for group in (
            carts.filter(pl.col("sensitive") < third[0]),
            carts.filter(pl.col("sensitive") > third[1]),
        ):
            share = dict(group.group_by("cheap").agg(pl.col("bought").mean()).rows())
            gain.append(share[True] / share[False])
        assert gain[1] > gain[0] + 0.05
        assert gain[0] > 1

    def test_the_curious_click_what_is_new(self, market: Market, shuffled: pl.DataFrame) -> None:
        demand = market.year.demand
        grades = pl.DataFrame(
            {
                "query_id": np.repeat(np.arange(demand.queries, dtype=np.int32), demand.pool.shape[1]),
                "product_id": demand.pool[: demand.queries].ravel(),
                "grade": demand.grade[: demand.queries].ravel(),
            }
        )
        curious = market.year.crowd.novelty[shuffled["shopper_id"].to_numpy()]
        log = shuffled.with_columns(
            curious=pl.Series(curious),
            new=(pl.col("time").dt.date() - pl.col("launched")).dt.total_days() < 20,
        ).join(grades, on=["query_id", "product_id"])
        gain = {}
        for name, those in (("curious", pl.col("curious") > 2 / 3), ("settled", pl.col("curious") < 1 / 3)):
            # Within a product and its grade: the same thing, asked for in the same way, early and late.
            gain[name] = ratio_within(log.filter(those), ["product_id", "grade"], pl.col("new"), "clicked")
        (high, error_high), (low, error_low) = gain["curious"], gain["settled"]
        assert np.log(high / low) > 2.5 * np.hypot(error_high, error_low)
        # 0.5 * novelty * (1 - age / 45) on average over ages 0 to 19, for novelty 5/6 and 1/6.
        assert high == pytest.approx(1 + 0.5 * 5 / 6 * 0.78, abs=4 * error_high)
        assert low == pytest.approx(1 + 0.5 * 1 / 6 * 0.78, abs=4 * error_low)

    def test_who_was_shown_much_of_a_kind_clicks_less_of_it(
        self, market: Market, shuffled: pl.DataFrame
    ) -> None:
        """Within a shopper and a category: pages with 20 or more of it in the week before against none."""
        category = market.products.select("product_id", "category")
        log = shuffled.join(category, on="product_id")
        key = ["seed", "shopper_id", "category"]
        daily = log.group_by(*key, "day").agg(pl.len()).sort(*key, "day")
        before = daily.rolling("day", period="7i", closed="left", group_by=key).agg(
            lately=pl.col("len").sum()
        )
        log = log.join(before, on=[*key, "day"])
        assert log.height == shuffled.height
        log = log.filter((pl.col("lately") == 0) | (pl.col("lately") >= 20))
        ratio, error = ratio_within(log, ["shopper_id", "category"], pl.col("lately") >= 20, "clicked")
        assert ratio < 1 - 4 * error
        assert ratio > 0.6

    def test_popularity_is_skewed_and_the_ranker_makes_it_more_so(
        self, events: pl.DataFrame, shuffled: pl.DataFrame
    ) -> None:
        def top_tenth(log: pl.DataFrame) -> float:
            clicks = log.group_by("product_id").agg(pl.col("clicked").sum())["clicked"].sort(descending=True)
            return clicks[:660].sum() / clicks.sum()

        produced, random = top_tenth(events), top_tenth(shuffled.filter(pl.col("seed") == 0))
        assert 0.4 < produced < 0.95
        assert produced > random + 0.03


def monthly(events: pl.DataFrame, market: Market) -> pl.DataFrame:
    """Searches by department of the query's category and month of the calendar."""
    homes = market.products.select("category", "department").unique()
    typed = market.read("typed_queries").select("query_id", "category").join(homes, on="category")
    pages = events.filter((pl.col("position") == 1) & (pl.col("surface") == "search"))
    return pages.join(typed, on="query_id").with_columns(month=pl.col("time").dt.month())


class TestSeasons:
    def test_toys_for_christmas_and_gardens_in_spring(self, market: Market, events: pl.DataFrame) -> None:
        table = monthly(events, market).group_by("department", "month").len()
        whole = table.group_by("month").agg(pl.col("len").sum().alias("all"))
        table = table.join(whole, on="month").with_columns(share=pl.col("len") / pl.col("all"))

        def of(department: str) -> dict[int, float]:
            return dict(table.filter(department=department).select("month", "share").rows())

        toys, garden = of("toys and games"), of("garden and DIY")
        assert max(toys, key=toys.__getitem__) == 12
        assert toys[12] > 1.35 * np.median(list(toys.values()))
        assert max(garden, key=garden.__getitem__) in (4, 5)
        assert garden[5] > 2 * garden[12]

    def test_campaigns_bring_people(self, market: Market, events: pl.DataFrame) -> None:
        pages = events.filter(pl.col("position") == 1)
        daily = dict(pages.group_by(pl.col("time").dt.date()).len().rows())
        table = market.read("campaigns")
        assert table.height == 9
        assert (table["start"] <= table["end"]).all()
        for name, least in (("Singles' Day", 1.5), ("Black Friday", 1.6), ("618", 1.3)):
            row = table.filter(pl.col("name") == name).row(0, named=True)
            days = [row["start"] + timedelta(d) for d in range((row["end"] - row["start"]).days + 1)]
            around = [row["start"] - timedelta(d) for d in range(5, 12)]
            busy, usual = (np.mean([daily[day] for day in some]) for some in (days, around))
            assert busy > least * usual, name

    def test_campaigns_lower_prices_of_their_departments_alone(self, market: Market) -> None:
        prices = market.read("prices").join(
            market.products.select("product_id", "department"), on="product_id"
        )
        garden = market.read("campaigns").filter(pl.col("name") == "Gardens open").row(0, named=True)
        cut = prices.filter((pl.col("since") == garden["start"]) & (pl.col("reason") == "promotion"))
        share = {
            name: cut.filter(department=name).height / market.products.filter(department=name).height
            for name in ("garden and DIY", "pets", "computing")
        }
        assert share["garden and DIY"] > 0.3
        assert share["pets"] < 0.02
        assert share["computing"] < 0.02

    def test_what_is_asked_changes_between_months_more_than_by_chance(
        self, market: Market, events: pl.DataFrame
    ) -> None:
        """Within a category and a language, so that seasons have no part in it; shuffled months show none."""
        pages = monthly(events, market).join(
            market.read("typed_queries").select("query_id", "lang"), on="query_id"
        )
        pages = pages.with_columns(
            random=pl.Series(np.random.default_rng(0).permutation(pages["month"].to_numpy()))
        )

        def chi2(by: str) -> float:
            total = freedom = 0.0
            for _, group in pages.group_by("category", "lang"):
                head = group["query_id"].value_counts(sort=True).filter(pl.col("count") >= 36)
                if head.height < 2:
                    continue
                kept = group.filter(pl.col("query_id").is_in(head["query_id"].implode()))
                table = kept.pivot(by, index="query_id", values="position", aggregate_function="len")
                found = stats.chi2_contingency(table.drop("query_id").fill_null(0).to_numpy())
                total, freedom = total + found.statistic, freedom + found.dof
            assert freedom > 200
            return float(stats.chi2.sf(total, freedom))

        assert chi2("month") < 1e-6
        assert chi2("random") > 1e-3

    def test_fashion_drifts(self, market: Market, shuffled: pl.DataFrame) -> None:
        """The slope of clicks on each dimension of style, month by month, follows the month's fashion."""
        year = market.year
        style = year.shelf.style[shuffled["product_id"].to_numpy()]
        clicked = shuffled["clicked"].to_numpy().astype(float)
        place = shuffled["position"].to_numpy()
        month = shuffled["day"].to_numpy() * 12 // 365
        near = place <= 4  # further down hardly anybody looks
        slopes = np.empty((12, 4))
        for m in range(12):
            rows = near & (month == m)
            design = np.column_stack([np.ones(rows.sum()), style[rows], np.eye(4)[place[rows] - 1][:, 1:]])
            slopes[m] = np.linalg.lstsq(design, clicked[rows], rcond=None)[0][1:5]
        mood = np.array([year.behaviour.mood(int((m + 0.5) * 365 / 12)) for m in range(12)])
        slopes -= slopes.mean(axis=0)  # tastes that last
        mood -= mood.mean(axis=0)
        assert np.corrcoef(slopes.ravel(), mood.ravel())[0, 1] > 0.75
        shifted = np.corrcoef(slopes.ravel(), np.roll(mood, 6, axis=0).ravel())[0, 1]
        assert shifted < 0.5


class TestPeople:
    def test_life_events_shift_departments_for_ninety_days(
        self, market: Market, events: pl.DataFrame
    ) -> None:
        pages = monthly(events, market).join(market.read("life_events"), on="shopper_id")
        since = (pl.col("time").dt.date() - pl.col("date")).dt.total_days()
        pages = pages.with_columns(
            phase=pl.when(since < 0).then(pl.lit("before")).when(since < 90).then(pl.lit("during")).otherwise(
                pl.lit("after")
            )
        )  # fmt: skip
        for event, department, factor in (
            ("new baby", "baby", 4), ("new pet", "pets", 4), ("moved home", "furniture", 1.5),
            ("took up sport", "sports and outdoors", 1.5),
        ):  # fmt: skip
            mine = pages.filter(pl.col("event") == event)
            share = dict(mine.group_by("phase").agg((pl.col("department") == department).mean()).rows())
            assert share["during"] > factor * share["before"], event
            assert share["during"] > factor * share["after"], event

    def test_friends_are_more_alike_than_strangers(self, market: Market) -> None:
        taste = market.year.crowd.taste
        friends = market.read("friends")
        a, b = friends["shopper_id"].to_numpy(), friends["friend_id"].to_numpy()
        assert np.all(a < b)
        assert 4 < 2 * len(a) / len(taste) < 7
        lang = market.read("shoppers")["lang"].to_numpy()
        assert np.all(lang[a] == lang[b])
        alike = (taste[a] * taste[b]).sum(axis=1)
        rng = np.random.default_rng(0)
        strangers = [(taste[a] * taste[rng.permutation(b)]).sum(axis=1).mean() for _ in range(200)]
        assert alike.mean() > np.mean(strangers) + 10 * np.std(strangers)

    def test_friends_click_the_same_styles(self, market: Market, shuffled: pl.DataFrame) -> None:
        """The likeness is in the log, not only in the hidden tastes."""
        style = market.year.shelf.style
        shown = style[shuffled["product_id"].to_numpy()]
        clicked, who = shuffled["clicked"].to_numpy(), shuffled["shopper_id"].to_numpy()
        count = len(market.year.crowd.taste)
        chosen, usual = np.zeros((count, 4)), np.zeros((count, 4))
        np.add.at(chosen, who[clicked], shown[clicked])
        np.add.at(usual, who, shown)
        clicks, seen = np.bincount(who[clicked], minlength=count), np.bincount(who, minlength=count)
        known = clicks >= 30
        lean = chosen / np.maximum(clicks, 1)[:, None] - usual / np.maximum(seen, 1)[:, None]
        friends = market.read("friends").select("shopper_id", "friend_id").to_numpy()
        a, b = friends[known[friends].all(axis=1)].T
        assert len(a) > 500
        alike = (lean[a] * lean[b]).sum(axis=1).mean()
        rng = np.random.default_rng(0)
        strangers = [(lean[a] * lean[rng.permutation(b)]).sum(axis=1).mean() for _ in range(200)]
        assert alike > np.mean(strangers) + 4 * np.std(strangers)

    def test_everybody_types_their_own_language(self, market: Market, events: pl.DataFrame) -> None:
        people = market.read("shoppers").select("shopper_id", "lang")
        assert 0.25 < (people["lang"] == "zh").mean() < 0.35
        typed = market.read("typed_queries").select("query_id", "text", asked="lang")
        pages = (
            events.filter(pl.col("position") == 1).join(typed, on="query_id").join(people, on="shopper_id")
        )
        assert (pages["asked"] == pages["lang"]).all()
        characters = pages["text"].str.contains(r"\p{Han}")
        assert characters.filter(pages["lang"] == "zh").mean() > 0.9
        assert not characters.filter(pages["lang"] == "en").any()
