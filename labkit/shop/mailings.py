"""A randomised e-mail test with three arms and the true effect on every shopper.

Modelled on Kevin Hillstrom's MineThatData test (2008, 64,000 customers; no e-mail, and e-mails with men's and
women's goods), whose rates ``REAL`` holds. Here the e-mails are a voucher, which moves people who count their
money or have not been back for long, and a story about one department, which moves those who like it. A few
are put off by either. The e-mails went out on the morning of the day on which the shop's log begins: what was
known before is of the year before it, and only who was a shopper by then takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl

from labkit.shop.chance import stream

ARMS = ("none", "voucher", "story")
# Per arm: share that visits in two weeks, share that buys, mean spend per addressee in the currency.
REAL = {
    "none": (0.1062, 0.00573, 0.653),
    "voucher": (0.1828, 0.01253, 1.423),
    "story": (0.1514, 0.00884, 1.077),
}
# What a buyer spends: the least for the quarter of baskets that stop at the free-delivery minimum, then a
# tail u / (TAIL - u). Real: quartiles 32, 81, 153; at most 499.
LEAST, MOST, MINIMUM_SHARE, TAIL = 29.99, 499.0, 0.24, 1.2
# The mean of u / (1.2 - u) over (0, 1): 1.2 ln 6 - 1, as a number, for logarithms differ between machines.
TAIL_MEAN = 1.1501113629
SENT = date(2025, 9, 1)  # the morning before the log begins
NEW_SINCE = date(2024, 9, 1)


def make_mailing(
    shoppers: pl.DataFrame,
    wealth: np.ndarray,
    affinity: np.ndarray,
    departments: Sequence[str],
    seed: int,
    featured: str | None = None,
) -> pl.DataFrame:
    """The test's log: one row per shopper, with what was known before, what happened and what was true.

    Args:
        shoppers: shopper_id, lang, device, joined (Date).
        wealth: (S,) in [0, 1].
        affinity: (S, D) how much each shopper likes each department, not negative.
        departments: The D departments' names.
        seed: The market's seed.
        featured: The department of the story; the first one if not given.

    Returns:
        shopper_id, arm; before the test: recency (days since the last order), history (GBP spent in a year),
        newcomer, favourite (the department most bought from), lang, device; after it: visit, conversion,
        spend (GBP); truth: ``uplift`` and ``uplift_story``, the change of the shopper's probability to visit
        by the voucher and by the story against no e-mail, ``spend_uplift`` and ``spend_uplift_story`` the
        same in expected GBP.

    Raises:
        ValueError: The arrays do not fit the shoppers, or the featured department is unknown.

    Example:
        >>> people = pl.DataFrame({"shopper_id": range(900), "lang": "en", "device": "phone"})
        >>> people = people.with_columns(joined=pl.date(2024, 1, 1))
        >>> test = make_mailing(people, np.linspace(0, 1, 900), np.ones((900, 2)), ["pets", "toys"], seed=0)
        >>> test["arm"].value_counts()["count"].to_list()
        [300, 300, 300]
    """
    count = shoppers.height
    if len(wealth) != count or affinity.shape != (count, len(departments)):
        raise ValueError(
            f"The mailing has {count} shoppers and {len(departments)} departments, but wealth is "
            f"{wealth.shape} and affinity {affinity.shape}."
        )
    if featured is not None and featured not in departments:
        raise ValueError(
            f"The story cannot feature {featured!r}: the departments are {', '.join(departments)}."
        )
    story = departments.index(featured) if featured is not None else 0
    past = stream(seed, "mailing", "past").random((count, 2))
    wealth = wealth.astype(float)
    money = 0.6 + 0.8 * wealth
    tail = past[:, 0] / (1.1 - past[:, 0])
    history = np.round(LEAST + 129 * tail * money / _mean(money), 2)
    loyal = history / (history + 300)
    recency = np.minimum(1 + (364 * past[:, 1] * (1.2 - 0.5 * loyal)).astype("i8"), 365)
    # Nobody ordered before they joined.
    member = (pl.lit(SENT) - pl.col("joined")).dt.total_days()
    recency = np.minimum(recency, np.maximum(shoppers.select(member).to_series().to_numpy(), 1))
    lapsed = recency / 365
    newcomer = (shoppers["joined"] >= NEW_SINCE).to_numpy()

    # Relative to what the shopper likes on average.
    total = np.cumsum(affinity.astype(float), axis=1)[:, -1]
    likes = affinity[:, story].astype(float) * len(departments) / np.maximum(total, 1e-9)

    base = (1.45 - 0.85 * lapsed) * (0.75 + 0.6 * loyal) * np.where(newcomer, 0.75, 1.0)
    by_voucher = 1.45 - 1.9 * wealth + 0.7 * lapsed - 0.9 * newcomer * (recency < 60)
    by_story = -0.25 + 1.1 * np.minimum(likes, 4.0) * (0.7 + 0.6 * loyal) - 0.5 * lapsed
    visits = {"none": _clipped(REAL["none"][0] * base / _mean(base))}
    for arm, effect in (("voucher", by_voucher), ("story", by_story)):
        mean = REAL[arm][0] - REAL["none"][0]
        visits[arm] = _clipped(visits["none"] + mean * effect / _mean(effect))

    buys, worth = {}, {}
    for arm in ARMS:
        _, conversion, spend = REAL[arm]
        ready = visits[arm] * (0.6 + 0.8 * wealth)
        buys[arm] = np.minimum(conversion * ready / _mean(ready), visits[arm])
        worth[arm] = spend / conversion

    order = np.argsort(stream(seed, "mailing", "arms").random(count), kind="stable")
    arm_of = np.empty(count, dtype="i8")
    arm_of[order] = np.arange(count) % len(ARMS)
    luck = stream(seed, "mailing", "luck").random((count, 2))
    visit_chance = np.choose(arm_of, [visits[arm] for arm in ARMS])
    buy_chance = np.choose(arm_of, [buys[arm] for arm in ARMS])
    visit = luck[:, 0] < visit_chance
    bought = luck[:, 0] < buy_chance  # who buys has visited
    basket = _basket(luck[:, 1], np.choose(arm_of, [worth[arm] for arm in ARMS]))

    hunch = stream(seed, "mailing", "favourite").random(affinity.shape)
    favourite = np.argmax(affinity * (0.5 + hunch), axis=1)
    return pl.DataFrame(
        {
            "shopper_id": shoppers["shopper_id"].cast(pl.Int32),
            "arm": [ARMS[a] for a in arm_of.tolist()],
            "recency": recency.astype("i2"),
            "history": history,
            "newcomer": newcomer,
            "favourite": [departments[d] for d in favourite.tolist()],
            "lang": shoppers["lang"],
            "device": shoppers["device"],
            "visit": visit,
            "conversion": bought,
            "spend": np.where(bought, basket, 0.0),
            "uplift": np.round(visits["voucher"] - visits["none"], 6),
            "uplift_story": np.round(visits["story"] - visits["none"], 6),
            "spend_uplift": np.round(buys["voucher"] * worth["voucher"] - buys["none"] * worth["none"], 4),
            "spend_uplift_story": np.round(buys["story"] * worth["story"] - buys["none"] * worth["none"], 4),
        }
    )


def _basket(u: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Baskets with the given means, but for the cap, which very few reach."""
    v = np.maximum(u - MINIMUM_SHARE, 0.0) / (1 - MINIMUM_SHARE)
    scale = (mean - LEAST) / (TAIL_MEAN * (1 - MINIMUM_SHARE))
    return np.round(np.minimum(LEAST + scale * v / (TAIL - v), MOST), 2)


def _clipped(chance: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(chance, 0.002), 0.95)


def _mean(values: np.ndarray) -> float:
    """A mean by a running sum, whose order of addition is the same on every processor."""
    return float(np.cumsum(values)[-1]) / len(values)
