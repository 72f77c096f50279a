"""Downloads that go on where they stopped, and never leave half a file under the final name.

pooch, the usual library for this, downloads into a temporary file and begins again after a break, which for
gigabytes over a class's Wi-Fi may never end. So the loop is here, on the standard library: ask for the bytes
that are missing (RFC 9110, Range and If-Range), append, check, rename.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from labkit.data.checksums import digest, split

TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 18


class DownloadError(OSError):
    """A download did not succeed; the message is one sentence that says why and what to do."""


class _Cut(Exception):
    """The connection ended before the file did."""


def download(
    url: str,
    target: Path,
    checksum: str = "",
    *,
    check: Callable[[Path], str | None] | None = None,
    attempts: int = 4,
    pause: float = 1.0,
) -> Path:
    """Download a file, going on from what an earlier attempt left.

    What has arrived waits in ``<name>.part`` beside the target. It is renamed to the target only when it is
    complete and has the right checksum, so whoever sees the target sees the whole file.

    Args:
        url: an http or https address.
        target: where the file goes; a file that is there is replaced at the end.
        checksum: "sha256:…", "md5:…" or "git:…" of the whole file; "" when its publisher states none.
        check: looks at what has come before it gets its name, and says what is wrong with it, as a clause.
        attempts: how often to try in a row without one new byte.
        pause: seconds before another try.

    Returns:
        The target.

    Raises:
        DownloadError: no connection, no such file, no room, cut off, stopped by the user, something else than
            the file (a login page), or other bytes than the checksum or the check says. What had arrived is
            kept for the next call, except where it is wrong.

    Example:
        >>> download("ftp://example.org/a", Path("a"))
        Traceback (most recent call last):
        ...
        labkit.data.download.DownloadError: ftp://example.org/a is not an http or https address.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url} is not an http or https address.")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _owned(part) as stream, _progress(target.name) as show:
            left = attempts
            while True:
                before = _size(stream)
                try:
                    _receive(url, stream, part, show, certain=bool(checksum))
                    break
                except (_Cut, ConnectionError, TimeoutError, http.client.HTTPException) as cut:
                    left = attempts if _size(stream) > before else left - 1
                    if left <= 0:
                        raise DownloadError(
                            f"The download of {target.name} broke off at {_amount(_size(stream))} "
                            f"({_reason(cut)}); run the same command again and it goes on from there."
                        ) from cut
                    time.sleep(pause)
        if problem := _wrong(part, checksum) or (check(part) if check else None):
            _forget(part)
            raise DownloadError(
                f"{target.name} from {url} is not the expected file ({problem}), so it was not kept; run the "
                "same command again, and if the file is still another one, its publisher has changed it."
            )
        part.replace(target)
        _tag(part).unlink(missing_ok=True)
        return target
    except KeyboardInterrupt:
        raise DownloadError(
            f"The download of {target.name} was stopped; "
            "run the same command again and it goes on from there."
        ) from None
    except urllib.error.HTTPError as error:
        raise DownloadError(_answer(url, target, error)) from None
    except urllib.error.URLError as error:
        raise DownloadError(
            f"{url} could not be reached ({_reason(error.reason)}); check the network and run the same "
            f"command again, or put the file at {target} by hand."
        ) from None
    except DownloadError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            says = f"There is no room for {target.name} in {target.parent}"
            raise DownloadError(f"{says}; free some space and run the same command again.") from None
        raise DownloadError(
            f"{target.name} can't be written to {target.parent} ({_reason(error)})."
        ) from None
    finally:
        # Nothing arrived: leave nothing behind.
        with contextlib.suppress(OSError):
            if part.stat().st_size == 0:
                _forget(part)


