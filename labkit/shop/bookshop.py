"""Persimmon Reads: books and audiobooks, read in part by the same people who shop in the market.

What those people like to read follows, to a known part, from the tastes, favourite departments and life
events that move them in the shop. So what is learnt in one shop helps in the other, and by how much is known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from labkit.shop.calendar import DAYS, START
from labkit.shop.chance import Dice, stream
from labkit.shop.grammar import Pairs, prose

DAY_MS = 86_400_000
OVERLAP = 0.4  # of the shop's people who read here too
OTHERS = 0.3  # readers who do not shop, as a share of the shop's people
EVENT_DAYS = 180  # how long a life event shows
EVENT_SHARE = 0.45  # of what is read in these days
LITTLE = (
    "a",
    "an",
    "and",
    "at",
    "before",
    "but",
    "by",
    "for",
    "from",
    "in",
    "of",
    "on",
    "the",
    "to",
    "without",
)
SHARPNESS = 2.4  # how much a taste moves a genre's share


@dataclass(frozen=True)
class Bookshop:
    """The tables, and the truth behind them.

    Attributes:
        books: book_id, title, title_zh, author, author_zh, blurb, blurb_zh, genre, genre_zh, format, pages,
            price, published.
        reads: reader_id, book_id, time, minutes, finished, rating (mostly null), ordered by time.
        overlap: reader_id, shopper_id of those who do both; the truth that two real firms seldom have.
        genres: the G genres' names, in the order of the arrays.
        tastes: (R, G) the probability that a reader picks a genre on a day without a life event.
        carried: (R, G) the part of it that the shop could know: what follows from shopping, and for readers
            who do not shop, the readers' average.
    """

    books: pl.DataFrame
    reads: pl.DataFrame
    overlap: pl.DataFrame
    genres: tuple[str, ...]
    tastes: np.ndarray
    carried: np.ndarray

    def tables(self) -> dict[str, pl.DataFrame]:
        """The tables by the names under which the market keeps them."""
        return {"books": self.books, "reads": self.reads, "overlap": self.overlap}

    def ceilings(self, top: int = 3) -> dict[str, float]:
        """How often an overlapping reader's next book is in the best ``top`` genres, by what is known.

        ``popular``: only the genres' popularity; ``carried``: all that the shop could tell; ``taste``: the
        reader's own tastes. The gap between the first two is what cross-domain transfer can bring.
        """
        ids = self.overlap["reader_id"].to_numpy()
        truth = self.tastes[ids]
        usual = np.broadcast_to(np.cumsum(self.tastes, axis=0)[-1], truth.shape)
        found = {}
        for name, scores in (("popular", usual), ("carried", self.carried[ids]), ("taste", truth)):
            best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
            found[name] = float(np.cumsum(np.take_along_axis(truth, best, axis=1))[-1] / len(ids))
        return found


def make_bookshop(
    shoppers: pl.DataFrame,
    taste: np.ndarray,
    affinity: np.ndarray,
    departments: Sequence[str],
    life_events: pl.DataFrame,
    books: int,
    seed: int,
    shared: float = 0.7,
) -> Bookshop:
    """Draw the books, the readers and a year of reading.

    Args:
        shoppers: shopper_id (row number), lang.
        taste: (S, 4) in [-1, 1].
        affinity: (S, D) how much each shopper likes each department, not negative.
        departments: the D departments' names.
        life_events: shopper_id, event, date.
        books: how many to sell.
        seed: the market's seed.
        shared: how much of the variance of a genre's appeal, over those who shop and read, is carried over.

    Raises:
        ValueError: ``shared`` is not in [0, 1], or the arrays do not fit the shoppers.

    Example:
        >>> people = pl.DataFrame({"shopper_id": range(300), "lang": "en"})
        >>> events = pl.DataFrame({"shopper_id": [3], "event": ["new baby"], "date": [START]})
        >>> taste = np.random.default_rng(0).uniform(-1, 1, (300, 4))
        >>> shop = make_bookshop(people, taste, np.ones((300, 1)), ["baby"], events, books=60, seed=0)
        >>> ceilings = shop.ceilings()
        >>> ceilings["popular"] < ceilings["carried"] < ceilings["taste"]
        True
    """
    people = shoppers.height
    if not 0 <= shared <= 1:
        raise ValueError(f"shared is a share of variance and lies in [0, 1], not {shared}.")
    if taste.shape[0] != people or affinity.shape != (people, len(departments)):
        raise ValueError(
            f"The bookshop has {people} shoppers and {len(departments)} departments, but taste is "
            f"{taste.shape} and affinity {affinity.shape}."
        )
    both, readers = _readers(people, seed)
    genres = tuple(prose("books")["genres"])
    tastes, carried = _tastes(both, readers, taste, affinity, departments, shared, seed)
    table, quality, appeal = _books(books, seed)
    reads = _reads(table, quality, appeal, tastes, both, life_events, seed)
    # The link is kept in the order of shoppers, which says nothing of reader ids.
    order = np.argsort(both[:, 1], kind="stable")
    overlap = pl.DataFrame(
        {"reader_id": both[order, 0].astype(np.int32), "shopper_id": both[order, 1].astype(np.int32)}
    )
    return Bookshop(table, reads, overlap, genres, tastes, carried)


def _readers(people: int, seed: int) -> tuple[np.ndarray, int]:
    """The (reader, shopper) pairs, and how many readers there are. Reader ids are shuffled."""
    rng = stream(seed, "bookshop", "readers")
    shoppers = np.argsort(rng.random(people), kind="stable")[: max(1, int(people * OVERLAP))]
    readers = len(shoppers) + int(people * OTHERS)
    ids = np.argsort(rng.random(readers), kind="stable")[: len(shoppers)]
    return np.stack([ids, shoppers], axis=1), readers


def _tastes(
    both: np.ndarray, readers: int, taste: np.ndarray, affinity: np.ndarray, departments: Sequence[str],
    shared: float, seed: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    genres = prose("books")["genres"]
    rng = stream(seed, "bookshop", "tastes")
    names = list(departments)
    total = np.maximum(np.cumsum(affinity.astype(float), axis=1)[:, -1], 1e-9)
    truth, known = np.empty((readers, len(genres))), np.empty((readers, len(genres)))
    for g, genre in enumerate(genres.values()):
        load = genre["loads"]
        shop = taste[:, 0] * load[0] + taste[:, 1] * load[1] + taste[:, 2] * load[2] + taste[:, 3] * load[3]
        if genre.get("likes") in names:
            likes = affinity[:, names.index(genre["likes"])].astype(float) * len(names) / total
            shop = shop + 1.2 * likes / (1 + likes)
        shop = _standard(shop)
        # What a reader likes beyond the shop, of the same spread: three uniforms, whose sum has variance 1/4.
        own = 2 * (rng.random(readers) + rng.random(readers) + rng.random(readers) - 1.5)
        appeal = own.copy()
        carried = shop[both[:, 1]]
        appeal[both[:, 0]] = np.sqrt(shared) * carried + np.sqrt(1 - shared) * own[both[:, 0]]
        truth[:, g] = genre["share"] * _weight(appeal)
        known[:, g] = genre["share"] * 1.0
        known[both[:, 0], g] = genre["share"] * _weight(np.sqrt(shared) * carried)
    return _shares(truth), _shares(known)


def _standard(values: np.ndarray) -> np.ndarray:
    mean = np.cumsum(values)[-1] / len(values)
    centred = values - mean
    spread = np.sqrt(np.cumsum(centred * centred)[-1] / len(values))
    return centred / max(float(spread), 1e-9)


def _weight(appeal: np.ndarray) -> np.ndarray:
    """Grows like an exponential, with exact arithmetic only."""
    up = 1 + SHARPNESS * np.maximum(appeal, 0.0)
    down = 1 - SHARPNESS * np.minimum(appeal, 0.0)
    return up / down


def _shares(weights: np.ndarray) -> np.ndarray:
    return weights / np.cumsum(weights, axis=1)[:, -1:]


def _books(count: int, seed: int) -> tuple[pl.DataFrame, np.ndarray, np.ndarray]:
    """The books, their hidden quality and how much each one is asked for."""
    words = prose("books")
    genres = words["genres"]
    pairs = Pairs({**words["words"], **words["lists"]})
    titles, blurbs = ({g: _with(pairs, words[kind][g]) for g in genres} for kind in ("title", "blurb"))
    dice = Dice(seed, "bookshop", "books")
    shares = [genre["share"] for genre in genres.values()]
    authors = [pairs.write("author", dice) for _ in range(max(12, count // 5))]
    taken: set[str] = set()
    rows = []
    for number in range(count):
        # The first books give every genre something to read.
        genre = list(genres)[number % len(genres) if number < 4 * len(genres) else dice.weighted(shares)]
        for _ in range(20):
            drawn: dict[str, tuple[str, str]] = {}
            title, title_zh = titles[genre].write("text", dice, drawn)
            if title not in taken:
                break
        while title in taken:
            more, more_zh = pairs.write("subtitle", dice)
            title, title_zh = f"{title.split(':')[0]}: {more}", f"{title_zh.split('：')[0]}：{more_zh}"
        taken.add(title)
        # The blurb speaks of the things in the title.
        blurb, blurb_zh = blurbs[genre].write("text", dice, drawn)
        close, close_zh = pairs.write("close", dice)
        author, author_zh = dice.ranked(authors, 0.02)
        kind = words["formats"][dice.weighted((0.5, 0.3, 0.2))]
        pages = (
            24 + dice.below(40) if genre == "children's books" else 140 + dice.below(180) + dice.below(220)
        )
        price = (4.99 if kind == "e-book" else 7.99) + dice.below(9) + (3 if kind == "audiobook" else 0)
        square = dice.between(0, 1) * dice.between(0, 1)  # most books are recent
        rows.append(
            (
                number, _title(title), title_zh, author, author_zh, _sentence(f"{blurb} {close}"),
                blurb_zh + close_zh,
                genre, genres[genre]["zh"], kind, pages, round(price, 2), 2026 - int(28 * square),
            )
        )  # fmt: skip
    schema = {
        "book_id": pl.Int32, "title": pl.String, "title_zh": pl.String, "author": pl.String,
        "author_zh": pl.String, "blurb": pl.String, "blurb_zh": pl.String, "genre": pl.String,
        "genre_zh": pl.String, "format": pl.String, "pages": pl.Int16, "price": pl.Float64,
        "published": pl.Int16,
    }  # fmt: skip
    rng = stream(seed, "bookshop", "shelf")
    quality = (rng.random(count) + rng.random(count)) / 2
    return pl.DataFrame(rows, schema=schema, orient="row"), quality, 0.03 / (0.03 + rng.random(count))


def _with(pairs: Pairs, text: str) -> Pairs:
    words = prose("books")
    return Pairs({**words["words"], **words["lists"], "text": text})


def _title(text: str) -> str:
    words = [word if word in LITTLE else word[0].upper() + word[1:] for word in _sentence(text).split(" ")]
    return " ".join(words)


def _sentence(text: str) -> str:
    """Capitals where sentences start, "an" before vowels, and no article twice."""
    text = re.sub(r"\b(?:the|a|an) (?=the\b)", "", text, flags=re.IGNORECASE)
    text = re.sub(r"\b([Aa]) (?=[AEIOaeiou])", r"\1n ", text)
    text = re.sub(r"(?<=[.?!] )[a-z]", lambda found: found[0].upper(), text)
    return text[0].upper() + text[1:]


def _reads(
    table: pl.DataFrame, quality: np.ndarray, appeal: np.ndarray, tastes: np.ndarray, both: np.ndarray,
    life_events: pl.DataFrame, seed: int,
) -> pl.DataFrame:  # fmt: skip
    genres = prose("books")["genres"]
    readers = len(tastes)
    keen = stream(seed, "bookshop", "keen").random(readers)
    each = np.minimum(2 + (6 * keen / (1.08 - keen)).astype(np.int64), 80)
    reader = np.repeat(np.arange(readers), each)
    luck = stream(seed, "bookshop", "reads").random((len(reader), 7))
    time = (luck[:, 0] * DAYS * DAY_MS).astype(np.int64) // 1000 * 1000
    edges = np.cumsum(tastes, axis=1)
    genre = np.zeros(len(reader), dtype=np.int64)
    for g in range(len(genres) - 1):
        genre += luck[:, 1] > edges[reader, g]
    genre = _after_events(genre, reader, time, luck[:, 2:4], both, life_events)

    book = np.empty(len(reader), dtype=np.int64)
    kind = table["genre"].to_numpy()
    for g, name in enumerate(genres):
        here, shelf = np.flatnonzero(genre == g), np.flatnonzero(kind == name)
        if len(here) and not len(shelf):
            raise ValueError(f"The bookshop has no book in {name}; ask for at least {len(genres)} books.")
        mass = np.cumsum(appeal[shelf])
        book[here] = (
            shelf[np.searchsorted(mass[:-1], luck[here, 4] * mass[-1], side="right")] if len(here) else 0
        )

    fits = tastes[reader, genre] * len(genres)
    finished = luck[:, 5] < 0.25 + 0.4 * quality[book] + 0.3 * fits / (1 + fits)
    pages = table["pages"].to_numpy().astype(float)[book]
    part = np.where(finished, 1.0, 0.05 + 0.75 * luck[:, 6])
    minutes = np.round(pages * part * (1.2 + 0.9 * keen[reader]), 1)
    opinion = stream(seed, "bookshop", "ratings").random((len(reader), 2))
    pleased = 0.25 + 0.55 * quality[book] + 0.18 * finished + 0.4 * (opinion[:, 1] - 0.5)
    stars = 1 + (pleased > 0.22) + (pleased > 0.36) + (pleased > 0.55) + (pleased > 0.72)
    reads = pl.DataFrame(
        {
            "reader_id": reader.astype(np.int32),
            "book_id": book.astype(np.int32),
            "time": pl.Series(time + np.datetime64(START, "ms").astype(np.int64)).cast(pl.Datetime("ms")),
            "minutes": minutes,
            "finished": finished,
            "rating": pl.Series(stars.astype(np.int8)).set(pl.Series(opinion[:, 0] > 0.16), None),
        }
    )
    # Nobody is counted twice for one book: the first reading stays.
    return reads.sort("time", "reader_id", maintain_order=True).unique(
        ["reader_id", "book_id"], keep="first", maintain_order=True
    )


def _after_events(
    genre: np.ndarray, reader: np.ndarray, time: np.ndarray, luck: np.ndarray, both: np.ndarray,
    life_events: pl.DataFrame,
) -> np.ndarray:  # fmt: skip
    """For half a year after a life event, nearly half of what is read is about it."""
    follows: dict[str, list[int]] = {}
    for g, entry in enumerate(prose("books")["genres"].values()):
        if "after" in entry:
            follows.setdefault(entry["after"], []).append(g)
    reader_of = {int(s): int(r) for r, s in both}
    genre = genre.copy()
    starts = np.searchsorted(reader, np.arange(int(reader[-1]) + 2)) if len(reader) else np.zeros(1, int)
    for shopper, event, day in life_events.select("shopper_id", "event", "date").iter_rows():
        if event not in follows or shopper not in reader_of:
            continue
        mine = np.arange(starts[reader_of[shopper]], starts[reader_of[shopper] + 1])
        begin = ((day if isinstance(day, date) else day.date()) - START).days * DAY_MS
        during = (
            (time[mine] >= begin) & (time[mine] < begin + EVENT_DAYS * DAY_MS) & (luck[mine, 0] < EVENT_SHARE)
        )
        options = np.array(follows[event])
        genre[mine[during]] = options[(luck[mine[during], 1] * len(options)).astype(np.int64)]
    return genre
