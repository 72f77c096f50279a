"""Those in the log who are not shoppers: bots of three kinds, and the shop's own test accounts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from labkit.shop.calendar import DAYS, MIDNIGHT
from labkit.shop.chance import Dice
from labkit.shop.crowd import DEVICES
from labkit.shop.replay import SCREENS, SURFACES, Year
from labkit.shop.visits import GAP

SCRAPERS, FRAUDS, CRAWLERS, TESTERS = "scraper", "click fraud", "crawler", "test account"
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


def make_intruders(year: Year, accounts: pl.DataFrame, seed: int) -> Intruders:
    """Draw about one bot for a hundred shoppers (at least two of each kind), and a few testers.

    Scrapers ask again and again at even pauses, all over the catalogue, and hardly click. Click frauds click
    one seller's products wherever they stand and buy nothing. Crawlers click whatever is there, page
    after page within seconds. Testers buy at a penny.

    Args:
        year: what can be asked, at which price.
        accounts: the shoppers table, whose columns and ids go on.
        seed: of the market.
    """
    dice = Dice(seed, "intruders")
    each = max(2, min(1200, round(len(year.crowd.taste) / 300)))
    kinds = [SCRAPERS] * each + [FRAUDS] * each + [CRAWLERS] * each + [TESTERS] * max(2, min(40, each // 2))
    logs: list[pl.DataFrame] = []
    people = _accounts(kinds, year, accounts, dice)
    free = _FreeSessions(year, dice)
    for number, kind in enumerate(kinds):
        who = accounts.height + number
        for second in _starts(kind, dice):
            logs.append(_session(year, kind, who, free.take(second), second, dice))
    return Intruders(people, _events(year, pl.concat(logs), people))


class _FreeSessions:
    """Session numbers that no shopper uses, about where a session of that moment would stand."""

    def __init__(self, year: Year, dice: Dice) -> None:
        self.ids, rows = np.unique(year.visits.session, return_index=True)
        self.starts = np.maximum.accumulate(year.visits.second[rows])
        self.taken = set(self.ids.tolist())
        self.dice = dice

    def take(self, second: int) -> int:
        before = int(np.searchsorted(self.starts, second))
        number = GAP * before + self.dice.below(GAP)
        while number in self.taken:
            number += 1
        self.taken.add(number)
        return number


def _accounts(kinds: list[str], year: Year, accounts: pl.DataFrame, dice: Dice) -> pl.DataFrame:
    """They fill in the form like anybody: the records of shoppers drawn at random, with other names."""
    rows = [dice.below(accounts.height) for _ in kinds]
    names = accounts["name"].to_list()
    first = accounts.height
    tester = [kind == TESTERS for kind in kinds]
    return accounts[rows].with_columns(
        shopper_id=pl.Series(range(first, first + len(kinds)), dtype=pl.Int32),
        name=pl.Series(
            f"Test Account {first + i}" if test else dice.one(names) for i, test in enumerate(tester)
        ),
        email=pl.Series(
            f"qa+{first + i}@persimmon.test" if test else f"m{dice.below(10**6)}{first + i}@post.example"
            for i, test in enumerate(tester)
        ),
        phone=pl.Series(f"07700 9{dice.below(100_000):05d}" for _ in kinds),
        kind=pl.Series(Intruders.TEST if test else Intruders.BOT for test in tester),
        what=pl.Series(kinds),
    )


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
        pool = pool[(shelf.launched[pool] <= day) & year.prices.in_stock(day, pool)]
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


def _events(year: Year, done: pl.DataFrame, people: pl.DataFrame) -> pl.DataFrame:
    log = {column.name: column.to_numpy() for column in done.sort("second", maintain_order=True)}
    day = log["second"] // 86_400
    price = np.empty(len(day))
    for today in np.unique(day):
        rows = day == today
        price[rows] = year.prices.of(int(today))[0][log["product_id"][rows]]
    who = log["shopper_id"] - people["shopper_id"][0]
    test = (people["kind"] == Intruders.TEST).to_numpy()[who]
    device = people["device"].replace_strict(DEVICES, range(len(DEVICES)), return_dtype=pl.UInt8).to_numpy()
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
            "device": pl.Series(device[who]).cat.to(SCREENS),
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
