"""Getting a data set from its publisher."""

from __future__ import annotations

import contextlib
import shutil
import zipfile
import zlib
from functools import partial
from pathlib import Path

from labkit.data.checksums import mismatch, remember
from labkit.data.download import DownloadError, download
from labkit.data.sources import DataMissing, DataSet, Remote, advice, find, holding, notice, trusted
from labkit.data.whole import miscounted, unfinished
from labkit.home import home


def fetch(data: DataSet, into: Path | None = None, again: bool = False) -> Path:
    """Download a data set, unless it is there already.

    A file appears under its name when it is whole and checked, never before; what is cut off waits in a
    ``.part`` file, from which the next call goes on.

    Args:
        data: which one.
        into: the folder in which a folder of the set's name is made; None for ``data`` under LABKIT_HOME.
        again: download it anew even if it is there. Each file stays as it is until its successor has come.

    Returns:
        The set's folder.

    Raises:
        DataMissing: it can't be downloaded, because its owners want it asked for or offer it in another
            form; the message says what to do.
        DownloadError: the download failed; the message says why.
        ValueError: the set is there, with other content.

    Example:
        >>> fetch(DATA_SETS["movielens_1m"])  # doctest: +SKIP
    """
    if again and not data.fetchable:
        raise DataMissing(f"The data set {data.name} can't be downloaded anew: {advice(data)}")
    reason = None
    if not again:
        try:
            return find(data)[0]
        except DataMissing as missing:
            if not data.fetchable:
                raise
            reason = missing
    notice(data)
    # What is to be replaced may lie in a folder that LABKIT_DATA names.
    place = into / data.name if into else (again and holding(data)) or home() / "data" / data.name
    unstated = []
    try:
        for name, remote in data.published.items():
            inside = list(remote.members.values()) or [name]
            if remote.members and not again and all((place / file).is_file() for file in inside):
                continue
            there = not remote.members and not again and (place / name).is_file()
            if there and (not remote.checksum or _whole(place / name, remote.checksum)):
                continue  # a file with other content is downloaded anew
            # An archive that is there is one that could not be unpacked for want of room or time.
            if not (remote.members and _whole(place / name, remote.checksum)):
                look = None if remote.checksum else partial(_look, data, name)
                download(remote.url, place / name, remote.checksum, check=look)
            if remote.members:
                _unpack(place / name, place, remote)
            if remote.members or not remote.checksum:
                # An archive's members have no checksum of their own; theirs is taken once it was right.
                remember(place, inside)
            if not remote.checksum:
                unstated += inside
    finally:
        with contextlib.suppress(OSError):
            place.rmdir()  # only when nothing came at all
    if unstated:
        trusted(data, unstated)
    if into is not None:
        return place
    try:
        return find(data)[0]
    except DataMissing as missing:
        raise reason or missing from None


def _look(data: DataSet, name: str, part: Path) -> str | None:
    """What is wrong with a file that has come without a checksum, as a clause."""
    return unfinished(part, name) or miscounted(part, data.rows.get(name), name)


def _whole(path: Path, checksum: str) -> bool:
    """Whether a file is there and has the checksum; never where no checksum is known."""
    return bool(checksum) and path.is_file() and not mismatch(path, checksum)


def _unpack(archive: Path, place: Path, remote: Remote) -> None:
    """Take the named members out of a zip file, each appearing when it is whole; then drop the archive."""
    parts = []
    try:
        with zipfile.ZipFile(archive) as opened:
            for member, name in remote.members.items():
                part = place / f"{name}.part"
                parts.append(part)
                part.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, part.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
        for part in parts:
            part.replace(part.with_name(part.name.removesuffix(".part")))
        archive.unlink()
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        archive.unlink(missing_ok=True)
        raise DownloadError(
            f"{archive.name} from {remote.url} is not a whole zip file ({error}), so it was not kept; run "
            "the same command again."
        ) from None
    except KeyError as error:
        archive.unlink(missing_ok=True)
        raise DownloadError(
            f"{archive.name} from {remote.url} has changed: {str(error.args[0]).rstrip('.')}."
        ) from None
    except OSError as error:
        raise DownloadError(
            f"{archive.name} could not be unpacked in {place} ({error.strerror or error}); make room and run "
            "the same command again, nothing is downloaded twice."
        ) from None
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
