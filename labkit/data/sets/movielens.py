"""MovieLens: ratings of films, in the formats in which GroupLens publishes them."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from labkit.data.files import BadFile, once_more, reading, scan_table, table_errors
from labkit.data.numbered import number, numbered
from labkit.data.prepared import prepared
from labkit.data.sets.interactions import check_interactions, milliseconds
from labkit.data.sources import DataSet, Remote, locate
from labkit.data.tables import Interactions

_LICENCE = (
    "free for research with acknowledgement, not to be passed on or used commercially without permission. "
    "Harper and Konstan, The MovieLens Datasets, ACM TiiS 2015."
)
# GroupLens states the MD5 of each archive beside it.
_MD5 = {
    "ml-1m": "c4d9eecfca2ab87c1945afe126590906",
    "ml-25m": "6b51fb2759a8657d3bfcbfc42b592ada",
    "ml-32m": "d472be332d4daa821edc399621853b57",
}
_FILES = {
    "ml-1m": ("ratings.dat", "users.dat", "movies.dat"),
    "ml-25m": ("ratings.csv", "movies.csv"),
    "ml-32m": ("ratings.csv", "movies.csv"),
}
_COUNTS = {
    "ml-1m": "1 000 209 ratings of 3 706 films by 6 040 users",
    "ml-25m": "25 000 095 ratings of 62 423 films by 162 541 users",
    "ml-32m": "32 000 204 ratings of 87 585 films by 200 948 users",
}
# Of the files as they are unpacked; the MD5 is the archive's.
_ROWS = {
    "ml-1m": {"ratings.dat": 1_000_209, "users.dat": 6_040},
    "ml-25m": {"ratings.csv": 25_000_095, "movies.csv": 62_423},
    "ml-32m": {"ratings.csv": 32_000_204, "movies.csv": 87_585},
}


def _declare(version: str) -> DataSet:
    return DataSet(
        name=f"movielens_{version.removeprefix('ml-')}",
        title=f"MovieLens {version.removeprefix('ml-').upper()}, {_COUNTS[version]}",
        source=f"https://grouplens.org/datasets/movielens/{version.removeprefix('ml-')}/",
        licence=_LICENCE,
        published={
            f"{version}.zip": Remote(
                f"https://files.grouplens.org/datasets/movielens/{version}.zip",
                f"md5:{_MD5[version]}",
                {f"{version}/{name}": name for name in _FILES[version]},
            )
        },
        rows=_ROWS[version],
    )


MOVIELENS = {version: _declare(version) for version in _MD5}


def load_movielens(version: str = "1m") -> Interactions:
    """Load MovieLens as published.

    1M has fields separated by ``::`` and titles in Latin-1; 25M and 32M are tables separated by commas in
    UTF-8, which the first call converts to parquet under LABKIT_HOME.

    Args:
        version: "1m", "25m" or "32m".

    Returns:
        Events of kind "rating" in the order of time, rating 0.5 to 5 (1M: whole numbers). Items have title
        (the year in brackets) and genres (list of str); the users of 1M have gender, age (the band's lower
        end), occupation (a code) and zip.

    Raises:
        ValueError: no such version.
        DataMissing: it was not fetched.
        BadFile, SchemaError: a file is not what it should be.

    Example:
        >>> load_movielens("1m").users.height  # doctest: +SKIP
        6040
    """
    if f"ml-{version}" not in MOVIELENS:
        raise ValueError(f"There is no MovieLens {version!r}; there are 1m, 25m, 32m.")
    data = MOVIELENS[f"ml-{version}"]
    folder = locate(data)
    return _load_dat(data.name, folder) if version == "1m" else _load_csv(data.name, folder)


def _load_dat(name: str, folder: Path) -> Interactions:
    ratings = _read_dat(folder / "ratings.dat", ("UserID", "MovieID", "Rating", "Timestamp"))
    people = _read_dat(folder / "users.dat", ("UserID", "Gender", "Age", "Occupation", "Zip-code"))
    films = _read_dat(folder / "movies.dat", ("MovieID", "Title", "Genres"))
    ratings = ratings.select(pl.all().cast(pl.Int64))
    users = number(people["UserID"].cast(pl.Int64), "user_id").join(
        people.select(
            key="UserID",
            gender="Gender",
            age=pl.col("Age").cast(pl.Int16),
            occupation=pl.col("Occupation").cast(pl.Int16),
            zip="Zip-code",
        ),
        on="key",
        how="left",
        maintain_order="left",
    )
    items = _items(films.select(key="MovieID", title="Title", genres="Genres"))
    events = _events(ratings.lazy(), ("UserID", "MovieID", "Rating", "Timestamp"), users, items)
    events = events.sort("time", maintain_order=True).collect().lazy()
    tables = {"events": events, "users": users.lazy(), "items": items.lazy()}
    check_interactions(name, tables)
    return Interactions(name, tables["events"], users, items)


def _load_csv(name: str, folder: Path) -> Interactions:
    ratings, movies = folder / "ratings.csv", folder / "movies.csv"

    def build() -> dict[str, pl.LazyFrame]:
        scanned = scan_table(ratings, _RATINGS)
        users = number(scanned.select("userId").unique().collect(engine="streaming")["userId"], "user_id")
        with table_errors(movies, _MOVIES):
            films = scan_table(movies, _MOVIES).collect()
        items = _items(films.select(key=pl.col("movieId").cast(pl.String), title="title", genres="genres"))
        events = _events(scanned, ("userId", "movieId", "rating", "timestamp"), users, items)
        return {"events": events, "users": users.lazy(), "items": items.lazy()}

    with table_errors(ratings, _RATINGS):
        tables = prepared(
            name,
            [ratings, movies],
            build,
            lambda tables: check_interactions(name, tables),
            order={"events": "time"},
        )
    return Interactions(name, tables["events"], tables["users"].collect(), tables["items"].collect())


def _items(films: pl.DataFrame) -> pl.DataFrame:
    """Films with row numbers; genres as a list, empty for "(no genres listed)"."""
    genres = pl.when(pl.col("genres") == "(no genres listed)").then(pl.lit("")).otherwise(pl.col("genres"))
    split = genres.str.split("|").list.eval(pl.element().filter(pl.element() != ""))
    table = number(films["key"].cast(pl.Int64), "item_id")
    return table.join(films.with_columns(genres=split), on="key", how="left", maintain_order="left")


def _events(
    ratings: pl.LazyFrame, names: tuple[str, str, str, str], users: pl.DataFrame, items: pl.DataFrame
) -> pl.LazyFrame:
    user, film, rating, time = names
    events = ratings.select(
        user_id=pl.col(user).cast(pl.String),
        item_id=pl.col(film).cast(pl.String),
        time=milliseconds(pl.col(time), "s"),
        rating=pl.col(rating).cast(pl.Float32),
        kind=pl.lit("rating"),
    )
    return numbered(events, {"user_id": users, "item_id": items})


def _read_dat(path: Path, names: tuple[str, ...]) -> pl.DataFrame:
    """Fields separated by ``::``, no header, Latin-1; all as text."""
    with reading(path, "fields separated by ::"):
        lines = path.read_bytes().decode("latin-1").replace("\r\n", "\n").removesuffix("\n").split("\n")
        rows = []
        for number_, line in enumerate(lines):
            parts = line.split("::")
            numbers = parts if path.name == "ratings.dat" else parts[:1]
            if len(parts) != len(names) or not all(part.isdecimal() for part in numbers):
                raise BadFile(
                    f"{path.name}: line {number_ + 1} is not {', '.join(names)} separated by ::; "
                    f"{once_more(path)}."
                )
            rows.append(parts)
        if not rows:
            raise BadFile(f"{path.name} is empty; {once_more(path)}.")
        return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


_RATINGS = {"userId": pl.Int64, "movieId": pl.Int64, "rating": pl.Float64, "timestamp": pl.Int64}
_MOVIES = {"movieId": pl.Int64, "title": pl.String, "genres": pl.String}
