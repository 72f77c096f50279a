"""Tables at rest that nobody reads without the key, and nobody changes unnoticed."""

from __future__ import annotations

import os
import struct
from pathlib import Path

MAGIC = b"labkit1\n"
CHUNK = 1 << 20  # bytes of plain text per sealed chunk: a file of any size passes through 1 MiB of memory


class SealBroken(ValueError):
    """The key is wrong, or the file is not what was written."""


def new_key() -> bytes:
    """A fresh 256-bit key; keep it apart from the data.

    Example:
        >>> len(new_key())
        32
    """
    return os.urandom(32)


def encrypt_table(source: Path | str, target: Path | str, key: bytes, name: str = "") -> None:
    """Seal a file with AES-256-GCM, chunk by chunk.

    Each chunk is bound to its number and to whether it is the last, so that chunks can be neither swapped nor
    cut off. Source: NIST SP 800-38D; the construction is STREAM (Hoang et al., 2015).

    Args:
        source: any file, of any size (parquet, for instance).
        target: written whole or not at all.
        key: 32 bytes, from `new_key`.
        name: what the file is ("shoppers"); it opens only under the same name, so that one sealed file cannot
            be passed off as another. It is not written down.

    Raises:
        ValueError: the key has another length.
        FileNotFoundError: there is no source.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "plain").write_text("ada@example.org")
        >>> key = new_key()
        >>> encrypt_table(folder / "plain", folder / "sealed", key)
        >>> decrypt_table(folder / "sealed", folder / "again", key)
        >>> (folder / "again").read_text()
        'ada@example.org'
    """
    cipher, prefix = _cipher(key), os.urandom(7)
    target = Path(target)
    draft = _draft(target)
    try:
        with Path(source).open("rb") as plain, draft.open("xb") as sealed:
            sealed.write(MAGIC + prefix)
            chunk, number = plain.read(CHUNK), 0
            while True:
                following = plain.read(CHUNK)
                nonce = _nonce(prefix, number, last=not following)
                sealed.write(cipher.encrypt(nonce, chunk, MAGIC + name.encode()))
                if not following:
                    break
                chunk, number = following, number + 1
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def decrypt_table(source: Path | str, target: Path | str, key: bytes, name: str = "") -> None:
    """Open a file that `encrypt_table` sealed.

    Args:
        source: the sealed file.
        target: written whole or not at all: nothing unverified is ever left behind. Only its owner may read
            it.
        key: the one it was sealed with.
        name: the one it was sealed under.

    Raises:
        SealBroken: wrong key or name, a changed, shortened or lengthened file, or no sealed file at all.
        ValueError: the key is not 32 bytes long.
    """
    cipher = _cipher(key)
    source, target = Path(source), Path(target)
    draft = _draft(target)
    try:
        with source.open("rb") as sealed, open(draft, "xb", opener=_private) as plain:
            head = sealed.read(len(MAGIC) + 7)
            if head[: len(MAGIC)] != MAGIC or len(head) < len(MAGIC) + 7:
                raise SealBroken(f"{source.name} is not a file sealed by labkit.")
            prefix, number = head[len(MAGIC) :], 0
            chunk = sealed.read(CHUNK + 16)
            while True:
                following = sealed.read(CHUNK + 16)
                nonce = _nonce(prefix, number, last=not following)
                plain.write(_opened(cipher, nonce, chunk, name, source.name))
                if not following:
                    break
                chunk, number = following, number + 1
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _opened(cipher, nonce: bytes, chunk: bytes, name: str, file: str) -> bytes:
    from cryptography.exceptions import InvalidTag

    try:
        return cipher.decrypt(nonce, chunk, MAGIC + name.encode())
    except (InvalidTag, ValueError):
        raise SealBroken(
            f"{file} could not be opened: the key or the name is wrong, or the file was changed; "
            "nothing was written."
        ) from None


def _cipher(key: bytes):
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(key) != 32:
        raise ValueError(f"The key must be 32 bytes, as new_key() makes it; this one has {len(key)}.")
    return AESGCM(key)


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    """12 bytes: the file's random 7, the chunk's number in 4, and whether it is the last."""
    return prefix + struct.pack(">I?", number, last)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _draft(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
