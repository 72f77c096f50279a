"""Where a data set's files are, and whether they are the very files that the numbers were computed on."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from labkit.home import home


class DataMissing(FileNotFoundError):
    """A data set is not in any folder that was searched."""


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is opened.

    Attributes:
        name: also the name of its folder.
        title: what it is, for a list.
        source: its public home, with the exact version.
        licence: what its owners state; printed on first use.
        files: file names with the SHA-256 of their bytes.
    """

    name: str
    title: str
    source: str
    licence: str
    files: dict[str, str] = field(default_factory=dict)


def folders() -> list[Path]:
    """The folders searched for data sets: those that LABKIT_DATA names, then ``data`` under LABKIT_HOME."""
    named = [Path(name).expanduser() for name in os.environ.get("LABKIT_DATA", "").split(os.pathsep) if name]
    return [*named, home() / "data"]


def locate(data: DataSet) -> Path:
    """Find a data set's folder and check every file in it.

    Args:
        data: which one.

    Returns:
        The folder, all of whose files have the expected checksum.

    Raises:
        DataMissing: no searched folder holds it; the message says where it comes from and where to put it.
        ValueError: a file was found with other content.

    Example:
        >>> locate(DataSet("no_such_set", "An example", "https://example.org", "none"))
        Traceback (most recent call last):
        ...
        labkit.data.sources.DataMissing: The data set no_such_set was not found...
    """
    for folder in folders():
        place = folder / data.name
        if data.files and all((place / name).is_file() for name in data.files):
            for name, expected in data.files.items():
                found = hashlib.sha256((place / name).read_bytes()).hexdigest()
                if found != expected:
                    raise ValueError(
                        f"{place / name} is not the expected version of {data.name} (SHA-256 {found[:12]}…, "
                        f"expected {expected[:12]}…); fetch it again from {data.source}."
                    )
            _notice(data)
            return place
    wanted = ", ".join(data.files) or "its files"
    raise DataMissing(
        f"The data set {data.name} was not found: put {wanted} (made from {data.source}) into a folder named "
        f"{data.name} and set LABKIT_DATA to the folder that holds it."
    )


def _notice(data: DataSet) -> None:
    """State the licence the first time a data set is used, and remember that it was stated."""
    mark = home() / "licences" / data.name
    if mark.exists() or data.name in _stated:
        return
    _stated.add(data.name)
    print(f"Using {data.title}. Licence: {data.licence} Source: {data.source}", file=sys.stderr)
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError:
        pass  # a read-only home: it is stated again next time


_stated: set[str] = set()
