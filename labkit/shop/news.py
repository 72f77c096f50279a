"""A year of market news about invented companies, and the indicators that follow it some days later.

A shock is reported first and shows in the company's price and sales one to five days after. Most news
changes nothing: routine notices, small successes, rumours that are denied, the same wire story again. So a
monitor can be scored on lead time against false alarms.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from labkit.shop.calendar import DAYS, START
from labkit.shop.chance import Dice, stream
from labkit.shop.grammar import prose
from labkit.shop.newsroom import Event, write_articles

# How often a year, per company.
SHOCKS, SMALL, RUMOURS, NOTICES = 6, 20, 2, 60
MACRO = 110  # a year, for the market as a whole
LONGEST_LAG = 5
# One unit of a shock moves the price by this much, and sales by this much on the first day, fading.
PRICE_MOVE, SALES_MOVE, SALES_FADE = 0.11, 0.16, 0.93


@dataclass(frozen=True)
class News:
    """The tables.

    Attributes:
        companies: company, company_zh, ticker, sector.
        articles: article_id, time, company (null for the market as a whole), source (wire, paper, social or
            filing), lang, topic, headline, body; truth: sentiment in [-1, 1] of the text for an investor,
            kind (report, small, copy, rumour, denial, notice, post), shock_id, copy_of (article_id).
        shocks: shock_id, company, date (of the first report), kind (the topic), size in [-1, 1], lag (days
            until it shows).
        indicators: company, date, price_index, sales_index: what a monitor sees.
        states: company, date, state: the latent part of the sales index.
    """

    companies: pl.DataFrame
    articles: pl.DataFrame
    shocks: pl.DataFrame
    indicators: pl.DataFrame
    states: pl.DataFrame

    def tables(self) -> dict[str, pl.DataFrame]:
        """The tables by the names under which the market keeps them."""
        return {
            "companies": self.companies,
            "news": self.articles,
            "shocks": self.shocks,
            "indicators": self.indicators,
            "states": self.states,
        }


def make_news(seed: int, companies: int = 25, days: int = DAYS) -> News:
    """Draw the shocks, write about them and let the indicators follow.

    Args:
        seed: the market's seed.
        companies: how many, at most 25.
        days: how long, from ``calendar.START``.

    Raises:
        ValueError: there are not so many companies.

    Example:
        >>> news = make_news(seed=0, companies=3, days=60)
        >>> news.indicators.height, news.articles["lang"].unique().sort().to_list()
        (180, ['en', 'zh'])
    """
    listed = prose("news")["companies"]
    if not 1 <= companies <= len(listed):
        raise ValueError(f"The news knows {len(listed)} companies; {companies} is not between 1 and that.")
    listed = listed[:companies]
    sectors = [sector for _, _, _, sector in listed]
    shocks = _shocks(sectors, days, seed)
    table = pl.DataFrame(listed, schema=["company", "company_zh", "ticker", "sector"], orient="row")
    names = table["company"].to_list()
    indicators, states = _indicators(shocks, names, days, seed)
    articles = write_articles([*shocks[0], *_noise(sectors, days, seed)], listed, days, seed)
    events, lags = shocks
    truth = pl.DataFrame(
        {
            "shock_id": np.arange(len(events), dtype=np.int32),
            "company": [names[e.company] for e in events],
            "date": [START + timedelta(days=e.day) for e in events],
            "kind": [e.topic for e in events],
            "size": [e.mood for e in events],
            "lag": np.array(lags, dtype=np.int8),
        },
        schema_overrides={"date": pl.Date, "company": pl.String, "kind": pl.String, "size": pl.Float64},
    )
    return News(table, articles, truth, indicators, states)


def _topic(sector: str, dice: Dice, good_share: float) -> tuple[str, int]:
    world = prose("news")
    good = dice.happens(good_share)
    topics = {
        name: weights for name, weights in world["topics"].items() if name not in world["never"][sector]
    }
    name = list(topics)[dice.weighted([weights[0 if good else 1] for weights in topics.values()])]
    return name, 1 if good else -1


def _shocks(sectors: list[str], days: int, seed: int) -> tuple[list[Event], list[int]]:
    dice = Dice(seed, "news", "shocks")
    drafts = []
    for company in range(len(sectors)):
        free = 0
        for day in range(3, days):
            # Two shocks of one company keep ten days apart, so that their effects can be told apart.
            if day >= free and dice.happens(SHOCKS / 365):
                topic, sign = _topic(sectors[company], dice, 0.56)
                size = round(sign * dice.between(0.35, 1.0), 3)
                drafts.append((Event(day, company, topic, "report", size), 1 + dice.below(LONGEST_LAG)))
                free = day + 10
    drafts.sort(key=lambda draft: draft[0].day)
    events = [
        Event(e.day, e.company, e.topic, e.kind, e.mood, number) for number, (e, _) in enumerate(drafts)
    ]
    return events, [lag for _, lag in drafts]


def _noise(sectors: list[str], days: int, seed: int) -> list[Event]:
    """What is written about without consequence."""
    dice = Dice(seed, "news", "noise")
    found = []
    for day in range(days):
        for company in range(len(sectors)):
            if dice.happens(NOTICES / 365):
                found.append(Event(day, company, "general", "notice", 0.0))
            if dice.happens(SMALL / 365):
                topic, sign = _topic(sectors[company], dice, 0.76)
                found.append(Event(day, company, topic, "small", round(sign * dice.between(0.15, 0.5), 3)))
            if dice.happens(RUMOURS / 365):
                mood = round((1 if dice.happens(0.4) else -1) * dice.between(0.3, 0.8), 3)
                found.append(Event(day, company, "merger" if mood > 0 else "scandal", "rumour", mood))
                if (later := day + 1 + dice.below(4)) < days:
                    found.append(Event(later, company, found[-1].topic, "denial", 0.0))
        if dice.happens(MACRO / 365):
            mood = (0.0, 0.3, -0.3)[dice.weighted((0.5, 0.28, 0.22))]
            found.append(Event(day, -1, "macro", "notice" if mood == 0 else "small", mood))
    return found


def _indicators(
    shocks: tuple[list[Event], list[int]], names: list[str], days: int, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    count = len(names)
    luck = stream(seed, "news", "indicators").random((days, count + 1, 6))
    # Three uniforms make a bell of variance 1/4; twice that has variance 1.
    bell = 2 * (luck[:, :, 0] + luck[:, :, 1] + luck[:, :, 2] - 1.5)  # (days, companies + market)
    other = 2 * (luck[:, :, 3] + luck[:, :, 4] + luck[:, :, 5] - 1.5)
    impulse = np.zeros((days, count))
    for event, lag in zip(*shocks, strict=True):
        if event.day + lag < days:
            impulse[event.day + lag, event.company] += event.mood
    # What has happened shows in full on its day in the price, and slowly fades from the sales.
    moves = 0.0003 + 0.006 * bell[:, -1:] + 0.011 * bell[:, :-1] + PRICE_MOVE * impulse
    price = 100 * np.cumprod(1 + moves, axis=0)
    state = np.zeros((days, count))
    drift = np.zeros((days, count))
    for day in range(days):
        before = state[day - 1] if day else 0.0
        state[day] = SALES_FADE * before + SALES_MOVE * impulse[day]
        drift[day] = (0.97 * drift[day - 1] if day else 0.0) + 0.004 * bell[day, :-1]
    sales = 100 * (1 + state + drift + 0.03 * other[:, :-1])
    dates: list[date] = [START + timedelta(days=day) for day in range(days)]
    long = {"company": np.repeat(names, days), "date": dates * count}
    seen = pl.DataFrame(
        {**long, "price_index": np.round(price.T.ravel(), 3), "sales_index": np.round(sales.T.ravel(), 3)}
    )
    return seen, pl.DataFrame({**long, "state": np.round(state.T.ravel(), 5)})
