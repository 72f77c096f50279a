"""Open Bandit: what a fashion shop recommended, with which probability, and what was clicked."""

from __future__ import annotations

import polars as pl

from labkit.data.files import read_parquet, read_table
from labkit.data.schemas import INTEGER, Column, Schema, validate
from labkit.data.sources import DataSet, Remote, find
from labkit.data.tables import LoggedBandit

_COMMIT = "8cbd5fa4558b7ad2ba4781546d6604e4cc3e07c4"
_RAW = f"https://raw.githubusercontent.com/st-tech/zr-obp/{_COMMIT}/obd"

OPEN_BANDIT = DataSet(
    name="open_bandit_small",
    title="Open Bandit, 4 x 10 000 logged recommendations of a fashion shop with their probabilities",
    source=f"https://github.com/st-tech/zr-obp (commit {_COMMIT}), folder obd",
    licence="Apache-2.0. Saito et al., Open Bandit Dataset and Pipeline, arXiv 2008.07146.",
    files={
        "random_men.parquet": "181b82ba812ad00a78b829064fb2d07f5bcc0bf6450f1e426df0037e9debba05",
        "random_women.parquet": "1bbcb183249a0ed1bde04ecb9ddc2409a71e9a973fea8db2cc801513be07c5ec",
        "bts_men.parquet": "cc6c21f4c9a03c57ce71d09348310a717b1fd2486a4ba81d340751d133fc14d2",
        "bts_women.parquet": "86e35f8be600b69a344499089302827d38dc629f3b5719640446dda56900ca1d",
        "item_context_men.parquet": "8b4bcdb5da7966d8baef4cf0aed0c12ffc488d3fa94c6f718027fad73cf9f8d2",
        "item_context_women.parquet": "5909e17ba4a75f08c2fc92f4a9b8e6a37cfd677749e76f7638eacba14fd36681",
    },
    published={
        "random_men.csv": Remote(
            f"{_RAW}/random/men/men.csv", "git:e99ba925c30ccd537a554ce8ea2104a005c6f49e"
        ),
        "random_women.csv": Remote(
            f"{_RAW}/random/women/women.csv", "git:630e72022583db451326bb4f7c23e4f4130708fb"
        ),
        "bts_men.csv": Remote(f"{_RAW}/bts/men/men.csv", "git:fbd217ad69b08f6dc338c7e2180cd8da16fcf658"),
        "bts_women.csv": Remote(
            f"{_RAW}/bts/women/women.csv", "git:d2a3ac87a545e428241c94e2b6549a386a323a80"
        ),
        # The items are the same for both policies.
        "item_context_men.csv": Remote(
            f"{_RAW}/random/men/item_context.csv", "git:a60a504367e3e2d9eb6e89be1d8a7aa72db3313c"
        ),
        "item_context_women.csv": Remote(
            f"{_RAW}/random/women/item_context.csv", "git:421c9b7f3306232a758e41aefee883fe07014bfe"
        ),
    },
)


def load_open_bandit(policy: str = "random", campaign: str = "men") -> LoggedBandit:
    """Load 10 000 rows of the Open Bandit log.

    Click rates are about half a per cent, so 10 000 rows hold some 50 clicks: report intervals.

    Args:
        policy: "random", or "bts" for Bernoulli Thompson sampling.
        campaign: "men" (34 items) or "women" (46 items).

    Returns:
        The log and the items; see :class:`LoggedBandit`. The user's features are user_feature_0 … 3 (hashed
        texts), the affinities user-item_affinity_0 … (f32), the item's item_feature_0 (f64) … 3 (hashed).

    Raises:
        ValueError: no such policy or campaign.
        DataMissing: the files are in none of the searched folders.
        BadFile, SchemaError: a file is not what it should be.
    """
    if policy not in ("random", "bts") or campaign not in ("men", "women"):
        raise ValueError(
            f"There is no log {policy!r}, {campaign!r}; policies are random, bts, campaigns men, women."
        )
    folder, edition = find(OPEN_BANDIT)
    if edition == "prepared":
        path = folder / f"{policy}_{campaign}.parquet"
        items = read_parquet(folder / f"item_context_{campaign}.parquet", _ITEMS)
        logged = read_parquet(path, _LOG)
    else:
        path = folder / f"{policy}_{campaign}.csv"
        items = read_table(folder / f"item_context_{campaign}.csv", _ITEM_COLUMNS)
        affinities = {f"user-item_affinity_{i}": pl.Float32 for i in range(items.height)}
        logged = validate(read_table(path, {**_LOG_COLUMNS, **affinities}), _LOG, table=path.name)
    items = items.with_columns(pl.col("item_id").cast(pl.Int32)).sort("item_id")
    log = logged.select(
        pl.col("timestamp").str.to_datetime(time_unit="us", time_zone="UTC", strict=False).alias("time"),
        pl.col("item_id").cast(pl.Int32),
        pl.col("position").cast(pl.Int8),
        pl.col("click").cast(pl.Boolean).alias("clicked"),
        pl.col("propensity_score").alias("propensity"),
        pl.col("^user_feature_.*$"),
        pl.col("^user-item_affinity_.*$"),
    )
    validate(items, "bandit.items", table=f"item_context_{campaign}{path.suffix}")
    validate(log, "bandit.log", table=path.name, references={"items": items})
    return LoggedBandit(OPEN_BANDIT.name, log, items, policy, campaign)


_ITEM_COLUMNS = {
    "item_id": pl.Int64,
    "item_feature_0": pl.Float64,
    **{f"item_feature_{i}": pl.String for i in (1, 2, 3)},
}
_LOG_COLUMNS = {
    "timestamp": pl.String,
    "item_id": pl.Int64,
    "position": pl.Int64,
    "click": pl.Int64,
    "propensity_score": pl.Float64,
    **{f"user_feature_{i}": pl.String for i in range(4)},
}
_ITEMS = Schema("items", {"item_id": Column(INTEGER, 0)}, key=("item_id",))
_LOG = Schema(
    "log",
    {
        "timestamp": Column(pl.String),
        "item_id": Column(INTEGER, 0),
        "position": Column(INTEGER, 1, 3),
        "click": Column(INTEGER, 0, 1),
        "propensity_score": Column(pl.Float64, 0, 1),
    },
)
