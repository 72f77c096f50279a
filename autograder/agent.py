"""The student's side of the values socket: lets tests that run elsewhere call the student's functions.

It runs on the kernel's main loop, in the main thread, between cells, so a call meets the same globals, the
same thread and the same signal handling as a cell would. It is in the student's process and so in the
student's hands: the other side believes nothing that comes from here.
"""

from __future__ import annotations

import builtins
import contextlib
import linecache
import os
import re
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any

from tornado.ioloop import IOLoop

from autograder import values
from autograder.wire import Wire, WireClosed

_MAX_LINES = 12  # lines of a traceback that are worth reading


class Agent:
    """Serves requests from the values socket until it closes.

    Args:
        descriptor: the socket.
        namespace: where names are resolved; the notebook's globals.

    A request is ``(operation, number, released handles, *operands)``. The reply is ``("value", number,
    value)`` or ``("error", number, name, builtin bases, message, traceback lines)``; before it, the student's
    code may ask ``("callback", number, function, args, kwargs)``, which is answered with ``("return",
    value)`` or ``("raise", name)``.
    """

    def __init__(self, descriptor: int, namespace: dict[str, Any]) -> None:
        self._wire = Wire(socket.socket(fileno=descriptor))
        self._namespace = namespace
        self._objects: dict[int, Any] = {}
        self._handles: dict[int, int] = {}  # id of the object -> handle
        self._last = 0
        self._loop: IOLoop | None = None

    def register(self) -> None:
        """Serve from the current event loop on."""
        self._loop = IOLoop.current()
        self._loop.add_handler(self._wire.fileno(), lambda *_: self._readable(), IOLoop.READ)

    def _readable(self) -> None:
        try:
            self.serve_one()
        except (WireClosed, values.ValuesError, OSError):
            if self._loop is not None:
                self._loop.remove_handler(self._wire.fileno())
            self._wire.close()

    def serve_one(self) -> None:
        """Receive one request and answer it."""
        self._serve(values.decode(self._wire.receive(), self._incoming))

    def _serve(self, request: tuple[Any, ...]) -> None:
        operation, number, released, *operands = request
        for handle in released:
            self._handles.pop(id(self._objects.pop(handle, None)), None)
        operate: Callable[..., Any] = getattr(self, "_do_" + operation)
        try:
            with _quiet(), _interruptible():
                result = operate(*operands)
                reply = values.encode(("value", number, result), self._outgoing)
        except BaseException as error:
            # SystemExit and KeyboardInterrupt too: neither may end the kernel from inside a call.
            reply = self._error(number, error)
        self._wire.send(reply)

    # ------------------------------------------------------------ operations

    def _do_resolve(self, name: str) -> Any:
        if name in self._namespace:
            return self._namespace[name]
        raise NameError(f"name '{name}' is not defined")

    def _do_call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return function(*args, **kwargs)

    def _do_getattr(self, owner: Any, name: str) -> Any:
        return getattr(owner, name)

    def _do_setattr(self, owner: Any, name: str, value: Any) -> None:
        setattr(owner, name, value)

    def _do_getitem(self, owner: Any, key: Any) -> Any:
        return owner[key]

    def _do_length(self, owner: Any) -> int:
        return len(owner)

    def _do_iterate(self, owner: Any) -> Any:
        return _Iterator(iter(owner))

    def _do_next(self, iterator: Any, count: int) -> list[Any]:
        # A list shorter than asked for is the end.
        return list(islice(iterator, count))

    def _do_repr(self, owner: Any) -> str:
        return repr(owner)[:2000]

    # ------------------------------------------------------------ what is not plain data

    def _outgoing(self, thing: Any) -> list[Any]:
        handle = self._handles.get(id(thing))
        if handle is None:
            self._last += 1
            handle = self._last
            self._objects[handle] = thing  # kept alive, so that its id stays its own
            self._handles[id(thing)] = handle
        return ["h", handle, type(thing).__name__[:100], callable(thing)]

    def _incoming(self, tagged: list[Any]) -> Any:
        if tagged[0] == "h":
            return self._objects[tagged[1]]
        return self._callback(tagged[1], tagged[2])

    def _callback(self, handle: int, name: str) -> Callable[..., Any]:
        def remote(*args: Any, **kwargs: Any) -> Any:
            self._wire.send(values.encode(("callback", 0, handle, args, kwargs), self._outgoing))
            while True:
                answer = values.decode(self._wire.receive(), self._incoming)
                if answer[0] == "return":
                    return answer[1]
                if answer[0] == "raise":
                    raise RuntimeError(f"{name} raised {answer[1]}")
                self._serve(answer)  # the test's function calls us again before it returns

        remote.__name__ = remote.__qualname__ = name
        return remote

    # ------------------------------------------------------------ errors

    def _error(self, number: int, error: BaseException) -> bytes:
        kind = type(error)
        bases = [base.__name__ for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base]
        try:
            message = str(error)[:2000]
        except BaseException:
            message = ""
        try:
            lines = student_lines(error.__traceback__)
        except BaseException:
            lines = []
        return values.encode(("error", number, kind.__name__[:100], bases[:8], message, lines))


class _Iterator:
    """Keeps an iterator apart from its object, so that two loops over it each have their own place."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    def __iter__(self) -> Iterator[Any]:
        return self._iterator

    def __next__(self) -> Any:
        return next(self._iterator)


_CELL = re.compile(r"ipykernel_\d+[/\\]\d+\.py$|^<ipython-input-")


def student_lines(trace: TracebackType | None) -> list[str]:
    """The lines of the student's own cells that led to an error, as ``line 3, in rrf: return 1 / k``."""
    found = []
    for frame in traceback.extract_tb(trace):
        if _CELL.search(frame.filename):
            text = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
            place = "" if frame.name in ("<module>", "<cell line: 1>") else f", in {frame.name[:80]}"
            found.append(f"line {frame.lineno}{place}: {text[:200]}")
    return found if len(found) <= _MAX_LINES else [*found[:4], "...", *found[4 - _MAX_LINES :]]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what is printed during a call: the notebook's outputs are those of its cells."""
    saved = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        try:
            yield
        finally:
            sys.stdout, sys.stderr = saved


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let an interrupt reach the student's code, and only that: never a message that is half sent."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_IGN)
