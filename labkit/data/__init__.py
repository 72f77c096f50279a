"""Data: real sets found, downloaded and checked to the byte; tables checked, cleaned, split, anonymised.

Real data are never part of the project: they lie in the folders that ``LABKIT_DATA`` names, or under
``LABKIT_HOME``. ``DATA_SETS`` declares them, each ``load_`` function returns one in a shape of
:mod:`labkit.data.tables`, and ``validate`` checks a table against a schema with an error that names column,
row and rule.

The steps of cleaning stand in modules of their own, one idea each (``duplicates``, ``bots``, ``units``,
``clocks``, ``encoding``, ``outliers``, ``missing``, ``spam``, ``testers``, ``leaks``); ``steps`` runs them,
``clean_shop`` puts them in order for the simulated shop. Then come ``splits``, ``sessions``, ``features``,
and ``privacy``, ``encryption``, ``consent``.
"""

from labkit.data.clicks import click_rates
from labkit.data.download import DownloadError
from labkit.data.fetching import fetch
from labkit.data.files import BadFile
from labkit.data.schemas import Column, Schema, SchemaError, validate
from labkit.data.sets import (
    CHORUS,
    DATA_SETS,
    describe_sets,
    load_amazon_beauty,
    load_amazon_reviews,
    load_banking77,
    load_bitext,
    load_chorus,
    load_chorus_raters,
    load_ciao,
    load_clothing,
    load_diginetica,
    load_esci,
    load_esci_sample,
    load_finance_scores,
    load_hillstrom,
    load_hm,
    load_movielens,
    load_open_bandit,
    load_phrasebank,
    load_product_matching,
    load_retailrocket,
    load_wands,
    load_wands_queries,
    load_zh_reviews,
)
from labkit.data.sources import DataMissing, DataSet, locate
from labkit.data.tables import (
    Interactions,
    JudgedSearch,
    LabelledImages,
    LabelledText,
    LoggedBandit,
    MatchingPairs,
    Sessions,
    Trial,
)

__all__ = [
    "CHORUS",
    "DATA_SETS",
    "BadFile",
    "Column",
    "DataMissing",
    "DataSet",
    "DownloadError",
    "Interactions",
    "JudgedSearch",
    "LabelledImages",
    "LabelledText",
    "LoggedBandit",
    "MatchingPairs",
    "Schema",
    "SchemaError",
    "Sessions",
    "Trial",
    "click_rates",
    "describe_sets",
    "fetch",
    "load_amazon_beauty",
    "load_amazon_reviews",
    "load_banking77",
    "load_bitext",
    "load_chorus",
    "load_chorus_raters",
    "load_ciao",
    "load_clothing",
    "load_diginetica",
    "load_esci",
    "load_esci_sample",
    "load_finance_scores",
    "load_hillstrom",
    "load_hm",
    "load_movielens",
    "load_open_bandit",
    "load_phrasebank",
    "load_product_matching",
    "load_retailrocket",
    "load_wands",
    "load_wands_queries",
    "load_zh_reviews",
    "locate",
    "validate",
]
