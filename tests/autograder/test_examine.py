"""Outcomes in words: helpful in visible tests, silent about data in hidden ones."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict

import pytest
import small_course as small

from autograder import submission as sub
from autograder.examine import LINE_LIMIT, Raw, TimedStudent, judge, run_test
from autograder.report import Kind

PARTS = {part.grade_id: part for part in sub.compose(small.source(), ()).parts}
HINTS = small.HINTS["en"]["mean"]
OWN = {"return total / zero", "def mean(values):"}


def told(grade_id: str, raw: Raw, **changes):
    values = {"hints": HINTS, "lang": "en", "untouched": False, "own_lines": OWN, "seconds": 60.0} | changes
    return judge(PARTS[grade_id], raw, **values)


def raised(**changes):
    values = {
        "error": "ValueError",
        "message": "secret 42",
        "trace": ("line 3, in mean: return total / zero", "line 4: forged 42"),
    }
    return Raw("raised", **(values | changes))


def test_correct_earns_the_points():
    result = told("mean-hidden", Raw("correct"))
    assert (result.kind, result.earned, result.message) == (Kind.CORRECT, 2, "")


@pytest.mark.parametrize("grade_id", ["mean-visible", "mean-hidden"])
def test_a_failed_assertion_tells_its_hint(grade_id):
    result = told(grade_id, Raw("wrong", hint="empty"))
    assert (result.kind, result.hint_id, result.message) == (Kind.WRONG, "empty", HINTS["empty"])
    assert told(grade_id, Raw("wrong")).message == "The check failed, without a hint for this case."


def test_a_visible_test_shows_the_error_and_only_the_students_own_lines():
    result = told("mean-visible", raised())
    assert result.message == "Your code raised ValueError: secret 42."
    assert result.trace == ("line 3, in mean: return total / zero",)


@pytest.mark.parametrize(("grade_id", "quote"), [("mean-hidden", True), ("mean-visible", False)])
def test_no_message_is_quoted_where_it_could_hold_hidden_data(grade_id, quote):
    result = told(grade_id, raised(), quote=quote)
    assert result.message == "Your code raised ValueError at: return total / zero"
    assert "42" not in result.message + "".join(result.trace)
    result = told(grade_id, raised(error="Secret42", trace=("line 1: forged 42",)), quote=quote)
    assert result.message == "Your code raised an exception."
    result = told(grade_id, Raw("unusable", error="TypeError", message="secret 42"), quote=quote)
    assert result.message == "The check could not use what your code returned (TypeError)."


def test_long_messages_are_cut_and_made_printable():
    result = told("mean-visible", raised(message="a\x1b[31m\n" + "b" * 5000))
    assert len(result.message) < 600
    assert result.message.isprintable()


@pytest.mark.parametrize("kind", ["raised", "wrong", "unusable", "undefined"])
def test_an_untouched_stub_is_not_attempted(kind):
    result = told("mean-visible", Raw(kind, error="NotImplementedError"), untouched=True)
    assert (result.kind, result.trace) == (Kind.NOT_ATTEMPTED, ())


def test_other_endings():
    assert told("mean-visible", Raw("undefined", message="mean")).message.startswith("`mean` is not defined")
    assert told("mean-visible", Raw("timeout"), seconds=2).message == "This took longer than 2 seconds."
    result = told("mean-visible", Raw("gone"), gone="it crashed.", lang="zh")
    assert (result.kind, result.message) == (Kind.GONE, "没有检查：it crashed.")
    assert "stopped the process" in told("mean-visible", Raw("gone")).message


@pytest.mark.parametrize("kind", ["ValueError", "NotPlainData"])
def test_a_huge_message_fits_into_a_line(kind):
    ours, theirs = socket.socketpair()
    test = f"from autograder.proxy import NotPlainData\nraise {kind}('x' * 2_000_000)"
    raw = run_test(TimedStudent(ours), test, "mean-hidden", (), seed=0, seconds=5)
    assert len(json.dumps(asdict(raw))) < LINE_LIMIT
    assert raw.message == "x" * 2000
    theirs.close()
