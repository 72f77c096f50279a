"""Those in the log who are not shoppers: bots of three kinds, and the shop's own test accounts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl

from labkit.shop.calendar import DAYS, MIDNIGHT, START
from labkit.shop.chance import Dice
from labkit.shop.replay import SCREENS, SURFACES, Year

SCRAPERS, FRAUDS, CRAWLERS, TESTERS = "scraper", "click fraud", "crawler", "test account"
_GIVEN, _FAMILY = ("Alex", "Kim", "Lee", "Max"), ("Gray", "Stone", "Field")
# Requests in a session (at least, and up to so many more), seconds between them (a few more, the same for
# one account), and by how much they vary.
HABITS = {SCRAPERS: (10, 12, 4, 1), FRAUDS: (1, 3, 20, 20), CRAWLERS: (5, 12, 3, 1), TESTERS: (2, 1, 40, 40)}


@dataclass(frozen=True)
class Intruders:
    """Their accounts and what they did.

    Attributes:
        shoppers: columns of the shoppers table, and kind i8 (BOT or TEST), what (str).
        events: columns of the events table, and kind.
    """

    shoppers: pl.DataFrame
    events: pl.DataFrame

    BOT = 1
    TEST = 2
    MOST = 4_096  # accounts at most


def make_intruders(year: Year, accounts: pl.DataFrame, seed: int) -> Intruders:
    """Draw about one bot for a hundred shoppers (at least two of each kind), and a few testers.

    Scrapers ask again and again at even pauses, all over the catalogue, and hardly click. Click frauds click
    one seller's products wherever they stand and buy nothing. Crawlers click whatever is there, in a second
    or two. Testers buy at a penny.

    Args:
        year: what can be asked, at which price.
        accounts: the shoppers table, whose columns and ids go on.
        seed: of the market.
    """
    dice = Dice(seed, "intruders")
    each = max(2, min(1200, round(len(year.crowd.taste) / 300)))
    kinds = [SCRAPERS] * each + [FRAUDS] * each + [CRAWLERS] * each + [TESTERS] * max(2, min(40, each // 2))
    logs: list[pl.DataFrame] = []
    people = []
    session = int(year.visits.session[-1]) + 1
    for number, kind in enumerate(kinds):
        who = accounts.height + number
        people.append(_account(who, kind, dice))
        for second in _starts(kind, dice):
            log = _session(year, kind, who, session, second, dice)
            session += 1
            logs.append(log)
    kept = {"shopper_id": pl.Int32, "birth_year": pl.Int16}
    return Intruders(
        pl.DataFrame(people, schema_overrides=kept), _events(year, pl.concat(logs), kinds, accounts.height)
    )


def _account(who: int, kind: str, dice: Dice) -> dict[str, object]:
    tester = kind == TESTERS
    return {
        "shopper_id": who,
        "name": f"Test Account {who}" if tester else f"{dice.one(_GIVEN)} {dice.one(_FAMILY)}",
        "email": f"qa+{who}@persimmon.test" if tester else f"m{dice.below(10**6)}{who}@post.example",
        "phone": f"07700 9{dice.below(100_000):05d}",
        "postcode": f"N{1 + dice.below(19)} {1 + dice.below(9)}AA",
        "city": "London",
        "birth_year": 1970 + dice.below(30),
        "lang": "en",
        "device": dice.one(["desktop", "phone"]),
        "income_band": "middle",
        "joined": START - timedelta(days=1 + dice.below(300)),
        "kind": Intruders.TEST if tester else Intruders.BOT,
        "what": kind,
    }  # fmt: skip


def _starts(kind: str, dice: Dice) -> list[int]:
    """The seconds at which the sessions of an account begin."""
    if kind == SCRAPERS:
        # A job that runs every few days at the same minute.
        every, first, minute = 3 + dice.below(12), dice.below(60), dice.below(1440)
        return [d * 86_400 + minute * 60 + dice.below(20) for d in range(first, DAYS - 1, every)][:8]
    count = {FRAUDS: 25 + dice.below(25), CRAWLERS: 6 + dice.below(10), TESTERS: 5 + dice.below(6)}[kind]
    base = dice.below(DAYS - 60)
    days = [base + dice.below(55) for _ in range(count)]
    if kind == TESTERS:
        return [day * 86_400 + (9 + dice.below(8)) * 3600 + dice.below(3600) for day in days]
    return [day * 86_400 + dice.below(86_400 - 7200) for day in days]


def _session(year: Year, kind: str, who: int, session: int, second: int, dice: Dice) -> pl.DataFrame:
    """One session: as many requests as the kind makes, up to ten products each."""
    demand, shelf = year.demand, year.shelf
    requests, span, pause, jitter = HABITS[kind]
    # Whom a fraud clicks out of his budget: a seller of the category he looks at.
    category = int(shelf.category[(who * 7919) % len(shelf.category)])
    home = demand.pool[demand.queries + category]
    old = home[shelf.launched[home] <= 0]
    rival = int(shelf.seller[old[who % len(old)]])
    pages = []
    for number in range(requests + dice.below(span)):
        asked = demand.queries + category if kind == FRAUDS else dice.below(demand.queries)
        moment = min(second + number * (pause + who % 9) + dice.below(jitter), DAYS * 86_400 - 1)
        day = moment // 86_400
        # Roughly as the shop ranks: what fits the words first.
        pool = demand.pool[asked][np.argsort(-demand.match[asked], kind="stable")]
        gone = year.prices.gone[pool]
        pool = pool[(shelf.launched[pool] <= day) & ((day < gone[:, 0]) | (day >= gone[:, 1]))]
        if kind == FRAUDS:  # scrolls to wherever the rival stands
            order = np.argsort(shelf.seller[pool] != rival, kind="stable")
            pool = np.array(dice.shuffled([*pool[order[:2]], *pool[order[2:]][:8]]), dtype=np.int64)
        shown = pool[:10]
        roll = dice.rng.random(len(shown))
        clicked = {
            SCRAPERS: roll < 0.01,
            FRAUDS: (shelf.seller[shown] == rival) & (roll < 0.9),
            CRAWLERS: roll < 0.92,
            TESTERS: np.arange(len(shown)) == 0,
        }[kind]
        bought = clicked & (kind == TESTERS)
        pages.append(
            pl.DataFrame(
                {
                    "second": np.full(len(shown), moment),
                    "asked": np.full(len(shown), asked),
                    "product_id": shown.astype(np.int64),
                    "position": np.arange(1, len(shown) + 1),
                    "clicked": clicked,
                    "carted": bought,
                    "bought": bought,
                }
            )
        )
    return pl.concat(pages).with_columns(session_id=pl.lit(session), shopper_id=pl.lit(who))


def _events(year: Year, done: pl.DataFrame, kinds: list[str], first: int) -> pl.DataFrame:
    log = {column.name: column.to_numpy() for column in done.sort("second", maintain_order=True)}
    day = log["second"] // 86_400
    price = np.empty(len(day))
    for today in np.unique(day):
        rows = day == today
        price[rows] = year.prices.of(int(today))[log["product_id"][rows]]
    test = np.array([kind == TESTERS for kind in kinds])[log["shopper_id"] - first]
    price[test] = 0.01
    queries = year.demand.queries
    home = log["asked"] >= queries
    return pl.DataFrame(
        {
            "session_id": log["session_id"].astype(np.int32),
            "shopper_id": log["shopper_id"].astype(np.int32),
            "time": np.datetime64(MIDNIGHT, "ms") + log["second"] * np.timedelta64(1000, "ms"),
            "surface": pl.Series(home.astype(np.uint8)).cat.to(SURFACES),
            "query_id": pl.Series(log["asked"].astype(np.int32)).set(pl.Series(home), None),
            "device": pl.Series(((log["shopper_id"] % 2) == 0).astype(np.uint8)).cat.to(SCREENS),
            "product_id": log["product_id"].astype(np.int32),
            "position": log["position"].astype(np.int8),
            "price": price,
            "clicked": log["clicked"],
            "carted": log["carted"],
            "bought": log["bought"],
            "returned": np.zeros(len(day), dtype=bool),
            "kind": np.where(test, Intruders.TEST, Intruders.BOT).astype(np.int8),
        }
    )
