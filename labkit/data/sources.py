"""Where a data set's files are, and whether they are the very files that are meant."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from labkit.data.checksums import LOCK, changed, mismatch, recall, remember
from labkit.data.files import BadFile, once_more
from labkit.data.whole import miscounted, unfinished
from labkit.home import home


class DataMissing(FileNotFoundError):
    """A data set is not in any folder that was searched."""


@dataclass(frozen=True)
class Remote:
    """A file as its publisher offers it.

    Attributes:
        url: its address.
        checksum: "sha256:…", "md5:…" or "git:…" as the publisher states it; "" when none is stated: then what
            comes at the first download is remembered, and must be there ever after.
        members: for an archive (zip), the names inside it and the names they get in the data set's folder;
            the archive itself is not kept.
    """

    url: str
    checksum: str = ""
    members: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is opened.

    A set comes in one or two editions: ``files``, as prepared for this course, and ``published``, as its
    publisher offers it. Either will do.

    Attributes:
        name: also the name of its folder.
        title: what it is, for a list.
        source: its public home, with the exact version.
        licence: what its owners state; printed on first use.
        files: file names of the prepared edition with the SHA-256 of their bytes.
        published: file names of the published edition and where they come from.
        by_hand: for a set that must be asked for (a login, terms to accept): what to do, as a clause that
            follows "The data set … was not found: ". Its files are the names in ``published``.
        rows: how many rows its publisher states for tables that may come without a checksum, by file name.
    """

    name: str
    title: str
    source: str
    licence: str
    files: dict[str, str] = field(default_factory=dict)
    published: dict[str, Remote] = field(default_factory=dict)
    by_hand: str = ""
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def published_files(self) -> list[str]:
        """The files of the published edition as they lie in the folder, archives unpacked."""
        return [
            name
            for file, remote in self.published.items()
            for name in (remote.members.values() if remote.members else [file])
        ]

    @property
    def fetchable(self) -> bool:
        """Whether :func:`labkit.data.fetching.fetch` can download it."""
        return bool(self.published) and all(remote.url for remote in self.published.values())


def folders() -> list[Path]:
    """The folders searched for data sets: those that LABKIT_DATA names, then ``data`` under LABKIT_HOME.

    In a named folder, ``measurement_only`` is searched too: sets whose rights allow no more than measuring.
    """
    named = [Path(name).expanduser() for name in os.environ.get("LABKIT_DATA", "").split(os.pathsep) if name]
    return [place for name in named for place in (name, name / "measurement_only")] + [home() / "data"]


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
    return find(data)[0]


def find(data: DataSet, used: bool = True) -> tuple[Path, str]:
    """As :func:`locate`, and which edition lies there: "prepared" or "published".

    Args:
        data: which one.
        used: whether it is about to be used, so that its licence is stated; a list of sets does not use them.
    """
    for folder in folders():
        place = folder / data.name
        if _holds(place, data.files):
            for name, expected in data.files.items():
                _check(data, place / name, mismatch(place / name, expected))
            if used:
                notice(data)
            return place, "prepared"
        if _holds(place, data.published_files):
            _check_published(data, place)
            if used:
                notice(data)
            return place, "published"
    raise DataMissing(f"The data set {data.name} was not found: {advice(data)}")


def holding(data: DataSet) -> Path | None:
    """The first searched folder of a set that has all files of its published edition, whatever they hold."""
    places = (folder / data.name for folder in folders())
    return next((place for place in places if _holds(place, data.published_files)), None)


def notice(data: DataSet) -> None:
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


def _holds(place: Path, names: Iterable[str]) -> bool:
    names = list(names)
    return bool(names) and all((place / name).is_file() for name in names)


def _check_published(data: DataSet, place: Path) -> None:
    """Check published files by the publisher's checksum where there is one, else by what was remembered."""
    known = recall(place)
    new = []
    for name in data.published_files:
        remote = data.published.get(name)
        if remote and remote.checksum:
            _check(data, place / name, mismatch(place / name, remote.checksum))
        elif name in known:
            _check(data, place / name, changed(place / name, known[name]))
        else:
            # What is remembered is taken for right ever after.
            problem = unfinished(place / name) or miscounted(place / name, data.rows.get(name))
            if problem:
                raise BadFile(f"{place / name} is not a whole file ({problem}); {once_more(place / name)}.")
            new.append(name)
    if new and remember(place, new):
        trusted(data, new)


def trusted(data: DataSet, names: list[str]) -> None:
    """Say that files were taken as they came, because nobody states their checksums."""
    print(
        f"The publisher of {data.name} states no checksum for {_listed(names)}; what is there now was "
        "recorded in checksums.json beside it, and another content will be refused from now on.",
        file=sys.stderr,
    )


def _check(data: DataSet, path: Path, problem: str | None) -> None:
    if problem:
        how = f"delete it and fetch it again from {data.source}"
        if data.fetchable and path.name in data.published_files:
            how = f"download it anew with `labkit data fetch {data.name} --again`"
        elif data.by_hand and path.name in data.published_files:
            how = f"if it is the one you mean, delete {LOCK} beside it, else get it again at {data.source}"
        raise ValueError(f"{path} is not the expected version of {data.name} ({problem}); {how}.")


def advice(data: DataSet) -> str:
    """How to get a data set, as a clause with its full stop."""
    if data.by_hand:
        return data.by_hand.format(place=home() / "data" / data.name)
    if data.fetchable:
        return (
            f"download it with `labkit data fetch {data.name}` (from {data.source}), or set LABKIT_DATA to a "
            f"folder that holds a folder {data.name} with "
            f"{_listed(list(data.files) or data.published_files)}."
        )
    wanted = _listed(list(data.files) or data.published_files) or "its files"
    return (
        f"put {wanted} (made from {data.source}) into a folder named {data.name} and set LABKIT_DATA to the "
        "folder that holds it."
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
