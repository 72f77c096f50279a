"""Messages over the values socket: a length, then what `autograder.values` made. Both ends use it."""

from __future__ import annotations

import socket
import struct
import time

from autograder.values import MAX_BYTES

__all__ = ["Wire", "WireClosed"]


class WireClosed(ConnectionError):
    """The other end is gone, or what it sends is no message."""


class Wire:
    """One end of a connected stream socket.

    A deadline is of ``time.monotonic()``; None waits for ever. A message that is half received when the
    deadline passes is kept, and the next `receive` goes on with it.
    """

    def __init__(self, sock: socket.socket, max_bytes: int = MAX_BYTES) -> None:
        self._socket = sock
        self._max_bytes = max_bytes + 1024  # the envelope around a value
        self._buffer = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, message: bytes, deadline: float | None = None) -> None:
        """Send one message.

        Raises:
            WireClosed: the other end is gone.
            TimeoutError: the deadline passed. A message cut in two cannot be mended: the wire is closed.
        """
        data = memoryview(struct.pack(">I", len(message)) + message)
        try:
            while data:
                self._set_timeout(deadline)
                data = data[self._socket.send(data) :]
        except TimeoutError:
            self.close()
            raise
        except OSError as error:
            raise WireClosed(f"The other end is gone ({error}).") from error

    def receive(self, deadline: float | None = None) -> bytes:
        """Receive one message. Memory is taken for what came, not for the length that was announced.

        Raises:
            WireClosed: the other end is gone or announced too much.
            TimeoutError: the deadline passed.
        """
        self._fill(4, deadline)
        (size,) = struct.unpack(">I", self._buffer[:4])
        if size > self._max_bytes:
            raise WireClosed(f"A message of {size >> 20} MB was announced, which is too large.")
        self._fill(4 + size, deadline)
        message = bytes(self._buffer[4 : 4 + size])
        del self._buffer[: 4 + size]
        return message

    def _fill(self, size: int, deadline: float | None) -> None:
        try:
            while len(self._buffer) < size:
                self._set_timeout(deadline)
                piece = self._socket.recv(min(size - len(self._buffer), 1 << 20))
                if not piece:
                    raise WireClosed("The other end is gone.")
                self._buffer += piece
        except (TimeoutError, WireClosed):
            raise
        except OSError as error:
            raise WireClosed(f"The other end is gone ({error}).") from error

    def _set_timeout(self, deadline: float | None) -> None:
        if deadline is None:
            self._socket.settimeout(None)
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("The deadline passed.")
        self._socket.settimeout(left)
