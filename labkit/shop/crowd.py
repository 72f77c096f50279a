"""The shoppers: what the shop knows of them, and the tastes that it does not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import polars as pl

from labkit.shop.calendar import DAYS, START
from labkit.shop.chance import stream
from labkit.shop.shelf import TASTES, Shelf

# What happens in a life, how many in a thousand it happens to in the year, and what is then bought.
LIFE_EVENTS = {
    "moved home": (
        90,
        {"furniture": 6.0, "kitchen": 4.0, "bed, bath and textiles": 4.0, "garden and DIY": 3.0},
    ),
    "new baby": (40, {"baby": 25.0, "bed, bath and textiles": 2.0}),
    "new pet": (50, {"pets": 25.0}),
    "new job": (60, {"clothing": 3.0, "shoes, bags and luggage": 3.0, "computing": 3.0}),
    "took up sport": (60, {"sports and outdoors": 8.0, "shoes, bags and luggage": 2.0}),
}  # fmt: skip
EVENT_DAYS = 90  # how long it shows
DEVICES = ("phone", "desktop", "tablet")
BANDS = ("low", "middle", "high")

_CITIES = {
    "en": (("London", "N"), ("Manchester", "M"), ("Birmingham", "B"), ("Leeds", "LS"), ("Glasgow", "G"),
           ("Bristol", "BS"), ("Cardiff", "CF"), ("Sheffield", "S"), ("Norwich", "NR"), ("Exeter", "EX")),
    "zh": (("上海", "200"), ("北京", "100"), ("广州", "510"), ("深圳", "518"), ("杭州", "310"),
           ("成都", "610"), ("武汉", "430"), ("南京", "210"), ("西安", "710"), ("厦门", "361")),
}  # fmt: skip
_NAMES = {
    "en": (
        "Ada Amir Anna Ben Carla Chloe Daniel Dev Ella Emma Farah Finn George Grace Hana Harry Isla Jack "
        "Jade Kofi Leah Liam Maya Mia Noah Nora Oliver Omar Poppy Priya Rosa Ruby Sam Sofia Theo Tom Uma "
        "Will Yusuf Zoe",
        "Adams Ahmed Allen Baker Begum Bell Brown Carter Clarke Cole Cooper Davies Evans Fisher Green Hall "
        "Hughes Jones Kaur Kelly Khan King Lewis Marsh Mensah Moore Okafor Parker Patel Reed Roberts Scott "
        "Shah Singh Smith Taylor Walker White Wood Wright",
    ),
    "zh": (
        "伟 芳 娜 敏 静 磊 洋 艳 勇 杰 娟 涛 明 超 霞 平 刚 桂英 建国 雨桐 "
        "梓涵 子轩 欣怡 浩然 思远 佳琪 文博 晓雯 嘉怡 俊熙",
        "王 李 张 刘 陈 杨 黄 赵 吴 周 徐 孙 马 朱 胡 郭 何 林 罗 高 梁 郑 谢 宋 唐",
    ),
}
_MAIL = ("example.com", "example.org", "mail.example", "post.example")


@dataclass(frozen=True)
class Crowd:
    """Arrays over the S shoppers, in the order of their ids, and the tables that the shop keeps of them.

    Attributes:
        taste: (S, 4) in [-1, 1]; its agreement with a product's style moves clicks and purchases.
        sensitivity: to prices, in [0.3, 1.7].
        novelty: how much new things attract, in [0, 1].
        wealth: in [0, 1].
        affinity: (S, C) f32, how often each category is wanted on an ordinary day (any positive scale).
        activity: how often the shopper comes, heavy-tailed.
        joined: day of the year on which they came to the shop, negative if before.
        event: index into LIFE_EVENTS, -1 for none; event_day: when.
        zh: whether they shop in Chinese.
        device: index into DEVICES.
        shoppers, friends, life_events: the tables.
    """

    taste: np.ndarray
    sensitivity: np.ndarray
    novelty: np.ndarray
    wealth: np.ndarray
    affinity: np.ndarray
    activity: np.ndarray
    joined: np.ndarray
    event: np.ndarray
    event_day: np.ndarray
    zh: np.ndarray
    device: np.ndarray
    shoppers: pl.DataFrame
    friends: pl.DataFrame
    life_events: pl.DataFrame


def make_crowd(count: int, shelf: Shelf, seed: int) -> Crowd:
    """Draw the shoppers.

    Args:
        count: how many.
        shelf: its categories and departments are what they can like.
        seed: of the market.
    """
    rng = stream(seed, "crowd")
    # Tastes come in currents (people follow people) with a good part of one's own.
    currents = 2 * stream(seed, "crowd", "currents").random((12, TASTES)) - 1
    current = np.floor(12 * rng.random(count)).astype(np.int64)
    taste = np.clip(0.9 * currents[current] + 0.8 * (2 * rng.random((count, TASTES)) - 1), -1, 1)
    wealth = 0.5 * rng.random(count) + 0.5 * rng.random(count)
    sensitivity = 0.3 + 1.4 * (0.65 * (1 - wealth) + 0.35 * rng.random(count))
    activity = 0.04 / (0.04 + rng.random(count))
    joined = np.where(rng.random(count) < 0.3, np.floor(rng.random(count) * 0.9 * DAYS), -1.0)
    joined = np.where(joined < 0, -1 - np.floor(rng.random(count) * 1500), joined).astype(np.int64)
    roll = 1000 * rng.random(count)
    edges = np.cumsum([rate for rate, _ in LIFE_EVENTS.values()])
    event = np.searchsorted(edges, roll, side="right")
    event = np.where(event < len(edges), event, -1)
    event_day = np.where(event >= 0, np.floor(rng.random(count) * DAYS), -1).astype(np.int64)
    zh = rng.random(count) < 0.3
    device = np.searchsorted(np.array([0.62, 0.92]), rng.random(count), side="right")
    return Crowd(
        taste=taste,
        sensitivity=sensitivity,
        novelty=rng.random(count),
        wealth=wealth,
        affinity=_affinity(count, shelf, seed),
        activity=activity,
        joined=joined,
        event=event,
        event_day=event_day,
        zh=zh,
        device=device,
        shoppers=_table(count, wealth, joined, zh, device, seed),
        friends=_friends(current, zh, seed),
        life_events=_life_events(event, event_day),
    )


def _affinity(count: int, shelf: Shelf, seed: int) -> np.ndarray:
    """Everybody has a few departments and, in them, a few categories to which they return."""
    rng = stream(seed, "crowd", "affinity")
    department = 0.12 / (0.12 + rng.random((count, len(shelf.departments))))  # (S, D)
    affinity = np.empty((count, len(shelf.categories)), dtype=np.float32)
    # Large categories are wanted more, and some far more than others of their size.
    size = np.bincount(shelf.category, minlength=len(shelf.categories)) / len(shelf.category)
    size = size * 0.15 / (0.15 + stream(seed, "crowd", "categories").random(len(size)))
    for number, home in enumerate(shelf.department_of()):
        affinity[:, number] = department[:, home] * (0.15 / (0.15 + rng.random(count))) * size[number]
    return affinity


def _table(
    count: int, wealth: np.ndarray, joined: np.ndarray, zh: np.ndarray, device: np.ndarray, seed: int
) -> pl.DataFrame:
    rng = stream(seed, "crowd", "records")

    def pick(n: int) -> np.ndarray:
        return np.floor(rng.random(count) * n).astype(np.int64)

    given, family, city, mail = pick(10_000), pick(10_000), pick(10), pick(len(_MAIL))
    born = 1950 + np.floor(30 * rng.random(count) + 27 * rng.random(count)).astype(np.int16)
    digits, letters = pick(1_000_000), pick(10_000)
    # The shop's guess at the income is mostly right.
    band = np.clip(np.floor(3 * (wealth + 0.2 * (rng.random(count) - 0.5))), 0, 2).astype(np.int64)
    names, emails, phones, codes, cities = [], [], [], [], []
    for i in range(count):
        lang = "zh" if zh[i] else "en"
        first, last = (words.split() for words in _NAMES[lang])
        a, b = first[given[i] % len(first)], last[family[i] % len(last)]
        town, prefix = _CITIES[lang][city[i]]
        cities.append(town)
        if lang == "en":
            names.append(f"{a} {b}")
            emails.append(f"{a}.{b}{i}@{_MAIL[mail[i]]}".lower())
            phones.append(f"07700 9{digits[i] % 100_000:05d}")  # a range that is never given to anybody
            letter = "ABDEFGHJLNPQRSTUWXYZ"[letters[i] % 20]
            codes.append(f"{prefix}{1 + digits[i] % 19} {letters[i] % 9 + 1}{letter}{letter}")
        else:
            names.append(b + a)
            emails.append(f"u{digits[i]:06d}{i}@{_MAIL[mail[i]]}")
            phones.append(
                f"100 {digits[i] % 10_000:04d} {letters[i]:04d}"
            )  # no mobile number starts with 100
            codes.append(f"{prefix}{letters[i] % 1000:03d}")
    return pl.DataFrame(
        {
            "shopper_id": np.arange(count, dtype=np.int32),
            "name": names,
            "email": emails,
            "phone": phones,
            "postcode": codes,
            "city": cities,
            "birth_year": born,
            "lang": np.where(zh, "zh", "en"),
            "device": np.array(DEVICES)[device],
            "income_band": np.array(BANDS)[band],
            "joined": [START + timedelta(days=int(day)) for day in joined],
        }
    )


def _friends(current: np.ndarray, zh: np.ndarray, seed: int) -> pl.DataFrame:
    """Friends speak the same language and mostly swim in the same current: about six each."""
    rng = stream(seed, "crowd", "friends")
    pairs = []
    for _ in range(3):
        # Neighbours in a random order that keeps groups together become friends.
        mixed = np.where(rng.random(len(current)) < 0.25, np.floor(12 * rng.random(len(current))), current)
        order = np.argsort(rng.random(len(current)) + mixed + 100.0 * zh, kind="stable")
        pairs.append(np.stack([order[:-1], order[1:]], axis=1))
    both = np.sort(np.concatenate(pairs), axis=1)  # (F, 2)
    both = both[zh[both[:, 0]] == zh[both[:, 1]]]
    days = np.floor(rng.random(len(both)) * 2000).astype(np.int64)
    return (
        pl.DataFrame(
            {
                "shopper_id": both[:, 0].astype(np.int32),
                "friend_id": both[:, 1].astype(np.int32),
                "since": (np.datetime64(START) - days.astype("timedelta64[D]")),
            }
        )
        .unique(["shopper_id", "friend_id"], keep="first", maintain_order=True)
        .sort("shopper_id", "friend_id")
    )


def _life_events(event: np.ndarray, event_day: np.ndarray) -> pl.DataFrame:
    rows = np.flatnonzero(event >= 0)
    return pl.DataFrame(
        {
            "shopper_id": rows.astype(np.int32),
            "event": np.array(list(LIFE_EVENTS))[event[rows]],
            "date": np.datetime64(START) + event_day[rows].astype("timedelta64[D]"),
        }
    )
