"""Where labkit keeps what it makes: generated worlds, downloads, the learner's progress."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """The folder ``LABKIT_HOME`` names, else the platform's user cache folder for "labkit".

    It is not created here: it may be read-only, and a reader needs nothing in it.

    Example:
        >>> home().name  # doctest: +SKIP
        'labkit'
    """
    return _named() or Path(platformdirs.user_cache_dir("labkit", appauthor=False))


def records() -> Path:
    """The folder for what can't be made again: ``LABKIT_HOME`` too, else the platform's user data folder.

    Caches are emptied, by hand and by cleaners; nobody should lose their progress with one.

    Example:
        >>> records().name  # doctest: +SKIP
        'labkit'
    """
    return _named() or Path(platformdirs.user_data_dir("labkit", appauthor=False))


def _named() -> Path | None:
    named = os.environ.get("LABKIT_HOME")
    return Path(named).expanduser() if named else None
