"""Test the tests: grade every right and wrong answer beside a homework through the real pipeline.

``modules/<assignment>/right/<exercise>/*.py`` are structurally different correct answers, which must get full
marks; ``wrong/<exercise>/*.py`` are plausible misconceptions, which must lose marks with the hint written for
them. Each becomes a submission in which only that exercise is answered, graded on several seeds. The author's
own solution must get full marks as a whole, and the released notebook none.
"""

from __future__ import annotations

import ast
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from rich.table import Table

from autograder.format import LANGUAGES, NOTEBOOK_NAME, Role
from autograder.grade import Graded, GradingError, Job, run_jobs, warm_setup
from autograder.limits import Limits
from autograder.report import CellResult, Kind, SubmissionResult
from autograder.source import Source, load_sources

RIGHT, WRONG, SOLUTION, BLANK = "right", "wrong", "solution", "blank"


@dataclass(frozen=True)
class Answer:
    """One answer to audit.

    ``kind`` is ``right``, ``wrong``, ``solution`` (the author's, all exercises at once) or ``blank`` (the
    released notebook). ``hint`` is the hint that a wrong answer's failure must carry.
    """

    kind: str
    name: str
    exercise: str | None = None
    text: str = ""
    hint: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How one answer came out on one seed; ``cells`` are the tests of its exercise, or else all tests."""

    answer: Answer
    seed: int
    cells: tuple[CellResult, ...]
    problem: str = ""  # why it could not be graded at all

    @property
    def first_failure(self) -> CellResult | None:
        return next((cell for cell in self.cells if cell.kind is not Kind.CORRECT), None)


@dataclass(frozen=True)
class Audit:
    """The kill matrix and what is wrong with it, a sentence for each violation."""

    assignment: str
    outcomes: tuple[Outcome, ...]
    violations: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        rows: dict[str, dict[str, Any]] = {}
        for outcome in self.outcomes:
            answer = outcome.answer
            row = rows.setdefault(
                answer.name,
                {"answer": answer.name, "kind": answer.kind, "exercise": answer.exercise, "hint": answer.hint}
                | {"seeds": {}},
            )
            row["seeds"][str(outcome.seed)] = {
                "earned": sum(cell.earned for cell in outcome.cells),
                "max": sum(cell.max for cell in outcome.cells),
                "cells": {cell.grade_id: {"kind": cell.kind, "hint": cell.hint_id} for cell in outcome.cells},
            }
        return {
            "assignment": self.assignment,
            "ok": not self.violations,
            "violations": list(self.violations),
            "answers": list(rows.values()),
        }


def audit(
    root: Path,
    assignment: str,
    *,
    seeds: int = 3,
    workers: int = 2,
    limits: Limits | None = None,
    trusted: bool = False,
    on_start: Callable[[int], None] = lambda total: None,
    on_result: Callable[[], None] = lambda: None,
) -> Audit:
    """Grade all right and wrong answers of a homework.

    Args:
        root: the course root.
        assignment: such as ``05_search``.
        seeds: how many seeds of test inputs each answer is graded on (0, 1, ...).
        workers: submissions at once.
        limits: of each submission.
        trusted: run without a sandbox, which an author may do with their own answers.
        on_start: called with the number of gradings.
        on_result: called after each.

    Raises:
        FormatError: the assignment is not built.
        GradingError: an answer file can't be used.

    Example:
        >>> audit(Path("."), "05_search").violations  # doctest: +SKIP
        ()
    """
    source = next(iter(load_sources(root, assignment).values()))
    answers = [Answer(SOLUTION, "the author's solution"), Answer(BLANK, "the released notebook")]
    found, violations = find_answers(root / "modules" / assignment, source)
    answers += found
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        jobs: dict[str, tuple[Answer, Job]] = {}
        for number, answer in enumerate(answers):
            for seed in range(seeds):
                job = _job(Path(folder), f"{number}-{seed}", source, answer, seed)
                jobs[job.student] = (answer, job)
        on_start(len(jobs))
        with warm_setup(root, assignment, limits or Limits(), trusted) as setup:
            for graded in run_jobs(setup, [job for _, job in jobs.values()], workers):
                result = graded.result if isinstance(graded, Graded) else graded
                outcomes.append(_outcome(jobs[result.student][0], result))
                on_result()
    order = {answer: number for number, answer in enumerate(answers)}
    outcomes.sort(key=lambda outcome: (order[outcome.answer], outcome.seed))
    violations += check(outcomes)
    return Audit(assignment, tuple(outcomes), tuple(dict.fromkeys(violations)))


def find_answers(module: Path, source: Source) -> tuple[list[Answer], list[str]]:
    """The answers beside a homework, and what is missing or unusable there, a sentence each."""
    answers: list[Answer] = []
    violations: list[str] = []
    exercises = [name for name in source.assignment.exercises if source.assignment.of(name, Role.SOLUTION)]
    for kind in (RIGHT, WRONG):
        for path in sorted((module / kind).glob("*/*.py")):
            name = f"{kind}/{path.parent.name}/{path.name}"
            if path.parent.name not in exercises:
                violations.append(f"{name} is for no exercise of {source.name}; its folder must name one.")
                continue
            try:
                answer = _read_answer(path, kind, name, source)
            except GradingError as error:
                violations.append(str(error))
            else:
                answers.append(answer)
    for kind in (RIGHT, WRONG):
        covered = {answer.exercise for answer in answers if answer.kind == kind}
        violations += [
            f"The exercise {name} has no {kind} answer; add modules/{source.name}/{kind}/{name}/<name>.py."
            for name in exercises
            if name not in covered
        ]
    return answers, violations


def check(outcomes: Iterable[Outcome]) -> list[str]:
    """What is wrong with the outcomes, one sentence for each answer that misbehaves on a seed."""
    violations = []
    for outcome in outcomes:
        answer, failure = outcome.answer, outcome.first_failure
        earned = sum(cell.earned for cell in outcome.cells)
        where = f"on seed {outcome.seed}"
        if outcome.problem:
            violations.append(f"{answer.name} could not be graded {where}: {outcome.problem}")
        elif answer.kind in (RIGHT, SOLUTION):
            if failure:
                violations.append(f"{answer.name} must get full marks but fails {_told(failure)} {where}.")
        elif answer.kind == BLANK:
            if earned:
                passed = ", ".join(cell.grade_id for cell in outcome.cells if cell.earned)
                violations.append(f"{answer.name} must get no points but passes {passed} {where}.")
        elif failure is None:
            violations.append(f"{answer.name} must lose marks but passes every test {where}.")
        elif failure.hint_id != answer.hint:
            violations.append(
                f"{answer.name} must fail with its hint @{answer.hint} but fails {_told(failure)} {where}."
            )
    return violations


def kill_matrix(result: Audit) -> list[Table]:
    """One table for each exercise: answers by tests, each cell how the test came out (on all seeds)."""
    tables = []
    exercises = dict.fromkeys(outcome.answer.exercise for outcome in result.outcomes)
    for exercise in exercises:
        outcomes = [outcome for outcome in result.outcomes if outcome.answer.exercise == exercise]
        columns = list(dict.fromkeys(cell.grade_id for outcome in outcomes for cell in outcome.cells))
        table = Table(title=exercise or "whole notebook", title_justify="left", header_style="bold")
        table.add_column("answer", overflow="fold")
        for column in columns:
            table.add_column(column)
        for answer in dict.fromkeys(outcome.answer for outcome in outcomes):
            mine = [outcome for outcome in outcomes if outcome.answer == answer]
            cells = [_shown(column, mine) for column in columns]
            table.add_row(answer.name, *cells)
        tables.append(table)
    return tables


# Details ---------------------------------------------------------------------------------------------------


def _read_answer(path: Path, kind: str, name: str, source: Source) -> Answer:
    text = path.read_text(encoding="utf-8")
    exercise = path.parent.name
    try:
        docstring = ast.get_docstring(ast.parse(text)) or ""
    except SyntaxError as error:
        raise GradingError(f"{name} is not Python (line {error.lineno}: {error.msg}).") from None
    if not docstring:
        raise GradingError(f"{name} needs a docstring that says how it differs.")
    if kind == RIGHT:
        return Answer(kind, name, exercise, text)
    match = re.match(r"hint:\s*(\w+)\s*$", docstring.splitlines()[0])
    if not match:
        raise GradingError(f"{name} must begin its docstring with the line 'hint: <hint_id>'.")
    missing = [lang for lang in LANGUAGES if not re.search(rf"(?m)^{lang}:\s*\S", docstring)]
    if missing:
        raise GradingError(
            f"{name} must name the misconception in its docstring on a line '{missing[0]}: ...'."
        )
    if match[1] not in source.assignment.hints.get(exercise, {}):
        raise GradingError(f"{name} names the hint {match[1]!r}, which the exercise {exercise} doesn't have.")
    return Answer(kind, name, exercise, text, match[1])


def _job(folder: Path, student: str, source: Source, answer: Answer, seed: int) -> Job:
    """Hand the answer in as a student would: a notebook file in a folder."""
    cells = []
    filled = False
    for cell in source.cells:
        text = cell.released
        if answer.kind == SOLUTION and cell.role is Role.SOLUTION:
            text = cell.text
        elif answer.exercise and cell.exercise == answer.exercise and cell.role is Role.SOLUTION:
            text, filled = ("" if filled else answer.text), True
        cells.append(cell.public(text))
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["course"] = {"module": source.name, "kind": "homework", "lang": source.lang}
    path = folder / student / source.name / f"{NOTEBOOK_NAME}.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return Job(path.parent, student, seed)


def _outcome(answer: Answer, result: SubmissionResult) -> Outcome:
    cells = tuple(
        cell for cell in result.cells if cell.role != Role.ANSWER and answer.exercise in (None, cell.exercise)
    )
    return Outcome(answer, result.seed, cells, "" if result.status == "graded" else result.reason)


def _told(failure: CellResult) -> str:
    what = f"with @{failure.hint_id}" if failure.hint_id else f"({failure.kind}: {failure.message})"
    return f"{failure.grade_id} {what}"


def _shown(column: str, outcomes: Sequence[Outcome]) -> str:
    seen: dict[str, None] = {}
    for outcome in outcomes:
        for cell in outcome.cells:
            if cell.grade_id == column:
                passed = cell.kind is Kind.CORRECT
                seen["pass" if passed else f"@{cell.hint_id}" if cell.hint_id else str(cell.kind)] = None
    return " / ".join(seen)
