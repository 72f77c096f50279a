"""The shop's year: its days, its seasons and its campaigns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

import numpy as np

START = date(2025, 9, 1)
DAYS = 365
MIDNIGHT = datetime(START.year, START.month, START.day)
MONTHS = 12
# Traffic from Monday to Sunday, and how it spreads over the hours of a day (more in the evening).
WEEK = (0.95, 0.92, 0.93, 0.96, 1.0, 1.1, 1.14)
HOURS = (4, 2, 1, 1, 1, 2, 4, 7, 10, 12, 13, 14, 15, 14, 13, 13, 14, 16, 19, 23, 26, 24, 17, 9)

# Demand by month, September first, 1 on an ordinary month.
SEASONS = {
    "furniture": (1.1, 1.05, 1.0, 0.8, 1.25, 1.0, 1.05, 1.05, 1.0, 0.95, 0.9, 0.95),
    "kitchen": (1.0, 1.0, 1.15, 1.4, 1.05, 0.9, 0.95, 0.95, 0.95, 1.0, 0.95, 0.9),
    "computing": (1.35, 1.0, 1.25, 1.2, 1.0, 0.9, 0.9, 0.85, 0.85, 0.95, 0.95, 1.15),
    "audio and phones": (1.05, 1.0, 1.3, 1.45, 0.95, 0.9, 0.9, 0.9, 0.95, 1.0, 0.95, 0.95),
    "bed, bath and textiles": (1.1, 1.3, 1.25, 1.1, 1.3, 1.0, 0.9, 0.85, 0.85, 0.8, 0.8, 0.9),
    "clothing": (1.2, 1.25, 1.15, 1.1, 1.0, 0.85, 0.95, 1.0, 1.05, 1.05, 0.9, 0.85),
    "shoes, bags and luggage": (1.3, 1.2, 1.05, 1.05, 1.0, 0.85, 1.0, 1.05, 1.05, 1.0, 0.9, 0.95),
    "sports and outdoors": (0.9, 0.8, 0.8, 0.95, 1.4, 1.05, 1.1, 1.15, 1.2, 1.25, 1.15, 1.0),
    "baby": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    "toys and games": (0.8, 0.95, 1.6, 2.2, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 0.9),
    "beauty and care": (0.95, 0.95, 1.1, 1.35, 0.9, 1.2, 1.05, 1.0, 1.0, 1.0, 0.95, 0.9),
    "garden and DIY": (0.8, 0.65, 0.5, 0.45, 0.5, 0.75, 1.3, 1.7, 1.75, 1.5, 1.25, 1.0),
    "pets": (1.0, 1.0, 1.0, 1.1, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
}
EVEN = (1.0,) * MONTHS


@dataclass(frozen=True)
class Campaign:
    """A sale: who gets which discount from when to when (days since START, the last one included)."""

    name: str
    name_zh: str
    first: int
    last: int
    discount: float  # off the price of every second product of the departments
    traffic: float  # multiplies the visits of the whole shop
    departments: tuple[str, ...] = ()  # empty: all


def _day(month: int, day: int) -> int:
    return (date(START.year if month >= 9 else START.year + 1, month, day) - START).days


CAMPAIGNS = (
    Campaign("Back to work", "开学返工季", _day(9, 1), _day(9, 14), 0.1, 1.1, ("computing", "clothing")),
    Campaign("Singles' Day", "双十一", _day(11, 8), _day(11, 11), 0.15, 1.9),
    Campaign("Black Friday", "黑色星期五", _day(11, 27), _day(12, 1), 0.2, 2.1),
    Campaign("Twelve days of gifts", "圣诞礼物季", _day(12, 8), _day(12, 20), 0.1, 1.3,
             ("toys and games", "audio and phones", "beauty and care")),
    Campaign("January sale", "年初清仓", _day(1, 2), _day(1, 14), 0.2, 1.25),
    Campaign("Valentine's week", "情人节", _day(2, 7), _day(2, 14), 0.1, 1.05,
             ("beauty and care", "shoes, bags and luggage")),
    Campaign("Gardens open", "开园季", _day(3, 27), _day(4, 9), 0.12, 1.1, ("garden and DIY",)),
    Campaign("618", "618 年中大促", _day(6, 12), _day(6, 18), 0.15, 1.6),
    Campaign("Summer out of doors", "夏日户外节", _day(7, 10), _day(7, 20), 0.12, 1.05,
             ("sports and outdoors",)),
)  # fmt: skip


def season(department: str) -> np.ndarray:
    """Demand for a department on each day, 1 on an ordinary one: months joined by straight lines.

    Returns (DAYS,) float64.

    Example:
        >>> season("toys and games").argmax() in range(90, 122)  # December
        True
    """
    levels = np.array(SEASONS.get(department, EVEN))
    place = (np.arange(DAYS) + 0.5) * MONTHS / DAYS - 0.5  # in months; a month's level stands at its middle
    before = np.floor(place).astype(np.int64)
    part = place - before
    return levels[before % MONTHS] * (1 - part) + levels[(before + 1) % MONTHS] * part


def traffic() -> np.ndarray:
    """Visits on each day relative to an ordinary one: the week and the campaigns. Returns (DAYS,) float64."""
    day = np.arange(DAYS)
    level = np.array(WEEK)[(START.weekday() + day) % 7]
    for campaign in CAMPAIGNS:
        level[campaign.first : campaign.last + 1] *= campaign.traffic
    return level * (1 + 0.15 * day / DAYS)  # the shop grows
