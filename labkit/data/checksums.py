"""Whether a file is the very file that is meant: SHA-256, MD5, or the id that git gives a file.

``checksums.json`` beside a data set's files remembers the checksums of files whose publisher states none:
what came the first time is what must be there the next time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

LOCK = "checksums.json"
LARGE = 64 << 20  # bytes above which an unchanged size and time of change are taken as proof
_CHUNK = 1 << 20
_verified: dict[Path, tuple[int, int, str]] = {}


def digest(path: Path, kind: str = "sha256") -> str:
    """The checksum of a file's bytes, read a megabyte at a time, with progress when it is large.

    Args:
        path: the file.
        kind: "sha256", "md5", or "git" (SHA-1 of ``blob <size>\\0`` and the bytes: ``git hash-object``).

    Returns:
        The checksum in hexadecimal.

    Raises:
        ValueError: there is no checksum of that kind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "empty"
        ...     path.touch()
        ...     digest(path, "git")
        'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    if kind not in ("sha256", "md5", "git"):
        raise ValueError(f"There is no checksum of kind {kind!r}; known are sha256, md5 and git.")
    size = path.stat().st_size
    # A checksum here detects damage and other versions; usedforsecurity lets MD5 run where policy forbids it.
    state = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
    if kind == "git":
        state.update(f"blob {size}\0".encode())
    with watched(path) as stream:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


@contextlib.contextmanager
def watched(path: Path) -> Iterator[IO[bytes]]:
    """A file opened for reading, with progress on stderr when it is large."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size < 512 << 20:
            yield stream
            return
        from rich.console import Console
        from rich.progress import wrap_file

        console = Console(stderr=True)
        with wrap_file(stream, size, description=f"Checking {path.name}", console=console) as shown:
            yield cast(IO[bytes], shown)


def split(checksum: str) -> tuple[str, str]:
    """``"md5:abc"`` as ("md5", "abc"); without a kind it is SHA-256."""
    kind, _, value = checksum.rpartition(":")
    return kind or "sha256", value


def mismatch(path: Path, checksum: str) -> str | None:
    """What is wrong with a file's checksum, as a clause; None when it is right.

    A file found right is not read again in this process while its size and time of change stay as they are.
    """
    kind, expected = split(checksum)
    state = path.stat()
    seen = (state.st_size, state.st_mtime_ns, checksum)
    if _verified.get(path.resolve()) == seen:
        return None
    found = digest(path, kind)
    if found == expected:
        _verified[path.resolve()] = seen
        return None
    label = {"sha256": "SHA-256", "md5": "MD5", "git": "git id"}[kind]
    return f"{label} {found[:12]}…, expected {expected[:12]}…"


def recall(folder: Path) -> dict[str, dict[str, Any]]:
    """What ``checksums.json`` in a folder remembers, by file name; empty when there is none."""
    try:
        known = json.loads((folder / LOCK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def remember(folder: Path, names: list[str]) -> bool:
    """Record the SHA-256 of files in ``checksums.json``.

    Returns:
        Whether they could be recorded; a read-only folder is no error.
    """
    known = recall(folder)
    for name in names:
        state = (folder / name).stat()
        known[name] = {
            "sha256": digest(folder / name),
            "size": state.st_size,
            "mtime_ns": state.st_mtime_ns,
        }
    part = folder / f"{LOCK}.{os.getpid()}.part"
    try:
        part.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(folder / LOCK)
    except OSError:
        part.unlink(missing_ok=True)
        return False
    return True


def changed(path: Path, entry: dict[str, Any]) -> str | None:
    """What differs between a file and what was remembered of it, as a clause; None when nothing does."""
    state = path.stat()
    same = (state.st_size, state.st_mtime_ns) == (entry.get("size"), entry.get("mtime_ns"))
    if same and state.st_size > LARGE:
        return None
    return mismatch(path, f"sha256:{entry.get('sha256', '')}")
