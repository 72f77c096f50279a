"""The trusted side of the values socket: the student's functions, as a test cell sees them.

A test cell runs in the examiner. A name that it does not define resolves, through `TestNamespace`, to the
student's object: plain data arrives as plain data, and anything else as a `Remote` handle that can be called,
iterated and asked for attributes, but that is never a value. So no ``__eq__``, ``__class__`` or ``__array__``
of a submission takes part in a test's judgement.
"""

from __future__ import annotations

import builtins
import contextlib
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from autograder import values
from autograder.wire import Wire, WireClosed

__all__ = [
    "NotPlainData",
    "Remote",
    "Student",
    "StudentError",
    "StudentGone",
    "StudentTimeout",
    "TestNamespace",
]

MAX_ITEMS = 100_000  # taken from one iterator of a submission
_CHUNK = 64  # items fetched at once, after a first few one by one
_NO_BASE = (StopIteration, StopAsyncIteration)  # raised through a test, these would end a loop of the test's


class StudentError(Exception):
    """The student's code raised. Also an instance of the same builtin error, so that a test can expect it.

    Attributes:
        type_name: the error's class, as the submission names it.
        student_message: its text. It is the student's: never show it with a hidden test, whose inputs it may
            hold.
        lines: the lines of the student's own cells that led to it, outermost first.
    """

    type_name = "Exception"
    student_message = ""
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.type_name}: {self.student_message}" if self.student_message else self.type_name

    @staticmethod
    def of(type_name: str, bases: Iterable[str], message: str, lines: Iterable[str]) -> StudentError:
        error = _error_class(tuple(bases))(message)
        error.type_name, error.student_message, error.lines = type_name, message, tuple(lines)
        return error


class StudentTimeout(Exception):
    """A call took longer than ``call_timeout``. After an interrupt of the kernel, later calls may work."""


class StudentGone(Exception):
    """The submission's process ended, or what it sends is not a message. No later call can work."""


class NotPlainData(AssertionError, TypeError):
    """A test used an object of the submission as a value."""


_classes: dict[str, type[StudentError]] = {}


def _error_class(bases: tuple[str, ...]) -> type[StudentError]:
    for name in bases:
        base = getattr(builtins, name, None)
        if not (isinstance(base, type) and issubclass(base, Exception)) or issubclass(base, _NO_BASE):
            continue
        if base is Exception:
            break
        if name not in _classes:
            try:
                made = type(f"Student{name}", (StudentError, base), {"__str__": StudentError.__str__})
                made("")
            except TypeError:  # errors of different layout, or more than a message is needed
                continue
            _classes[name] = made
        return _classes[name]
    return StudentError


