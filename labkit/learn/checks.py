"""Runs an exercise's visible tests on the learner's objects and says which of four outcomes came out."""

from __future__ import annotations

import linecache
import re
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from labkit.learn.homework import Exercise

HINT_MESSAGE = re.compile(r"@([A-Za-z0-9_]+)")


@dataclass(frozen=True)
class Frame:
    """A line of the learner's own code on the way to an error."""

    cell: str | None  # the prompt number of its cell
    file: str
    line: int
    function: str  # "" at the top level of a cell
    text: str


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    ``kind`` is ``"correct"``, ``"wrong"`` (a test does not hold), ``"raised"`` (the code stopped with an
    error) or ``"not_attempted"`` (the stub still stands, or its cell has not run).
    """

    kind: str
    hint: str | None = None  # wrong: the misconception's id, when the test names one
    what: str | None = None  # not_attempted: the name that is missing or still a stub
    missing: bool = False  # not_attempted: it is not even defined
    error: str | None = None  # raised: type and message
    frames: tuple[Frame, ...] = ()  # raised: the learner's own
    line: str = ""  # wrong, raised: the test's line


def run_tests(
    exercise: Exercise, namespace: Mapping[str, Any], cell_of: Callable[[str], str | None] | None = None
) -> Outcome:
    """Run the visible tests until one does not hold.

    The tests see nothing of the notebook but the names that the exercise exports, as in grading, so a check
    and the grader agree, and a test's own variables do not spill into the notebook.

    Args:
        exercise: whose tests to run.
        namespace: the notebook's global variables.
        cell_of: gives a code file's cell number, None for a file that is no cell of this notebook.
    """
    for number, source in enumerate(exercise.tests, 1):
        file = f"<visible test {number} of {exercise.name}>"
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        given = {name: namespace[name] for name in exercise.exports if name in namespace}
        try:
            exec(compile(source, file, "exec"), {"__name__": "__main__", **given})
        except (Exception, SystemExit) as error:  # SystemExit: `exit()` in the learner's code
            return _judge(error, exercise, file, namespace, cell_of or (lambda name: None))
    return Outcome("correct")


def _judge(
    error: BaseException,
    exercise: Exercise,
    test_file: str,
    namespace: Mapping[str, Any],
    cell_of: Callable[[str], str | None],
) -> Outcome:
    frames = list(traceback.walk_tb(error.__traceback__))
    test_line = next((n for frame, n in frames if frame.f_code.co_filename == test_file), 0)
    line = linecache.getline(test_file, test_line).strip()
    inside_test = bool(frames) and frames[-1][0].f_code.co_filename == test_file
    if isinstance(error, AssertionError) and inside_test:
        match = HINT_MESSAGE.fullmatch(str(error))
        return Outcome("wrong", hint=match[1] if match and match[1] in exercise.hints else None, line=line)
    if isinstance(error, NameError) and inside_test and error.name in exercise.exports:
        return Outcome("not_attempted", what=error.name, missing=True)
    own = tuple(
        _frame(frame, number, cell_of)
        for frame, number in frames
        if frame.f_globals is namespace or cell_of(frame.f_code.co_filename) is not None
    )
    if isinstance(error, NotImplementedError) and own and not str(error):
        return Outcome("not_attempted", what=own[-1].function or exercise.name)
    return Outcome("raised", error=_one_line(error), frames=own, line=line)


def _frame(frame: Any, number: int, cell_of: Callable[[str], str | None]) -> Frame:
    code = frame.f_code
    function = "" if code.co_name == "<module>" else code.co_name
    text = linecache.getline(code.co_filename, number).rstrip()
    return Frame(cell_of(code.co_filename), code.co_filename, number, function, text)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:299] + "…"
    return type(error).__name__ + (f": {text}" if text else "")


def failed_hint(value: BaseException, tb: TracebackType | None) -> str | None:
    """The hint id that an assert run directly in a cell names, None for any other error."""
    frames = list(traceback.walk_tb(tb))
    match = HINT_MESSAGE.fullmatch(str(value)) if isinstance(value, AssertionError) else None
    return match[1] if match and frames else None
