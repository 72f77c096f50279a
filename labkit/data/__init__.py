"""Data: real sets found, downloaded and checked to the byte; tables checked, cleaned, split, anonymised.

Real data are never part of the project: they lie in the folders that ``LABKIT_DATA`` names, or under
``LABKIT_HOME``.
"""

from labkit.data.clicks import click_rates
from labkit.data.download import DownloadError
from labkit.data.fetching import fetch
from labkit.data.files import BadFile
from labkit.data.schemas import Column, Schema, SchemaError, validate
from labkit.data.sets import *  # noqa: F403  the loaders and declarations that labkit.data.sets lists
from labkit.data.sets import CHORUS, DATA_SETS, describe_sets, load_chorus
from labkit.data.sets import __all__ as _sets
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
    "load_chorus",
    "locate",
    "validate",
    *(name for name in _sets if name.startswith("load_") and name != "load_chorus"),
]