class Student:
    """The submission, over the values socket.

    Args:
        sock: this end of the socket pair whose other end the kernel has.
        call_timeout: seconds that one call may take; time spent in the test's own functions is not counted.
        on_timeout: called when a call takes longer, before `StudentTimeout` is raised; interrupt the kernel
            there.

    Not for several threads.

    Example:
        >>> student = Student(sock, call_timeout=10)                      # doctest: +SKIP
        >>> student.resolve("rrf")([[1, 2], [2, 1]], k=60)                # doctest: +SKIP
        [1, 2]
    """

    def __init__(
        self, sock: socket.socket, call_timeout: float = 60, on_timeout: Callable[[], None] | None = None
    ) -> None:
        self._wire = Wire(sock)
        self.call_timeout = call_timeout
        self.on_timeout = on_timeout
        self.calls = 0
        self._number = 0
        self._released: set[int] = set()
        self._held: dict[int, int] = {}  # handle -> Remotes that have it
        self._functions: list[Any] = []  # the test's own, for calling back
        self._gone: str | None = None

    def resolve(self, name: str) -> Any:
        """The student's object of that name: plain data, or a `Remote`.

        Raises:
            StudentError: a NameError too, when the submission defines no such name.
            StudentTimeout, StudentGone: as for every request.
        """
        return self.request("resolve", name)

    def close(self) -> None:
        self._gone = self._gone or "The connection to the submission was closed."
        self._wire.close()

    # ------------------------------------------------------------ requests

    def request(self, operation: str, *operands: Any) -> Any:
        """Send one request and return its value; for `Remote`."""
        if self._gone is not None:
            raise StudentGone(self._gone)
        self._number += 1
        self.calls += 1
        # Counted now: a reply may have brought a handle back since its last Remote went.
        released = [handle for handle in self._released if handle not in self._held]
        self._released.clear()
        try:
            message = values.encode((operation, self._number, released, *operands), self._outgoing)
        except values.ValuesError as error:
            raise TypeError(f"The test cannot pass this to the student's code. {error}") from error
        deadline = time.monotonic() + self.call_timeout
        try:
            self._wire.send(message, deadline)
            return self._answer(self._number, deadline)
        except StudentError:  # it may be a TimeoutError of the student's own
            raise
        except TimeoutError:
            if self.on_timeout is not None:
                self.on_timeout()
            raise StudentTimeout(f"The call took longer than {self.call_timeout:g} seconds.") from None
        except WireClosed:
            self._lose("The submission's process ended during a call.")
        except values.ValuesError as error:
            self._lose(f"The submission's process sent something that is not a value. {error}")

    def _lose(self, why: str) -> NoReturn:
        self._gone = why
        self._wire.close()
        raise StudentGone(why) from None

    def _answer(self, number: int, deadline: float) -> Any:
        failed: AssertionError | None = None
        while True:
            reply = values.decode(self._wire.receive(deadline), self._incoming)
            match reply:
                case ("value", int(got), value):
                    if got == number:
                        if failed is not None:
                            raise failed
                        return value
                case ("error", int(got), str(name), list(bases), str(message), list(lines)):
                    if got == number:
                        if failed is not None:
                            raise failed
                        raise StudentError.of(
                            printable(name, 100),
                            [base for base in bases[:8] if type(base) is str],
                            printable(message, 2000),
                            [printable(line, 400) for line in lines[:16] if type(line) is str],
                        )
                case ("callback", int(), int(handle), tuple(args), dict(kwargs)):
                    began = time.monotonic()
                    answer, error = self._call_back(handle, args, kwargs)
                    # The test's own judgement, wherever it falls: the student's code may not swallow it.
                    failed = failed or error
                    deadline += time.monotonic() - began
                    self._wire.send(answer, deadline)
                case _:
                    raise values.ValuesError("It is not a reply.")

    def _call_back(
        self, handle: int, args: tuple[Any, ...], kwargs: dict[Any, Any]
    ) -> tuple[bytes, AssertionError | None]:
        if not 0 <= handle < len(self._functions) or not all(type(name) is str for name in kwargs):
            raise values.ValuesError("It calls a function that it was not given.")
        try:
            return values.encode(("return", self._functions[handle](*args, **kwargs)), self._outgoing), None
        except (StudentGone, StudentTimeout, WireClosed):
            raise
        except Exception as error:
            assertion = error if isinstance(error, AssertionError) else None
            return values.encode(("raise", type(error).__name__)), assertion

    # ------------------------------------------------------------ what is not plain data

    def _outgoing(self, thing: Any) -> list[Any] | None:
        if type(thing) is Remote:
            if _owner(thing) is not self:
                raise values.ValuesError("The object belongs to another submission.")
            return ["h", _handle(thing)]
        if callable(thing):
            # Kept for good: the student's object may keep it and call it later.
            known = [number for number, function in enumerate(self._functions) if function is thing]
            if not known:
                known = [len(self._functions)]
                self._functions.append(thing)
            return ["f", known[0], str(getattr(thing, "__name__", type(thing).__name__))]
        return None

    def _incoming(self, tagged: list[Any]) -> Remote:
        match tagged:
            case ["h", int(handle), str(class_name), bool(can_call)]:
                self._held[handle] = self._held.get(handle, 0) + 1
                return Remote(self, handle, printable(class_name, 100), can_call)
        raise values.ValuesError("It has a broken handle.")

    def release(self, handle: int) -> None:
        """A `Remote` is gone. After the last one of a handle, the next request lets its object go."""
        left = self._held.get(handle, 0) - 1
        if left > 0:
            self._held[handle] = left
        else:
            self._held.pop(handle, None)
            self._released.add(handle)


