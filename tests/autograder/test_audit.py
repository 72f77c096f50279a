"""The audit tells good graders from bad ones."""

from __future__ import annotations

import json

import pytest
import small_course as small

from autograder import audit
from autograder.report import CellResult, Kind
from autograder.sandbox import isolation


@pytest.fixture
def course(tmp_path):
    return small.make_course(tmp_path / "course-root")


def module(course):
    return course / "modules" / small.ASSIGNMENT


@pytest.mark.skipif(isolation().level != "full", reason=isolation().reason)
def test_good_tests_pass_the_audit(course):
    total = []
    result = audit.audit(course, small.ASSIGNMENT, seeds=2, on_start=total.append)
    assert result.violations == ()
    assert total == [len(result.outcomes)] == [2 * (2 + len(small.RIGHT) + len(small.WRONG))]
    data = result.to_json()
    assert data["ok"]
    row = next(row for row in data["answers"] if row["answer"] == "wrong/mean/no_empty.py")
    assert row["seeds"]["0"]["cells"]["mean-hidden"] == {"kind": "wrong", "hint": "empty"}
    assert json.loads(json.dumps(data)) == data
    titles = [table.title for table in audit.kill_matrix(result)]
    assert titles == ["whole notebook", "mean", "shift"]


@pytest.mark.skipif(isolation().level != "full", reason=isolation().reason)
def test_bad_answers_are_named(course):
    (module(course) / "wrong" / "mean" / "is_right.py").write_text(
        '"""hint: empty\nen: none\nzh: 无\n"""\n' + small.right_answers()["mean"]
    )
    (module(course) / "wrong" / "mean" / "other_hint.py").write_text(
        '"""hint: empty\nen: none\nzh: 无\n"""\ndef mean(values):\n    return 7\n'
    )
    (module(course) / "right" / "mean" / "is_wrong.py").write_text(
        '"""No."""\ndef mean(values):\n    return 1 / 0\n'
    )
    violations = " ".join(audit.audit(course, small.ASSIGNMENT, seeds=1).violations)
    assert "wrong/mean/is_right.py must lose marks but passes every test on seed 0." in violations
    assert (
        "other_hint.py must fail with its hint @empty but fails mean-visible with @integer_division"
        in violations
    )
    assert "right/mean/is_wrong.py must get full marks but fails mean-visible (raised: " in violations


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("def mean(values:", "is not Python (line 1"),
        ("def mean(values): ...", "needs a docstring"),
        ('"""Forgets it."""', "must begin its docstring with the line 'hint: <hint_id>'"),
        ('"""hint: empty\nen: forgets\n"""', "on a line 'zh: ...'"),
        ('"""hint: nonsense\nen: a\nzh: b\n"""', "names the hint 'nonsense'"),
    ],
)
def test_unusable_answer_files_are_explained(course, text, part):
    (module(course) / "wrong" / "mean" / "new.py").write_text(text)
    _, violations = audit.find_answers(module(course), small.source())
    assert len(violations) == 1
    assert violations[0].startswith("wrong/mean/new.py")
    assert part in violations[0]


def test_missing_and_stray_answers_are_named(course):
    (module(course) / "right" / "shift" / "in_one_line.py").unlink()
    stray = module(course) / "wrong" / "nothing"
    stray.mkdir()
    (stray / "x.py").write_text('"""x"""')
    _, violations = audit.find_answers(module(course), small.source())
    assert "wrong/nothing/x.py is for no exercise" in violations[0]
    assert "The exercise shift has no right answer" in violations[1]


def test_points_for_nothing_are_a_violation():
    cell = CellResult("mean-visible", "mean", "test", 1, Kind.CORRECT)
    outcome = audit.Outcome(audit.Answer(audit.BLANK, "the released notebook"), 0, (cell,))
    assert audit.check([outcome]) == [
        "the released notebook must get no points but passes mean-visible on seed 0."
    ]
