"""The warehouse's version of the tables, with everything that goes wrong on the way, and the truth about it.

The clean tables are what happened; the raw ones are what a data team is handed. ``truth`` says which rows are
wrong and what stood there, so that a cleaning step can be scored like any other model. The tables come in the
order in which the warehouse received them; ``row`` numbers them and is the key of ``truth``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import polars as pl

from labkit.shop.calendar import DAYS, MIDNIGHT, MONTHS, START
from labkit.shop.chance import Dice, stream
from labkit.shop.intruders import Intruders
from labkit.shop.replay import Year

TRUTH = {"table": pl.String, "row": pl.Int64, "defect": pl.String, "was": pl.String, "of": pl.Int64}
APPS = pl.Enum(["web", "ios 7.1", "ios 7.2", "android 5.0", "android 5.1"])
WEB, IOS_OLD, IOS, ANDROID_OLD, ANDROID = range(5)
# The app that wrote pence for pounds, and from when to when.
PENCE_APP, PENCE_FROM, PENCE_TO = ANDROID, 150, 178
SKEWED_SESSIONS = 0.012  # of the old iOS app's sessions, and of all others a sixth of that
REPEATED_LINES = 0.008
POUND_IN_YUAN = 9.1
END = START + timedelta(days=DAYS - 1)


@dataclass
class Truth:
    """Collects what was done to which row."""

    parts: list[pl.DataFrame] = field(default_factory=list)

    def add(
        self,
        table: str,
        defect: str,
        row: np.ndarray,
        was: list[str] | None = None,
        of: np.ndarray | None = None,
    ) -> None:
        nothing = [None] * len(row)
        self.parts.append(
            pl.DataFrame(
                {
                    "table": [table] * len(row),
                    "row": np.asarray(row, dtype=np.int64),
                    "defect": [defect] * len(row),
                    "was": nothing if was is None else was,
                    "of": nothing if of is None else np.asarray(of, dtype=np.int64),
                },
                schema=TRUTH,
            )
        )

    def table(self) -> pl.DataFrame:
        return pl.concat([pl.DataFrame(schema=TRUTH), *self.parts]).sort("table", "defect", "row")


def raw_events(
    parts: Iterator[pl.DataFrame], year: Year, intruders: Intruders, truth: Truth, seed: int
) -> Iterator[pl.DataFrame]:
    """The event log as it arrives, part by part.

    Args:
        parts: the clean events, each part one of twelve equal months, in time order.
        year: for the shoppers' devices.
        intruders: bots and test accounts; their rows are mixed in.
        truth: receives what is wrong.
        seed: of the market.

    Yields:
        The events' columns with row i64 before them and app, delivery_days i16 behind.
    """
    next_row = 0
    apps = _App(year, intruders, seed)
    for number, clean in enumerate(parts):
        rng = stream(seed, "defects", "events", number)
        # The month's days, also those on which only intruders came.
        month = (clean["time"][0] - MIDNIGHT).days * MONTHS // DAYS
        first, end = (-(-m * DAYS // MONTHS) for m in (month, month + 1))
        added = intruders.events.filter(
            pl.col("time").is_between(_moment(first), _moment(end), closed="left")
        )
        frame = pl.concat([clean, added.select(clean.columns)])
        kind = np.concatenate([np.zeros(clean.height, dtype=np.int8), added["kind"].to_numpy()])
        seconds = (frame["time"] - MIDNIGHT).dt.total_seconds().to_numpy()
        day = seconds // 86_400
        shopper, session = frame["shopper_id"].to_numpy(), frame["session_id"].to_numpy()
        app = apps.of(shopper, day)
        days = np.where(frame["bought"].to_numpy(), 1 + np.floor(6 * rng.random(frame.height)), -1)

        pence = (app == PENCE_APP) & (day >= PENCE_FROM) & (day < PENCE_TO) & (kind != Intruders.TEST)
        price = frame["price"].to_numpy()
        wrong_price = np.where(pence, np.round(100 * price), price)
        # A clock is wrong for a whole session: set to another zone, or not at all.
        luck = _per_session(session, seed, "clock")
        rate = np.where(app == IOS_OLD, SKEWED_SESSIONS, SKEWED_SESSIONS / 6)
        skewed = luck < rate
        hours = np.where(luck < 0.5 * rate, 8, -5)
        unset = (luck >= rate) & (luck < rate + 0.001)
        told = np.where(skewed, seconds + 3600 * hours, seconds)
        stamp = np.datetime64(MIDNIGHT, "ms") + told * np.timedelta64(1000, "ms")
        since_boot = np.datetime64(0, "ms") + (seconds % 86_400) * np.timedelta64(1000, "ms")
        stamp = np.where(unset, since_boot, stamp)

        again = np.flatnonzero(rng.random(frame.height) < REPEATED_LINES)
        delay = 5 + np.floor(900 * rng.random(len(again))).astype(np.int64)
        source = np.concatenate([np.arange(frame.height), again])
        arrival = np.concatenate([seconds, seconds[again] + delay])
        order = np.argsort(arrival, kind="stable")
        source, copied = source[order], (np.arange(len(source)) >= frame.height)[order]
        row = next_row + np.arange(len(source))
        next_row += len(source)

        home = np.empty(frame.height, dtype=np.int64)  # the row of each original
        home[source[~copied]] = row[~copied]
        for defect, mask, column in (
            ("clock_skew", skewed | unset, "time"),
            ("unit", pence, "price"),
            ("bot", kind == Intruders.BOT, None),
            ("test_shopper", kind == Intruders.TEST, None),
        ):
            rows = np.flatnonzero(mask[source])
            was = None if column is None else frame[column][source[rows]].cast(pl.String).to_list()
            truth.add("events", defect, row[rows], was)
        rows = np.flatnonzero(copied)
        truth.add("events", "exact_duplicate", row[rows], of=home[source[rows]])
        yield frame.with_columns(
            time=pl.Series(stamp),
            price=pl.Series(wrong_price),
            app=pl.Series(app.astype(np.uint8)).cat.to(APPS),
            delivery_days=pl.Series(days.astype(np.int16)).replace(-1, None),
        )[source].select(pl.Series("row", row), pl.all())
    truth.add("events", "leaked_label", np.array([-1]), ["delivery_days"])


def raw_products(clean: pl.DataFrame, year: Year, truth: Truth, seed: int) -> pl.DataFrame:
    """The catalogue as it is delivered: row i64, the products' columns, currency (always "GBP")."""
    rng, n = stream(seed, "defects", "products"), clean.height
    twice = np.flatnonzero(rng.random(n) < 0.006)
    copied = np.flatnonzero((rng.random(n) < 0.02) & ~np.isin(np.arange(n), twice))
    relisted = _relisted(clean[copied], n, year, seed)
    frame = pl.concat([clean, clean[twice], relisted])
    # Copies come some time after what they copy.
    source = np.concatenate([np.arange(n), twice, copied])
    late = np.arange(len(source)) >= n
    order = np.argsort(source + late * (1 + 0.3 * n * rng.random(len(source))), kind="stable")
    frame, source = frame[order], source[order]
    kind = np.repeat([0, 1, 2], [n, len(twice), len(copied)])[order]
    row = np.arange(len(source))
    home = np.empty(n, dtype=np.int64)
    home[source[kind == 0]] = row[kind == 0]
    for code, name in ((1, "exact_duplicate"), (2, "near_duplicate")):
        truth.add("products", name, row[kind == code], of=home[source[kind == code]])

    def by_product(*names: str) -> np.ndarray:
        # Of the product, not of the row, so that an exact copy is wrong in the same way.
        u = stream(seed, "defects", "products", *names).random(int(frame["product_id"].max()) + 1)  # type: ignore[arg-type]
        return u[frame["product_id"].to_numpy()]

    grams = by_product("grams") < 0.012
    weight, price = frame["weight_kg"].to_numpy(), frame["price"].to_numpy()
    truth.add("products", "unit", row[grams], [f"weight_kg {w:g}" for w in weight[grams]])
    chinese = year.shelf.sellers.filter(pl.col("country") == "CN")["seller_id"].to_numpy()
    careless = chinese[np.argsort(stream(seed, "defects", "yuan").random(len(chinese)), kind="stable")]
    careless = careless[: max(1, len(year.shelf.sellers) // 30)]
    yuan = np.isin(frame["seller_id"].to_numpy(), careless)
    truth.add("products", "unit", row[yuan], [f"price {p:.2f}" for p in price[yuan]])
    frame = frame.with_columns(
        weight_kg=pl.Series(np.where(grams, np.round(1000 * weight), weight)),
        price=pl.Series(np.where(yuan, np.round(POUND_IN_YUAN * price, 2), price)),
        currency=pl.lit("GBP"),
    )
    texts = ("title", "description", "title_zh", "description_zh")
    frame = _mojibake(frame, "products", texts, by_product("encoding") < 0.012, truth)
    return frame.select(pl.Series("row", row), pl.all())


def raw_shoppers(clean: pl.DataFrame, intruders: Intruders, truth: Truth, seed: int) -> pl.DataFrame:
    """The accounts in no order, bots and testers among them; high incomes are missing more often than low."""
    frame = pl.concat([clean, intruders.shoppers.select(clean.columns)])
    order = np.argsort(stream(seed, "defects", "accounts").random(frame.height), kind="stable")
    frame, kinds = frame[order], np.concatenate([np.zeros(clean.height), intruders.shoppers["kind"]])[order]
    roll = stream(seed, "defects", "shoppers").random(frame.height)
    band = frame["income_band"].to_list()
    chance = np.array([{"low": 0.04, "middle": 0.1, "high": 0.45}[b] for b in band])
    lost = np.flatnonzero(roll < chance)
    row = np.arange(frame.height)
    truth.add("shoppers", "missing", lost, [f"income_band {band[i]}" for i in lost])
    for defect, kind in (("bot", Intruders.BOT), ("test_shopper", Intruders.TEST)):
        truth.add("shoppers", defect, np.flatnonzero(kinds == kind))
    keep = pl.Series(roll >= chance)
    return frame.with_columns(income_band=pl.when(keep).then("income_band")).select(
        pl.Series("row", row), pl.all()
    )


def raw_reviews(clean: pl.DataFrame, spam: pl.DataFrame, truth: Truth, seed: int) -> pl.DataFrame:
    """Reviews with spam among them, some delivered twice, some damaged."""
    shared = [name for name in clean.columns if name in spam.columns]
    frame = pl.concat([clean.select(shared), spam.select(shared)])
    fake = np.arange(frame.height) >= clean.height
    rng = stream(seed, "defects", "reviews")
    twice = np.flatnonzero(rng.random(frame.height) < 0.006)
    frame, fake = pl.concat([frame, frame[twice]]), np.concatenate([fake, fake[twice]])
    copied = np.arange(frame.height) >= frame.height - len(twice)
    source = np.concatenate([np.arange(frame.height - len(twice)), twice])
    arrival = frame["time"].dt.epoch("s").to_numpy() + copied * np.floor(3000 * rng.random(frame.height))
    order = np.argsort(arrival, kind="stable")
    frame, fake, copied, source = frame[order], fake[order], copied[order], source[order]
    row = np.arange(frame.height)
    home = np.empty(frame.height, dtype=np.int64)
    home[source[~copied]] = row[~copied]
    truth.add("reviews", "review_spam", row[fake])
    truth.add("reviews", "exact_duplicate", row[copied], of=home[source[copied]])
    u = stream(seed, "defects", "reviews", "encoding").random(frame.height)[source]
    frame = _mojibake(frame, "reviews", ("text",), u < 0.03, truth)
    # What the warehouse does not know: the sentiment, and what it is about. It numbers by arrival.
    return frame.drop("sentiment", "aspects", "review_id", strict=False).select(
        pl.Series("row", row), pl.all()
    )


class _App:
    """Which app a shopper uses on which day: everybody on a phone or tablet upgrades some time."""

    def __init__(self, year: Year, intruders: Intruders, seed: int) -> None:
        count = len(year.crowd.device) + intruders.shoppers.height
        rng = stream(seed, "defects", "apps")
        self.ios = rng.random(count) < 0.5
        self.upgrade = np.floor(rng.random(count) * DAYS)
        web = np.concatenate([year.crowd.device == 1, (intruders.shoppers["device"] == "desktop").to_numpy()])
        self.web = web

    def of(self, shopper: np.ndarray, day: np.ndarray) -> np.ndarray:
        new = day >= self.upgrade[shopper]
        phone = np.where(self.ios[shopper], np.where(new, IOS, IOS_OLD), np.where(new, ANDROID, ANDROID_OLD))
        return np.where(self.web[shopper], WEB, phone)


def _per_session(session: np.ndarray, seed: int, name: str) -> np.ndarray:
    """A number in [0, 1) for each session, the same in every part of the log (it may cross midnight)."""
    key = np.uint64(int(stream(seed, "defects", name).random() * 2**32)) | np.uint64(1)
    mixed = (session.astype(np.uint64) + np.uint64(1)) * key
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    return (mixed & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2**32


def _moment(day: int) -> pl.Expr:
    return pl.lit(np.datetime64(MIDNIGHT, "ms") + np.timedelta64(day, "D"))


def _mojibake(
    frame: pl.DataFrame, table: str, columns: tuple[str, ...], hit: np.ndarray, truth: Truth
) -> pl.DataFrame:
    """UTF-8 read as Windows-1252, as a careless import does; only what has such letters is damaged."""
    rows = np.flatnonzero(hit)
    changed: dict[int, list[str]] = {}
    for name in columns:
        texts = frame[name].to_list()
        for i in rows.tolist():
            if texts[i] and not texts[i].isascii():
                changed.setdefault(i, []).append(f"{name} {texts[i]}")
                texts[i] = _misread(texts[i])
        frame = frame.with_columns(pl.Series(name, texts))
    where = sorted(changed)
    truth.add(table, "encoding", np.array(where, dtype=np.int64), ["\n".join(changed[i]) for i in where])
    return frame


def _misread(text: str) -> str:
    data = text.encode()
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


_EXTRAS = ("new", "official", "UK stock", "fast delivery", "genuine", "2026", "free returns", "best price")
_EXTRAS_ZH = ("包邮", "正品", "现货", "2026新款", "官方", "特价", "顺丰", "热卖")


def _relisted(products: pl.DataFrame, first_id: int, year: Year, seed: int) -> pl.DataFrame:
    """Another seller's listing of the same thing: the text edited, the price a little different."""
    dice = Dice(seed, "defects", "relisted")
    sellers = year.shelf.sellers
    by_department: dict[str, list[int]] = {}
    for number, name in sellers.select("seller_id", "department").iter_rows():
        by_department.setdefault(name, []).append(number)
    rows = []
    for number, product in enumerate(products.iter_rows(named=True)):
        others = [s for s in by_department[product["department"]] if s != product["seller_id"]]
        known = json.loads(product["attributes"])
        keys = dice.shuffled(list(known)) if dice.happens(0.5) else list(known)
        if len(keys) > 3 and dice.happens(0.3):
            keys.remove(dice.one([key for key in keys if key not in ("line", "model")] or keys))
        rows.append(
            {
                **product,
                "product_id": first_id + number,
                "title": _edited(product["title"], _EXTRAS, " ", dice),
                "description": _reordered(product["description"], ". ", dice),
                "title_zh": _edited(product["title_zh"], _EXTRAS_ZH, " ", dice),
                "description_zh": _reordered(product["description_zh"], "。", dice),
                "price": max(0.49, round(product["price"] * dice.between(0.92, 1.08)) - 0.01),
                "seller_id": dice.one(others),
                "launched": min(product["launched"] + timedelta(days=1 + dice.below(200)), END),
                "attributes": json.dumps({key: known[key] for key in keys}, ensure_ascii=False),
                "weight_kg": round(product["weight_kg"] * dice.between(0.98, 1.02), 3),
            }
        )
    return pl.DataFrame(rows, schema=products.schema)


def _edited(title: str, extras: tuple[str, ...], space: str, dice: Dice) -> str:
    """One or two of the edits with which a copied title is made to look like another."""
    edits: list[Callable[[list[str]], list[str]]] = [
        lambda words: [*words, dice.one(extras)],
        lambda words: [dice.one(extras), *words],
        lambda words: words[:-1] if len(words) > 4 else words,
        lambda words: [*words[1:], words[0]] if len(words) > 2 else words,
        lambda words: [word.strip(",|-:") for word in words],
        lambda words: [word.lower() for word in words],
    ]
    edited = title
    while edited == title:
        words = title.split(space)
        for edit in dice.some(edits, 1 + dice.below(2)):
            words = edit(words)
        edited = space.join(word for word in words if word)
    return edited


def _reordered(text: str, stop: str, dice: Dice) -> str:
    """The sentences in another order, sometimes one of them left out or one added."""
    parts = [part.strip(" .。") for part in text.split(stop) if part.strip(" .。")]
    if len(parts) > 1 and dice.happens(0.6):
        parts = dice.shuffled(parts)
    if len(parts) > 3 and dice.happens(0.25):
        parts = parts[:-1]
    return stop.join(parts) + stop.strip()
