"""Running graded test cells in the trusted examiner process, and saying what came out.

The examiner is a fork of a trusted warm process, one for each submission. It runs the *source's* test cells
as ordinary cells; a name that the test doesn't define resolves to the student's object through
:mod:`autograder.proxy`. So the submission never sees a test, and a test never runs in the student's process.

The grader tells the examiner what to run over one socket, one line of JSON each way.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from autograder.feedback import error_name, say
from autograder.format import HINT_MESSAGE, Role
from autograder.limits import Limits
from autograder.proxy import NotPlainData, Student, StudentError, StudentGone, StudentTimeout, TestNamespace
from autograder.report import CellResult, Kind
from autograder.submission import Part

LINE_LIMIT = 2**20  # bytes of one message between grader and examiner
MESSAGE_LIMIT = 2000  # characters of an error message that the examiner passes on
TEXT_LIMIT = 500  # characters of a student's error message that are shown
GRACE = 5.0  # seconds that the examiner gets beyond a test's own limit before it counts as stuck


class _OutOfTime(BaseException):
    """The test cell used up its time; not an Exception, so that no test code swallows it."""


@dataclass(frozen=True)
class Raw:
    """What happened when a test cell ran, before it is put into words.

    ``kind`` is ``correct``, ``wrong``, ``unusable`` (the test could not use a returned value), ``not_plain``
    (an object where plain data was expected), ``raised``, ``undefined``, ``timeout`` or ``gone``.
    """

    kind: str
    hint: str | None = None
    error: str = ""
    message: str = ""
    trace: tuple[str, ...] = ()


# In the examiner -------------------------------------------------------------------------------------------


def serve(
    descriptors: list[int], limits: Limits, arguments: dict[str, Any], ready: Callable[[], None]
) -> None:
    """Entry of an examiner child: run each test cell that the grader sends, until it hangs up.

    Args:
        descriptors: the socket to the grader, then the values socket to the student's process.
        limits: ``cell_seconds`` bounds one call of the student's code.
        arguments: none.
        ready: called when the first job can come.
    """
    student = TimedStudent(socket.socket(fileno=descriptors[1]))
    ready()
    with socket.socket(fileno=descriptors[0]) as grader, grader.makefile("rwb") as stream:
        for line in stream:
            job = json.loads(line)
            raw = run_test(student, job["test"], job["name"], job["exports"], job["seed"], job["seconds"])
            stream.write(json.dumps(asdict(raw)).encode() + b"\n")
            stream.flush()


class TimedStudent(Student):
    """A student whose calls must all end by one moment: the end of the running test's time."""

    until = float("inf")

    @property
    def call_timeout(self) -> float:
        return max(0.01, min(self.until - time.monotonic(), 86_400.0))

    @call_timeout.setter
    def call_timeout(self, seconds: float) -> None:
        """Set by the base class; the moment counts instead."""


def run_test(
    student: TimedStudent, test: str, name: str, exports: Collection[str], seed: int, seconds: float
) -> Raw:
    """Run one test cell's text; names in ``exports`` are the student's objects.

    Args:
        student: the connection to the student's process.
        test: the cell's text, from the source notebook.
        name: shown in tracebacks, such as ``rrf-hidden``.
        exports: the only undefined names that the test may use.
        seed: put into ``LABKIT_TEST_SEED``, and seeds the random generators of Python, NumPy and torch.
        seconds: wall-clock time for the whole cell.
    """
    os.environ["LABKIT_TEST_SEED"] = str(seed)
    _seed_generators(seed)
    namespace = TestNamespace(student, exports, {"__name__": "__test__"})
    quiet = contextlib.ExitStack()
    quiet.enter_context(contextlib.redirect_stdout(_Nowhere()))
    quiet.enter_context(contextlib.redirect_stderr(_Nowhere()))
    student.until = time.monotonic() + seconds
    try:
        # A call of the student's ends by `until`; the alarm is for loops of the test itself.
        with quiet, _time_limit(seconds + 1):
            exec(compile(test, f"<{name}>", "exec"), namespace)
    except StudentError as error:  # before AssertionError: it is that too when the student's code asserts
        return _student_error(error, exports)
    except (_OutOfTime, StudentTimeout):
        return Raw("timeout")
    except StudentGone as error:
        return Raw("gone", message=str(error))
    except NotPlainData as error:
        return Raw("not_plain", message=str(error)[:MESSAGE_LIMIT])
    except AssertionError as error:
        match = HINT_MESSAGE.fullmatch(str(error))
        return Raw("wrong", hint=match[1] if match else None)
    except Exception as error:
        return Raw("unusable", error=type(error).__name__, message=str(error)[:MESSAGE_LIMIT])
    return Raw("correct")


def _student_error(error: StudentError, exports: Collection[str]) -> Raw:
    message = error.student_message
    if not error.lines:  # from looking a name up or sending a value, not from a line of the student's
        for name in exports:
            if error.type_name == "NameError" and message == f"name '{name}' is not defined":
                return Raw("undefined", message=name)
        if error.type_name == "ValuesError":
            return Raw("not_plain", message=message)
    return Raw("raised", error=error.type_name, message=message, trace=error.lines)