def _receive(url: str, stream: IO[bytes], part: Path, show: Any, certain: bool) -> None:
    """Ask for the bytes that are missing and append them; :class:`_Cut` when fewer came than announced.

    Args:
        certain: the whole file's checksum is known, so that a wrong continuation would be noticed.
    """
    have = _size(stream)
    tag = _tag(part).read_text(encoding="utf-8") if _tag(part).exists() else ""
    if have and not (tag or certain):
        # Nothing would tell whether the file changed in between.
        have = _restart(stream)
    headers = {"User-Agent": "labkit", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return  # all of it had arrived
        _restart(stream)
        raise _Cut("the file on the server has changed") from None
    with response:
        _refuse(url, response, part.name.removesuffix(".part"), bool(have), certain)
        total = None
        if response.status == 206:
            # A server may send less than all that is missing; the last number is the whole file's length.
            given = re.match(r"bytes (\d+)-\d+/(\d+)$", response.headers.get("Content-Range", ""))
            if not given or int(given[1]) != have:
                _restart(stream)
                raise _Cut("the server sent another part than was asked for")
            if tag and response.headers.get("ETag" if tag.startswith('"') else "Last-Modified", tag) != tag:
                _restart(stream)
                raise _Cut("the file on the server has changed")
            total = int(given[2])
        else:
            have = _restart(stream)
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
        if total is not None:
            free = shutil.disk_usage(part.parent).free
            if total - have > free:
                raise OSError(errno.ENOSPC, "no space left")
        # A weak tag ("W/…") does not promise the same bytes.
        strong = response.headers.get("ETag", "")
        tag = response.headers.get("Last-Modified", "") if strong.startswith("W/") or not strong else strong
        if tag:
            _tag(part).write_text(tag, encoding="utf-8")
        else:
            _tag(part).unlink(missing_ok=True)
        show(have, total)
        try:
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                have += len(chunk)
                show(have, total)
        except http.client.IncompleteRead as cut:
            # What came with the last piece is as good as the rest.
            stream.write(cut.partial)
            raise _Cut("the connection was cut") from None
        finally:
            stream.flush()
        if total is not None and have < total:
            raise _Cut(f"the connection was cut before {_amount(total)}")
        if total is not None and have > total:
            _restart(stream)
            raise _Cut("the server sent more than it had announced")


def _refuse(url: str, response: Any, name: str, part: bool, certain: bool) -> None:
    """Raise when an answer that is no error is not the file either; nothing of it has been written then.

    Args:
        name: the file's.
        part: only the missing bytes were asked for.
        certain: a checksum will tell, whatever the answer calls itself.
    """
    if response.status != 200 and not (part and response.status == 206):
        raise DownloadError(
            f"{url} answers {response.status}, which does not bring the file; "
            "run the same command again later."
        )
    coding = response.headers.get("Content-Encoding", "identity").lower()
    # Many servers call a .gz file, which they send as it is, encoded.
    if coding != "identity" and not (name.endswith(".gz") and coding in ("gzip", "x-gzip")):
        raise DownloadError(
            f"{url} sends {name} packed as {coding}, though it was asked not to; "
            "run the same command again in another network."
        )
    page = response.headers.get_content_type() == "text/html" and not name.endswith((".html", ".htm"))
    if page and not certain:
        raise DownloadError(
            f"{url} answers with a web page instead of {name}: open it in a browser, where it may ask for a "
            "login or for your consent, then run the same command again."
        )


@contextlib.contextmanager
def _owned(part: Path) -> Iterator[IO[bytes]]:
    """The .part file, open for appending, and no other process in it."""
    with part.open("ab") as stream:
        try:
            import fcntl
        except ImportError:  # Windows: two downloads of one file at a time end in a wrong checksum, no worse
            yield stream
            return
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(
                f"{part.stem} is being downloaded by another process; wait until that one has finished."
            ) from None
        yield stream


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Any]:
    """A function of (bytes had, bytes in all or None) that draws a bar on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Speed

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        Speed(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"Downloading {name}", total=None)
        yield lambda had, total: bar.update(task, completed=had, total=total)


def _wrong(part: Path, checksum: str) -> str | None:
    kind, expected = split(checksum)
    if not expected:
        return None
    found = digest(part, kind)
    return None if found == expected else f"{kind} {found[:12]}…, expected {expected[:12]}…"


def _answer(url: str, target: Path, error: urllib.error.HTTPError) -> str:
    if error.code in (404, 410):
        return (
            f"{url} answers {error.code}: the file is no longer there; look for it at its publisher and "
            f"put it at {target} by hand."
        )
    if error.code in (401, 403):
        return (
            f"{url} answers {error.code}: it is not given to everyone; get {target.name} from its "
            f"publisher by hand and put it at {target}."
        )
    # Of a redirection that leads back to itself, urllib tells in three lines.
    reason = str(error.reason).split("\n")[0].rstrip(".")
    return f"{url} answers {error.code} ({reason}); run the same command again later."


def _size(stream: IO[bytes]) -> int:
    return os.fstat(stream.fileno()).st_size


def _restart(stream: IO[bytes]) -> int:
    stream.truncate(0)
    return 0


def _tag(part: Path) -> Path:
    """Beside the part: what the server called this version of the file, so as not to join two versions."""
    return part.with_name(part.name + ".tag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _amount(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _reason(error: object) -> str:
    """Why, in a few words: the system's own, or else the kind of error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).split("\n")[0].rstrip(".") or type(error).__name__
