"""How a shopper answers a page: looks, clicks, puts into the basket, buys, sends back. All chances are known.

A shopper looks at place k with a chance that depends on the device (the position-based model of Craswell et
al., WSDM 2008), clicks what is looked at when it attracts, and so on down the funnel. What attracts is the
product of separate effects: the grade, the taste, the price, what others think, novelty and fatigue, so that
each can be taught, switched off in thought and recovered from the log.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labkit.shop.calendar import DAYS, MONTHS
from labkit.shop.chance import stream
from labkit.shop.crowd import Crowd
from labkit.shop.sessions import PROPENSITIES
from labkit.shop.shelf import TASTES, Shelf

SHOWN = 10
# P(look) of places 1 to 10 on phone, desktop, tablet: the smaller the screen, the steeper.
EXAMINE = np.array(
    [
        (1.0, 0.68, 0.5, 0.38, 0.3, 0.24, 0.2, 0.17, 0.15, 0.13),
        PROPENSITIES,
        (1.0, 0.74, 0.57, 0.45, 0.37, 0.3, 0.25, 0.22, 0.19, 0.17),
    ]
)
CLICK = np.array([0.02, 0.09, 0.26, 0.46])  # attraction by grade
CART = np.array([0.02, 0.06, 0.15, 0.26])  # P(into the basket | clicked) by grade
BUY = 0.5  # P(bought | in the basket)
SENT_BACK = 0.03
SENT_BACK_WEARABLE = 0.15  # it did not fit
WEARABLE = ("clothing", "shoes, bags and luggage")
NOVELTY_DAYS = 45
ELASTICITY = 1.5  # a shopper of sensitivity 1 buys 1.5 % less when the price rises by 1 %


@dataclass(frozen=True)
class Chances:
    """Of each product shown, (S, K) float64."""

    look: np.ndarray
    click: np.ndarray  # given a look
    cart: np.ndarray  # given a click
    buy: np.ndarray  # given the basket
    back: np.ndarray  # given the purchase


class Behaviour:
    """The answers of one market's shoppers to its products."""

    def __init__(self, crowd: Crowd, shelf: Shelf, seed: int) -> None:
        self.crowd, self.shelf = crowd, shelf
        # Fashion: what everybody likes a little more, different in each month.
        self.fashion = 0.8 * (2 * stream(seed, "fashion").random((MONTHS + 1, TASTES)) - 1)
        wearable = np.array([name in WEARABLE for name in shelf.departments])
        self.fit = np.where(wearable[shelf.department], SENT_BACK_WEARABLE, SENT_BACK)
        # What a product is to everybody, computed once. (N,)
        self.charm = (0.6 + 0.9 * np.sqrt(shelf.appeal)) * (0.85 + 0.3 * shelf.quality)
        self.dislike = self.fit + 0.25 * (1 - shelf.quality) * (1 - shelf.quality)

    def mood(self, day: int) -> np.ndarray:
        """The fashion of a day, between those of the months around it. Returns (4,)."""
        place = day * MONTHS / DAYS
        month = int(place)
        return self.fashion[month] + (place - month) * (self.fashion[month + 1] - self.fashion[month])

    def chances(
        self,
        day: int,
        shopper: np.ndarray,  # (S,)
        product: np.ndarray,  # (S, K)
        grade: np.ndarray,  # (S, K)
        price: np.ndarray,  # (S, K) GBP today
        discount: np.ndarray,  # (S, K)
        seen: np.ndarray,  # (S, K) how many of the category this shopper was shown lately, before today
    ) -> Chances:
        """What each shopper does with each product shown, the places in order."""
        crowd, shelf = self.crowd, self.shelf
        liking = np.zeros(product.shape)
        mood = self.mood(day)
        for dimension in range(TASTES):
            wants = crowd.taste[shopper, dimension] + 0.5 * mood[dimension]
            liking += wants[:, None] * shelf.style[product, dimension]
        taste = 1 + 0.7 * liking / (1 + np.abs(liking))
        sensitivity = crowd.sensitivity[shopper][:, None]
        rank = shelf.price_rank[product]
        age = day - shelf.launched[product]
        new = crowd.novelty[shopper][:, None] * np.maximum(1 - age / NOVELTY_DAYS, 0)
        click = (
            CLICK[grade]
            * taste
            * self.charm[product]
            * (1.15 - 0.3 * sensitivity * rank)
            * (1 + 0.8 * discount)
            * (1 + 0.5 * new)
            / (1 + 0.01 * seen)
        )
        too_dear = np.maximum(rank - crowd.wealth[shopper][:, None], 0)
        cart = CART[grade] * taste * (1.1 - 0.7 * too_dear)
        ratio = shelf.price[product] / price
        buy = BUY * (1 + ELASTICITY * sensitivity * (ratio - 1))
        return Chances(
            look=EXAMINE[crowd.device[shopper], : product.shape[1]],
            click=np.clip(click, 0, 0.95),
            cart=np.clip(cart, 0, 0.95),
            buy=np.clip(buy, 0.05, 0.95),
            back=np.clip(self.dislike[product] + 0.08 * (grade < 3) - 0.05 * (taste - 1), 0, 0.9),
        )
