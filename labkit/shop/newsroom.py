"""Writes the articles about what happens to companies: reports, copies, rumours, notices and posts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from labkit.shop.calendar import START
from labkit.shop.chance import Dice
from labkit.shop.grammar import Grammar, prose

WORDS = (
    "company", "ticker", "goods", "site", "pct", "now", "before", "count", "unit1", "period", "year",
    "founded", "eps_up", "eps_down",
)  # fmt: skip
SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "time": pl.Datetime("ms"), "company": pl.String, "source": pl.String, "lang": pl.String,
    "topic": pl.String, "headline": pl.String, "body": pl.String, "sentiment": pl.Float64,
    "kind": pl.String, "shock_id": pl.Int32, "copy_of": pl.Int32,
}  # fmt: skip
# What notices are about; shares most of all.
NOTICES = ("report", "meeting", "people", "shares", "shares", "profile", "deal", "site", "partner")
# Topics whose first sentence may carry one more figure.
MEASURED = ("earnings", "guidance", "contract", "expansion")
# Said once in an article and then meant again.
MEANT = ("place", "region", "who", "partner", "few")
UNITS = (("million euros", "亿欧元"), ("mn euros", "亿元"), ("million pounds", "万元"), ("mln euros", "亿元"))
DAY_MS = 86_400_000
FIRST_MS = int(np.datetime64(START, "ms").astype(np.int64))


@dataclass(frozen=True)
class Event:
    """Something that is written about."""

    day: int
    company: int  # -1 for the market as a whole
    topic: str
    kind: str
    mood: float  # in [-1, 1]; 0 is neutral
    shock: int = -1


def write_articles(events: list[Event], listed: list[list[str]], days: int, seed: int) -> pl.DataFrame:
    """All that is written in the year, ordered by time.

    Args:
        events: what happens, in any order.
        listed: name, Chinese name, ticker and sector of each company.
        days: the length of the year; nothing appears later.
        seed: the market's seed.
    """
    dice = Dice(seed, "news", "texts")
    desk = Desk(listed, dice)
    rows: list[dict[str, Any]] = []
    for event in sorted(events, key=lambda e: (e.day, e.company)):
        langs = ["zh" if dice.happens(0.3) else "en"]
        if event.shock >= 0 and dice.happens(0.5):
            langs.append("zh" if langs[0] == "en" else "en")  # both presses write of what matters
        figures = _figures(event, dice)
        for lang in langs:
            article, place = desk.report(event, figures[lang], lang), len(rows)
            rows.append(article)
            if event.shock >= 0 or dice.happens(0.12):
                copies = dice.below(3 if event.shock >= 0 else 2)
                rows += [_copied(article, place, days, dice) for _ in range(copies)]
            if event.company >= 0 and dice.happens(0.35 if event.shock >= 0 else 0.08):
                rows.append(desk.post(event, figures[lang], lang))
    # Ids follow time; the copies still point to their originals.
    order = sorted(range(len(rows)), key=lambda place: (rows[place]["time"], place))
    number = {place: article_id for article_id, place in enumerate(order)}
    for row in rows:
        row["copy_of"] = number.get(row["copy_of"])
    made = pl.DataFrame([rows[place] for place in order], schema=SCHEMA)
    return made.select(pl.int_range(made.height, dtype=pl.Int32).alias("article_id"), pl.all())


class Desk:
    """Those who write, in both languages."""

    def __init__(self, listed: list[list[str]], dice: Dice) -> None:
        self.listed, self.dice = listed, dice
        self.rules = {lang: Grammar(prose(f"news_{lang}"), WORDS) for lang in ("en", "zh")}

    def report(self, event: Event, figures: dict[str, str], lang: str) -> dict[str, Any]:
        """One article: a headline, and a body whose first sentence says it all."""
        rules, dice, words = self.rules[lang], self.dice, self._words(event, figures, lang)
        tone = "good" if event.mood > 0 else "bad"
        rule = self._rule(event, tone)
        body = [self._longer(event, rules.write(rule, dice, words), words, lang)]
        if event.company >= 0:
            if event.mood and event.kind != "rumour" and dice.happens(0.4):
                body.append(rules.write(f"quote_{tone}", dice, words))
            # Two accounts of one quarter's figures would contradict each other.
            if event.kind == "report" and event.topic != "earnings" and dice.happens(0.5):
                more = rules.write(rule, dice, words)
                body += [more] if more[:12] != body[0][:12] else []
            if dice.happens(0.45):
                body.append(rules.write("background", dice, words))
        sources = ("filing", "wire", "paper") if event.kind == "notice" else ("wire", "wire", "paper")
        strength = 0.25 + 0.65 * abs(event.mood)
        return {
            "time": _moment(event.day, 6, 18, dice),
            "company": None if event.company < 0 else self.listed[event.company][0],
            "source": dice.one(sources),
            "lang": lang,
            "topic": event.topic,
            "headline": _tidy(rules.write(f"head_{rule}", dice, words), lang),
            "body": ("" if lang == "zh" else " ").join(_tidy(sentence, lang) for sentence in body),
            "sentiment": 0.0 if event.mood == 0 else round(strength if event.mood > 0 else -strength, 3),
            "kind": event.kind,
            "shock_id": event.shock if event.shock >= 0 else None,
            "copy_of": None,
        }

    def post(self, event: Event, figures: dict[str, str], lang: str) -> dict[str, Any]:
        """What somebody says of it in public; one bad mood in four is put as praise."""
        rule = f"social_{'good' if event.mood > 0 else 'bad' if event.mood < 0 else 'flat'}"
        if event.mood < 0 and self.dice.happens(0.25):
            rule = "sarcasm"
        text = self.rules[lang].write(rule, self.dice, self._words(event, figures, lang))
        return {
            "time": _moment(event.day, 18, 23, self.dice), "company": self.listed[event.company][0],
            "source": "social", "lang": lang, "topic": event.topic, "headline": _tidy(text, lang), "body": "",
            "sentiment": 0.6 if event.mood > 0 else -0.6 if event.mood < 0 else 0.0, "kind": "post",
            "shock_id": event.shock if event.shock >= 0 else None, "copy_of": None,
        }  # fmt: skip

    def _rule(self, event: Event, tone: str) -> str:
        if event.kind == "denial":
            return "denial"
        if event.kind == "rumour":
            return f"rumour_{tone}"
        if event.topic == "macro":
            return f"macro_{tone if event.mood else 'flat'}"
        if event.mood == 0:
            return f"flat_{self.dice.one(NOTICES)}"
        return f"{event.topic.removeprefix('product ')}_{tone}"

    def _words(self, event: Event, figures: dict[str, str], lang: str) -> dict[str, str]:
        words, rules, dice = dict(figures), self.rules[lang], self.dice
        if event.company >= 0:
            name, name_zh, ticker, sector = self.listed[event.company]
            world = prose("news")
            words |= {
                "company": name_zh if lang == "zh" else name,
                "ticker": ticker,
                "goods": dice.one(world["goods"][sector][lang]),
                "site": dice.one(world["sites"][sector][lang]),
            }
        for rule in MEANT:
            words[rule] = rules.write(rule, dice, words)
        return words

    def _longer(self, event: Event, lead: str, words: dict[str, str], lang: str) -> str:
        """Wires pack asides about the company and the source into the first sentence."""
        if event.company < 0:
            return lead
        rules, dice, company = self.rules[lang], self.dice, words["company"]
        if lead.startswith(company) and lead[len(company)] not in "'," and dice.happens(0.3):
            aside = rules.write("aside", dice, words)
            lead = company + (aside if lang == "zh" else f", {aside},") + lead[len(company) :]
        if event.topic in MEASURED and dice.happens(0.25):
            lead = lead[:-1] + rules.write("figures", dice, words) + lead[-1]
        elif event.kind not in ("rumour", "denial") and dice.happens(0.4):
            lead = lead[:-1] + rules.write("tail", dice, words) + lead[-1]
        return lead


def _figures(event: Event, dice: Dice) -> dict[str, dict[str, str]]:
    """The figures of one event, in both languages: now is more than before, by pct."""
    before = round(dice.between(1, 90) if dice.happens(0.6) else dice.between(90, 900), 1)
    percent = round(0.5 + 28 * abs(event.mood) * dice.between(0.3, 1) + 3 * dice.between(0, 1), 1)
    now = max(round(before * (1 + percent / 100), 1), before + 0.1)
    share, year, quarter = dice.between(0.1, 3), 2025 if event.day < 122 else 2026, dice.below(4)
    common = {
        "pct": f"{percent:g}", "now": f"{now:g}", "before": f"{before:g}", "year": str(year - 1),
        "count": str(20 + int(4000 * dice.between(0, 1) * dice.between(0, 1))),
        "founded": str(1890 + dice.below(125)), "eps_up": f"{share * 1.2:.2f}", "eps_down": f"{share:.2f}",
    }  # fmt: skip
    unit, unit_zh = dice.one(UNITS)
    if event.topic in ("regulation", "weather", "strike"):
        unit_zh = "万元"  # fines and losses are smaller than sales
    if dice.happens(0.3):
        period, period_zh = "the first half", "上半年"
    else:
        name = ("first", "second", "third", "fourth")[quarter]
        period, period_zh = f"the {name} quarter", f"第{'一二三四'[quarter]}季度"
    if dice.happens(0.4):
        period = f"{period} of {year}"
    return {
        "en": {**common, "unit1": unit, "period": period},
        "zh": {**common, "unit1": unit_zh, "period": period_zh},
    }


def _copied(article: dict[str, Any], of: int, days: int, dice: Dice) -> dict[str, Any]:
    """Another outlet's copy, hours later: a new headline prefix, sometimes a shorter body."""
    chinese, headline, body = article["lang"] == "zh", article["headline"], article["body"]
    edits = (
        [f"【快讯】{headline}", f"{headline}（更新）", headline, f"转载：{headline}"]
        if chinese
        else [f"UPDATE 1-{headline}", f"{headline} - report", headline, headline.upper(), f"BRIEF-{headline}"]
    )
    stop = "。" if chinese else ". "
    if stop in body[:-1] and dice.happens(0.4):
        body = body[: body.index(stop) + 1]
    later = article["time"] + int(dice.between(0.1, 20) * 3600) * 1000
    return {
        **article, "headline": dice.one(edits), "body": body, "source": dice.one(["wire", "paper"]),
        "time": min(later, FIRST_MS + days * DAY_MS - 1000), "kind": "copy", "copy_of": of,
    }  # fmt: skip


def _moment(day: int, first: int, last: int, dice: Dice) -> int:
    return FIRST_MS + day * DAY_MS + int(dice.between(first * 3600, last * 3600)) * 1000


def _tidy(text: str, lang: str) -> str:
    """Without the spaces of choices that came out empty, with a capital where a sentence starts."""
    text = re.sub(r" (?=[.,](?:\s|$))", "", " ".join(text.split()))
    if lang == "zh":
        return text
    text = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text).replace("s's ", "s' ")
    return text if text.startswith("$") else text[0].upper() + text[1:]