def printable(text: str, length: int) -> str:
    """Text from a submission, safe to show: no control characters, bounded."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text[:length])


def _owner(remote: Remote) -> Student:
    return object.__getattribute__(remote, "_student")


def _handle(remote: Remote) -> int:
    return object.__getattribute__(remote, "_number")


def _refuse(name: str) -> Callable[..., NoReturn]:
    def method(self: Remote, *_: Any, **__: Any) -> NoReturn:
        raise NotPlainData(_complaint(self))

    method.__name__ = name
    return method


def _complaint(remote: Remote) -> str:
    name = object.__getattribute__(remote, "_class_name")
    return f"Your code returned an object of class {name} where plain data was expected."


class Remote:
    """A handle to an object in the submission's process.

    It can be called, iterated (lazily, at most 100 000 items), indexed, measured with ``len`` and asked for
    attributes and methods, all of which happen over there. It cannot be compared, counted with, converted or
    used as a condition: that raises `NotPlainData`, an AssertionError that names the object's class.
    """

    __slots__ = ("_can_call", "_class_name", "_number", "_student")

    def __init__(self, student: Student, number: int, class_name: str, can_call: bool) -> None:
        object.__setattr__(self, "_student", student)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_class_name", class_name)
        object.__setattr__(self, "_can_call", can_call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not object.__getattribute__(self, "_can_call"):
            name = object.__getattribute__(self, "_class_name")
            raise NotPlainData(f"Your code has an object of class {name} where a function was expected.")
        return _owner(self).request("call", self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        # Asked by numpy, torch, copy and pickle to find out what this is: it is nothing to them.
        if name.startswith("__"):
            raise AttributeError(name)
        return _owner(self).request("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _owner(self).request("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return _owner(self).request("getitem", self, key)

    def __len__(self) -> int:
        length = _owner(self).request("length", self)
        if type(length) is not int or length < 0:
            raise NotPlainData(_complaint(self))
        return length

    def __iter__(self) -> Iterator[Any]:
        student = _owner(self)
        iterator = student.request("iterate", self)
        taken, size = 0, 1
        while True:
            items = student.request("next", iterator, size)
            if type(items) is not list or len(items) > size:
                raise NotPlainData(_complaint(self))
            yield from items
            taken += len(items)
            if len(items) < size:
                return
            if taken >= MAX_ITEMS:
                raise NotPlainData(f"Your code gave more than {MAX_ITEMS} items, perhaps without end.")
            # One by one at first: a test that takes three items of an endless, slow generator waits for
            # three.
            size = 1 if taken < 8 else _CHUNK

    def __repr__(self) -> str:
        return f"<object of class {object.__getattribute__(self, '_class_name')} of the submission>"

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # never finished, or the interpreter is ending
            _owner(self).release(_handle(self))

    def __hash__(self) -> int:
        return object.__hash__(self)


_AS_A_VALUE = [
    *(
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "bool",
        "int",
        "float",
        "complex",
        "index",
        "round",
        "trunc",
        "floor",
    ),
    *(
        "ceil",
        "add",
        "radd",
        "sub",
        "rsub",
        "mul",
        "rmul",
        "truediv",
        "rtruediv",
        "floordiv",
        "rfloordiv",
        "mod",
    ),
    *("rmod", "pow", "rpow", "matmul", "rmatmul", "neg", "pos", "abs", "invert", "and", "rand", "or", "ror"),
    *("xor", "rxor", "lshift", "rshift", "format", "bytes", "array", "setitem", "delitem", "enter", "exit"),
    *("reduce", "reduce_ex", "contains"),
]
for _name in _AS_A_VALUE:
    setattr(Remote, f"__{_name}__", _refuse(f"__{_name}__"))


class TestNamespace(dict[str, Any]):
    """Globals for a test cell: what the cell binds itself, then the submission's exports, then the builtins.

    Args:
        student: the submission.
        exports: the names that this exercise's solution defines. No other name reaches the submission, so it
            cannot put itself in the place of ``numpy`` or ``sorted``.
        extra: further names, such as ``__name__``.

    Example:
        >>> exec("assert rrf([[1]]) == [1], '@zero_based'", TestNamespace(student, {"rrf"}))  # doctest: +SKIP
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    def __init__(self, student: Student, exports: Iterable[str], extra: dict[str, Any] | None = None) -> None:
        super().__init__(extra or {})
        self._student = student
        self._exports = frozenset(exports)

    def __missing__(self, name: str) -> Any:
        if name not in self._exports:
            raise KeyError(name)
        value = self._student.resolve(name)
        self[name] = value
        return value