def _seed_generators(seed: int) -> None:
    random.seed(seed)
    # Only what the warm process has imported: a course without torch doesn't pay for it.
    if "numpy" in sys.modules:
        # Tests may use the global generator, which is what is seeded here.
        sys.modules["numpy"].random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Nowhere(io.TextIOBase):
    """Prints of a test are for its author's debugging and could show its data."""

    def write(self, text: str, /) -> int:
        return len(text)


# In the grader ---------------------------------------------------------------------------------------------


class Examiner:
    """The grader's end of the connection to one examiner."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, grader: socket.socket) -> Examiner:
        grader.setblocking(False)
        return cls(*await asyncio.open_connection(sock=grader, limit=LINE_LIMIT))

    async def run(self, part: Part, exports: Collection[str], seed: int, seconds: float) -> Raw:
        """Run one test cell; a silent examiner counts as ``timeout``, one that ended as ``gone``."""
        job = {
            "test": part.test,
            "name": part.grade_id,
            "exports": sorted(exports),
            "seed": seed,
            "seconds": seconds,
        }
        self.writer.write(json.dumps(job).encode() + b"\n")
        try:
            line = await asyncio.wait_for(self.reader.readline(), seconds + GRACE)
        except TimeoutError:
            return Raw("timeout", error="stuck")
        except (ValueError, ConnectionError):
            return Raw("gone", message="the examiner ended")
        if not line:
            return Raw("gone", message="the examiner ended")
        data = json.loads(line)
        return Raw(**{**data, "trace": tuple(data["trace"])})

    def close(self) -> None:
        self.writer.close()


def judge(
    part: Part,
    raw: Raw,
    hints: Mapping[str, str],
    lang: str,
    untouched: bool,
    own_lines: Collection[str],
    seconds: float,
    gone: str = "",
    cell_error: str = "",
    quote: bool = True,
) -> CellResult:
    """Put an outcome into the words that the student reads.

    A visible test tells the hint, or the error with the student's own lines. A hidden test tells the hint
    (which names the property) or the error's type and line, never a message: the student's code could put
    the hidden test's data into one.

    Args:
        part: the test cell.
        raw: what happened.
        hints: the exercise's hints by id, in the notebook's language.
        lang: language of the grader's own words.
        untouched: the exercise's answer is still the released stub.
        own_lines: stripped lines of the student's code; no other line is quoted.
        seconds: the time limit, for the message.
        gone: why the student's process had ended, if it had.
        cell_error: the error with which the student's own cell of this exercise stopped, if it did.
        quote: whether a visible test may quote error messages; not once a hidden test has run, since the
            student's code may have kept that test's data. (The learner's own check shows these messages.)
    """
    visible = part.role == Role.TEST and quote
    trace = tuple(line for line in raw.trace if _own_code(line, own_lines))
    kind, hint, message = Kind.RAISED, None, ""
    if raw.kind == "correct":
        kind = Kind.CORRECT
        trace = ()
    elif untouched and raw.kind in ("raised", "wrong", "unusable", "not_plain", "undefined"):
        kind, message, trace = Kind.NOT_ATTEMPTED, say(lang, "not_attempted"), ()
    elif raw.kind == "wrong":
        kind, hint = Kind.WRONG, raw.hint
        message = hints.get(raw.hint or "", "") or say(lang, "wrong")
    elif raw.kind == "unusable":
        error = f"{raw.error}: {_short(raw.message)}" if visible else raw.error
        kind, message = Kind.WRONG, say(lang, "unusable", error=error)
    elif raw.kind == "not_plain":
        kind, message = Kind.WRONG, say(lang, "not_plain")
    elif raw.kind == "undefined":
        stopped = error_name(cell_error) if cell_error else ""
        message = say(lang, "undefined_after" if stopped else "undefined", name=raw.message, error=stopped)
    elif raw.kind == "timeout":
        kind, message = Kind.TIMEOUT, say(lang, "timeout", seconds=seconds)
    elif raw.kind == "gone":
        kind, message = Kind.GONE, say(lang, "gone", reason=gone) if gone else say(lang, "stopped")
    elif visible:
        error = error_name(raw.error) + (f": {_short(raw.message)}" if raw.message else "")
        message = say(lang, "raised", error=error)
    else:
        error = error_name(raw.error)
        line = _own_code(trace[-1], own_lines) if trace else ""
        message = say(lang, "raised_at", error=error, line=line) if line else say(lang, "raised", error=error)
        trace = ()
    return CellResult(
        part.grade_id or "", part.exercise or "", str(part.role), part.points, kind, hint, message, trace
    )


def _own_code(line: str, own_lines: Collection[str]) -> str:
    """The code in a traceback line such as ``line 3, in rrf: return 1 / k``, if it is really the student's.

    Tracebacks come from the student's process, which could send anything.
    """
    match = re.fullmatch(r"line \d+(?:, in [^:]{1,80})?: (.+)", line)
    return match[1] if match and match[1] in own_lines else ""


def _short(text: str) -> str:
    clean = "".join(char if char.isprintable() else " " for char in text)
    return clean if len(clean) <= TEXT_LIMIT else clean[: TEXT_LIMIT - 3] + "..."
