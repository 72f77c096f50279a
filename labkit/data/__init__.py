"""Real data sets: found in the folders the user names, checked to the byte, never part of the project."""

from labkit.data.chorus import CHORUS, load_chorus
from labkit.data.clicks import click_rates
from labkit.data.sources import DataMissing, DataSet, locate
from labkit.data.tables import JudgedSearch

DATA_SETS = {CHORUS.name: CHORUS}

__all__ = [
    "CHORUS",
    "DATA_SETS",
    "DataMissing",
    "DataSet",
    "JudgedSearch",
    "click_rates",
    "load_chorus",
    "locate",
]
